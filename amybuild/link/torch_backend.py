"""A link's arithmetic on a GPU: the merge of one weight with torch, bit for bit what the loops on the CPU give.

Every operation is a torch kernel of its own (none is fused with the next), in the order of the CPU's loops: differences
in float32, sums over the vectors in the order of their names in float64, one rounding at the end. IEEE arithmetic is
exact on both, so that dense inputs give the same bits. What differs by rounding is left @ right of a LoRA, whose sums a
GPU takes in an order of its own, and beyond the digits shown the counts of the report.

Of a weight, one difference in float32 is on the device while its threshold is found, and a span of every input while it
is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amybuild.errors import ActionError
from amybuild.link import fused
from amybuild.link.delta import Delta, Difference, LowRank, stretches
from amybuild.link.merge import ALL, Cut, Join, band_of, row_blocks, stream
from amybuild.link.methods import Method
from amybuild.link.scratch import Scratch
from amybuild.link.tally import Counts
from amybuild.link.tensors import Weight, extent

_THINS = ("", "trim", "band", "random")  # the other methods are computed on the CPU
_BLOCK = 1 << 22  # entries merged at a time: float64 copies of them are on the device together
_KINDS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_WORD = 0xFFFFFFFF


def resolve(device: str) -> torch.device | None:
    """The device to merge on for "cuda" | "auto"; None: there is none, and none is needed. Raises `ActionError`."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if device == "auto":
        return None
    raise ActionError("no CUDA device here", where="[link] device", remedy='set device = "cpu" or "auto"')


def supports(method: Method) -> bool:
    """Whether a method is merged on the device."""
    return method.matrix is None and method.thins in _THINS


def join_on(device: torch.device) -> Callable[..., Join]:
    """What `Join` is, on a device."""
    return lambda *arguments: _DeviceJoin(device, *arguments)


