"""Builds are versions: log, show, diff, pin, --locked, checkout, rollback; and going back trains nothing."""

from __future__ import annotations

import json
import shutil
import subprocess

from tests.harness import Space, golden


def reworded(space: Space) -> str:
    """One edit of a memory node, built; the hash."""
    space.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    return str(space.build().summary["build"])


def test_log_show_and_diff(built: Space) -> None:
    first = built.build().summary["build"]
    built.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.7")
    second = built.build().summary["build"]
    third = reworded(built)
    log = json.loads(built.run("log", "--json").out)
    assert [row["build"] for row in log] == [third, second, first]
    assert [row["changed"] for row in log] == ["node pattern-listen edited", "task.listen alpha 1.0 -> 0.7", ""]
    golden("log", built.run("log", "-n", "2").out)
    shown = built.run("show", first[:8]).out
    for word in ("listen", "close", "pattern-listen", "density 0.5", "joy, worry", "in the persona"):
        assert word in shown
    assert built.run("show", "@~2").out == shown
    data = json.loads(built.run("diff", first, second, "--json").out)
    assert set(data["actions"]) == {
        *("task.listen/measure", "task.listen/verify", "checkpoint/link"),
        *("persona/cross", "persona/measure", "persona/verify", "persona/drift"),
    }
    assert "the same build" in built.run("diff", first, first).out
    text = built.run("diff", first[:8], "@").out
    for line in ("    +Assistant: What is it about your boat that weighs on you?", "task.listen alpha 1.0 -> 0.7"):
        assert line in text
    short = built.run("diff", "@~2", "@", "--stat").out
    assert "node pattern-listen edited" in short
    assert "boat" not in short
    measured = json.loads(built.run("show", "--json").out)["verification"]["behaviours"]["listen"]["persona"]
    row = next(line.split() for line in text.splitlines() if line.startswith("listen "))
    assert row[2] == f"{measured:+.3f}"


def test_a_build_that_is_not_there_is_told(built: Space) -> None:
    built.run("pin", "--name", "before")
    for args, code, words in (
        (("show", "nope"), 2, "no build 'nope' here"),
        (("checkout", "befor"), 2, "did you mean 'before'?"),
        (("diff", "@~7", "@"), 2, "@~7: the log has 1 line"),
        (("checkout",), 2, "name a build, or --lock"),
        (("pin", "--name", "deadbeef"), 2, "is no name for a build"),
        (("pin", "--remove", "after"), 2, "no build is named 'after'"),
        (("rollback",), 2, "is the first build made here"),
    ):
        result = built.run(*args)
        assert (result.code, words in result.err) == (code, True), result.err
    shutil.rmtree(built.root / "cache/v1/trees")
    result = built.run("checkout", "before")
    assert result.code == 1
    assert (
        "checkpoint/link, readout/quality, readout/vectors, steer.joy/quality, steer.joy/vectors of build" in result.err
    )
    assert "AMYBUILD_CACHE" in result.err


def test_names_of_builds(built: Space) -> None:
    first = built.build().summary["build"]
    built.run("pin", "--name", "calm")
    reworded(built)
    built.run("pin", "--name", "v1.2/warm")
    rows = json.loads(built.run("pin", "--list", "--json").out)
    assert [(row["name"], row["locked"]) for row in rows] == [("calm", False), ("v1.2/warm", True)]
    assert first[:12] in built.run("pin", "--list").out
    assert "still pins" in built.run("pin", "--remove", "v1.2/warm").err
    assert built.run("pin", "--remove", "calm").code == 0
    assert built.run("checkout", "calm").code == 2
    rows = json.loads(built.run("pin", "--list", "--json").out)
    assert [(row["name"], row["locked"]) for row in rows] == [("", True)]


def test_rollback_goes_back_build_by_build(built: Space) -> None:
    model = built.product / "model.safetensors"
    first, bytes_of_first = built.build().summary["build"], model.read_bytes()
    second = reworded(built)
    third = built.build("--set", "link.density=0.3").summary["build"]
    result = built.run("rollback")
    assert (result.code, second[:12] in result.err, third[:12] in result.err) == (0, True, True)
    assert "undone there: density 0.5 -> 0.3" in result.err
    assert "it is what Personafile and memory say now" in result.err
    result = built.run("rollback")
    assert "say otherwise" in result.err
    assert f"amybuild pin {first[:12]}" in result.err
    assert model.read_bytes() == bytes_of_first
    assert built.run("rollback").code == 2
    log = json.loads(built.run("log", "--json").out)
    assert [(row["build"], row["how"]) for row in log] == [
        *((first, "rollback"), (second, "rollback")),
        *((third, "build"), (second, "build"), (first, "build")),
    ]
    assert log[2]["variant"] == "--set link.density=0.3"
    again = built.build()
    assert (again.summary["build"], again.ran) == (second, set())
    assert built.run("rollback").code == 0  # to what was built before; to have rolled back is no step
    assert json.loads((built.product / "persona.json").read_text())["build"] == third


def test_rollback_after_a_rollback_and_a_build_goes_to_another_build(built: Space) -> None:
    first = built.build().summary["build"]
    second = reworded(built)
    for _ in range(2):
        assert built.run("rollback").code == 0
        assert json.loads((built.product / "persona.json").read_text())["build"] == first
        assert built.build().summary["build"] == second


def test_what_puts_builds_in_place_says_so_as_json(built: Space) -> None:
    first = built.build().summary["build"]
    second = reworded(built)
    for words, facts in (
        (("pin", "--name", "one"), {"build": second, "lock": "Personafile.lock", "name": "one"}),
        (("rollback",), {"build": first, "instead_of": second, "undone": "node pattern-listen edited"}),
        (("checkout", "one"), {"build": second, "folder": str(built.product)}),
        (("pin", "--remove", "one"), {"removed": "one", "locked": True}),
    ):
        result = built.run(*words, "--json")
        assert (result.code, result.err) == (0, ""), words
        assert facts.items() <= json.loads(result.out).items()


