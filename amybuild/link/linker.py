"""The linker: bound task vectors merged into a base weight by weight, in spans, and counted as it goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import ActionError
from amybuild.link.delta import SPAN, Delta
from amybuild.link.memo import ALL, Memo
from amybuild.link.merge import Cut, Join, Part, band, row_blocks
from amybuild.link.methods import Recipe
from amybuild.link.scratch import Scratch
from amybuild.link.strength import layer_of
from amybuild.link.tally import Counts, Sums, Tally, numbers_of
from amybuild.link.tensors import Shard, Stored, all_tensors, extent
from amybuild.link.vector import TaskVector
from amybuild.value import value

_STATED_ONLY = ("scale", "only", "depth", "device")  # in the report where they say something
Put = Callable[[Stored, int, NDArray[Any]], None]  # new values of a tensor from an entry on, in its storage type


@value
class Span:
    """Rows [start, stop) of one weight: what one thread does at a time."""

    join: Join
    start: int
    stop: int


class Linker:
    """The merge of `vectors` (bound to the base, sorted by name) over the shards of `base`."""

    def __init__(self, base: Sequence[Shard], vectors: Sequence[TaskVector], recipe: Recipe, memo: Memo) -> None:
        recipe.strengths.check({vector.name: vector.deltas for vector in vectors})
        self._recipe = recipe
        self._vectors = vectors
        self._memo = memo
        self._local = threading.local()
        self._layers = layer_count(base)
        self._join, self._device = _merger(recipe)
        self._counts: dict[tuple[str, tuple[tuple[int, float], ...]], Sums] = {}  # by layer and by who acts there
        self._joins: dict[str, Join] = {}
        wide = self._global_cuts() if recipe.values.get("scope") == "global" else {}
        for shard, stored in all_tensors(base):
            if parts := self._parts(stored.name):
                stored.check_float()
                cuts = [wide.get(part.vector) or self._known(part.vector, stored.name) for part in parts]
                self._joins[stored.name] = self._join(shard.weights[stored.name], parts, recipe, cuts)

    @property
    def weights(self) -> list[str]:
        """The weights that change, in file order."""
        return list(self._joins)

    def spans(self, weight: str) -> list[Span]:
        """The work on one weight, in row order; none for a weight that does not change."""
        join = self._joins[weight]
        return [Span(join, *rows) for rows in row_blocks(join.weight.shape, SPAN)]

    def merge(self, span: Span, put: Put) -> Counts:
        """Merge a span, hand its new values on in pieces, and give the counts: in any thread."""
        join, scratch = span.join, self._scratch()
        join.prepare(scratch)
        known = self._memo.get(ALL, _entry(span), numbers_of(len(join.parts)))
        counts = Counts(len(join.parts), known)
        for start, values in join.merged(span.start, span.stop, self._strength(join), scratch, counts):
            put(join.weight.stored, start, values)
        join.finish(span.start, span.stop)
        finite = np.isfinite(counts.table.diagonal())
        if not finite.all():
            raise ActionError(
                f"its difference of '{join.name}' holds values that are not finite numbers",
                where=f"task vector {join.parts[int(finite.argmin())].vector}",
                remedy="its training went astray: train it again",
            )
        return counts

    def delta(self, weight: str) -> Delta:
        """What is added to a weight that changes, lambda and depth in it."""
        return self._joins[weight].whole(self._strength(self._joins[weight]))

    def count(self, span: Span, counts: Counts) -> None:
        """Enter one span's counts (in file order, so that sums are always taken alike)."""
        who = tuple((part.place, part.alpha) for part in span.join.parts)
        found = self._counts.setdefault((layer_of(span.join.name), who), Sums(counts.table.shape))
        found.tensors += int(span.start == 0)
        found.size += (span.stop - span.start) * extent(span.join.weight.shape)[1]
        found.table += counts.table
        if not counts.known:
            self._memo.put(ALL, _entry(span), counts.numbers)
        for part, cut in zip(span.join.parts, span.join.cuts, strict=True):
            if cut is not None and span.start == 0 and self._recipe.values.get("scope") == "tensor":
                self._memo.put(part.vector, span.join.name, cut)

    def report(self) -> dict[str, Any]:
        """The account written as `link.json`; vectors in the order of their names."""
        recipe, names = self._recipe, [vector.name for vector in self._vectors]
        overall = Tally(len(names))
        tallies: dict[str, Tally] = {}
        for (layer, who), sums in self._counts.items():
            for tally in (overall, tallies.setdefault(layer, Tally(len(names)))):
                tally.enter([place for place, _ in who], np.array([alpha for _, alpha in who]), sums)
        layers = sorted(tallies, key=lambda layer: (not layer.isdigit(), int(layer) if layer.isdigit() else 0))
        strengths = recipe.strengths
        account = {
            "format_version": 1,
            "method": recipe.method.name,
            "paper": recipe.method.paper,
            "density": recipe.density,
            "lambda": recipe.lam,
            "elect": recipe.values.get("elect"),
            "parameters": dict(recipe.values),
            "alphas": dict(strengths.alphas),
            "scale": [{k: v for k, v in vars(entry).items() if v is not None} for entry in strengths.scale],
            "only": list(strengths.only),
            "depth": vars(strengths.depth) if strengths.depth else None,
            "device": self._device,
            "tensors_touched": len(self._joins),
            "order": names,
            "vectors": {name: overall.vector(i, names) for i, name in enumerate(names)},
            "cosine": overall.cosines(),
            "layers": [{"layer": layer, **tallies[layer].row()} for layer in layers],
        }
        return {key: value for key, value in account.items() if value or key not in _STATED_ONLY}

    def _strength(self, join: Join) -> float:
        depth = self._recipe.strengths.depth
        return self._recipe.lam * (depth.factor(join.name, self._layers) if depth else 1.0)

    def _parts(self, weight: str) -> list[Part]:
        if self._recipe.lam == 0.0:
            return []
        found = []
        for place, vector in enumerate(self._vectors):
            if weight in vector.deltas:
                alpha = self._recipe.strengths.of(vector.name, weight)
                if alpha != 0.0:
                    found.append(Part(place, vector.name, vector.deltas[weight], alpha))
        return found

    def _known(self, vector: str, weight: str) -> Cut | None:
        found = self._memo.get(vector, weight, 2)
        return None if found is None else (found[0], found[1])

    def _global_cuts(self) -> dict[str, Cut]:
        # one threshold for a whole vector, whatever is linked of it, as in the paper
        cuts: dict[str, Cut] = {}
        for vector in self._vectors:
            if self._recipe.strengths.alphas[vector.name] != 0.0:
                deltas = [vector.deltas[weight] for weight in sorted(vector.deltas)]
                gamma = self._recipe.values.get("gamma", 0.0)
                cuts[vector.name] = self._known(vector.name, "") or band(deltas, self._recipe.density, gamma)
                self._memo.put(vector.name, "", cuts[vector.name])
        return cuts

    def _scratch(self) -> Scratch:
        found: Scratch | None = getattr(self._local, "scratch", None)
        if found is None:
            found = self._local.scratch = Scratch()
        return found


