"""The table of the merge methods that take a whole matrix: singular values, angles; their papers and settings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import InputError, did_you_mean
from amybuild.link import spectral, sphere
from amybuild.link.delta import Delta
from amybuild.value import value

Setting = float | bool | str


@value
class MatrixMethod:
    """A row: what merges the differences of one 2-D weight, where it is from, whether it looks at the base's values."""

    name: str
    function: Callable[..., Delta]
    paper: str
    needs_base: bool = False

    @property
    def settings(self) -> dict[str, Setting]:
        """Its settings with their defaults, from the function's signature."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def check(self, params: Mapping[str, object]) -> None:
        """Raise `InputError` for a setting that the method does not have, or of another type."""
        known = self.settings
        for name, given in params.items():
            if name not in known:
                listed = ", ".join(known) or "it has no settings"
                raise InputError(
                    f"{self.name} has no setting '{name}'",
                    where="[link]",
                    remedy=did_you_mean(name, known) or f"known: {listed}",
                )
            kind = type(known[name])
            number = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
            if not (number if kind is float else isinstance(given, kind)):
                wanted = {float: "a number", bool: "true or false", str: "a name"}[kind]
                raise InputError(f"{name} = {given!r}", where="[link]", remedy=f"give {wanted}")

    def merge(
        self,
        base: NDArray[np.float32] | None,
        deltas: Sequence[Delta],
        weights: Sequence[float],
        params: Mapping[str, Setting],
    ) -> Delta:
        """What is added to the base: low-rank where all differences are and the base is not in it, else dense.

        `base` float32 [out, in] or None; `weights` absolute strengths, one per difference; `params` as in `settings`.
        Raises `InputError` for wrong settings, `ActionError` for values that are not finite.
        """
        self.check(params)
        return self.function(base, deltas, weights, **params)


_ROWS = (
    MatrixMethod("core_space", spectral.core_space, "https://arxiv.org/abs/2509.17786"),
    MatrixMethod("iso_c", spectral.iso_c, "https://arxiv.org/abs/2502.04959"),
    MatrixMethod("iso_cts", spectral.iso_cts, "https://arxiv.org/abs/2502.04959"),
    MatrixMethod("karcher", sphere.karcher, "https://arxiv.org/abs/2603.04972", needs_base=True),
    MatrixMethod("knots", spectral.knots, "https://arxiv.org/abs/2410.19735"),
    MatrixMethod("model_stock", sphere.model_stock, "https://arxiv.org/abs/2403.19522"),
    MatrixMethod("nuslerp", sphere.nuslerp, "https://github.com/arcee-ai/mergekit"),
    MatrixMethod("slerp", sphere.slerp, "https://en.wikipedia.org/wiki/Slerp", needs_base=True),
    MatrixMethod("tsv_m", spectral.tsv_m, "https://arxiv.org/abs/2412.00081"),
)
MATRIX_METHODS: Mapping[str, MatrixMethod] = {row.name: row for row in _ROWS}