def test_pin_locked_and_what_breaks_it(built: Space) -> None:
    assert built.run("--locked").code == 3  # no lock yet
    assert built.run("pin").code == 0
    text = built.read("Personafile.lock")
    assert '[target."task.listen"]' in text
    assert str(built.root) not in text
    assert built.run("--locked").code == 0
    built.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    result = built.run("--locked")
    assert result.code == 3
    assert "task.listen/corpus is not what is pinned: node pattern-listen edited" in result.err
    built.write("Personafile.lock", "nonsense")
    assert built.run("--locked").code == 3


def test_locked_notices_what_only_a_build_can_tell(built: Space) -> None:
    assert built.run("pin").code == 0
    before = (built.product / "persona.json").read_bytes()
    built.edit("recipes/quick.toml", "steps = 3", "steps = 2")
    shutil.rmtree(built.root / "cache")
    result = built.run("--locked")
    assert result.code == 3
    assert "is not what is pinned: the cache does not know the pinned one" in result.err
    assert (built.product / "persona.json").read_bytes() == before


def test_checkout_brings_an_old_build_back_without_running(built: Space) -> None:
    model = built.product / "model.safetensors"
    old = model.read_bytes()
    assert built.run("pin", "--name", "before").code == 0
    reworded(built)
    new = model.read_bytes()
    assert new != old
    assert built.run("checkout", "before").code == 0
    assert model.read_bytes() == old
    assert json.loads(built.run("log", "--json").out)[0]["how"] == "checkout"
    assert built.build().ran == set()  # the declared one again
    assert model.read_bytes() == new


def test_the_lock_of_a_build_does_not_depend_on_when_or_where(built: Space) -> None:
    built.run("pin")
    first = built.read("Personafile.lock")
    built.build()
    built.run("pin")
    assert built.read("Personafile.lock") == first
    reworded(built)
    built.run("pin")
    assert built.read("Personafile.lock") != first
    built.edit("memory/pattern-listen.md", "about your boat that", "about the boat that")
    built.build()
    built.run("pin")
    assert built.read("Personafile.lock") == first


def test_a_pinned_build_comes_back_from_lock_and_store_alone(built: Space) -> None:
    built.build("--without", "close")
    assert built.run("pin").code == 0
    before = {path.name: path.read_bytes() for path in built.product.rglob("*") if path.is_file()}
    for gone in ("cache/v1/state", "cache/v1/builds", "memory", "recipes", "dist"):
        shutil.rmtree(built.root / gone)
    (built.root / "Personafile.toml").unlink()
    (built.root / "models/tiny").unlink()
    result = built.run("checkout", "--lock")
    assert result.code == 0, result.err
    assert {path.name: path.read_bytes() for path in built.product.rglob("*") if path.is_file()} == before
    assert "persona.json" in before
    assert built.run("checkout", "--lock", "Other.lock").code == 3
    objects = built.root / "cache/v1/objects"
    shutil.rmtree(objects)
    result = built.run("checkout", "--lock")
    assert result.code == 1
    assert "link map" in result.err


def git(space: Space, *args: str, code: int = 0) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *args], cwd=space.root, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_locks_of_two_branches_merge_and_the_merged_one_is_kept(built: Space) -> None:
    built.write(".gitignore", "cache\ndist\nmodels\n")
    built.run("pin")
    git(built, "init", "-q")
    git(built, "add", ".")
    git(built, "commit", "-qm", "Base")
    git(built, "checkout", "-qb", "listen")
    listen = reworded(built)
    built.run("pin", "--name", "listening")
    git(built, "commit", "-qam", "Listen")
    git(built, "checkout", "-q", "main")
    built.edit("memory/pattern-close.md", "Assistant: The boat can", "Assistant: That boat can")
    close = built.build().summary["build"]
    built.run("pin")
    git(built, "commit", "-qam", "Close")
    git(built, "merge", "-q", "listen", "-m", "Both")
    lock = built.read("Personafile.lock")
    assert "<<<<" not in lock
    assert listen in lock  # as it came with its section: it tells where it is from, and pins nothing
    assert close in lock
    assert built.run("checkout", "--lock").code == 3
    result = built.run("--locked")
    assert result.code == 0, result.err
    assert "Personafile.lock was merged" in result.err
    assert built.build("--locked").ran == set()
    built.run("pin")
    assert "merged" not in built.run("--locked").err
    assert built.run("checkout", "--lock").code == 0
    built.edit("memory/pattern-close.md", "Assistant: That boat can", "Assistant: This boat can")
    result = built.run("--locked")
    assert (result.code, "task.close/corpus is not what is pinned" in result.err) == (3, True)


def test_a_conflict_within_one_target_is_told(built: Space) -> None:
    built.run("pin")
    built.write("Personafile.lock", "<<<<<<< ours\n" + built.read("Personafile.lock"))
    result = built.run("--locked")
    assert (result.code, "both branches changed the same target" in result.err) == (3, True)


def test_graph_in_every_form(built: Space) -> None:
    text = built.run("graph").out
    assert "memory:pattern-listen" in text
    assert "readout" in text.splitlines()[-1]  # the persona is made of it
    assert built.run("graph", "--format", "dot").out.startswith("digraph")
    assert built.run("graph", "--format", "mermaid").out.startswith("graph LR")
    data = json.loads(built.run("graph", "--actions", "--format", "json").out)
    assert ["task.listen/train", "checkpoint/link"] in data["edges"]
