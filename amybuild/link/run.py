"""The rule `link`: a base and task vectors become one checkpoint, streamed tensor by tensor, with an account of it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from amybuild.errors import InputError, did_you_mean
from amybuild.link.factors import LowRank, TaskVector, read_vector
from amybuild.link.methods import Elect, Method, combine, election_named, method_named, trim
from amybuild.link.pool import in_order
from amybuild.link.select import kept_count, kth_largest
from amybuild.link.stream import Stored, add_rounded, read_rows, read_shards, write_shard
from amybuild.link.tally import Tally, layer_of

REPORT = "link.json"
_PARAMS = ("method", "density", "lambda", "elect", "alphas")
_BLOCK = 1 << 17  # entries per block: the working set of five vectors stays in a core's cache
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


class LinkContext(Protocol):
    """What the rule needs of an action's context (the link room knows no actions)."""

    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, Path]: ...
    @property
    def out(self) -> Path: ...
    @property
    def progress(self) -> Any: ...


@dataclass(frozen=True)
class Recipe:
    """How to link: the method's row, its numbers, each vector's alpha."""

    method: Method
    elect_name: str
    density: float
    lam: float
    alphas: Mapping[str, float]

    @property
    def elect(self) -> Elect:
        return election_named(self.elect_name)


def parse_params(params: Mapping[str, Any], vectors: Sequence[str]) -> Recipe:
    """Check `{"method" = "ties", "density" = 0.2, "lambda" = 1.0, "elect" = "mass", "alphas" = {name: float}}`.

    Every vector must have an alpha and every alpha a vector. Raises `InputError`.
    """
    for name in params:
        if name not in _PARAMS:
            raise InputError(f"unknown key '{name}'", where="[link]", remedy=did_you_mean(name, _PARAMS))
    method = method_named(params.get("method", "ties"))
    elect = params.get("elect", "mass")
    election_named(elect)
    density = _finite(params.get("density", 0.2), "[link] density")
    if not 0.0 < density <= 1.0:
        raise InputError(f"{density} is no density", where="[link] density", remedy="a share above 0, at most 1")
    alphas = params.get("alphas", {})
    if not isinstance(alphas, Mapping) or set(alphas) != set(vectors):
        raise InputError("the alphas and the vectors do not have the same names", where="[link] alphas")
    return Recipe(
        method,
        str(elect),
        density if method.trims else 1.0,
        _finite(params.get("lambda", 1.0), "[link] lambda"),
        {name: _finite(alphas[name], f"alpha of {name}") for name in sorted(alphas)},
    )


