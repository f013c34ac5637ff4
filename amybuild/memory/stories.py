"""Story corpora: ``stories/``, ``paired/<scenario>/`` and ``direct/``, a file per concept, negatives in ``_*.txt``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amybuild.errors import InputError
from amybuild.memory.text import text_of

ROOMS = ("stories", "paired", "direct")
_LAYOUT = "stories/<concept>.txt, paired/<scenario>/<concept>.txt, direct/<concept>.txt, negatives in _*.txt"
BASELINE = "baseline"  # what a scenario is like without any of the concepts


@dataclass(frozen=True)
class Story:
    """One text. `concept` is what it is about, None for one that is about none of them. `setting` is where it plays,
    None where it plays nowhere. `place` is its file in the corpus."""

    place: str
    concept: str | None
    text: str
    setting: str | None


def read_stories(folder: Path, shown: str) -> list[Story]:
    """All texts of a corpus by file: one per file below ``stories`` and ``paired``, those between blank lines below
    ``direct`` and in files that begin with ``_``. White space is single spaces. `InputError` with the place."""
    if not folder.is_dir():
        raise InputError("not a folder", where=shown, remedy=f"a story corpus is {_LAYOUT}")
    found = [story for room in ROOMS for story in _room(folder, room, shown)]
    if not found:
        raise InputError("no stories here", where=shown, remedy=f"a story corpus is {_LAYOUT}")
    return found


def _room(folder: Path, room: str, shown: str) -> Iterator[Story]:
    for file in sorted((folder / room).glob("*/*.txt" if room == "paired" else "*.txt")):
        place = file.relative_to(folder).as_posix()
        where = f"{shown}/{place}"
        name = unicodedata.normalize("NFC", file.stem).lower()
        if not name.isprintable() or not name.strip("_ "):
            raise InputError("not the name of a concept", where=where, remedy="rename the file")
        parts = re.split(r"\n\s*\n", text_of(file, where))
        about = None if name.startswith("_") or (room == "paired" and name == BASELINE) else name
        texts = parts if room == "direct" or name.startswith("_") else [" ".join(parts)]
        kept = [" ".join(text.split()) for text in texts if text.strip()]
        if not kept:
            raise InputError("an empty file", where=where, remedy="write its text, or remove it")
        setting = {"paired": file.parent.name, "stories": place, "direct": None}[room]
        for text in kept:
            yield Story(place, about, text, setting)
