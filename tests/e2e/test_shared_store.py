"""Projects that share results: through a folder and through an S3 server, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from amybuild.cache.remote import Place, open_place
from tests.harness import Space


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, list[str]], str]:
    """The summary of a build in a process of its own, and what it told."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, f"{out}\n{err}"
    assert "Traceback" not in err
    return read(out, err)


def here(space: Space) -> tuple[dict[str, list[str]], str]:
    """The same in this process."""
    result = space.build()
    return read(result.out, result.err)


def read(out: str, err: str) -> tuple[dict[str, list[str]], str]:
    events = [json.loads(line) for line in out.splitlines()]
    notes = "\n".join(event["text"] for event in events if event["event"] == "note")
    return events[-1], notes + err


def clone(space: Space, root: Path) -> Space:
    """The same project elsewhere, without cache and product."""
    shutil.copytree(space.root, root, symlinks=True, ignore=shutil.ignore_patterns("cache", "dist"))
    again = object.__new__(Space)
    again.root = root
    return again


def product(space: Space) -> dict[str, bytes]:
    """The product's files but for what tells of the Personafile (which names the shared store) and of the runs."""
    files = {path.relative_to(space.product).as_posix(): path for path in space.product.rglob("*") if path.is_file()}
    found = {name: path.read_bytes() for name, path in sorted(files.items()) if name != "provenance.json"}
    info = json.loads(found["persona.json"])
    del info["made_from"]["personafile"]
    return {**found, "persona.json": json.dumps(info).encode()}


def share(space: Space, folder: Path, more: str = "") -> None:
    space.edit("Personafile.toml", "[link]", f'[cache]\nremote = "{folder.as_uri()}"\n{more}\n[link]')


