"""The table of matrix methods: settings come from the functions, and wrong ones are told."""

from __future__ import annotations

import numpy as np
import pytest

from amybuild.errors import InputError
from amybuild.link.delta import dense
from amybuild.link.matrix import MATRIX_METHODS
from tests.matrices import ordinary


@pytest.mark.parametrize("name", sorted(MATRIX_METHODS))
def test_a_row_is_the_function_it_names(name: str) -> None:
    row, case = MATRIX_METHODS[name], ordinary(count=2)
    assert row.function.__name__ == row.name == name
    assert row.paper in (row.function.__doc__ or "") or name == "nuslerp"
    defaults = row.merge(case.base, case.low, case.alphas, {})
    np.testing.assert_array_equal(dense(defaults), dense(row.merge(case.base, case.low, case.alphas, row.settings)))
    other = row.merge(case.base + 1, case.low, case.alphas, {})
    assert row.needs_base != np.array_equal(dense(defaults), dense(other))


def test_settings_are_those_of_the_signature() -> None:
    assert MATRIX_METHODS["knots"].settings == {"density": 1.0, "elect": "mass", "divide": "count"}
    assert MATRIX_METHODS["tsv_m"].settings == {}


@pytest.mark.parametrize(
    ("name", "params", "told"),
    [
        ("slerp", {"tt": 0.5}, "did you mean 't'"),
        ("tsv_m", {"density": 0.5}, "it has no settings"),
        ("slerp", {"t": True}, "a number"),
        ("slerp", {"t": float("nan")}, "a number"),
        ("slerp", {"per_row": 1}, "true or false"),
        ("knots", {"elect": 3.0}, "a name"),
        ("knots", {"density": 0.0}, "above 0"),
        ("iso_cts", {"common": 1.5}, "0 to 1"),
    ],
)
def test_wrong_settings_are_told(name: str, params: dict[str, object], told: str) -> None:
    case = ordinary(count=2)
    with pytest.raises(InputError) as caught:
        MATRIX_METHODS[name].merge(case.base, case.low, case.alphas, params)  # type: ignore[arg-type]
    assert told in str(caught.value)
