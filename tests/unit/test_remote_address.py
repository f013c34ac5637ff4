"""Where the shared store is named, and what is no address of one: said without repeating what may hold a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.remote import Bucket, Folder, check_url, open_place
from amybuild.errors import InputError
from amybuild.personafile.schema import Cache
from amybuild.versions import open_cache


@pytest.mark.parametrize("url", ["s3://b", "s3://b/p/q", "gs://b/p", "file:///a/b%20c"])
def test_addresses(url: str) -> None:
    check_url(url, "here")


@pytest.mark.parametrize(
    "url",
    [
        *("", "b", "s3:", "s3://", "s3:///p", "ftp://h/x", "file://host/x", "file://", "file:relative", "memory://x"),
        *("s3://key:SECRET@b/p", "s3://b/p?token=SECRET", "s3://b#SECRET", "https://u:SECRET@h/x"),
    ],
)
def test_what_is_no_address_is_said_without_repeating_it(url: str) -> None:
    with pytest.raises(InputError, match="not the address of a shared store") as error:
        check_url(url, "[cache] remote")
    assert "SECRET" not in str(error.value)
    assert "environment" in str(error.value)


def test_where_the_shared_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(shared: Cache | None = None) -> tuple[Path, Path | None]:
        store, _ = open_cache(tmp_path / "p", shared)
        if store.shared is None:
            return store.root, None
        place = store.shared._open()
        assert isinstance(place, Folder)
        return store.root, place.root

    local = tmp_path / "p/cache/v1"
    table = Cache("Personafile.toml:3 [cache] remote", "file:///table")
    assert opened() == (local, None)
    assert opened(table) == (local, Path("/table/v1"))
    monkeypatch.setenv("AMYBUILD_CACHE", "file:///by%20env")
    assert opened(table) == (local, Path("/by env/v1"))
    monkeypatch.setenv("AMYBUILD_REMOTE", "file:///remote")
    assert opened(table) == (local, Path("/remote/v1"))
    monkeypatch.setenv("AMYBUILD_CACHE", str(tmp_path / "other"))
    assert opened(table) == (tmp_path / "other/v1", Path("/remote/v1"))
    monkeypatch.setenv("AMYBUILD_REMOTE", "")
    assert opened(table) == (tmp_path / "other/v1", None)
    monkeypatch.setenv("AMYBUILD_REMOTE", "s3://me:SECRET@bucket")
    with pytest.raises(InputError, match="AMYBUILD_REMOTE"):
        opened(table)


def test_opening_a_bucket_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    asked: list[tuple[str, dict[str, Any]]] = []

    class Fake:
        def __init__(self, scheme: str, **options: Any) -> None:
            asked.append((scheme, options))

    monkeypatch.setattr(fsspec, "filesystem", Fake)
    place = open_place("s3://bucket/prefix/", "here", "v1")
    assert isinstance(place, Bucket)
    assert place.root == "bucket/prefix/v1"
    assert asked[0][0] == "s3"
    assert json.dumps(asked[0][1]), "no credential, only time-outs"
