"""Rule `neutral`: the base's own replies to everyday prompts, the text on which a persona should stay like its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.digest import digest_value
from amybuild.errors import ActionError, InputError
from amybuild.model.data import write_lines
from amybuild.model.generate import replies
from amybuild.model.load import deterministic, load_base
from amybuild.model.tokens import encode_prompt
from amybuild.model.train import checked

PROMPTS = Path(__file__).with_name("neutral_prompts.txt")
LEAST = 2


def run(ctx: ActionContext) -> None:
    """inputs: base. params: prompts (how many), heldout (share), max_new_tokens, temperature (0: greedy), batch, ….

    Self-generated replay text nearly ends forgetting where other text does not (arXiv 2605.26097). The side of a
    prompt depends on its own text only, so that another count moves none. Writes train.jsonl and heldout.jsonl.
    """
    params = ctx.params
    count, length = checked(params, "prompts", int, 72), checked(params, "max_new_tokens", int, 40)
    share, heat = checked(params, "heldout", float, 0.3), checked(params, "temperature", float, 0.7)
    batch = checked(params, "batch", int, 24)
    if not 0 < share < 1 or heat < 0 or min(count, length, batch) < 1:
        raise InputError("out of range", where="neutral", remedy="0 < heldout < 1, temperature >= 0, the others >= 1")
    prompts = read_prompts()[:count]
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    rows: list[dict[str, Any]] = []
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            asked = [[{"role": "user", "content": prompt}] for _, prompt in part]
            prompted = [encode_prompt(base.tokenizer, messages) for messages in asked]
            found = replies(base, prompted, length, heat, ctx.seed("sample", start))
            for (name, _), messages, reply in zip(part, asked, found, strict=True):
                text = base.tokenizer.decode(reply.ids, skip_special_tokens=True).strip()
                if text:
                    rows.append({"id": name, "messages": messages, "continuation": text})
            ctx.progress(min(start + batch, len(prompts)), len(prompts))
    rows.sort(key=lambda row: str(row["id"]))
    held = [row for row in rows if is_heldout(str(row["id"]), share)]
    train = [row for row in rows if not is_heldout(str(row["id"]), share)]
    if len(held) < LEAST or len(train) < LEAST:
        raise ActionError(
            f"only {len(train)} replies to train on and {len(held)} held out",
            where=ctx.action,
            remedy="raise prompts, or check that the base answers at all",
        )
    write_lines(ctx.out / "train.jsonl", train)
    write_lines(ctx.out / "heldout.jsonl", held)


def read_prompts() -> list[tuple[str, str]]:
    """(id, prompt) of every shipped prompt, in the order of their ids, which is no order of topics."""
    lines = [line.strip() for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in dict.fromkeys(lines) if line and not line.startswith("#")]
    return sorted((digest_value("neutral-prompt", line)[:16], line) for line in kept)


def is_heldout(name: str, share: float) -> bool:
    """Which side a prompt's id falls on."""
    return int(name[-8:], 16) / 16**8 < share
