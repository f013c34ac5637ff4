"""Two Personafiles in one folder: each command is about the persona whose file is named."""

from __future__ import annotations

import json
import shutil

from tests.harness import Space


def _held(space: Space, persona: str) -> str:
    return str(json.loads((space.root / "dist" / persona / "persona.json").read_text())["build"])


def _both(space: Space) -> tuple[str, str]:
    text = space.read("Personafile.toml").replace('name = "tess"', 'name = "bo"')
    space.write("bo.toml", text)
    return space.build().summary["build"], space.build("-f", "bo.toml").summary["build"]


def test_rollback_and_pin_keep_to_the_persona_of_the_file(built: Space) -> None:
    tess, bo = _both(built)
    built.edit("Personafile.toml", "density = 0.5", "density = 0.4")
    later, bo_later = _both(built)
    for command in ("rollback", "pin"):
        assert built.run(command).code == 0
        assert built.run("-f", "bo.toml", command).code == 0
        assert (_held(built, "tess"), _held(built, "bo")) == (tess, bo)
    assert f'"{tess}"' in built.read("Personafile.lock")
    assert f'"{bo}"' in built.read("bo.lock")
    result = built.run("rollback")
    assert (result.code, "is the first build made here" in result.err) == (2, True), result.err
    assert {later, bo_later}.isdisjoint({_held(built, "tess"), _held(built, "bo")})


def test_going_back_fetches_from_the_shared_store_of_the_file(built: Space) -> None:
    shared = f'\n[cache]\nremote = "file://{built.root / "shared"}"\n'
    built.write("bo.toml", built.read("Personafile.toml").replace('name = "tess"', 'name = "bo"') + shared)
    first = built.build("-f", "bo.toml").summary["build"]
    built.run("-f", "bo.toml", "push", "--all")
    assert built.run("-f", "bo.toml", "pin").code == 0
    built.edit("bo.toml", "density = 0.5", "density = 0.4")
    built.build("-f", "bo.toml")
    for words in (("checkout", first), ("rollback",), ("checkout", "--lock", "bo.lock")):
        for name in ("actions", "objects", "trees", "results"):
            shutil.rmtree(built.root / "cache" / "v1" / name, ignore_errors=True)
        if "--lock" in words:  # a new clone: lock and shared store are all there is
            shutil.rmtree(built.root / "cache")
        shutil.rmtree(built.root / "dist")
        if words == ("rollback",):
            built.build("-f", "bo.toml")
        result = built.run("-f", "bo.toml", *words)
        assert result.code == 0, (words, result.err)
        assert _held(built, "bo") == first


def test_files_of_windows_editors_and_files_that_are_none(built: Space) -> None:
    built.run("pin")
    for name in ("Personafile.toml", "recipes/quick.toml", "Personafile.lock"):
        path = built.root / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert built.build("--locked").ran == set()
    for name, code in (("recipes/quick.toml", 2), ("Personafile.lock", 3), ("Personafile.toml", 2)):
        path = built.root / name
        kept = path.read_bytes()
        path.unlink()
        path.mkdir()
        result = built.run("--locked")
        assert (result.code, f"{path.name}: not a regular file" in result.err) == (code, True), result.err
        path.rmdir()
        path.write_bytes(kept)
