"""Vectors from other trainings than the usual one: whole weights, and a teacher that reads a node's prose."""

from __future__ import annotations

from tests.harness import Space

FULL = """\
kind = "task"
tune = "full"
optimizer = "apollo-mini"
steps = 3
batch = 4
replay_batch = 2
max_tokens = 128
heldout = 0.3
lr = 1e-3
[gates]
min_margin_gain = -50.0
max_neutral_kl = 50.0
"""
TAUGHT = """\
distill_weight = 1.0
nll_weight = 0.0
teacher = "node"
teacher_examples = 1
"""


def test_whole_weights_and_a_teacher_that_reads_the_node_are_linked_like_any_vector(space: Space) -> None:
    space.write("recipes/full.toml", FULL)
    space.write("recipes/taught.toml", space.read("recipes/quick.toml").replace("rank = 2\n", "rank = 2\n" + TAUGHT))
    listen, close = space.read("Personafile.toml").split("[task.close]")
    listen, close = listen.replace('"quick"', '"full"'), close.replace('"quick"', '"taught"')
    space.write("Personafile.toml", f"{listen}[task.close]{close}")
    space.build()
    assert (space.product / "model.safetensors").is_file()
    # the teacher of one reads its node's prose, so that is part of its training, and of no other
    space.edit("memory/pattern-close.md", "## talk\n", "## talk\n\nI stay a while.\n")
    space.edit("memory/pattern-listen.md", "I ask before I mend.", "I ask long before I mend.")
    ran = space.build().ran
    assert "task.close/train" in ran
    assert "task.listen/train" not in ran
