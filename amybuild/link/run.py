"""The rule `link`: a base and task vectors become one checkpoint, streamed span by span, with an account of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from amybuild.link.linker import Linker, Span
from amybuild.link.memo import Memo, memo_keys
from amybuild.link.methods import Recipe, parse_recipe
from amybuild.link.pool import in_order
from amybuild.link.tally import Counts
from amybuild.link.tensors import all_tensors, read_shards
from amybuild.link.vector import read_vector
from amybuild.link.write import Rewrite, copy_others

REPORT = "link.json"


class LinkContext(Protocol):
    """What the rule needs of an action's context (the link room knows no actions).

    `digests`: role -> content digest of that input; `memo`: a folder for what pure functions of those digests gave.
    """

    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, Path]: ...
    @property
    def out(self) -> Path: ...
    @property
    def progress(self) -> Any: ...
    @property
    def digests(self) -> Mapping[str, str]: ...
    @property
    def memo(self) -> Path | None: ...


def run(ctx: LinkContext) -> None:
    """Link the inputs `vector.<name>` into `base`; write a Hugging Face folder and `link.json`."""
    link(ctx.inputs, ctx.params, ctx.out, progress=ctx.progress, memo=ctx.memo, digests=ctx.digests)


def link(
    inputs: Mapping[str, Path],
    params: Mapping[str, Any],
    out: Path,
    *,
    progress: Callable[..., None] = lambda *_, **__: None,
    memo: Path | None = None,
    digests: Mapping[str, str] | None = None,
    workers: int | None = None,
) -> None:
    """Link `vector.<name>` folders into the folder `base` as `params` say; write a Hugging Face folder and `link.json`.

    Weights: base + lambda * merged. Differences are float32, sums over vectors float64, rounded once to the base's
    dtype. Tensors no vector touches are copied byte for byte, so nothing to add (no vector, all alphas 0, lambda 0)
    gives the base's own bytes. Vectors are taken in the order of their names: the result depends neither on theirs nor
    on the number of threads (`workers`).
    """
    paths = {role.removeprefix("vector."): path for role, path in inputs.items() if role.startswith("vector.")}
    recipe = parse_recipe(params, sorted(paths))
    shards = read_shards(inputs["base"])
    shapes = {stored.name: stored.shape for _, stored in all_tensors(shards)}
    vectors = [read_vector(paths[name], name, shards).bind(shapes) for name in sorted(paths)]
    known = Memo(_keys(recipe, sorted(paths), digests or {}), memo)
    linker = Linker(shards, vectors, recipe, known)
    copy_others(inputs["base"], out, (REPORT,))
    with contextlib.ExitStack() as open_files:
        targets = {
            shard.path: open_files.enter_context(contextlib.closing(Rewrite(shard, out / shard.path.name)))
            for shard in shards
        }

        def merge(span: Span) -> Counts:
            return linker.merge(span, targets[span.join.weight.shard.path].put)

        spans = {name: linker.spans(name) for name in linker.weights}
        merged = in_order(merge, [span for name in spans for span in spans[name]], workers)
        open_files.enter_context(contextlib.closing(merged))  # closed first: no thread writes to a closed file
        progress(0, len(spans))
        for target in targets.values():
            target.copy(spans)
        for done, name in enumerate(spans, 1):
            for span in spans[name]:
                linker.count(span, next(merged))
            progress(done, len(spans), tensor=name)
    account = linker.report()
    report = json.dumps(account, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (out / REPORT).write_text(report, encoding="utf-8")
    known.save()


def _keys(recipe: Recipe, vectors: Sequence[str], digests: Mapping[str, str]) -> dict[str, str]:
    # elsewhere what stays of a vector depends on the alphas, on a seed, or not on its entries one by one
    method = recipe.method
    if method.matrix is not None or method.thins not in ("", "trim", "band"):
        return {}
    trim = {name: recipe.values[name] for name in ("density", "gamma", "scope") if name in recipe.values}
    if recipe.device != "cpu":  # its counts may differ in digits that are not shown
        trim["device"] = recipe.device
    return memo_keys(digests, vectors, trim)
