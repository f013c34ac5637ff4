"""Errors that say where, what and the remedy; the exit code is a property of the class."""

from __future__ import annotations

from collections.abc import Iterable


class AmyError(Exception):
    """Any failure a user can meet. ``where`` is a file, table or key; ``remedy`` is what to do next."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return _shown(f"{head}\n  {self.remedy}" if self.remedy else head)


def _shown(text: str, most: int = 2000) -> str:
    """`text` for a terminal: what a file holds may be long, and may hold characters that a terminal obeys."""
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 :]}"
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class InputError(AmyError):
    """The Personafile, a recipe, the memory graph or the command line is wrong."""

    exit_code = 2


class ActionError(AmyError):
    """An action could not do its work (an unreadable model, no network, a failed gate …). Never cached."""


class PinError(AmyError):
    """``--locked`` or a pin does not match what is here."""

    exit_code = 3


class CheckError(AmyError):
    """``--check`` ran an action again and got another result."""

    exit_code = 4


class CacheDamage(AmyError):
    """The cache is damaged beyond repair from what is here."""

    exit_code = 5


class Interrupted(AmyError):
    """Stopped by a signal; the next build goes on from what is cached."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """``did you mean 'x'?`` for the nearest of `known`, or None when nothing is near."""
    import difflib  # only bad input pays for it

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
