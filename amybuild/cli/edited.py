"""`amybuild` after an edit of memory nodes alone: what the whole program would say, if that need not look."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from amybuild import noop


def run(argv: Sequence[str], found: noop.Answer) -> list[str] | None:
    """None: the project is up to date now, and that was said. Else the whole program has to look; these actions ran."""
    if "--explain" in argv:
        return []
    from amybuild.edited import build

    began = time.monotonic()
    done = build(found, os.path.dirname(os.path.dirname(found.asked[0])))
    if done is None:
        return []
    summary = done.summary
    if found.built:  # else it is to be quiet
        from amybuild.cli.build import tell
        from amybuild.report.progress import PlainLines

        lines = PlainLines(summary.reused + len(summary.ran))
        lines.seen = summary.reused
        for event in done.events:
            if event.action in summary.ran if event.action else done.whole:
                lines(event)
        if done.whole:
            if directory := noop.value(list(argv), "-C", "--directory", ""):
                os.chdir(directory)  # what is said of the product is said from there
            tell(summary, time.monotonic() - began)
    if done.evidence is not None:
        noop.keep(found.asked, found.built, found.explained, done.evidence, behind=done.behind)
    return None if done.whole else summary.ran
