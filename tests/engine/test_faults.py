"""ENOSPC and EIO at the Nth call that writes: a sample of N by default, every N with `pytest -m nightly`."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.engine import fakes, faults
from tests.engine.machine import no_fsync
from tests.harness import Space


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("stays", [False, True])
def test_a_disk_that_fails_somewhere_is_a_clean_error_at_most(ram: Path, number: int, stays: bool) -> None:
    tried, wrong = faults.everywhere(ram, number, stays, first=41, step=90)
    assert not wrong, wrong[0]
    assert tried >= 3


@pytest.mark.nightly
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_disk_that_fails_anywhere_is_a_clean_error_at_most(ram: Path, number: int, stays: bool, fresh: bool) -> None:
    tried, wrong = faults.everywhere(ram, number, stays, first=1, step=1, fresh=fresh)
    assert not wrong, f"{len(wrong)} of {tried}: {wrong[:5]}"
    assert tried > 100


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system")
def test_disks_of_many_sizes_that_are_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size stops the build elsewhere; a bigger disk (remounted) lets the next build finish what was begun."""
    space, place = fakes.project(tmp_path / "project"), tmp_path / "small"
    place.mkdir()
    failed = 0
    for kilobytes in range(40, 700, 60):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], check=False).returncode:
            pytest.skip("cannot mount here")
        try:
            monkeypatch.setenv("AMYBUILD_CACHE", str(place))
            with fakes.cheap(), no_fsync():
                failed += full(space, place)
        finally:
            subprocess.run(["umount", place], check=True)
    assert failed >= 3


def full(space: Space, place: Path) -> bool:
    """One build on the full disk, one after it grew; whether the first one failed."""
    first = space.run("--json")
    assert first.code in (0, 1)
    if first.code:
        told = first.err + first.out
        assert "the disk is full" in told, told
        assert "nothing cached was lost" in told, told
    done = {event["action"] for event in first.events if event["event"] == "done"}
    subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
    second = space.build()
    assert not done & second.ran
    assert space.build().ran == set()
    return bool(first.code)
