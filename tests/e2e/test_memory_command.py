"""`amybuild memory`: which nodes are in the weights, what changed since the last build, and asking a server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
from amybuild.digest import digest_bytes
from amybuild.memory.graph import read_graph
from tests.e2e.test_memory_server import keep, starts, use
from tests.harness import Space, golden

LISTEN = "memory/pattern-listen.md"
READERS = ["readout", "steer.joy"]


def told(space: Space, *words: str) -> dict[str, dict[str, Any]]:
    """What `amybuild memory … --json` says of each node."""
    result = space.run("memory", *words, "--json")
    assert result.code == 0, result.err
    return {row.pop("key"): row for row in json.loads(result.out)["nodes"]}


def states(space: Space, *words: str) -> dict[str, str]:
    return {key: row["state"] for key, row in told(space, *words).items()}


def test_nothing_is_learned_before_a_build(space: Space) -> None:
    assert set(states(space, "status").values()) == {"new"}
    assert set(states(space, "diff").values()) == {"added"}
    assert told(space, "diff")["pattern-listen"]["targets"] == ["task.listen"]


def test_what_a_linked_target_was_made_from_is_learned(built: Space) -> None:
    rows = told(built, "status")
    by = {"learned_by": ["task.listen"], "read_by": ["task.listen"]}
    assert rows["pattern-listen"] == {"state": "learned", **by}
    assert rows["pattern-close"]["state"] == "learned"
    assert rows["j-00"] == {"state": "new", "learned_by": [], "read_by": READERS}
    assert told(built, "diff") == {}


def test_an_edit_is_no_longer_what_was_learned(built: Space) -> None:
    built.edit(LISTEN, "I ask before I mend.", "I ask, then I mend.")
    assert states(built, "status")["pattern-listen"] == "edited"
    assert told(built, "diff") == {"pattern-listen": {"state": "edited", "targets": ["task.listen"]}}
    built.build()
    assert states(built, "status")["pattern-listen"] == "learned"
    assert told(built, "diff") == {}


def test_an_edit_beside_the_section_that_was_learned_touches_no_target(built: Space) -> None:
    built.edit("memory/pattern-close.md", "I wrap up too soon.", "I wrap up too fast.")
    assert states(built, "status")["pattern-close"] == "learned"
    assert told(built, "diff") == {"pattern-close": {"state": "edited", "targets": []}}
    built.edit("memory/pattern-close.md", "My boat troubles me", "My barge troubles me")
    assert states(built, "status")["pattern-close"] == "edited"
    assert told(built, "diff")["pattern-close"]["targets"] == ["task.close"]


def test_a_node_that_is_removed_stays_in_the_weights(built: Space) -> None:
    (built.root / LISTEN).unlink()
    assert built.run().code == 2
    assert states(built, "status")["pattern-listen"] == "removed"
    assert told(built, "diff") == {"pattern-listen": {"state": "removed", "targets": ["task.listen"]}}
    result = built.run("memory", "diff")
    assert "no memory node 'pattern-listen'" in result.err


def test_a_target_that_is_not_linked_is_not_learned(built: Space) -> None:
    built.build("--without", "close")
    rows = told(built, "status")
    assert (rows["pattern-close"]["state"], rows["pattern-close"]["read_by"]) == ("new", ["task.close"])
    assert rows["pattern-listen"]["state"] == "learned"


def test_an_analogy_learns_what_its_three_were_made_from(built: Space) -> None:
    even = '[task.even]\nanalogy = { a = "listen", b = "close", c = "listen" }\nalpha = 0.1\nrecipe = "quick"\n\n'
    built.edit("Personafile.toml", "[steer.joy]", f"{even}[steer.joy]")
    built.build()
    assert told(built, "status")["pattern-close"]["learned_by"] == ["task.close", "task.even"]


def test_added_nodes_and_targets_that_begin_to_read(built: Space) -> None:
    built.write("memory/j-99.md", '+++\ntype = "episodic"\n+++\nA day like none before it.\n\njoy:9\n')
    built.write("memory/aside.md", "Nobody reads this.\n")
    built.edit("Personafile.toml", 'node = "pattern-listen"', 'query = "key:pattern-*"')
    assert told(built, "diff") == {
        "j-99": {"state": "added", "targets": READERS},
        "aside": {"state": "added", "targets": []},
        "pattern-close": {"state": "read", "targets": ["task.listen"]},
    }
    built.edit("Personafile.toml", 'query = "key:pattern-*"', 'node = "pattern-close"')
    rows = told(built, "diff")
    assert rows["pattern-listen"] == {"state": "unread", "targets": ["task.listen"]}


def test_a_lost_account_of_the_build_costs_what_nobody_read(built: Space) -> None:
    built.write("memory/aside.md", "Nobody reads this.\n")
    built.build()
    assert told(built, "diff") == {}
    for path in (built.root / "cache" / "v1" / "memory").iterdir():
        path.write_text("{")
    assert told(built, "diff") == {"aside": {"state": "added", "targets": []}}


def test_what_is_printed(built: Space) -> None:
    built.edit(LISTEN, "I ask before I mend.", "I ask, then I mend.")
    built.write("memory/aside.md", "Nobody reads this.\n")
    (built.root / "memory" / "j-03.md").unlink()
    parts = []
    for words in (("status",), ("status", "--all"), ("diff",), ("diff", "aside")):
        result = built.run("memory", *words)
        parts += [f"$ amybuild memory {' '.join(words)}", result.out + result.err]
    golden("memory", "\n".join(parts))
    assert built.run("memory", "status", "pattern-lisen").err.endswith("did you mean 'pattern-listen'?\n")


def test_nothing_is_built_or_written(built: Space) -> None:
    built.edit(LISTEN, "I ask before I mend.", "I ask, then I mend.")
    before = [*built.files("cache"), *built.files("dist")]
    assert built.run("memory", "status").code == built.run("memory", "diff").code == 0
    assert [*built.files("cache"), *built.files("dist")] == before


def test_pull_asks_and_says_what_changed(built: Space, tmp_path: Path) -> None:
    assert built.run("memory", "pull").code == 2
    keep(built)
    use(built, "good", "manual")
    assert built.run("memory", "status").code == 2
    built.edit(LISTEN, "I ask before I mend.", "I ask, then I mend.")
    keep(built)
    result = built.run("memory", "pull")
    assert (result.code, starts(built)) == (0, 1)
    assert result.out == "~ pattern-listen  task.listen\n"
    assert "14 nodes, snapshot " in result.err
    assert states(built, "status")["pattern-listen"] == "edited"
    assert built.build().ran == {"task.listen/corpus"}
    assert starts(built) == 1
    use(built, "die", "manual")
    assert built.run("memory", "pull").code == 1
    assert states(built, "status")["pattern-listen"] == "learned"


def test_export_writes_what_is_read_back(built: Space) -> None:
    before = read_graph("memory", built.root)
    assert built.run("memory", "export", "-o", "copy").code == 0
    assert read_graph("copy", built.root).nodes == before.nodes
    assert built.run("memory", "export", "-o", "copy").code == 2, "nothing is written over"
    assert built.run("memory", "export", "-o", "some.jsonl", "--query", "key:pattern-*").code == 0
    some = read_graph("some.jsonl", built.root).nodes
    assert some == {key: before.nodes[key] for key in ("pattern-close", "pattern-listen")}
    built.edit("Personafile.toml", 'source = "memory"', 'source = "copy"')
    assert built.build().ran == set()
    assert built.run("memory", "export", "j-00", "--query", "all", "-o", "x").code == 2
    assert built.run("memory", "export").code == 2
    assert built.run("memory", "export", "-o", "two.jsonl", "j-00", "j-01", "j-00").code == 0
    assert list(read_graph("two.jsonl", built.root).nodes) == ["j-00", "j-01"]
    (built.root / "partly").mkdir()
    (built.root / "partly" / "j-05.md").write_text("mine")
    assert "is there already" in built.run("memory", "export", "-o", "partly").err
    assert os.listdir(built.root / "partly") == ["j-05.md"]
    for what in ("status", "diff"):
        assert "are of export" in built.run("memory", what, "--query", "key:j-*").err


def test_what_a_kept_build_read_outlives_the_folder(built: Space) -> None:
    """A folder needs no snapshot: each text that an action read is stored by its digest, as long as a build is kept."""
    assert built.run("pin").code == 0
    store = Store(built.root / "cache/v1")
    before = {node.digest: node.canonical() for node in read_graph("memory", built.root).nodes.values()}
    records = [ActionCache(store).record(path.stem) for path in (store.root / "actions").rglob("*.json")]
    read = {value for record in records if record for kind, _, value in record.manifest if kind == "node"}
    model = (built.product / "model.safetensors").read_bytes()
    shutil.rmtree(built.root / "memory")
    shutil.rmtree(built.product)
    (built.root / "memory").mkdir()
    built.write("memory/other.md", "Another memory.")
    assert built.run("gc").code == 0
    whole = read & before.keys()
    assert len(whole) > 3
    assert all(store.get_bytes(digest) == before[digest] for digest in whole)
    assert all(digest_bytes(store.get_bytes(digest) or b"") == digest for digest in read), "sections too"
    assert built.run("checkout", "--lock").code == 0
    assert (built.product / "model.safetensors").read_bytes() == model
