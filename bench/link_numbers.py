"""Where two linkers' outputs differ and why: element by element over safetensors files, by numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import link_inputs as inputs
import numpy as np


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(folder.glob("*.safetensors")):
        yield from inputs.read(path).items()


def _ordered(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as whole numbers in the order of their values: neighbours differ by one, both zeros are 0."""
    wide = bits.astype(np.int32)
    return np.where(wide >= 0x8000, 0x8000 - wide, wide)


def compare(one: Path, two: Path) -> tuple[float, int]:
    """(share of the elements that differ, the largest difference in units of the last place of bfloat16)."""
    other = dict(_tensors(two))
    differ = total = worst = 0
    for name, values in _tensors(one):
        if name not in other:
            continue
        apart = np.abs(_ordered(values) - _ordered(other[name]))
        differ, total = differ + int(np.count_nonzero(apart)), total + apart.size
        worst = max(worst, int(apart.max(initial=0)))
    return differ / total, worst


def explain_ties(base: Path, tuned: Sequence[Path], density: float, ours: Path, theirs: Path) -> dict[str, float]:
    """Why two TIES of the same inputs (weights 1) differ, as shares of all elements.

    `cut`: one of the vectors has exactly the k-th magnitude there. We keep all of those, an unstable sort keeps some.
    `draw`: the kept entries sum to exactly zero. We elect nobody, mergekit elects plus.
    `rounding`: neither, and the two are neighbours in bfloat16. `unexplained`: neither, and they are not.
    """
    maps = [dict(_tensors(folder)) for folder in (base, *tuned, ours, theirs)]
    found = dict.fromkeys(("differ", "at the cut", "cut", "draw", "rounding", "unexplained"), 0)
    total = 0
    for name in maps[0]:
        start = inputs.from_bf16(maps[0][name])
        at_cut = np.zeros(start.shape, bool)
        total_kept = np.zeros(start.shape, np.float32)
        largest = np.zeros(start.shape, np.float32)
        for tensors in maps[1 : 1 + len(tuned)]:
            delta = inputs.from_bf16(tensors[name]) - start
            size = np.abs(delta)
            k = max(1, int(density * size.size))
            cut = np.partition(size, size.size - k, axis=None)[size.size - k]
            at_cut |= size == cut
            kept = np.where(size >= cut, delta, np.float32(0))
            total_kept += kept
            np.maximum(largest, np.abs(kept), out=largest)
        apart = np.abs(_ordered(maps[-2][name]) - _ordered(maps[-1][name]))
        differ, draw = apart > 0, (total_kept == 0) & (largest > 0)
        rest = differ & ~at_cut & ~draw
        total += apart.size
        for key, mask in (
            *(("differ", differ), ("at the cut", at_cut), ("cut", differ & at_cut), ("draw", differ & draw & ~at_cut)),
            *(("rounding", rest & (apart == 1)), ("unexplained", rest & (apart > 1))),
        ):
            found[key] += int(np.count_nonzero(mask))
    return {key: count / total for key, count in found.items()}
