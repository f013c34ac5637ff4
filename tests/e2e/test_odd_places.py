"""Names and places nobody thinks of: a task called like a command, a product that is a git repository, odd paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT, Space


def test_the_value_of_an_option_is_no_command(built: Space) -> None:
    built.edit("Personafile.toml", "[task.listen]", "[task.chat]")
    built.edit("Personafile.toml", "[task.close]", "[task.chats]")
    for option in (("--only", "chat"), ("--without", "chats"), ("--force", "task.chats")):
        result = built.run(*option, "-n")
        assert (result.code, "actions are in the cache" in result.out) == (0, True), result.err
    result = built.run("-o", "memory")  # a folder that is there, and the name of a command
    assert (result.code, "memory: exists and is no product of amybuild" in result.err) == (2, True), result.err
    assert built.run("-q", "-o", "gc").code == 0
    assert (built.root / "gc" / "config.json").is_file()


def test_what_others_put_into_the_product_comes_along_whole(built: Space) -> None:
    built.build()
    product = built.product
    git = ("git", "-C", str(product), "-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "first"), ("pack-refs", "--all")):
        subprocess.run((*git, *words), check=True)
    (built.root / "notes").mkdir()
    (product / "notes").symlink_to("../../notes")
    (product / "later").symlink_to("not-there-yet")
    (product / "mine" / "empty").mkdir(parents=True)
    built.edit("Personafile.toml", "density = 0.5", "density = 0.4")
    built.build()
    changed = subprocess.run((*git, "status", "--porcelain"), capture_output=True, text=True, check=True).stdout
    assert " M model.safetensors" in changed
    assert os.readlink(product / "notes") == "../../notes"
    assert os.readlink(product / "later") == "not-there-yet"
    assert (product / "mine" / "empty").is_dir()
    built.edit("Personafile.toml", '[steer.joy]\nemotion = "joy"\nrecipe = "caa"\n', "")
    built.build()
    assert not (product / "steering").exists()  # our own folders go with what was in them


def test_a_folder_where_a_file_of_the_product_belongs(built: Space) -> None:
    built.build()
    config = built.product / "config.json"
    config.unlink()
    config.mkdir()
    built.build()  # an empty one gives way
    assert config.is_file()
    config.unlink()
    config.mkdir()
    (config / "x").write_text("somebody's")
    result = built.run()
    assert result.code == 2
    assert "config.json/x lies where a file of ours belongs" in result.err
    assert "restored" not in result.err
    assert (config / "x").read_text() == "somebody's"
    shutil.rmtree(config)
    built.build()
    assert config.is_file()


def test_a_place_for_the_product_that_is_none(built: Space) -> None:
    (built.root / "dangling").symlink_to("nowhere")
    for place, words in (("dangling", "Not a directory"), ("a" * 300, "File name too long")):
        result = built.run("-o", place)
        assert (result.code, words in result.err) == (1, True), result.err
        assert "choose another folder with -o" in result.err


def test_a_path_that_is_not_utf8_is_told(built: Space) -> None:
    odd = os.fsdecode(b"od\xff")
    result = built.run("-o", odd)
    assert (result.code, "its name is not UTF-8" in result.err) == (2, True), result.err
    assert not (built.root / odd).exists()
    place = Path(os.fspath(built.root) + odd)
    built.root.rename(place)
    try:
        for command in ((), ("--explain",), ("log",), ("fsck",), ("gc", "-n"), ("doctor",)):
            words = [sys.executable, "-m", "amybuild", *command]
            run = subprocess.run(
                words, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
            )
            assert "Traceback" not in run.stderr, run.stderr
            assert "its name is not UTF-8" in run.stderr + run.stdout
    finally:
        place.rename(built.root)
