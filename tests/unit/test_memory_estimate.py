"""What a training will take: sums that can be done by hand, and a refusal before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amybuild.actions import train
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from amybuild.model.memory import Estimate, estimate, read_shapes
from amybuild.personafile.check import Table
from amybuild.personafile.load import read_toml
from amybuild.personafile.recipe import FIELDS, RecipeBook
from tests.harness import ROOT, Space
from tests.tiny import make_tiny_base

DEFAULTS = {name: field.default for name, field in FIELDS["task"].items()}
CONFIG = {"num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 17408, "vocab_size": 248320}


def large() -> dict[str, tuple[int, ...]]:
    """The shapes of a base of 27 billion parameters (attention of 24 heads of 256, 4 of them for keys and values)."""
    found = {"model.embed_tokens.weight": (248320, 5120), "lm_head.weight": (248320, 5120)}
    sides = {
        **{"q_proj": (6144, 5120), "k_proj": (1024, 5120), "v_proj": (1024, 5120), "o_proj": (5120, 6144)},
        **{"gate_proj": (17408, 5120), "up_proj": (17408, 5120), "down_proj": (5120, 17408)},
    }
    for block in range(64):
        found |= {f"model.layers.{block}.{name}.weight": shape for name, shape in sides.items()}
        found[f"model.layers.{block}.norm.weight"] = (5120,)
    return found


def of(**changed: Any) -> Estimate:
    return estimate(CONFIG, large(), {**DEFAULTS, **changed})


def test_the_27b_recipe_fits_one_large_gpu_and_only_as_it_is() -> None:
    book = RecipeBook(ROOT / "recipes", read_toml)
    recipe = book.resolve("lora-27b", "task", Table({}, "Personafile.toml", "task.x")).fields
    found = estimate(CONFIG, large(), recipe)
    assert found.weights == pytest.approx(2 * 24.3e9, rel=0.02)
    assert 60e9 < found.total < 80e9
    assert estimate(CONFIG, large(), {**recipe, "activation_checkpointing": False}).total > 140e9
    assert estimate(CONFIG, large(), {**recipe, "tune": "full"}).total > 300e9


def test_each_knob_moves_its_own_part() -> None:
    whole = of(dtype="bfloat16")
    assert of(dtype="float32").weights == 2 * whole.weights
    assert of(dtype="bfloat16", rank=16).trained == 2 * whole.trained
    assert of(dtype="bfloat16", tokens_per_pass=960).activations == 2 * whole.activations
    assert of(dtype="bfloat16", tokens_per_pass=960).logits == 2 * whole.logits
    assert of(dtype="bfloat16", top_layers=16).activations == whole.activations // 4
    full = {name: of(tune="full", optimizer=name).trained for name in ("adamw", "apollo", "apollo-mini")}
    assert full["adamw"] > full["apollo"] > full["apollo-mini"] > full["adamw"] // 2


def test_a_shard_holds_its_part_of_the_blocks_and_the_rest_whole() -> None:
    whole = of(dtype="bfloat16").weights
    heads = 2 * 2 * 248320 * 5120
    block = (whole - heads) // 64
    assert of(dtype="bfloat16", shards=2).weights == heads + 32 * block + 3 * block
    assert of(dtype="bfloat16", shards=8).weights == heads + 8 * block + 3 * block
    assert of(dtype="bfloat16", shards=2).trained == of(dtype="bfloat16").trained


def test_shapes_are_those_of_the_files(tmp_path: Path) -> None:
    shapes = read_shapes(make_tiny_base(tmp_path))
    assert shapes["model.layers.2.mlp.down_proj.weight"] == (32, 64)


def test_a_training_that_cannot_fit_is_refused_before_it_loads(tmp_path: Path) -> None:
    inputs = {"base": make_tiny_base(tmp_path / "base")}
    context = ActionContext("task.x/train", "k", {**DEFAULTS}, inputs, tmp_path, free_memory=lambda: 1 << 20)
    with pytest.raises(ActionError, match=r"takes about .* GiB of memory") as caught:
        train.run(context)
    assert caught.value.where == "task.x/train"
    assert "activation_checkpointing" in str(caught.value.remedy)
    params = {**DEFAULTS, "shards": 2, "device": "cpu"}
    context = ActionContext("task.x/train", "k", params, inputs, tmp_path, free_memory=lambda: 1 << 20)
    with pytest.raises(ActionError, match="GiB of memory for each of 2 processes"):
        train.run(context)


def test_doctor_says_what_does_not_fit(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    from amybuild import doctor

    space.build("base.tiny")
    assert "takes about" in space.run("doctor").out
    monkeypatch.setattr(doctor, "free_memory", lambda: 1 << 20)
    assert "task.listen/train takes about" in space.run("doctor").out
