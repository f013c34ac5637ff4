"""What happens during a build, as records; a sink shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from amybuild.value import field, value


@value
class Event:
    """One thing that happened.

    `kind`: start | hit | wait | progress | done | differs | failed | blocked | note | summary.
    """

    kind: str
    action: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Where events go. Called from several threads, one at a time."""

    def __call__(self, event: Event) -> None: ...


def one_at_a_time(sink: Sink) -> Sink:
    """`sink` behind a lock."""
    import threading

    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            sink(event)

    return tell
