"""Dates as phones write them: the order of day and month is found from all dates of an export together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from amybuild.errors import InputError

Stamp = tuple[tuple[int, int, int], tuple[int, int, int], bool]  # three numbers of a date, a time, with am or pm
# am or pm, here and in Korean, Japanese, Chinese, Arabic and Persian
HALF = r"[AaPp]\.?\s?[Mm]\.?|오[전후]|午[前後]|[上下]午|[صم]|[قب]\.?\s?ظ\.?"
_AFTERNOON = ("p", "P", "오후", "午後", "下午", "م", "ب")


def hours(hour: int, half: str | None) -> int:
    """The hour of a day: 12-hour clocks say which half (`HALF`), others do not."""
    if not half:
        return hour
    return hour % 12 + (12 if half.startswith(_AFTERNOON) else 0)


def seconds(stamps: Sequence[Stamp], where: str) -> list[float]:
    """Each stamp in seconds since 1970 (UTC). `InputError` when no one order of day and month fits all of them.

    A number above 12 decides. Where none is, the order wins in which time runs backwards less often, then day before
    month, but month before day on clocks with am and pm.
    """
    short = [date for date, _, _ in stamps if date[0] <= 31]
    first, second = any(date[0] > 12 for date in short), any(date[1] > 12 for date in short)
    if first and second:
        orders = []
    elif first or second:
        orders = [first]
    else:
        orders = [False, True] if any(half for _, _, half in stamps) else [True, False]
    readings = []
    for day_first in orders:
        try:
            readings.append([_second(date, time, day_first) for date, time, _ in stamps])
        except (ValueError, OverflowError):
            continue
    if not readings:
        raise InputError("dates that are none, or in two orders", where=where, remedy="export the chat again")
    return min(readings, key=_backwards)  # the first of several


def _second(date: tuple[int, int, int], time: tuple[int, int, int], day_first: bool) -> float:
    if date[0] > 31:
        year, month, day = date
    elif day_first:
        day, month, year = date
    else:
        month, day, year = date
    return datetime(year + 2000 if year < 100 else year, month, day, *time, tzinfo=UTC).timestamp()


def _backwards(times: Sequence[float]) -> int:
    return sum(b < a for a, b in pairwise(times))


def iso(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 date with or without a zone; ValueError for anything else."""
    found = datetime.fromisoformat(text)
    return unix((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def unix(seconds: float) -> float:
    """Seconds since 1970 that are a date of the calendar; ValueError or OverflowError for any others."""
    datetime.fromtimestamp(seconds, UTC)
    return float(seconds)
