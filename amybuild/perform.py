"""How an action is performed: its rule's function is imported, with its libraries, and called."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.graph.rules import MODULES, RULES

if TYPE_CHECKING:
    from amybuild.execute.job import Job

_IMPORTS = threading.Lock()
_SWITCHES = ("MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # they choose which sums a processor does


def rule_function(rule: str) -> Callable[[Any], None]:
    """Import a rule's function and its libraries, one thread at a time: two threads that import modules which need
    each other can be handed a half-made one."""
    module, _, function = RULES[rule].entry.partition(":")
    with _IMPORTS:
        for library in RULES[rule].libraries:
            importlib.import_module(MODULES.get(library, library))
        found: Callable[[Any], None] = getattr(importlib.import_module(module), function)
    return found


def run_job(
    job: Job,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Callable[..., None],
    memo: Path | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Import the rule's function (only now: it may bring torch) and call it. `memo`, `checkpoint`: `ActionContext`."""
    from amybuild.actions.context import ActionContext
    from amybuild.execute.resources import free_memory

    # Threads that spin while they wait take the core from whoever else is on it: beside one busy process two of
    # them were four times slower than one (bench/LOG.md). OpenMP reads this when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # the same for numpy's, which spin as soon as it is imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its remarks are on how we call it, not on the build
    run = rule_function(job.rule)
    run(ActionContext(job.id, job.key, job.params, inputs, out, progress, job.inputs, memo, checkpoint, free_memory))


def host(rule: str) -> dict[str, Any]:
    """The fingerprint of where an action of this rule ran: recorded, not part of any key.

    What it does not compute with says nothing about it, and may be half imported by another thread.
    """
    here = os.uname()
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "machine": here.machine,
        "system": here.sysname,
    }
    torch = sys.modules.get("torch") if "torch" in RULES[rule].libraries else None
    if torch is not None:
        found |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        found |= {"cpu": torch.backends.cpu.get_cpu_capability(), "processor": _processor()}
        found |= {name.lower(): os.environ[name] for name in _SWITCHES if name in os.environ}
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


@functools.cache
def _processor() -> str:
    """What the system calls the processor: another one may add in another order."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "")
    except OSError:
        return ""
