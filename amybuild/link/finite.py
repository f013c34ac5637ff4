"""Differences that hold an infinity or a NaN are told before LAPACK sees them: it may never return from one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from amybuild.errors import ActionError
from amybuild.link.delta import Delta, LowRank
from amybuild.link.tensors import extent

REMEDY = "look at the vectors' norms in the report: one of them was trained or stored wrongly"


def check_finite(deltas: Iterable[Delta], where: str) -> None:
    """Raise `ActionError` when any of them holds values that are not finite numbers."""
    for delta in deltas:
        parts = [delta.left, delta.right] if isinstance(delta, LowRank) else [delta.rows(0, extent(delta.shape)[0])]
        if not all(bool(np.isfinite(part).all()) for part in parts):
            raise ActionError("a difference holds values that are not finite numbers", where=where, remedy=REMEDY)
