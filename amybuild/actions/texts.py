"""The texts rule: what a model may read of some nodes; no labels, so that a changed tag costs no forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amybuild.actions.context import ActionContext
from amybuild.actions.marked import Marked, answer_of, gather
from amybuild.actions.tagged import TaggedText, collect
from amybuild.digest import canonical
from amybuild.errors import ActionError, InputError
from amybuild.memory.jsonl import read_jsonl


def run(ctx: ActionContext) -> None:
    """inputs: nodes, or source. params: min_chars 40, form (one of `marked.FORMS`; none: memories with tags).

    Writes texts.jsonl ({"id", "node", "text"}, by id; of dialogues also "answer", the character at which the reply
    begins) and card.json."""
    form, least = ctx.params.get("form"), least_chars(ctx.params)
    texts: Sequence[TaggedText | Marked]
    if form is None:
        texts, short = collect(read_jsonl(ctx.inputs["nodes"] / "nodes.jsonl", "nodes.jsonl"), least)
    else:
        texts, short = gather(ctx, form, least)
    if not texts:
        remedy = "choose other nodes with 'query', or lower 'min_chars' in the recipe"
        raise ActionError(f"no text of min_chars or more ({short} were shorter)", where=ctx.action, remedy=remedy)
    lines = []
    for one in texts:
        line: dict[str, object] = {"id": one.id, "node": one.node, "text": one.text}
        if form == "dialogues":
            line["answer"] = answer_of(one.text)
        lines.append(canonical(line) + b"\n")
    (ctx.out / "texts.jsonl").write_bytes(b"".join(lines))
    (ctx.out / "card.json").write_bytes(canonical({"texts": len(texts), "short": short}) + b"\n")
    ctx.progress(len(texts), len(texts))


def least_chars(params: Mapping[str, object]) -> int:
    """min_chars, checked."""
    value = params.get("min_chars", 40)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError("min_chars is not a number of 0 or more", remedy="see the recipe's comments")
    return value
