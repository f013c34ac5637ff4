"""The executor interface: jobs out, results back, and nothing but digests and small JSON between."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, Protocol

from amybuild.value import field, value, values


@value
class Source:
    """A path outside the project that a job reads, with the digest its content must have."""

    path: str
    digest: str


@value
class Job:
    """One action as an executor sees it; its inputs are in the store under their digests, and so will its output be."""

    id: str  # "task.listening/train"
    rule: str
    key: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> tree
    nodes: tuple[str, ...] = ()  # objects: the canonical bytes of each memory node it reads
    source: Source | None = None
    resources: Mapping[str, int] = field(default_factory=dict)  # for whoever places it; no part of the key

    def as_json(self) -> dict[str, Any]:
        return {**values(self), "source": values(self.source) if self.source else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """What `as_json` gave, after a journey through JSON."""
        source = Source(**data["source"]) if data["source"] else None
        return cls(**{**data, "nodes": tuple(data["nodes"]), "source": source})


class Kind(Enum):
    """Why a job failed, as far as it matters for what to do next."""

    ERROR = "error"  # the action cannot do its work; it would not another time either
    MEMORY = "out of memory"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "an input is not whole"  # what made it is a miss now: another build makes it again
    PREEMPTED = "preempted"  # its machine was taken away: no fault of the job
    INFRASTRUCTURE = "infrastructure"  # what is between here and the job broke


@value
class Failure:
    """A job without a result, in words for people. Never cached."""

    kind: Kind
    what: str
    where: str | None = None
    remedy: str | None = None


@value
class Result:
    """A finished job: its output is in the store."""

    output: str  # tree
    seconds: float
    host: Mapping[str, Any] = field(default_factory=dict)  # the fingerprint of where it ran


class Executor(Protocol):
    """Where jobs run. A handle is a short string that another process can use too."""

    def submit(self, job: Job) -> str:
        """Start a job; returns its handle."""

    def poll(self, handles: Collection[str], timeout: float) -> Mapping[str, Result | Failure]:
        """Those of `handles` that ended; waits up to `timeout` seconds for the first."""

    def cancel(self, handle: str) -> None:
        """Ask a job to stop; `poll` still says how it ended."""

    def reattach(self, key: str) -> str | None:
        """The handle of a job for this key that outlived the build which submitted it, if there is one."""
