"""`amybuild` after an edit of memory nodes alone: what the whole program would say, if that need not look."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from amybuild import noop


def run(argv: Sequence[str], found: noop.Answer) -> bool:
    """Whether the project is up to date now, and that was said."""
    if "--explain" in argv or os.environ.get("AMYBUILD_TRACEBACK"):
        return False
    from amybuild.cli.build import tell
    from amybuild.edited import build
    from amybuild.report.progress import PlainLines

    began = time.monotonic()
    done = build(found, os.path.dirname(os.path.dirname(found.asked[0])))
    if done is None:
        return False
    if not {"-q", "--quiet"} & set(argv):
        if directory := noop.value(list(argv), "-C", "--directory", ""):
            os.chdir(directory)  # what is said of the product is said from there
        lines = PlainLines(len(done.summary.hits) + len(done.summary.ran))
        lines.seen = len(done.summary.hits)
        for event in done.events:
            lines(event)
        tell(done.summary, time.monotonic() - began)
    if done.evidence is not None:
        noop.keep(found.asked, found.built, found.explained, done.evidence, behind=done.behind)
    return True
