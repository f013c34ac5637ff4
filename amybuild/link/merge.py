"""The merge of one weight, block by block: its thresholds, the entries that stay, the election, the sum."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.digest import digest_value
from amybuild.link import fused, kernels
from amybuild.link.delta import F32, SPAN, Delta, Dense, LowRank, added, fill, floats, mapped, of_bits, scaled
from amybuild.link.methods import Recipe
from amybuild.link.scratch import F64, Scratch
from amybuild.link.select import kept_count, kth_largest
from amybuild.link.tally import Counts
from amybuild.link.tensors import Weight, extent
from amybuild.link.write import add_rounded
from amybuild.value import value

Cut = tuple[float, float]  # the least and the largest magnitude that stay
ALL: Cut = (0.0, float("inf"))
_VOCABULARY = re.compile(r"embed|\bwte\b|\bwpe\b|head\b")
_PIECE = 1 << 18  # entries of bfloat16 weights merged at a time: what they become stays in a core's cache
_BLOCK = 1 << 16  # entries merged at a time: the working set of four vectors stays in a core's cache
_TILE = 1 << 14  # entries that factors are multiplied to at a time


@value
class Part:
    """One vector's share in one weight."""

    place: int  # of the vector in the order of names
    vector: str
    delta: Delta
    alpha: float  # its strength on this weight, not 0


def band(delta: Sequence[Delta], density: float, gamma: float = 0.0) -> Cut:
    """The magnitudes that stay of one or several differences taken together: k = max(1, int(density * n)) of n entries.

    From the k-th largest on, both ends inclusive: entries equal to an end all stay, so no sort order matters. With
    `gamma` (Breadcrumbs, arXiv 2312.06795) the int(gamma * n) largest go first; outlier removal gives way where it
    would leave fewer than k.
    """
    size = sum(int(np.prod(extent(one.shape))) for one in delta)
    return band_of(lambda k: kth_largest(delta, k), size, density, gamma)


def band_of(largest: Callable[[int], float], size: int, density: float, gamma: float) -> Cut:
    """`band` of `size` entries; `largest(k)`: the k-th largest magnitude."""
    if density >= 1.0 or size == 0:
        return ALL
    k = kept_count(density, size)
    top = min(int(gamma * size), size - k)
    return largest(top + k), (largest(top + 1) if top else ALL[1])


