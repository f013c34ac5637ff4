"""Provenance of a product: an in-toto statement with SLSA's provenance predicate, by digests alone."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"  # the one of SLSA 1.0 to 1.2
BUILD_TYPE = "urn:amybuild:persona:1"  # externalParameters: personafile, targets, variant


def sha256(path: Path) -> str:
    """The digest that other tools know a file by."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def statement(
    info: Mapping[str, Any], files: Mapping[str, str], records: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The statement about the product that `info` (a persona.json) describes.

    `files`: name -> sha256. `records`: what ran, as {"action", "key", "output", "seconds", "finished", "host"}. For one
    build all but ``runDetails`` is always the same. There is no path of this machine in it and no text of a memory.
    See in-toto's Statement v1 and https://slsa.dev/spec/v1.2/build-provenance.
    """
    made_from = info.get("made_from", {})
    rows = sorted(records, key=lambda row: str(row["action"]))
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "personafile": _source("Personafile.toml", made_from.get("personafile")),
                    "targets": ["persona"],
                    "variant": list(made_from.get("variant", [])),
                },
                "internalParameters": {"build": info["build"]},
                "resolvedDependencies": list(_dependencies(info, made_from)),
            },
            "runDetails": {
                "builder": {"id": "urn:amybuild:local", "version": {"amybuild": info["amybuild"]}},
                "metadata": metadata(info["build"], _times(rows)),
                "byproducts": [byproduct(row) for row in rows],
            },
        },
    }


def _source(name: str, digest: str | None) -> dict[str, Any]:
    return {"name": name, **({"digest": {"sha256": digest}} if digest else {})}


def _dependencies(info: Mapping[str, Any], made_from: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    base = info["base"]
    yield {"name": f"base.{base['name']}", **_uri(base), "digest": {"blake3": base["digest"]}}
    yield {"name": "memory", "digest": {"blake3": info["graph"]["digest"]}}
    for name, digest in sorted(made_from.get("recipes", {}).items()):
        yield _source(f"recipes/{name}.toml", digest)
    for name, version in sorted(made_from.get("libraries", {}).items()):
        yield {"name": name, "uri": f"pkg:pypi/{name}@{version}"}


def _uri(base: Mapping[str, Any]) -> dict[str, str]:
    """A package URL for a base that others can get too; a local path is nobody else's business."""
    source, revision = str(base.get("source") or ""), base.get("revision")
    if "==" in source:
        return {"uri": f"pkg:pypi/{source.replace('==', '@')}"}
    return {"uri": f"pkg:huggingface/{source}@{revision}"} if revision else {}


def _times(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    spans = [_span(str(row["finished"]), float(row["seconds"])) for row in rows]
    if not spans:
        return {}
    return times(_second(min(begin for begin, _ in spans)), _second(max(end for _, end in spans)))


def metadata(build: str, times: Mapping[str, str]) -> dict[str, str]:
    return {"invocationId": build, **times}


def times(first: str, last: str) -> dict[str, str]:
    """When the actions behind a build began and ended."""
    return {"startedOn": first, "finishedOn": last}


def span(finished: str, seconds: float) -> tuple[str, str]:
    """When an action began and when it ended."""
    begin, end = _span(finished, seconds)
    return _second(begin), _second(end)


def _span(finished: str, seconds: float) -> tuple[datetime.datetime, datetime.datetime]:
    end = datetime.datetime.fromisoformat(finished)
    return end - datetime.timedelta(seconds=seconds), end


def _second(when: datetime.datetime) -> str:
    return when.isoformat(timespec="seconds")


def byproduct(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a statement says of one action; see `statement`."""
    notes = {name: row[name] for name in ("key", "seconds", "finished", "host")}
    return {"name": row["action"], "digest": {"blake3": row["output"]}, "annotations": notes}
