"""Fixtures: a tiny model made once, a project per test, and a built project to copy from."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import Space
from tests.tiny import make_tiny_base

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as amybuild.build.run_action does, before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.pop("AMYBUILD_CACHE", None)

# A shell that starts the tests in the background has Ctrl-C ignored, and so would every build that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a busy machine is no failure of a law
settings.register_profile("amybuild", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("amybuild")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of many small builds that are not about power loss: waiting for the disk is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def space(tmp_path: Path, tiny_base: Path) -> Space:
    """A project that was never built."""
    return Space(tmp_path / "project", tiny_base)


@pytest.fixture(scope="session")
def _built_once(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    first = Space(tmp_path_factory.mktemp("built") / "project", tiny_base)
    first.build()
    return first.root


@pytest.fixture
def built(space: Space, _built_once: Path) -> Space:
    """A project whose results are all in its cache and whose product lies in dist/."""
    shutil.copytree(_built_once / "cache", space.root / "cache")
    space.build()
    return space
