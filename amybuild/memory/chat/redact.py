"""What is taken out of people's messages: contact data, other people's names; each for a word that says what it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

KINDS = ("urls", "emails", "handles", "phones", "names")  # in this order: an address holds what looks like a handle
# each begins where nothing of its kind stands before: a message of a million letters is read once
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"]+", re.IGNORECASE)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HANDLE = re.compile(r"(?<![\w@])@(?:\u2068[^\u2068\u2069\n]+\u2069|[A-Za-z0-9_][\w.]{1,31})")
_PHONE = re.compile(r"(?<![\w.,])\+?\(?\d(?:[ \t\u00a0\u202f()./\u2011-]{0,2}\d){6,14}(?!\w)")
_NO_PHONE = re.compile(  # dates, years, numbers with a decimal point or with thousands
    r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{4} ?[-/] ?\d{4}|\d+\.\d+|\d{1,3}(?:\.\d{3})+"
)
_ONLY = re.compile(r"(?:\[(?:url|email|handle|phone|name)\]|\W)*")


class Redactor:
    """Texts without what `kinds` names, and with names as `names` says; `counts` is how often something was found.

    people: everybody whose name is to go (with "names"); who has another name in `names` gets that one.
    """

    def __init__(self, kinds: Iterable[str], names: Mapping[str, str], people: Iterable[str] = ()) -> None:
        chosen = set(kinds)
        self.counts: Counter[str] = Counter()
        table = dict(names)
        if "names" in chosen:
            for person in people:
                # a part of a name counts only as it is written: "will" and "mark" are words too
                parts = [part for part in re.findall(r"\w+", person) if len(part) > 2 and part[0].isupper()]
                for one in (person, *parts):
                    table.setdefault(one, names.get(person, "[name]"))
        self._names = table
        self._steps = [step for kind, step in self._known().items() if kind in chosen]
        if table:
            longest = sorted(filter(None, table), key=lambda one: (-len(one), one))
            pattern = "|".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in longest)
            self._steps.append(lambda text: re.sub(pattern, self._name, text))

    def _known(self) -> dict[str, Callable[[str], str]]:
        return {
            "urls": lambda text: _URL.sub(self._count("urls", "[url]"), text),
            "emails": lambda text: _EMAIL.sub(self._count("emails", "[email]"), text),
            "handles": lambda text: _HANDLE.sub(self._count("handles", "[handle]"), text),
            "phones": lambda text: _PHONE.sub(self._phone, text),
        }

    def __call__(self, text: str) -> str:
        for step in self._steps:
            text = step(text)
        return text.replace("\u2068", "")

    def _count(self, kind: str, word: str) -> Callable[[re.Match[str]], str]:
        def found(_: re.Match[str]) -> str:
            self.counts[kind] += 1
            return word

        return found

    def _phone(self, found: re.Match[str]) -> str:
        if _NO_PHONE.fullmatch(found[0]):
            return found[0]
        self.counts["phones"] += 1
        return "[phone]"

    def _name(self, found: re.Match[str]) -> str:
        self.counts["names"] += 1
        return self._names[found[0]]


def says_nothing(text: str) -> bool:
    """Whether nothing is left of a text but what was put in for something else."""
    return _ONLY.fullmatch(text) is not None and "[" in text