class _DeviceJoin(Join):
    """`Join` with its thresholds and its merge on a device."""

    def __init__(self, device: torch.device, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._device = device

    def _prepare(self, scratch: Scratch) -> None:
        if self._recipe.method.thins in ("trim", "band"):
            for i, delta in enumerate(self._deltas):
                if self.cuts[i] is None:
                    self.cuts[i] = self._cut(delta)
        super()._prepare(scratch)

    def _cut(self, delta: Delta) -> Cut:
        if self._recipe.density >= 1.0:
            return ALL
        rows, columns = extent(delta.shape)
        size = rows * columns
        magnitudes = torch.empty(size, device=self._device)
        for start, stop in stretches(delta):
            magnitudes[start * columns : stop * columns] = self._difference(delta, start, stop).abs_()

        def largest(k: int) -> float:
            return float(torch.kthvalue(magnitudes, size - k + 1).values)

        return band_of(largest, size, self._recipe.density, self._recipe.values.get("gamma", 0.0))

    def merged(
        self, start: int, stop: int, strength: float, scratch: Scratch, counts: Counts
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """As `Join.merged`."""
        columns = extent(self.weight.shape)[1]
        for low, high in row_blocks((stop - start, columns), _BLOCK):
            first, last = start + low, start + high
            kept = torch.stack([self._difference(delta, first, last) for delta in self._deltas])
            if not counts.known:
                _add_lower(counts.table, 0, kept.double())
                counts.table[-3] += _sums(kept.abs())
            self._thin_on_device(kept, first * columns)
            merged = self._joined(kept)
            self._count(kept, merged, counts)
            yield first * columns, _bits(_rounded(self._stored(self.weight, first, last), strength * merged))

    def _thin_on_device(self, kept: torch.Tensor, first: int) -> None:
        if self._recipe.method.thins == "random":
            if self._recipe.density < 1:
                limit = int(np.ceil(self._recipe.density * 2.0**32))
                for row, part in zip(kept, self.parts, strict=True):
                    keys = stream(self._recipe.values["seed"], part.vector, self.name)
                    row[philox(keys, first, row.numel(), self._device) >= limit] = 0
            return
        for row, (low, high) in zip(kept, (cut or ALL for cut in self.cuts), strict=True):
            size = row.abs()
            row[~((size >= low) & (size <= high))] = 0

    def _joined(self, kept: torch.Tensor) -> torch.Tensor:
        """float32 [n, m] -> float64 [m], as `kernels.total` and `kernels.disjoint`."""
        weighted = [float(alpha) * row.double() for alpha, row in zip(self._alphas, kept, strict=True)]
        zero = torch.zeros_like(weighted[0])
        vote, out, over = zero.clone(), zero.clone(), zero.clone()
        if self._how == fused.TOTAL:
            for one in weighted:
                out += one
            return out
        for one in weighted:
            vote += one.sign() if self._how == fused.COUNT else one
        for one, share, divisor in zip(weighted, self._shares, self._divisors, strict=True):
            agrees = one * vote > 0
            out += torch.where(agrees, float(share) * one, zero)
            over += torch.where(agrees, float(divisor), zero)
        return out / torch.where(over > 0, over, 1.0)

    def _count(self, kept: torch.Tensor, merged: torch.Tensor, counts: Counts) -> None:
        n = len(kept)
        if not counts.known:
            _add_lower(counts.table, n, (kept != 0).double())
            _add_lower(counts.table, 2 * n, kept.sign().double())
            counts.table[-2] += _sums(kept.abs())
        turn = torch.from_numpy(np.sign(self._alphas)).to(self._device, torch.float32)
        way = merged.sign().float()
        counts.table[-1] += _sums((kept * turn[:, None] * way).clamp_(min=0))

    def _difference(self, delta: Delta, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop), float32, flat, on the device."""
        if isinstance(delta, Difference) and "F64" not in (delta.tuned.code, delta.base.code):
            found = self._stored(delta.tuned, start, stop).float() - self._stored(delta.base, start, stop).float()
            return found if delta.scale == 1.0 else found * delta.scale
        if isinstance(delta, LowRank):
            left, right = (self._sent(part) for part in (delta.left[start:stop], delta.right))
            return ((left @ right) * delta.scale).reshape(-1)
        return self._sent(delta.rows(start, stop)).reshape(-1)

    def _stored(self, weight: Weight, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a weight as they are stored, flat, on the device."""
        rows = weight.array[start:stop].reshape(-1)
        return self._sent(rows.view(np.int16) if weight.code == "BF16" else rows).view(_KINDS[weight.code])

    def _sent(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values.copy()).to(self._device)  # a mapped file's pages are not torch's to write


def philox(keys: tuple[int, int, int, int], start: int, size: int, device: torch.device) -> torch.Tensor:
    """`merge.random_words`: the random words start, start + 1, … of a stream as int64 [size] in [0, 2^32)."""
    first = start // 4
    block = torch.arange(first, (start + size + 3) // 4, device=device)
    a, b = block & _WORD, block >> 32
    c, d = (torch.full_like(block, word) for word in keys[2:])
    k, m = keys[:2]
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57  # 64 bits, of which the upper half may look negative
        a = (right >> 32 & _WORD) ^ b ^ k
        c, b = (left >> 32 & _WORD) ^ d ^ m, right & _WORD
        d = left & _WORD
        k, m = (k + 0x9E3779B9) & _WORD, (m + 0xBB67AE85) & _WORD
    return torch.stack([a, b, c, d], 1).reshape(-1)[start - 4 * first :][:size]


def _rounded(base: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
    """base + extra (float64), rounded once to the base's dtype; where there is nothing to add its bits stay.

    To 16 bits by way of a float32 that is rounded to odd, so that there is one rounding.
    """
    exact = base.double() + extra
    if base.dtype in (torch.float32, torch.float64):
        return torch.where(extra == 0, base, exact.to(base.dtype))
    near = exact.float()
    back, word = near.double(), near.view(torch.int32)
    toward = torch.where(back.abs() > exact.abs(), word - 1, word + 1)
    odd = torch.where((back != exact) & (word & 1 == 0) & torch.isfinite(back), toward, word)
    return torch.where(extra == 0, base, odd.view(torch.float32).to(base.dtype))


def _bits(values: torch.Tensor) -> NDArray[Any]:
    """The values as they are stored, in this machine's memory."""
    if values.dtype is torch.bfloat16:
        return values.view(torch.int16).cpu().numpy().view(np.uint16)
    found: NDArray[Any] = values.cpu().numpy()
    return found


def _add_lower(table: NDArray[np.float64], row: int, values: torch.Tensor) -> None:
    """Add the inner products of float64 [n, m] to the rows of the table from `row` on."""
    table[row : row + len(values)] += np.tril((values @ values.T).cpu().numpy())


def _sums(values: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.sum(1, dtype=torch.float64).cpu().numpy()
    return found
