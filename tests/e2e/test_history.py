"""Builds are versions: log, show, diff, pin, --locked, checkout; and going back trains nothing."""

from __future__ import annotations

import json

from tests.harness import Space


def test_log_show_and_diff(built: Space) -> None:
    first = built.build().summary["build"]
    built.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.7")
    second = built.build().summary["build"]
    log = json.loads(built.run("log", "--json").out)
    assert [row["build"] for row in log] == [second, first]
    shown = built.run("show", first[:8]).out
    for word in ("listen", "close", "pattern-listen", "density 0.5", "joy, worry", "in the persona"):
        assert word in shown
    out = built.run("diff", first[:8], second[:8]).out
    assert "alphas.listen 1.0 -> 0.7" in out
    data = json.loads(built.run("diff", first, second, "--json").out)
    assert set(data["actions"]) == {"task.listen/verify", "checkpoint/link", "persona/verify"}
    assert "the same build" in built.run("diff", first, first).out


def test_pin_locked_and_what_breaks_it(built: Space) -> None:
    assert built.run("--locked").code == 3  # no lock yet
    assert built.run("pin").code == 0
    text = built.read("Personafile.lock")
    assert '[target."task.listen"]' in text
    assert str(built.root) not in text
    assert built.run("--locked").code == 0
    built.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    result = built.run("--locked")
    assert result.code == 3
    assert "task.listen/corpus is not what is pinned" in result.err
    built.write("Personafile.lock", "nonsense")
    assert built.run("--locked").code == 3


def test_checkout_brings_an_old_build_back_without_running(built: Space) -> None:
    model = built.product / "model.safetensors"
    old = model.read_bytes()
    assert built.run("pin", "--name", "before").code == 0
    built.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    built.build()
    new = model.read_bytes()
    assert new != old
    assert built.run("checkout", "before").code == 0
    assert model.read_bytes() == old
    assert built.build().ran == set()  # the declared one again
    assert model.read_bytes() == new


def test_the_lock_of_a_build_does_not_depend_on_when_or_where(built: Space) -> None:
    built.run("pin")
    first = built.read("Personafile.lock")
    built.build()
    built.run("pin")
    assert built.read("Personafile.lock") == first


def test_graph_in_every_form(built: Space) -> None:
    text = built.run("graph").out
    assert "memory:pattern-listen" in text
    assert "readout" in text.splitlines()[-1]  # the persona is made of it
    assert built.run("graph", "--format", "dot").out.startswith("digraph")
    assert built.run("graph", "--format", "mermaid").out.startswith("graph LR")
    data = json.loads(built.run("graph", "--actions", "--format", "json").out)
    assert ["task.listen/train", "checkpoint/link"] in data["edges"]


def test_locked_notices_what_only_a_build_can_tell(built: Space) -> None:
    import shutil

    assert built.run("pin").code == 0
    before = (built.product / "persona.json").read_bytes()
    built.edit("recipes/quick.toml", "steps = 3", "steps = 2")
    shutil.rmtree(built.root / "cache")
    result = built.run("--locked")
    assert result.code == 3
    assert "is not what is pinned" in result.err
    assert (built.product / "persona.json").read_bytes() == before
