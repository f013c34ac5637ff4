"""The rule `adapter`: what a link adds to its base, as one merged LoRA adapter instead of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amybuild.errors import InputError
from amybuild.link.adapter import write_adapter
from amybuild.link.delta import F32, Delta, LowRank, added, scaled
from amybuild.link.linker import Linker, layer_count
from amybuild.link.lora import CONFIG
from amybuild.link.memo import Memo
from amybuild.link.merge import Join, Scratch
from amybuild.link.methods import parse_recipe
from amybuild.link.run import LinkContext
from amybuild.link.tensors import all_tensors, read_shards
from amybuild.link.vector import read_vector

REPORT = "adapter.json"


def run(ctx: LinkContext) -> None:
    """inputs and params of the rule `link`, and `rank`. Writes a PEFT adapter and `adapter.json`, what it misses."""
    params = dict(ctx.params)
    rank = params.pop("rank", None)
    if type(rank) is not int or rank < 1:
        raise InputError(f"{rank!r} is no rank", where="[link] adapter_rank", remedy="a whole number from 1 up")
    paths = {role.removeprefix("vector."): path for role, path in ctx.inputs.items() if role.startswith("vector.")}
    recipe = parse_recipe(params, sorted(paths))
    shards = read_shards(ctx.inputs["base"])
    shapes = {stored.name: stored.shape for _, stored in all_tensors(shards)}
    vectors = [read_vector(paths[name], name, shards).bind(shapes) for name in sorted(paths)]
    linker = Linker(shards, vectors, recipe, Memo({}, None))
    depth, layers = recipe.strengths.depth, layer_count(shards)
    deltas: dict[str, Delta] = {}
    for name in sorted(linker.weights):
        join = linker.spans(name)[0].join
        factor = recipe.lam * (depth.factor(name, layers) if depth else 1.0)
        exact = _exact(join, factor) if recipe.method.name == "linear" else None
        deltas[name] = exact or Merged(join, factor)
    ctx.progress(0, 1)
    report = write_adapter(ctx.out, deltas, rank, fan_in_fan_out=any(map(_transposed, paths.values())))
    text = json.dumps(report.record(), indent=1, sort_keys=True) + "\n"
    (ctx.out / REPORT).write_text(text, encoding="utf-8")
    ctx.progress(1, 1)


@dataclass(frozen=True)
class Merged:
    """What a link adds to one weight, as a difference: factor * merge, before it is rounded into the base."""

    join: Join
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.join.weight.shape

    def rows(self, start: int, stop: int) -> F32:
        scratch = Scratch()
        self.join.prepare(scratch)
        _, merged = self.join.block(start, stop, scratch, None)
        self.join.finish(start, stop)
        return (merged * self.factor).reshape(stop - start, -1).astype(np.float32)


def _exact(join: Join, factor: float) -> Delta | None:
    """A plain sum of low-rank differences, as one: its factors side by side lose nothing."""
    if not all(isinstance(part.delta, LowRank) for part in join.parts):
        return None
    total, *others = (scaled(part.delta, part.alpha * factor) for part in join.parts)
    for other in others:
        total = added(total, other)
    return total


def _transposed(folder: Path) -> bool:
    try:
        config: Mapping[str, Any] = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(config.get("fan_in_fan_out"))
