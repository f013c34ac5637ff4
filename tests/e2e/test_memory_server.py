"""A project whose memory a server keeps: when it is asked, what is kept of it, and building when it is gone."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from amybuild import kept, noop
from amybuild.memory.graph import read_graph
from amybuild.memory.knowledge import graph_of
from tests.harness import Space, states
from tests.servers import raw


def keep(space: Space) -> None:
    """What the server keeps is what lies in memory/."""
    nodes = read_graph("memory", space.root).nodes.values()
    space.write("graph.json", json.dumps(graph_of(nodes)))


def use(space: Space, mode: str, pull: str = "1m") -> None:
    """The server of the project misbehaves from now on, or not."""
    space.write("graph.json.mode", mode)
    source = f"stdio:{sys.executable} {Path(raw.__file__)} graph.json"
    text = re.sub(r"(source|pull|timeout) = .*\n", "", space.read("Personafile.toml"))
    table = f'[graph]\nsource = "{source}"\npull = "{pull}"\ntimeout = {1 if mode == "hang" else 20}\n'
    space.write("Personafile.toml", text.replace("[graph]\n", table))


def starts(space: Space) -> int:
    """How often the server was started."""
    path = space.root / "graph.json.starts"
    return len(path.read_text().split()) if path.exists() else 0


def snapshots(space: Space) -> list[str]:
    """The trees of nodes in the store."""
    found = (space.root / "cache" / "v1" / "trees").rglob("*.json")
    return sorted(path.stem for path in found if '"nodes' in path.read_text())


@pytest.fixture
def served(built: Space) -> Space:
    """A built project whose memory moved to a server."""
    keep(built)
    use(built, "good")
    return built


def test_the_same_memory_from_a_server_builds_nothing_anew(served: Space) -> None:
    result = served.build()
    assert result.ran == set()
    assert (starts(served), len(snapshots(served))) == (1, 1)


def test_a_no_op_starts_no_server_until_the_answer_is_old(served: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    served.build()
    time.sleep(2 * kept.TICK / 1e9)
    said = served.run().err
    assert starts(served) == 1
    assert ", memory read 20" in said
    words = ["-C", str(served.root)]
    assert noop.answer(words) is not None
    assert served.run().err == said
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert noop.answer(words) is None
    assert served.run("--offline").code == served.run("--explain").code == served.run("-n").code == 0
    assert starts(served) == 1
    assert served.run().code == 0
    assert starts(served) == 2
    monkeypatch.setattr(time, "time", lambda: now - 3600)  # a clock that was set back proves nothing
    assert noop.answer(words) is None


def test_when_a_server_is_asked(served: Space) -> None:
    use(served, "good", "manual")
    assert served.run("--explain").code == 2
    assert "amybuild memory pull" in served.run("--offline").err
    assert starts(served) == 0
    for count, args in ((1, ()), (1, ()), (2, ("--pull",)), (2, ())):
        assert served.run(*args).code == 0
        assert starts(served) == count
    use(served, "good", "always")
    for count in (3, 4):
        assert served.run().code == 0
        assert starts(served) == count
    assert served.run("--pull", "--offline").code == 2


def test_an_edit_on_the_server_is_built(served: Space) -> None:
    served.build()
    served.edit("memory/pattern-listen.md", "I ask before I mend.", "I ask, then I mend.")
    keep(served)
    assert served.build().ran == set(), "within a minute the server is not asked again"
    assert served.build("--pull").ran == {"task.listen/corpus"}
    assert states(served.explain())["task.listen/corpus"] == "up-to-date"
    assert len(snapshots(served)) == 2


@pytest.mark.parametrize("mode", ["die", "hang"])
def test_a_server_that_does_not_answer_is_told_and_the_snapshot_used(served: Space, mode: str) -> None:
    served.build()
    use(served, mode, "always")
    result = served.run()
    assert result.code == 0
    assert "memory read" in result.err
    assert "is used" in result.err
    assert noop.answer(["-C", str(served.root)]) is None
    assert starts(served) == 2
    assert served.run("--pull").code == 1


@pytest.mark.parametrize(("mode", "code"), [("die", 1), ("hang", 1), ("twice", 2), ("not-utf8", 2)])
def test_what_is_not_whole_leaves_no_snapshot(served: Space, mode: str, code: int) -> None:
    use(served, mode)
    result = served.run()
    assert result.code == code
    assert "graph-content" not in result.err
    assert snapshots(served) == []
    use(served, "good")
    served.build()
    before = snapshots(served)
    use(served, mode, "always")
    served.run("--pull")
    assert snapshots(served) == before


def test_a_pinned_build_needs_no_server(served: Space) -> None:
    first = served.build().summary["build"]
    assert served.run("pin").code == 0
    assert "memory/snapshot" in served.read("Personafile.lock")
    served.edit("memory/pattern-listen.md", "My boat troubles me", "My barge troubles me")
    keep(served)
    assert served.build("--pull").summary["build"] != first
    use(served, "die")
    assert served.run("gc", "--keep", "0").code == 0
    assert len(snapshots(served)) == 2, "the pinned one and the last one"
    result = served.build("--locked", "--force", "task.listen/corpus")
    assert (result.summary["build"], result.ran) == (first, {"task.listen/corpus"})
    (served.root / "cache" / "v1" / "state").rename(served.root / "elsewhere")  # another machine, the same store
    assert served.build("--locked").summary["build"] == first


def test_a_lost_snapshot_is_read_again(served: Space) -> None:
    served.build()
    for path in (served.root / "cache" / "v1" / "trees").rglob("*.json"):
        if path.stem in snapshots(served):
            path.unlink()
    assert served.run("--offline").code == 2
    assert served.build().ran == set()
    assert starts(served) == 2


def test_pull_is_checked(served: Space) -> None:
    use(served, "good", "often")
    result = served.run()
    assert result.code == 2
    assert "Personafile.toml:10 [graph] pull: 'often' is no age" in result.err


def test_fsck_knows_snapshots(served: Space) -> None:
    served.build()
    assert served.run("fsck").code == 0
    (tree,) = snapshots(served)
    listing = next((served.root / "cache" / "v1" / "trees").rglob(f"{tree}.json"))
    digest = json.loads(listing.read_text())["files"]["nodes.jsonl"][0]
    path = served.root / "cache" / "v1" / "objects" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert served.run("fsck", "--repair").code in (0, 1)
    assert served.run("--offline").code == 2
    assert served.build().ran == set()
    assert (starts(served), served.run("fsck").code) == (2, 0)


def test_a_pinned_build_on_another_machine(served: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock and a shared store are enough, without the server and without a state of its own."""
    monkeypatch.setenv("AMYBUILD_REMOTE", f"file://{served.root.parent}/shared")
    first = served.build("--force", "persona").summary["build"]
    assert served.run("pin").code == 0
    use(served, "die")
    (served.root / "cache").rename(served.root.parent / "first cache")
    count = starts(served)
    assert served.build("--locked").summary["build"] == first
    assert starts(served) == count
    served.edit("memory/pattern-listen.md", "I ask before", "Never again I ask before")  # not what the server keeps
    assert served.build("--locked").ran == set()


def test_a_build_that_is_told_to_stop_leaves_no_server(served: Space) -> None:
    use(served, "hang")
    space_text = served.read("Personafile.toml").replace("timeout = 1\n", "timeout = 600\n")
    served.write("Personafile.toml", space_text)
    process = served.spawn()
    while starts(served) == 0:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    (pid,) = (served.root / "graph.json.starts").read_text().split()
    assert not Path(f"/proc/{pid}").exists()
    assert snapshots(served) == []
