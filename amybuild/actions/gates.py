"""Gates: what was measured against the bounds a recipe sets. Numbers in, an error or nothing out; no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amybuild.errors import ActionError, InputError


@dataclass(frozen=True)
class Gate:
    """A bound by its name, ``min_…`` or ``max_…``: which measured number it holds for, how that is said, what helps."""

    name: str
    of: tuple[str, ...]  # the number's place in what was measured; a number that is not there is under no gate
    said: str
    remedy: str

    def fails(self, number: float, bound: float) -> bool:
        """Whether a number breaks the bound; what is no number breaks every bound."""
        return not (number >= bound if self.name.startswith("min_") else number <= bound)


_MORE = "train longer (steps, lr), give the node more or clearer dialogues, raise alpha"
_CALMER = "raise kl_weight or replay_batch, lower alpha, lr or steps"
_WHOLE = "lower alpha, lr or steps, give the node replies of other lengths"

ALONE: tuple[Gate, ...] = (
    Gate("min_margin_gain", ("gain",), "the held-out {measure} gains {:+.4f} nats per token", _MORE),
    Gate(
        "min_prose_gain",
        ("prose_gain",),
        "as plain prose the held-out {measure} gains {:+.4f} nats per token",
        "give the node dialogues of more kinds, train longer",
    ),
    Gate("max_neutral_kl", ("neutral_kl",), "it moves neutral text by {:.4f} nats per token (KL to the base)", _CALMER),
    Gate("max_ppl_ratio", ("ppl_ratio",), "neutral text is {:.4f} times as perplexing as to the base", _CALMER),
    Gate(
        "max_own_kl",
        ("own_kl",),
        "on its own held-out replies it is {:.4f} nats per token (KL) from the base",
        "lower alpha, lr or steps",
    ),
    Gate("max_repetition", ("samples", "repetition"), "a share of {:.3f} of its greedy replies repeats itself", _WHOLE),
    Gate("min_length_ratio", ("length_ratio",), "its greedy replies are {:.3f} times as long as the base's", _WHOLE),
    Gate("max_length_ratio", ("length_ratio",), "its greedy replies are {:.3f} times as long as the base's", _WHOLE),
    Gate(
        "min_end_of_turn",
        ("samples", "end_of_turn"),
        "a share of {:.3f} of its greedy replies comes to an end",
        "raise sample_tokens, give the node shorter replies",
    ),
)
MONOTONE = "monotone"
_STEADIER = "lower alpha: past its best strength a vector undoes itself; give the node clearer dialogues"

LINKED: tuple[Gate, ...] = (
    Gate(
        "max_neutral_kl",
        ("neutral_kl",),
        "the persona moves neutral text by {:.4f} nats per token (KL to the base)",
        "lower link.lambda or the alphas of the strongest vectors",
    ),
    Gate(
        "max_ppl_ratio",
        ("ppl_ratio",),
        "neutral text is {:.4f} times as perplexing as to the base",
        "lower link.lambda or the alphas of the strongest vectors",
    ),
)


def failures(gates: Iterable[Gate], measured: Mapping[str, Any], bounds: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(number and gate in words, remedy) of each gate that a bound is set for and that does not hold."""
    words = "log p" if measured.get("alone", {}).get("margin", 0) is None else "margin"
    found = []
    for gate in gates:
        number, bound = _number(measured, gate.of), bounds.get(gate.name)
        if bound is not None and number is not None and gate.fails(number, bound):
            said = gate.said.format(number, measure=words)
            found.append((f"{said}; the gate is {gate.name} = {bound:g}", gate.remedy))
    if bounds.get(MONOTONE) and measured.get(MONOTONE) is False:
        rise = ", ".join(f"{value:+.4f} at {share:g}" for share, value in measured["shares"])
        said = f"the held-out {words} does not rise with the strength ({rise} of it); the gate is {MONOTONE} = true"
        found.append((said, _STEADIER))
    return found


def hold(target: str, found: Iterable[tuple[str, str]]) -> None:
    """Nothing when no gate failed; one ActionError that names all that did."""
    rows = list(found)
    if not rows:
        return
    head = "" if len(rows) == 1 else f"{len(rows)} gates fail:\n  "
    remedies = list(dict.fromkeys(remedy for _, remedy in rows))
    raise ActionError(
        head + "\n  ".join(said for said, _ in rows),
        where=target,
        remedy=f"{'; '.join(remedies)}; or change the gate: that measures nothing again",
    )


def known(bounds: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """`bounds`; InputError for one that does not exist."""
    wanted = list(names)
    odd = sorted(set(bounds) - set(wanted))
    if odd:
        raise InputError(f"unknown gate {odd[0]!r}", where="gates", remedy=f"one of {', '.join(wanted)}")
    return bounds


def _number(measured: Mapping[str, Any], place: tuple[str, ...]) -> float | None:
    value: Any = measured
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
