"""Sealed files: what was written reads back, and nothing else reads at all."""

from __future__ import annotations

import json
from pathlib import Path

from amybuild.cache.sealed import sealed, unseal


def test_what_is_sealed_reads_back_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for value in ({}, [1, "a"], None, {"deep": {"er": [1.5, "\u00e9"]}}):
        path.write_bytes(sealed(value))
        assert unseal(path) == value
        assert json.loads(path.read_bytes())["data"] == value
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        assert unseal(path) is None
        path.write_bytes(bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]))
        assert unseal(path) is None
