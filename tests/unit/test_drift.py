"""The drift watch: it disturbs nothing, stops at its bound, gives the best step, and outlives a stop bit for bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amybuild.errors import ActionError, Interrupted
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.drift import apart, best
from amybuild.model.load import deterministic, load_base
from amybuild.model.lora import attached, by_name
from amybuild.model.losses import Data
from amybuild.model.score import neutral_kl, reply_states
from amybuild.model.tokens import Encoded
from amybuild.model.train import Settings, Trained, train
from tests.tiny import make_tiny_base
from tests.unit.test_checkpoint import stop_at
from tests.unit.test_model_train import ROWS, rows_of

WATCHED = rows_of([9, 8, 70, 71, 72, 73], [9, 8, 7, 80, 81, 82, 83])
FREE = Settings(steps=10, batch=2, replay_batch=2, kl_weight=0.1, lr=1e-2, warmup=0.2, schedule="constant")


@dataclass
class Run:
    """A training that ended: what it says, its factors, and what those were after each step."""

    done: Trained
    factors: dict[str, Any]
    steps: list[dict[str, Any]]
    measured: list[float]


def run(path: Path, settings: Settings, keep: Checkpoints | None = None, stop: Any = lambda *_, **__: None) -> Run:
    with (
        deterministic(threads=1),
        load_base(path) as base,
        attached(base.model, rank=4, alpha=8.0, rslora=False, seed=3) as pairs,
    ):
        parameters, states = by_name(pairs), reply_states(base, WATCHED)
        steps: list[dict[str, Any]] = []
        measured: list[float] = []

        def progress(done: int, total: int, **more: Any) -> None:
            if "note" not in more:
                steps.append({name: one.detach().clone() for name, one in parameters.items()})
                measured.append(neutral_kl(base, WATCHED, states))
            stop(done, total)

        data = Data(ROWS, {}, ROWS[:2], watched=WATCHED)
        done = train(base, parameters, data, settings, lambda *_: 3, progress, keep)
        return Run(done, {name: one.detach().clone() for name, one in parameters.items()}, steps, measured)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_drift(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "drift"} for row in curve]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("drift") / "base")


@pytest.fixture(scope="module")
def unwatched(path: Path) -> Run:
    return run(path, FREE)


def bound_of(free: Run) -> tuple[int, float]:
    """(a step, a bound) such that the step is the first beyond the bound, and not the first of all."""
    for step in range(3, 10):
        bound = (max(free.measured[: step - 1]) + free.measured[step - 1]) / 2
        if free.measured[step - 1] > bound:
            return step, bound
    raise AssertionError("the drift of this training never rises")


@given(st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), min_size=2, max_size=40, unique=True))
def test_what_is_watched_is_never_replayed_and_ids_alone_decide(names: list[str]) -> None:
    rows = [Encoded(name, (1, 2, 3), 1, 3) for name in names]
    watched, replayed = apart(rows)
    assert sorted(row.id for row in [*watched, *replayed]) == sorted(names)
    assert len(watched) == max(1, len(names) // 4)
    back, _ = apart([replace(row, ids=(4, 5, 6)) for row in reversed(rows)])
    assert {row.id for row in back} == {row.id for row in watched}


def test_a_watch_that_finds_nothing_disturbs_nothing(path: Path, unwatched: Run) -> None:
    watched = run(path, replace(FREE, watch_every=3, max_drift=1e9))
    assert without_drift(watched.done.curve) == unwatched.done.curve
    assert all(map(same, watched.steps, unwatched.steps))
    assert [row["step"] for row in watched.done.curve if "drift" in row] == [3, 6, 9, 10]
    for row in watched.done.curve:
        if "drift" in row:
            assert row["drift"] == unwatched.measured[int(row["step"]) - 1]
    kept = watched.done.kept
    assert kept is not None
    assert not kept.stopped
    assert kept.done == 10
    assert same(watched.factors, unwatched.steps[kept.step - 1])
    assert unwatched.done.kept is None


def test_it_stops_at_its_bound_and_gives_the_best_step_inside(path: Path, unwatched: Run) -> None:
    first, bound = bound_of(unwatched)
    found = run(path, replace(FREE, watch_every=1, max_drift=bound))
    kept = found.done.kept
    assert kept is not None
    assert kept.stopped
    assert (kept.done, len(found.done.curve)) == (first, first)
    assert kept.step < first
    assert kept.drift == found.done.curve[kept.step - 1]["drift"] <= bound < kept.last
    assert same(found.factors, unwatched.steps[kept.step - 1])
    assert kept.told == (f"stopped at step {first} of 10, kept step {kept.step}: drift {kept.last:.4f} over {bound:g}")


def test_stopped_at_each_step_it_comes_to_the_same_bits(path: Path, unwatched: Run, tmp_path: Path) -> None:
    first, bound = bound_of(unwatched)
    settings = replace(FREE, watch_every=1, max_drift=bound)
    straight = run(path, settings)
    keep = Checkpoints(tmp_path / "unfinished")
    for step in range(1, first + 1):
        with pytest.raises(Interrupted):
            run(path, settings, keep, stop_at(step))
    resumed = run(path, settings, keep)
    assert resumed.steps == [], "it had stopped already"
    assert resumed.done.curve == straight.done.curve
    assert resumed.done.kept == straight.done.kept
    assert same(resumed.factors, straight.factors)


def test_without_a_step_inside_it_fails_with_the_numbers(path: Path, unwatched: Run) -> None:
    with pytest.raises(ActionError, match=r"at step 2 of 10 it is 0\.\d+ nats .* max_drift = 1e-09") as caught:
        run(path, replace(FREE, watch_every=2, max_drift=1e-9))
    assert "raise max_drift" in str(caught.value.remedy)


def row(loss: float, drift: float | None = None, kl: float = 0.0) -> dict[str, float]:
    return {"loss": loss, "kl": kl} | ({} if drift is None else {"drift": drift})


def test_the_best_step_is_the_best_learned_inside_the_bound() -> None:
    settings = replace(FREE, kl_weight=10.0, max_drift=0.02)
    curve = [row(3, 0.001), row(2, 0.01), row(1, 0.03), row(1.5, 0.02), row(1, math.nan)]
    assert best(curve, settings, 1) == 3, "the third and the last are outside"
    assert best(curve[:3], settings, 1) == 1
    assert best([row(1)], settings, 1) is None, "not looked at"
    assert best([row(1, 0.01), row(1, 0.01)], settings, 1) == 1, "of two alike the later"
    assert best([row(2.0, 0.01), row(2.4, 0.01, kl=0.05)], settings, 1) == 1, "what holds it near the base is no loss"
    # one lucky batch is no better step: the mean over a pass decides
    assert best([row(4, 0.01), row(0.5, 0.01), row(2, 0.01), row(1, 0.01)], settings, 2) == 2
