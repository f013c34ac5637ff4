"""The rule `adapter`: what a link adds to its base, as one merged LoRA adapter instead of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.link.adapter import write_adapter
from amybuild.link.linker import Linker
from amybuild.link.lora import CONFIG
from amybuild.link.memo import Memo
from amybuild.link.methods import parse_recipe
from amybuild.link.run import LinkContext
from amybuild.link.tensors import all_tensors, read_shards
from amybuild.link.vector import read_vector

REPORT = "adapter.json"


def run(ctx: LinkContext) -> None:
    """inputs and params of the rule `link`, and `rank`. Writes a PEFT adapter and `adapter.json`, what it misses."""
    params = dict(ctx.params)
    rank = params.pop("rank", None)
    params.pop("device", None)  # factors are cut with LAPACK
    if type(rank) is not int or rank < 1:
        raise InputError(f"{rank!r} is no rank", where="[link] adapter_rank", remedy="a whole number from 1 up")
    paths = {role.removeprefix("vector."): path for role, path in ctx.inputs.items() if role.startswith("vector.")}
    recipe = parse_recipe(params, sorted(paths))
    shards = read_shards(ctx.inputs["base"])
    shapes = {stored.name: stored.shape for _, stored in all_tensors(shards)}
    vectors = [read_vector(paths[name], name, shards).bind(shapes) for name in sorted(paths)]
    linker = Linker(shards, vectors, recipe, Memo({}, None))
    deltas = {name: linker.delta(name) for name in sorted(linker.weights)}
    ctx.progress(0, 1)
    report = write_adapter(ctx.out, deltas, rank, fan_in_fan_out=any(map(_transposed, paths.values())))
    text = json.dumps(report.record(), indent=1, sort_keys=True) + "\n"
    (ctx.out / REPORT).write_text(text, encoding="utf-8")
    ctx.progress(1, 1)


def _transposed(folder: Path) -> bool:
    try:
        config: Mapping[str, Any] = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(config.get("fan_in_fan_out"))
