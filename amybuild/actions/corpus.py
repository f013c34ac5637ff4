"""The corpus rule: the examples of some nodes or of a JSONL file, deduplicated and split by a hash of their context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.corpus_card import card
from amybuild.actions.split import Split, is_heldout, split
from amybuild.digest import canonical
from amybuild.errors import ActionError, InputError
from amybuild.memory.dialogue import read_examples
from amybuild.memory.example import Example
from amybuild.memory.jsonl import read_jsonl
from amybuild.memory.lines import read_lines
from amybuild.memory.node import Node, find_key
from amybuild.memory.text import lines_of

MIN_TRAIN = 4
MIN_PAIRS = 2


def run(ctx: ActionContext) -> None:
    """inputs: nodes, or source (a JSONL file of examples). params: heldout 0.25, min_examples 8, and for nodes
    optionally ``keys`` (["node#section", …]) or ``sections`` ({node: section or null}) to take less than all of every
    node. Writes train.jsonl, heldout.jsonl and card.json."""
    heldout, least = numbers(ctx.params)
    if "source" in ctx.inputs:
        path = ctx.inputs["source"]
        names = path.name
        found = read_lines("", lines_of(path, names), lambda line: f"{names}:{line}")
    else:
        names, found = _of_nodes(ctx)
    if not found:
        raise ActionError(
            "no examples",
            where=names,
            remedy="add fenced blocks with the info string 'dialogue' (User: … / Assistant: … / Not: …) to the node",
        )
    made = split((one, is_heldout(one.messages, heldout)) for one in found)
    check_size(names, made, least)
    write(ctx, made)


def write(ctx: ActionContext, made: Split, more: Mapping[str, Any] | None = None, notes: Iterable[str] = ()) -> None:
    """The corpus's files. `more`: what else its card says; `notes`: warnings beside those about every corpus."""
    (ctx.out / "train.jsonl").write_bytes(lines(made.train))
    (ctx.out / "heldout.jsonl").write_bytes(lines(made.held))
    (ctx.out / "card.json").write_bytes(canonical(card(made, more, notes)) + b"\n")
    ctx.progress(1, 1)


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


def numbers(params: Mapping[str, Any]) -> tuple[float, int]:
    """heldout and min_examples, checked."""
    heldout, least = params.get("heldout", 0.25), params.get("min_examples", 8)
    if isinstance(heldout, bool) or not isinstance(heldout, int | float) or not 0 < heldout < 1:
        raise InputError("heldout is not a share between 0 and 1", remedy="for example 0.25")
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise InputError("min_examples is not a whole number of 1 or more", remedy="for example 8")
    return float(heldout), least


def check_size(names: str, made: Split, least: int, pairs: bool = True) -> None:
    """ActionError when there is too little to train on or to measure by; `pairs`: measured are rejected replies too."""
    train, held = made.train, made.held
    total, more = len(train) + len(held), "write more dialogues" if pairs else "take a longer export"
    if total < least:
        what = f"{total} different examples, fewer than min_examples = {least}"
        missing = f"write {least - total} more dialogues" if pairs else more
        raise ActionError(what, where=names, remedy=f"{missing} or lower min_examples")
    if len(train) < MIN_TRAIN:
        what = f"{len(train)} examples to train on, fewer than {MIN_TRAIN} (of {total} in all)"
        raise ActionError(what, where=names, remedy=f"{more} or lower 'heldout' in the recipe")
    count = sum(bool(one.rejected) for one in held) if pairs else len(held)
    if count < MIN_PAIRS:
        kind = " with a rejected reply" if pairs else ""
        what = f"{count} held-out examples{kind}, fewer than {MIN_PAIRS} (of {total} in all)"
        remedy = "add 'Not:' lines to more dialogues, write more of them," if pairs else f"{more},"
        raise ActionError(what, where=names, remedy=f"{remedy} or raise 'heldout' in the recipe")


def _of_nodes(ctx: ActionContext) -> tuple[str, list[Example]]:
    nodes = {node.key: node for node in read_jsonl(ctx.inputs["nodes"] / "nodes.jsonl", "nodes.jsonl")}
    keys = _keys(ctx.params, nodes)
    found: list[Example] = []
    for done, key in enumerate(keys):
        ctx.progress(done, len(keys))
        name, section = find_key(nodes, key)
        found += read_examples(nodes[name], section)
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else ""), found


def _keys(params: Mapping[str, Any], nodes: Mapping[str, Node]) -> list[str]:
    sections, keys = params.get("sections"), params.get("keys")
    if sections is not None and keys is not None:
        raise InputError("both 'sections' and 'keys'", remedy="give one of them")
    if sections is not None:
        keys = [f"{key}#{part}" if part else key for key, part in sections.items()]
    return sorted(set(nodes if keys is None else keys))
