"""Resources: what jobs need (memory, GPUs, the model), what this machine has, and whether one more job fits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

_MEMORY_REMEDY = "a smaller batch, another machine, or --memory SIZE if it fits all the same"
_GPU_REMEDY = "build where there is one (CUDA_VISIBLE_DEVICES hides them), or take gpu out of the recipe's resources"


class Capacity:
    """How much there is of each resource; looked up when a job first asks for it."""

    def __init__(self, given: Mapping[str, int] | None = None) -> None:
        self._known = {"model": 1, **(given or {})}  # one base is held at a time: it is shared, and it fills the cores

    def of(self, name: str) -> int:
        """The total of a resource; 0 for one that nobody knows."""
        if name not in self._known:
            find = {"gpu": visible_gpus, "memory": free_memory}.get(name)
            self._known[name] = find() if find else 0
        return self._known[name]

    def lacks(self, needs: Mapping[str, int]) -> tuple[str, str | None] | None:
        """Why a job can never start here, and the remedy; None when it can."""
        for name, wanted in needs.items():
            there = self.of(name)
            if wanted > there and name == "memory":
                return f"needs {_gib(wanted)} of memory, and {_gib(there)} are free here", _MEMORY_REMEDY
            if wanted > there and name == "gpu":
                return f"needs {wanted} GPU{'s' * (wanted > 1)}, and {there or 'none'} can be seen here", _GPU_REMEDY
            if wanted > there:
                return f"needs {wanted} x {name}, and there is {there}", None
        return None

    def fits(self, needs: Mapping[str, int], running: Iterable[Mapping[str, int]]) -> bool:
        """Whether a job can start beside those that run."""
        others = list(running)
        return all(wanted + sum(one.get(name, 0) for one in others) <= self.of(name) for name, wanted in needs.items())


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def free_memory() -> int:
    """Bytes that can be taken without swapping: what the system says, less where a control group allows less."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        free = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux: half of what is built in
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return free if limit is None else max(0, min(free, limit - (used or 0)))


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return None


def _device_files() -> int:
    import glob  # seldom asked for

    return len(glob.glob("/dev/nvidia[0-9]*"))


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: int | None = None) -> int:
    """How many GPUs CUDA would see, from its device files and CUDA_VISIBLE_DEVICES; torch is not asked.

    As CUDA does it, the list ends at the first entry that names no device.
    """
    there = _device_files() if devices is None else devices
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not there:
        return there
    seen = 0
    for entry in (one.strip() for one in chosen.split(",")):
        if not (entry.startswith(("GPU-", "MIG-")) or (entry.isdigit() and int(entry) < there)):
            break
        seen += 1
    return seen
