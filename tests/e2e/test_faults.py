"""What goes wrong stays small: failed gates, kills, signals, full disks. Nothing cached is lost, nothing half done."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache import store
from tests.harness import INTERRUPTED, Space


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read a build's progress until `text` is in it."""
    assert process.stderr is not None
    deadline = time.monotonic() + 120
    while text not in (line := process.stderr.readline()):
        assert line, f"it ended with {process.wait()}"
        assert time.monotonic() < deadline


def test_a_failed_gate_fails_its_target_is_not_linked_and_not_cached(built: Space) -> None:
    built.edit("recipes/quick.toml", "min_margin_gain = -50.0", "min_margin_gain = 50.0")
    result = built.run("--json", "-k")
    assert result.code == 1
    assert set(result.summary["failed"]) == {"task.listen/verify", "task.close/verify"}
    assert "checkpoint/link" not in result.ran
    failed = [e for e in result.events if e["event"] == "failed"]
    assert all("50" in e["error"] and e["remedy"] for e in failed)
    again = built.run("--json", "-k")
    assert set(again.summary["failed"]) == {"task.listen/verify", "task.close/verify"}
    built.edit("recipes/quick.toml", "min_margin_gain = 50.0", "min_margin_gain = -50.0")
    assert built.build().ran == set()


def test_without_k_the_first_failure_ends_it_and_with_k_the_rest_is_built(space: Space) -> None:
    space.edit("Personafile.toml", 'emotion = "joy"', 'emotion = "jealousy"')
    result = space.run("--json", "-k")
    assert result.code == 1
    assert result.summary["failed"] == ["steer.joy/labels"]
    assert "persona/verify" in result.ran
    assert not space.product.exists()


def test_a_variant_without_the_failing_vector_still_builds(built: Space) -> None:
    built.edit("Personafile.toml", "alpha = -0.5", "alpha = -0.5\ngates = { min_margin_gain = 50.0 }")
    assert built.run().code == 1
    built.build("--without", "close")


def test_kill_9_in_the_middle_needs_no_unlock_and_keeps_what_was_done(space: Space) -> None:
    space.edit("recipes/quick.toml", "steps = 3", "steps = 400")
    process = space.spawn()
    wait_for(process, "task.listen/train")
    process.kill()
    process.wait()
    space.edit("recipes/quick.toml", "steps = 400", "steps = 3")
    after = space.build()
    assert "base.tiny/import" not in after.ran
    assert "task.listen/train" in after.ran
    assert not list((space.root / "cache" / "v1" / "tmp").iterdir())


def test_a_link_that_is_killed_leaves_the_old_product_whole(built: Space) -> None:
    before = (built.product / "model.safetensors").read_bytes()
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    process = built.spawn()
    wait_for(process, "checkpoint/link")
    process.kill()
    process.wait()
    assert (built.product / "model.safetensors").read_bytes() == before
    assert "persona/verify" in built.build().ran
    assert (built.product / "model.safetensors").read_bytes() != before
    assert not list((built.root / "cache" / "v1" / "tmp").iterdir())


def test_ctrl_c_is_resumable_and_quiet(space: Space) -> None:
    space.edit("recipes/quick.toml", "steps = 3", "steps = 400")
    process = space.spawn()
    wait_for(process, "task.listen/train")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in INTERRUPTED
    assert "Traceback" not in err
    assert "run amybuild again" in err
    assert not list((space.root / "cache" / "v1" / "tmp").iterdir())


def test_a_full_disk_is_an_error_with_a_remedy_and_costs_nothing_cached(
    built: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name for p in (built.root / "cache" / "v1" / "actions").rglob("*.json")}
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    real = os.replace

    def full(source: Any, target: Any, **_: Any) -> None:
        if "objects" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", full)
        result = built.run("--json")
    assert result.code == 1
    (failed,) = [e for e in result.events if e["event"] == "failed"]
    assert failed["error"] == "the disk is full"
    assert "nothing cached was lost" in failed["remedy"]
    assert {p.name for p in (built.root / "cache" / "v1" / "actions").rglob("*.json")} == before
    assert built.build().ran == {*("checkpoint/link", "persona/measure", "persona/verify", "persona/drift")}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system")
def test_a_really_full_disk(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=96k tmpfs {place} 2>/dev/null") != 0:
        pytest.skip("cannot mount here")
    try:
        monkeypatch.setenv("AMYBUILD_CACHE", str(place))
        result = space.run()
        assert result.code == 1
        assert "the disk is full" in result.err
    finally:
        os.system(f"umount {place}")


def test_lost_state_costs_nothing_but_time_to_look(built: Space) -> None:
    cache = built.root / "cache" / "v1"
    for damage in (b"", b"{", b"[]", b'{"schema":99}', bytes(range(256))):
        for name in ("state", "files.json"):
            for path in [cache / name] if (cache / name).is_file() else (cache / name).glob("*.json"):
                path.write_bytes(damage)
        assert built.build().ran == set()


def test_a_lost_object_is_made_again(built: Space) -> None:
    objects = sorted((built.root / "cache" / "v1" / "objects").rglob("*"), key=lambda p: p.stat().st_size)
    objects[-1].unlink()
    assert built.build().code == 0
    assert built.build().ran == set()


def test_two_builds_at_once_run_each_action_once(space: Space) -> None:
    processes = [space.spawn("--json") for _ in range(2)]
    ran: list[str] = []
    for process in processes:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        import json

        summary = json.loads(out.strip().splitlines()[-1])
        ran += summary["ran"]
    assert len(ran) == len(set(ran)) == 26


def test_an_unwritable_cache_says_so(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = built.root / "file"
    blocked.write_text("")
    monkeypatch.setenv("AMYBUILD_CACHE", str(blocked / "cache"))
    result = built.run()
    assert result.code == 1
    assert "cannot write" in result.err
    assert str(blocked) in result.err


def test_terminate_leaves_nothing_behind(space: Space) -> None:
    space.edit("recipes/quick.toml", "steps = 3", "steps = 400")
    process = space.spawn()
    wait_for(process, "task.listen/train")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode in INTERRUPTED, f"{out}\n{err}"
    assert not list((space.root / "cache" / "v1" / "tmp").iterdir())


def test_a_file_where_a_folder_belongs_is_named_with_what_to_do(built: Space) -> None:
    for name, commands in (("dist", ([],)), ("cache", ([], ["log"], ["gc"], ["fsck"], ["push"], ["doctor"]))):
        place = built.root / name
        place.rename(built.root / "aside")
        place.write_text("")
        for command in commands:
            result = built.run(*command)
            assert result.code in (1, 2), command
            assert "[Errno" not in result.err, command
            assert "move" in result.err + result.out, command
        place.unlink()
        (built.root / "aside").rename(place)
    assert built.run().code == 0


LIBRARY = """\
import os, signal
from amybuild.cli import commands, run
def library(argv):
    try:
        os.kill(os.getpid(), signal.{signal})
        signal.pause()
    except KeyboardInterrupt as error:
        raise {error}("initialization failed") from error
commands._function = lambda entry: library
run()
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("error", ["ImportError", "errors.InputError"])
def test_an_interrupt_that_a_library_turned_into_an_error_is_an_interrupt(number: str, error: str) -> None:
    code = "from amybuild import errors\n" + LIBRARY.format(signal=number, error=error)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