def run(ctx: LinkContext) -> None:
    """Link the inputs `vector.<name>` into `base`; write a Hugging Face folder and `link.json`.

    Weights: base + lambda * merged, in float32, one rounding to the base's dtype; tensors no vector touches are copied
    byte for byte, so that nothing to add (no vector, all alphas 0, lambda 0) gives the base's own bytes. Vectors are
    taken in the order of their names: the result does not depend on theirs.
    """
    paths = {role.removeprefix("vector."): path for role, path in ctx.inputs.items() if role.startswith("vector.")}
    recipe = parse_params(ctx.params, sorted(paths))
    base = ctx.inputs["base"]
    shards = read_shards(base)
    shapes = {stored.name: stored.shape for shard in shards for stored in shard.tensors}
    linker = Linker(recipe, [read_vector(paths[name], name).bind(shapes) for name in sorted(paths)])
    jobs = [(shard.path, stored) for shard in shards for stored in shard.tensors if stored.name in linker.weights]
    for _, stored in jobs:
        _ = stored.dtype  # refuse fp8 and integers before any work
    ctx.progress(0, len(jobs))
    merged = in_order(linker.merged, jobs)
    done = 0

    def change(stored: Stored) -> list[Tensor] | None:
        nonlocal done
        if stored.name not in linker.weights:
            return None
        blocks, tally = next(merged)
        linker.count(stored.name, tally)
        done += 1
        ctx.progress(done, len(jobs), tensor=stored.name)
        return blocks

    _copy_others(base, ctx.out)
    with contextlib.closing(merged):
        for shard in shards:
            write_shard(shard, ctx.out / shard.path.name, change)
    report = json.dumps(linker.report(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (ctx.out / REPORT).write_text(report, encoding="utf-8")


class Linker:
    """Merges bound task vectors weight by weight, block by block, and counts as it goes."""

    def __init__(self, recipe: Recipe, vectors: Sequence[TaskVector]) -> None:
        self._recipe = recipe
        self._vectors = vectors
        self._tallies: dict[str, Tally] = {}
        live = [v for v in vectors if recipe.alphas[v.name] != 0.0 and recipe.lam != 0.0]
        self.weights = frozenset(weight for vector in live for weight in vector.deltas)

    def merged(self, job: tuple[Path, Stored]) -> tuple[list[Tensor], Tally]:
        """The new values of one stored weight (row blocks of its dtype), and the counts of the merge.

        Blocks are fixed by the weight's shape, and each vector's rows are computed alike for its threshold and for the
        merge: an entry at the threshold is never lost to another rounding.
        """
        path, stored = job
        recipe = self._recipe
        live = self._live(stored.name)
        deltas = [self._vectors[i].deltas[stored.name] for i in live]
        alphas = [recipe.alphas[self._vectors[i].name] for i in live]
        tally = Tally(len(self._vectors))
        tally.add_factors(live, deltas)
        cuts = [_threshold(delta, recipe.density) for delta in deltas]
        blocks = []
        with path.open("rb") as file:
            for start, stop in _row_blocks(deltas[0].shape):
                dense = torch.stack([delta.rows(start, stop) for delta in deltas])
                kept = trim(dense, cuts) if recipe.method.trims else dense
                weighted, merged = combine(recipe.method, recipe.elect, kept, alphas)
                tally.add_block(live, dense, weighted, merged, torch.tensor(alphas))
                blocks.append(add_rounded(read_rows(file, stored, start, stop), merged.mul_(recipe.lam)))
        return blocks, tally

    def count(self, weight: str, tally: Tally) -> None:
        """Enter one weight's counts (in file order, so that sums are always taken alike)."""
        self._tallies.setdefault(layer_of(weight), Tally(len(self._vectors))).add(tally)

    def _live(self, weight: str) -> list[int]:
        alphas = self._recipe.alphas
        return [i for i, v in enumerate(self._vectors) if weight in v.deltas and alphas[v.name] != 0.0]

    def report(self) -> dict[str, Any]:
        """The account written as `link.json`; vectors in the order of their names."""
        recipe, names = self._recipe, [vector.name for vector in self._vectors]
        overall = Tally(len(names))
        for tally in self._tallies.values():
            overall.add(tally)
        layers = sorted(self._tallies, key=lambda layer: (not layer.isdigit(), int(layer) if layer.isdigit() else 0))
        return {
            "format_version": 1,
            "method": recipe.method.name,
            "paper": recipe.method.paper,
            "density": recipe.density,
            "lambda": recipe.lam,
            "elect": recipe.elect_name if recipe.method.elects else None,
            "alphas": dict(recipe.alphas),
            "tensors_touched": len(self.weights),
            "order": names,
            "vectors": {name: overall.vector(i, names) for i, name in enumerate(names)},
            "cosine": overall.cosines(),
            "layers": [{"layer": layer, **self._tallies[layer].row()} for layer in layers],
        }


def _row_blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def _threshold(delta: LowRank, density: float) -> float:
    size = math.prod(delta.shape)
    if density >= 1.0 or size == 0:
        return 0.0
    magnitudes = torch.empty(delta.shape)
    for start, stop in _row_blocks(delta.shape):
        torch.abs(delta.rows(start, stop), out=magnitudes[start:stop])
    return kth_largest(magnitudes.view(-1).numpy(), kept_count(density, size))


def _copy_others(base: Path, out: Path) -> None:
    # the base's model card speaks of the base, and weights in other formats would still be the base's
    for path in sorted(base.rglob("*")):
        inside = path.relative_to(base)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden and path.suffix not in _NOT_COPIED and path.name not in ("README.md", REPORT):
            (out / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / inside)


def _finite(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError("not a finite number", where=where)
    return float(value)