def test_two_projects_share_through_a_folder(built: Space, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    share(built, shared)
    shutil.rmtree(built.root / "cache")
    first, _ = finished(built.spawn("--json"))
    assert len(first["ran"]) == 26
    other = clone(built, tmp_path / "other")
    second, told = finished(other.spawn("--json"))
    assert second["ran"] == []
    assert not told
    assert product(other) == product(built)
    assert states_of_objects(other) < states_of_objects(built), "only what the product needs was fetched"
    shutil.move(shared, tmp_path / "away")
    third, told = here(other)
    assert third["ran"] == []
    assert not told, "a no-op asks nobody"
    other.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.9")
    fourth, told = here(other)
    assert set(fourth["ran"]) >= {"task.listen/verify", "checkpoint/link", "persona/verify", "persona/drift"}
    result = other.run("--explain")
    assert result.code == 0


def states_of_objects(space: Space) -> set[str]:
    return {path.name for path in (space.root / "cache/v1/objects").rglob("*") if path.is_file()}


def test_two_projects_at_once_with_one_folder_both_come_out_right(built: Space, tmp_path: Path) -> None:
    share(built, tmp_path / "shared")
    shutil.rmtree(built.root / "cache")
    other = clone(built, tmp_path / "other")
    for process in [built.spawn("--json"), other.spawn("--json")]:
        finished(process)
    assert product(other) == product(built)
    assert here(clone(built, tmp_path / "third"))[0]["ran"] == []


def test_a_damaged_shared_store_costs_a_run_and_is_told(built: Space, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(built.root / "cache" / "v1", shared / "v1")
    share(built, shared)
    for path in (shared / "v1/objects").rglob("*"):
        if path.is_file() and path.stat().st_size:
            data = path.read_bytes()
            path.chmod(0o644)
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other = clone(built, tmp_path / "other")
    summary, told = here(other)
    assert "is damaged: it is not used" in told
    assert "checkpoint/link" in summary["ran"]
    assert product(other) == product(built)
    assert here(clone(built, tmp_path / "third"))[0]["ran"] == [], "and it is mended"


def test_a_read_only_shared_store_is_not_written(built: Space, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(built.root / "cache" / "v1", shared / "v1")
    share(built, shared, "readonly = true")
    other = clone(built, tmp_path / "other")
    other.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    before = sorted(shared.rglob("*"))
    summary, _ = here(other)
    assert set(summary["ran"]) == {*("checkpoint/link", "persona/measure", "persona/verify", "persona/drift")}
    assert sorted(shared.rglob("*")) == before


def test_what_was_made_before_a_store_was_named_is_pushed(built: Space, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    share(built, shared)
    missing = built.run("push", "-n")
    assert missing.code == 0, missing.err
    told = json.loads(built.run("push", "--json").out)
    assert missing.out.split() == told["sent"]
    assert len(told["sent"]) == 27, "the actions, and the link map"
    assert not told["there"]
    assert not told["absent"]
    again = json.loads(built.run("push", "--json").out)
    assert (len(again["there"]), again["sent"], again["size"]) == (27, [], 0)
    other = clone(built, tmp_path / "other")
    summary, notes = here(other)
    assert summary["ran"] == []
    assert not notes
    assert product(other) == product(built)


def test_a_push_of_everything_holds_older_results_and_names_what_is_gone(built: Space, tmp_path: Path) -> None:
    share(built, tmp_path / "shared")
    before = json.loads(built.run("push", "-n", "--json").out)
    shutil.copytree(built.root, tmp_path / "more", symlinks=True)
    assert built.run("--set", "link.density=0.25").code == 0  # another build, with results that go at once
    shutil.rmtree(tmp_path / "shared")
    every = json.loads(built.run("push", "--all", "-n", "--json").out)
    assert len(every["sent"]) > len(before["sent"])
    objects = [path for path in (built.root / "cache/v1/objects").rglob("*") if path.is_file()]
    largest = max(objects, key=lambda path: path.stat().st_size)
    largest.unlink()
    told = json.loads(built.run("push", "--all", "--json").out)
    assert told["absent"]
    assert {*told["absent"], *told["sent"]} == {*every["sent"]}
    assert built.run("push", "nothing").code == 2


def test_a_push_to_nowhere_or_where_it_is_not_allowed_is_a_clean_error(built: Space, tmp_path: Path) -> None:
    nowhere = built.run("push")
    assert nowhere.code == 2
    assert "no shared store" in nowhere.err
    shared = tmp_path / "shared"
    share(built, shared, "readonly = true")
    refused = built.run("push")
    assert refused.code == 2
    assert "readonly" in refused.err
    assert not shared.exists()
    built.edit("Personafile.toml", "readonly = true", "")
    shared.write_text("a file in its place")
    failed = built.run("push")
    assert failed.code == 1
    assert "shared store" in failed.err
    assert "Traceback" not in failed.err


def test_an_unusable_address_is_an_input_error_that_keeps_the_secret(built: Space) -> None:
    built.edit("Personafile.toml", "[link]", '[cache]\nremote = "s3://me:TOKEN@bucket"\n\n[link]')
    result = built.run()
    assert result.code == 2
    assert "[cache] remote" in result.err
    assert "TOKEN" not in result.err
    built.edit("Personafile.toml", 'remote = "s3://me:TOKEN@bucket"', "readonly = 3")
    assert built.run().code == 2


def test_a_checkout_fetches_what_it_needs(built: Space, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(built.root / "cache" / "v1", shared / "v1")
    share(built, shared)
    other = clone(built, tmp_path / "other")
    first = other.build().summary["build"]
    other.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    other.build()
    shutil.rmtree(other.root / "cache/v1/objects")
    result = other.run("checkout", first)
    assert result.code == 0, result.err
    assert product(other) == product(built)


# a real S3 server

BUCKET = "personas"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of an S3 server with an empty bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    assert host
    for name, value in (
        *(("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_DEFAULT_REGION", "us-east-1")),
        *(("AWS_SECRET_ACCESS_KEY", "VERYSECRETKEY"), ("AMYBUILD_REMOTE", f"s3://{BUCKET}/team/a")),
    ):
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    yield endpoint
    server.stop()


@pytest.mark.s3
def test_two_projects_share_through_s3(built: Space, tmp_path: Path, s3: str) -> None:
    import boto3

    shutil.rmtree(built.root / "cache")
    first, told = finished(built.spawn("--json"))
    assert len(first["ran"]) == 26
    assert not told
    client = boto3.client("s3", endpoint_url=s3)
    names = [row["Key"] for row in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert {name.split("/")[3] for name in names} == {"actions", "trees", "objects"}
    assert all(name.startswith("team/a/v1/") for name in names)
    other = clone(built, tmp_path / "other")
    second, told = finished(other.spawn("--json"))
    assert second["ran"] == []
    assert not told
    assert product(other) == product(built)
    for name in names:  # damage every object
        if "/objects/" in name:
            body = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            client.put_object(Bucket=BUCKET, Key=name, Body=body[:-1] + b"?")
    third = clone(built, tmp_path / "third")
    summary, told = here(third)
    assert "is damaged: it is not used" in told
    assert "checkpoint/link" in summary["ran"]
    assert product(third) == product(built)
    for place in (built, other, third):
        secret = [p for p in place.root.rglob("*") if p.is_file() and b"VERYSECRETKEY" in p.read_bytes()]
        assert not secret


def first_record_stays(place: Place, folder: Path) -> None:
    """What every kind of shared store must do: the first record of a name stays, files come back as they went."""
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
        (folder / "one").write_bytes(os.urandom(size))
        place.send("objects/aa/one", folder / "one")
        assert place.size("objects/aa/one") == size
        place.fetch("objects/aa/one", folder / "got", size)
        assert (folder / "got").read_bytes() == (folder / "one").read_bytes()


@pytest.mark.s3
def test_the_first_record_on_s3_stays(tmp_path: Path, s3: str) -> None:
    assert s3
    first_record_stays(open_place(os.environ["AMYBUILD_REMOTE"], "here", "v1"), tmp_path)


@pytest.mark.s3
@pytest.mark.parametrize("how", ["dead", "no bucket"])
def test_an_s3_that_is_not_there_is_one_note_and_no_wait(
    built: Space, s3: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "dead":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    else:
        monkeypatch.setenv("AMYBUILD_REMOTE", "s3://another-bucket")
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    summary, told = finished(built.spawn("--json"))
    assert set(summary["ran"]) == {*("checkpoint/link", "persona/measure", "persona/verify", "persona/drift")}
    assert told.count("shared store") == 1, told
    assert "VERYSECRETKEY" not in told
    assert s3