class Join:
    """One weight and the vectors that act on it, in the order of their names.

    What holds for the whole weight (thresholds, SCE's shares, a matrix method's result) is found once, by whichever
    thread comes first.
    """

    def __init__(self, weight: Weight, parts: Sequence[Part], recipe: Recipe, cuts: Sequence[Cut | None]) -> None:
        self.weight = weight
        self.name = weight.stored.name
        self.parts = parts
        self._columns = extent(weight.shape)[1]
        self.cuts = list(cuts)  # one per part; None where the method has none or `prepare` has not run
        self._recipe = recipe
        self._deltas = [part.delta for part in parts]
        self._alphas = np.array([part.alpha for part in parts])
        self._shares = np.ones(len(parts))
        self._divisors = self._shares
        self._terms = np.zeros((7, max(4, len(parts))))  # all that, and the cuts, as the fused passes take it
        self._terms[6] = np.inf
        self._least = 0.0  # SCE's threshold on the variance
        self._result: Delta | None = None  # of a matrix method
        self._lock = threading.Lock()
        self._ready = False

    def prepare(self, scratch: Scratch) -> None:
        """Find what holds for the whole weight, if that has not been done."""
        with self._lock:
            if not self._ready:
                self._prepare(scratch)
                self._ready = True

    def whole(self, strength: float) -> Delta:
        """What is added to the base, strength * merge, as a difference: factors where the method gives such."""
        self.prepare(Scratch())
        self.finish(0, 0)  # all weights are asked for before the first is used
        if self._result is not None:
            return scaled(self._result, strength)
        low = all(isinstance(part.delta, LowRank) for part in self.parts)
        if low and not self._recipe.method.thins and not self._recipe.method.elects:
            return reduce(added, [scaled(part.delta, part.alpha * strength) for part in self.parts])
        return _Merged(self, strength)

    def finish(self, start: int, stop: int) -> None:
        """Give back the mapped pages of rows [start, stop)."""
        weights = [self.weight, *(weight for delta in self._deltas for weight in mapped(delta))]
        for weight in {id(weight): weight for weight in weights}.values():  # the base's is there many times
            weight.release(start, stop)

    def _prepare(self, scratch: Scratch) -> None:
        method, values = self._recipe.method, self._recipe.values
        if method.thins in ("trim", "band"):
            for i, delta in enumerate(self._deltas):
                if self.cuts[i] is None:
                    held = self._held(delta, scratch)
                    self.cuts[i] = band([held], self._recipe.density, values.get("gamma", 0.0))
        elif method.thins == "spread":
            self._weigh_by_energy(scratch)
        elif method.thins == "random":
            self._alphas = self._alphas / self._recipe.density
        if method.matrix is not None and _is_matrix(self.name, self._deltas):
            base = floats(self.weight, 0, self.weight.shape[0]) if method.matrix.needs_base else None
            self._result = method.matrix.merge(base, self._deltas, self._alphas.tolist(), values)
        divide = values.get("divide")
        if divide == "weights":
            self._divisors = np.abs([part.alpha for part in self.parts])
        elif divide == "none":
            self._divisors = np.zeros(len(self.parts))
        least, largest = zip(*(cut or ALL for cut in self.cuts), strict=True)
        self._terms[:5, : len(self.parts)] = self._alphas, self._shares, self._divisors, least, largest

    def _held(self, delta: Delta, scratch: Scratch) -> Delta:
        """A difference that is looked at several times, in memory if it is small and more than a subtraction."""
        rows, columns = extent(delta.shape)
        if self._recipe.density >= 1 or rows * columns > SPAN or of_bits(delta):
            return delta
        values = scratch.vector("held", rows * columns, np.float32)
        fill(delta, 0, rows, values)
        return Dense(values.reshape(delta.shape))

    def merged(
        self, start: int, stop: int, strength: float, scratch: Scratch, counts: Counts
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Rows [start, stop) of the base + strength * merge, counted: pieces in its storage type, with the flat place.

        A piece is overwritten by the next, so that all of them lie in the processor's cache.
        """
        first, last = start * self._columns, stop * self._columns
        if self._of_bits:
            seen, room = _unseen(counts), scratch.room(len(self.parts))
            bits = self._bits(start, stop)
            for low in range(0, last - first, _PIECE):
                part = [one[low : low + _PIECE] for one in bits]
                out = scratch.vector("bits", part[0].size, np.uint16)
                fused.join_bf16(
                    *part, len(self.parts), self._terms, self._how, seen, counts.table, *room, strength, out
                )
                yield first + low, out
            return
        tile = max(1, _TILE // self._columns)  # rows
        factors = self._factors(start, stop) if self._of_factors and self.weight.code == "BF16" else None
        at_once = _BLOCK if factors is None else _PIECE
        step = max(1, at_once // (tile * self._columns)) * tile
        for low in range(start, stop, step):
            rows = low, min(low + step, stop)
            size = (rows[1] - low) * self._columns
            out = scratch.vector(f"rounded {self.weight.code}", size, self.weight.array.dtype)
            if self.weight.code == "BF16" and self._result is None:
                base, room = self.weight.array[slice(*rows)].reshape(-1), scratch.room(len(self.parts))
                how = self._terms, self._how
                if factors is not None:
                    tiles = scratch.matrix("tile", len(self.parts), tile * self._columns)
                    fused.join_products_bf16(
                        factors[0][low - start : rows[1] - start],
                        *factors[1:],
                        tiles.reshape(-1, self._columns),
                        tiles,
                        base,
                        *how,
                        _unseen(counts),
                        counts.table,
                        *room,
                        strength,
                        out,
                    )
                else:
                    kept, seen = self._thinned(*rows, scratch, counts)
                    fused.join_onto_bf16(
                        kept, tile * self._columns, base, *how, seen, counts.table, *room, strength, out
                    )
            else:
                add_rounded(self.weight, *rows, self.block(*rows, scratch, counts), strength, out)
            yield low * self._columns, out

    def block(self, start: int, stop: int, scratch: Scratch, counts: Counts) -> F64:
        """The merge of rows [start, stop), float64 [entries], counted in `counts`; lambda is not yet in.

        The array is the scratch's, so the next block of the thread overwrites it.
        """
        merged = scratch.vector("merged", (stop - start) * self._columns)
        kept, seen = self._thinned(start, stop, scratch, counts)
        if self._result is not None:
            merged[:] = self._result.rows(start, stop).reshape(-1)
        fused.join(kept, self._terms, self._how, seen, counts.table, *scratch.room(len(self.parts)), merged)
        return merged

    def _thinned(self, start: int, stop: int, scratch: Scratch, counts: Counts) -> tuple[F32, int]:
        """What goes into the pass over rows [start, stop): differences, the counts to take.

        All is done that the pass does not do itself: entries go but by a cut.
        """
        seen, kept = _unseen(counts), self._filled(start, stop, scratch)
        if self._result is None and self._recipe.method.thins not in ("", "trim", "band"):
            if seen:
                counts.add_raw(kept)
            self._thin(kept, start * self._columns, scratch)
            return kept, seen & fused.KEPT
        return kept, seen

    @property
    def _how(self) -> int:
        if self._result is not None:
            return fused.GIVEN
        if not self._recipe.method.elects:
            return fused.TOTAL
        return fused.COUNT if self._recipe.values.get("elect") == "count" else fused.MASS

    @property
    def _plain(self) -> bool:
        """Whether the passes take the differences as they are."""
        return self._result is None and self._recipe.method.thins in ("", "trim", "band")

    @property
    def _of_bits(self) -> bool:
        """Whether it is up to four fine-tunes of a bfloat16 weight that need nothing but their difference."""
        return self._plain and len(self.parts) <= 4 and all(map(of_bits, self._deltas))

    @property
    def _of_factors(self) -> bool:
        """Whether it is products of factors that need nothing but to be multiplied."""
        return self._plain and all(isinstance(delta, LowRank) for delta in self._deltas)

    def _factors(self, start: int, stop: int) -> tuple[F32, F32, NDArray[np.int64], F32]:
        """The factors of rows [start, stop) side by side, where each ends, and their scales."""
        low = [delta for delta in self._deltas if isinstance(delta, LowRank)]
        ends = np.cumsum([len(one.right) for one in low])
        left, right = np.hstack([one.left[start:stop] for one in low]), np.vstack([one.right for one in low])
        return left, right, ends, np.array([one.scale for one in low], np.float32)

    def _bits(self, start: int, stop: int) -> list[NDArray[np.uint16]]:
        """The bits of four fine-tunes (the base's for those that are not there) and of the base."""
        deltas = [delta for delta in self._deltas if of_bits(delta)]
        used = [*(delta.tuned for delta in deltas), deltas[0].base]
        *tuned, base = (weight.array[start:stop].reshape(-1) for weight in used)
        return [*tuned, *[base] * (4 - len(tuned)), base]

    def _filled(self, start: int, stop: int, scratch: Scratch) -> F32:
        kept = scratch.matrix("kept", len(self.parts), (stop - start) * self._columns)
        for row, delta in zip(kept, self._deltas, strict=True):
            fill(delta, start, stop, row)
        return kept

    def _thin(self, kept: F32, first: int, scratch: Scratch) -> None:
        """Zero what does not stay; `first`: the flat place of the block's first entry."""
        method, values = self._recipe.method, self._recipe.values
        if method.thins == "consensus":
            agree, work = min(values["agree"], len(self.parts)), np.empty((2, kernels.PART))
            kernels.consensus(kept, self._alphas, values["need"], agree, work)
        elif method.thins == "spread" and self._recipe.density < 1:
            variance = scratch.vector("variance", kept.shape[1], np.float32)
            kernels.spread(kept, self._alphas, np.empty((2, kernels.PART)), variance)
            kernels.keep_where(kept, variance, self._least)
        elif method.thins in ("random", "ranks") and self._recipe.density < 1:
            for row, part in zip(kept, self.parts, strict=True):
                words = random_words(stream(values["seed"], part.vector, self.name), first, row.size, scratch)
                if method.thins == "random":
                    kernels.drop(row, words, int(np.ceil(self._recipe.density * 2.0**32)))
                else:
                    kernels.thin(row, words, self._chances(row, scratch))

    def _chances(self, row: F32, scratch: Scratch) -> F64:
        # DELLA: by rank of the magnitude within its row, density - epsilon … density + epsilon
        keys = scratch.vector("keys", row.size, np.uint64).reshape(-1, self._columns)
        found = scratch.vector("chances", row.size)
        kernels.magnitude_keys(row.reshape(keys.shape), keys)
        keys.sort(axis=1)
        epsilon = self._recipe.values["epsilon"]
        kernels.chances(keys, self._recipe.density - epsilon, 2 * epsilon, found.reshape(keys.shape))
        return found

    def _weigh_by_energy(self, scratch: Scratch) -> None:
        # SCE: threshold on the variance over the vectors, then each vector's share is its remaining energy
        if self._recipe.density < 1:
            rows, columns = extent(self.weight.shape)
            variance: Delta = _Spread(self._deltas, self._alphas)
            if rows * columns <= SPAN:  # it is looked at several times
                variance = Dense(variance.rows(0, rows))
            self._least = band([variance], self._recipe.density)[0]
        energy = np.zeros(len(self.parts))
        for start, stop in row_blocks(self.weight.shape):
            kept = self._filled(start, stop, scratch)
            self._thin(kept, start * self._columns, scratch)
            kernels.add_energies(kept, self._alphas, energy)
        self._shares = self._divisors = energy


def _unseen(counts: Counts) -> int:
    return 0 if counts.known else fused.RAW | fused.KEPT


@value
class _Merged:
    """strength * the merge of one weight, computed when its rows are asked for."""

    join: Join
    strength: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.join.weight.shape

    def rows(self, start: int, stop: int) -> F32:
        merged = self.join.block(start, stop, Scratch(), Counts(len(self.join.parts)))
        return (self.strength * merged).astype(np.float32).reshape(stop - start, -1)


@value
class _Spread:
    """The variance over the vectors of each entry, seen as a difference so that it can be selected from."""

    deltas: Sequence[Delta]
    alphas: F64

    @property
    def shape(self) -> tuple[int, ...]:
        return self.deltas[0].shape

    def rows(self, start: int, stop: int) -> F32:
        found = np.empty((len(self.deltas), (stop - start) * extent(self.shape)[1]), np.float32)
        for row, delta in zip(found, self.deltas, strict=True):
            fill(delta, start, stop, row)
        out = np.empty(found.shape[1], np.float32)
        kernels.spread(found, self.alphas, np.empty((2, kernels.PART)), out)
        return out.reshape(stop - start, -1)


def _is_matrix(name: str, deltas: Sequence[Delta]) -> bool:
    # the papers' code leaves vocabulary-sized weights alone; low-rank ones cost nothing and are linear like others
    low = all(isinstance(delta, LowRank) for delta in deltas)
    return len(deltas[0].shape) == 2 and (low or not _VOCABULARY.search(name))


def row_blocks(shape: Sequence[int], size: int | None = None) -> list[tuple[int, int]]:
    """Row ranges of a weight of about `size` entries each (default: what is merged at a time), at least one row."""
    rows, columns = extent(shape)
    step = max(1, (size or _BLOCK) // max(1, columns))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


Stream = tuple[int, int, int, int]


def random_words(keys: Stream, start: int, size: int, scratch: Scratch) -> NDArray[np.uint32]:
    """The random words start, start + 1, … of a stream, uint32 [size]: word e is word e % 4 of block e // 4."""
    lead = start % 4
    whole = scratch.vector("words", (lead + size + 3) // 4 * 4, np.uint32)
    kernels.philox(*keys, start // 4, whole)
    return whole[lead : lead + size]


def stream(seed: int, vector: str, weight: str) -> Stream:
    """Philox's key and the upper half of its counter, for one vector's random numbers on one weight.

    blake3 of (seed, vector, weight): no number depends on the order, the threads, or what else is linked.
    """
    digest = bytes.fromhex(digest_value("link.random", [seed, vector, weight]))[:16]
    a, b, c, d = np.frombuffer(digest, "<u4").tolist()
    return a, b, c, d
