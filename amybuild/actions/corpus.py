"""The corpus rule: the examples of some nodes, deduplicated and split by a hash of their context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.digest import canonical, digest_value
from amybuild.errors import ActionError, InputError
from amybuild.memory.dialogue import Example, read_examples
from amybuild.memory.graph import MemoryGraph, build_graph
from amybuild.memory.jsonl import read_jsonl

MIN_TRAIN = 4
MIN_PAIRS = 2
FEW_PAIRS = 4
RATIO = (0.6, 1.6)  # outside, a margin per token measures length and style more than behaviour


def run(ctx: ActionContext) -> None:
    """inputs: nodes. params: heldout 0.25, min_examples 8, and optionally ``keys`` (["node#section", …]) or
    ``sections`` ({node: section or null}) to take less than all of every node. Writes train, heldout and card."""
    heldout, least = _numbers(ctx.params)
    graph = build_graph(read_jsonl(ctx.inputs["nodes"] / "nodes.jsonl", "nodes.jsonl"))
    keys = _keys(ctx.params, graph)
    found: list[Example] = []
    for done, key in enumerate(keys):
        ctx.progress(done, len(keys))
        node, section = graph.resolve(key)
        found += read_examples(node, section)
    names = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    if not found:
        raise ActionError(
            "no examples",
            where=names,
            remedy="add fenced blocks with the info string 'dialogue' (User: … / Assistant: … / Not: …) to the node",
        )
    examples = sorted({one.id: one for one in reversed(found)}.values(), key=lambda one: one.id)
    held = [one for one in examples if is_heldout(one.messages, heldout)]
    train = [one for one in examples if not is_heldout(one.messages, heldout)]
    _check_size(names, len(examples), len(train), sum(bool(one.rejected) for one in held), least)
    (ctx.out / "train.jsonl").write_bytes(lines(train))
    (ctx.out / "heldout.jsonl").write_bytes(lines(held))
    (ctx.out / "card.json").write_bytes(canonical(card(train, held, len(found) - len(examples))) + b"\n")
    ctx.progress(len(keys), len(keys))


def is_heldout(messages: Sequence[tuple[str, str]], share: float) -> bool:
    """The side of an example: a function of its context alone (case and spacing aside), so that no other example's
    coming or going moves it, an edited reply stays on its side, and two replies to one context are never parted."""
    context = [[role, " ".join(text.split()).casefold()] for role, text in messages]
    return int(digest_value("heldout", context)[:12], 16) < share * 16**12


def lines(examples: Iterable[Example]) -> bytes:
    """JSONL of `examples` in the corpus format; rejected replies after the first stand in ``also_rejected``."""
    out = bytearray()
    for one in examples:
        value: dict[str, Any] = {
            "id": one.id,
            "node": one.node,
            "messages": one.chat(),
            "continuation": one.continuation,
            "rejected": one.rejected[0] if one.rejected else None,
            "counter": one.counter,
        }
        if len(one.rejected) > 1:
            value["also_rejected"] = list(one.rejected[1:])
        out += canonical(value) + b"\n"
    return bytes(out)


def card(train: Sequence[Example], held: Sequence[Example], duplicates: int) -> dict[str, Any]:
    """Counts, lengths in characters and warnings; no text."""
    every = [*train, *held]
    pairs = [(len(one.continuation), len(one.rejected[0])) for one in every if one.rejected]
    ratio = round(fmean(a for a, _ in pairs) / fmean(b for _, b in pairs), 4) if pairs else None
    learned = {one.continuation for one in train}
    leaks = sum(one.continuation in learned for one in held)
    warnings = []
    if ratio is not None and not RATIO[0] <= ratio <= RATIO[1]:
        warnings.append(f"continuations are {ratio:g} times as long as rejected ones: a margin would measure length")
    if (few := sum(bool(one.rejected) for one in held)) < FEW_PAIRS:
        warnings.append(f"only {few} held-out pairs: a margin over them is coarse (write more, or raise 'heldout')")
    if duplicates:
        warnings.append(f"{duplicates} examples are there more than once and count once")
    if leaks:
        warnings.append(f"{leaks} held-out continuations are also trained on, word for word")
    if not any(one.counter for one in every):
        warnings.append("no counter cases: nothing says where the behaviour should not show")
    return {
        "train": len(train),
        "heldout": len(held),
        "counter": sum(one.counter for one in every),
        "with_rejected": len(pairs),
        "heldout_counter": sum(one.counter for one in held),
        "heldout_pairs": sum(bool(one.rejected) for one in held),
        "duplicates": duplicates,
        "nodes": dict(Counter(one.node for one in every)),
        "characters": {
            "continuation": _lengths([len(one.continuation) for one in every]),
            "rejected": _lengths([length for _, length in pairs]),
        },
        "length_ratio": ratio,
        "warnings": warnings,
    }


def _lengths(values: list[int]) -> dict[str, float] | None:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None


def _numbers(params: Mapping[str, Any]) -> tuple[float, int]:
    heldout, least = params.get("heldout", 0.25), params.get("min_examples", 8)
    if isinstance(heldout, bool) or not isinstance(heldout, int | float) or not 0 < heldout < 1:
        raise InputError("heldout is not a share between 0 and 1", remedy="for example 0.25")
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise InputError("min_examples is not a whole number of 1 or more", remedy="for example 8")
    return float(heldout), least


def _keys(params: Mapping[str, Any], graph: MemoryGraph) -> list[str]:
    sections, keys = params.get("sections"), params.get("keys")
    if sections is not None and keys is not None:
        raise InputError("both 'sections' and 'keys'", remedy="give one of them")
    if sections is not None:
        keys = [f"{key}#{part}" if part else key for key, part in sections.items()]
    return sorted(set(graph.nodes if keys is None else keys))


def _check_size(names: str, total: int, train: int, pairs: int, least: int) -> None:
    if total < least:
        what = f"{total} different examples, fewer than min_examples = {least}"
        raise ActionError(what, where=names, remedy=f"write {least - total} more dialogues or lower min_examples")
    if train < MIN_TRAIN:
        what = f"{train} examples to train on, fewer than {MIN_TRAIN} (of {total} in all)"
        raise ActionError(what, where=names, remedy="write more dialogues or lower 'heldout' in the recipe")
    if pairs < MIN_PAIRS:
        what = f"{pairs} held-out examples with a rejected reply, fewer than {MIN_PAIRS} (of {total} in all)"
        remedy = "add 'Not:' lines to more dialogues, write more of them, or raise 'heldout' in the recipe"
        raise ActionError(what, where=names, remedy=remedy)
