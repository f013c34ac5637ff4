"""Several real builds at once: of one project, and of two projects on one cache; no action twice, all results equal."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.engine.pure import Files
from tests.engine.states import product_of
from tests.harness import Space


def results(processes: Sequence[subprocess.Popen[str]]) -> Counter[str]:
    """How often each action was told as done, over all builds; each build must succeed and be quiet."""
    done: Counter[str] = Counter()
    for process in processes:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        assert "Traceback" not in err, err
        events = [json.loads(line) for line in out.splitlines()]
        done.update(event["action"] for event in events if event["event"] == "done")
        summary = events[-1]
        told = [event["action"] for event in events if event["event"] == "done"]
        assert sorted(summary["ran"]) == sorted(told)
    return done


def product(space: Space) -> Files:
    found = product_of(space)
    assert found
    return found


def second(space: Space, root: Path) -> Space:
    """Another project with the same content, elsewhere."""
    import shutil

    shutil.copytree(space.root, root, symlinks=True, ignore=shutil.ignore_patterns("cache", "dist"))
    other = Space.__new__(Space)
    other.root = root
    return other