def _entry(span: Span) -> str:
    return json.dumps([span.join.name, span.start, [part.vector for part in span.join.parts]])


def _merger(recipe: Recipe) -> tuple[Callable[..., Join], str]:
    """What merges one weight, and for the report where; nothing for a link that asks for the CPU."""
    if recipe.device == "cpu":
        return Join, ""
    from amybuild.link import torch_backend  # torch takes seconds to import: only for those who ask for a GPU

    if not torch_backend.supports(recipe.method):
        return Join, f"cpu: {recipe.method.name} is not merged on a GPU"
    device = torch_backend.resolve(recipe.device)
    return (Join, "cpu: no CUDA device here") if device is None else (torch_backend.join_on(device), device.type)


def layer_count(base: Sequence[Shard]) -> int:
    """How many blocks the base has: as its config.json says, or by the greatest number in its weights' names."""
    try:
        config = json.loads((base[0].path.parent / "config.json").read_bytes())
        for table in (config, config.get("text_config") or {}):
            for key in ("num_hidden_layers", "n_layer", "num_layers"):
                if isinstance(table.get(key), int):
                    return int(table[key])
    except (OSError, ValueError, AttributeError, IndexError):
        pass
    numbers = [int(layer) for _, stored in all_tensors(base) if (layer := layer_of(stored.name)).isdigit()]
    return max(numbers, default=-1) + 1
