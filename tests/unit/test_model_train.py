"""Loading, packing, scoring and the loop: one model shared, a tree equal to rows, the same bits each time."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amybuild.errors import ActionError, InputError
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.load import deterministic, load_base, release
from amybuild.model.lora import attached, by_name
from amybuild.model.losses import Data
from amybuild.model.pack import Tree, batches, packs
from amybuild.model.score import kl_per_token, logits_of, neutral_kl, reply_logits, reply_scores, reply_states
from amybuild.model.tokens import Encoded
from amybuild.model.train import Settings, choice, rate, train
from tests.tiny import ARCHITECTURES, make_tiny_base

tokens = st.lists(st.integers(0, 5), min_size=2, max_size=8)


def rows_of(*ids: list[int]) -> list[Encoded]:
    return [Encoded(str(i), tuple(row), max(1, len(row) // 2), len(row)) for i, row in enumerate(ids)]


ROWS = rows_of(
    [9, 8, 7, 40, 41, 42], [9, 8, 7, 40, 50, 51, 52, 53], [9, 8, 60, 61], [9, 8, 7, 40, 41, 42, 43, 44, 45, 46]
)


@given(st.lists(tokens, min_size=1, max_size=6))
def test_a_tree_holds_each_row_once_along_its_path(rows: list[list[int]]) -> None:
    tree = Tree()
    for row in rows:
        fresh, before = tree.new_nodes(row), len(tree.ids)
        tree.add(row)
        assert len(tree.ids) == before + fresh
    prefixes = {tuple(row[: k + 1]) for row in rows for k in range(len(row))}
    assert len(tree.ids) == len(prefixes)
    for row, path in zip(rows, tree.paths, strict=True):
        assert [tree.ids[node] for node in path] == row
        assert [tree.parents[node] for node in path] == [-1, *path[:-1]]
        assert [tree.depths[node] for node in path] == list(range(len(row)))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packed_rows_score_as_rows_alone(tmp_path: Path, arch: str) -> None:
    with load_base(make_tiny_base(tmp_path / arch, arch), keep=False) as base:
        assert packs(base, ROWS)
        together, _, _ = reply_logits(base, ROWS)
        with torch.no_grad():
            alone = [base.model(torch.tensor([row.ids])).logits[0, row.start - 1 : row.end - 1] for row in ROWS]
        torch.testing.assert_close(together, torch.cat(alone), atol=2e-4, rtol=1e-3)
        base.memo["packs"] = False
        padded, targets, states = reply_logits(base, ROWS)
        torch.testing.assert_close(padded, torch.cat(alone), atol=2e-4, rtol=1e-3)
        assert targets.tolist() == [token for row in ROWS for token in row.labels]
        torch.testing.assert_close(logits_of(base.model, states), padded)


def test_a_model_that_leaks_between_rows_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        decoder = base.model.get_decoder()

        def leak(_module: Any, _args: Any, output: Any) -> Any:  # a running sum, as a recurrent layer has
            output.last_hidden_state = output.last_hidden_state.cumsum(1)
            return output

        handle = decoder.register_forward_hook(leak)
        assert not packs(base, ROWS)
        handle.remove()


@given(st.lists(tokens, min_size=1, max_size=9), st.integers(1, 30), st.booleans())
def test_batches_hold_every_row_once(rows: list[list[int]], size: int, packed: bool) -> None:
    class Base:
        memo: ClassVar[dict[str, Any]] = {"packs": packed}

        class model:
            class config:
                @staticmethod
                def get_text_config() -> object:
                    return object()

    encoded = rows_of(*rows)
    found = batches(Base, encoded, size)  # type: ignore[arg-type]
    assert sorted(i for part in found for i in part) == list(range(len(rows)))


@given(st.lists(st.integers(5, 90), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 99), st.integers(0, 3))
def test_each_pass_takes_every_row_once(lengths: list[int], batch: int, seed: int, turn: int) -> None:
    cuts = math.ceil(len(lengths) / batch)
    drawn = [choice(lengths, batch, seed, turn * cuts + k) for k in range(cuts)]
    assert sorted(i for part in drawn for i in part) == list(range(len(lengths)))
    assert all(1 <= len(part) <= batch for part in drawn)
    assert drawn == [choice(lengths, batch, seed, turn * cuts + k) for k in range(cuts)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_rate_rises_to_its_peak_and_never_reaches_zero(schedule: str) -> None:
    settings = Settings(steps=20, warmup=0.2, lr=1.0, schedule=schedule)
    rates = [rate(settings, step) for step in range(20)]
    assert all(0 < value <= 1 for value in rates)
    assert rates[:5] == sorted(rates[:5])
    assert max(rates) == rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize(
    ("params", "where"),
    [({"steps": 0}, "steps"), ({"lr": "fast"}, "lr"), ({"lr": float("nan")}, "lr"), ({"steps": True}, "steps"),
     ({"schedule": "zigzag"}, "schedule"), ({"lr": 0}, "lr"), ({"batch": 1.5}, "batch")],
)  # fmt: skip
def test_bad_settings_name_their_field(params: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings.of(params)
    assert caught.value.where == where


def test_kl_is_zero_for_the_base_and_positive_else(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        states = reply_states(base, ROWS)
        assert abs(neutral_kl(base, ROWS, states)) < 1e-5
        with load_base(make_tiny_base(tmp_path / "other", seed=1), keep=False) as other:
            assert neutral_kl(base, ROWS, states, other) > 0.01
    p, q = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(kl_per_token(p, q), expected)


def run_training(
    path: Path,
    settings: Settings,
    seed: int = 3,
    others: Mapping[str, Encoded] | None = None,
    keep: Checkpoints | None = None,
    progress: Any = lambda *_, **__: None,
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    with (
        deterministic(threads=1),
        load_base(path) as base,
        attached(base.model, rank=4, alpha=8.0, rslora=False, seed=seed) as pairs,
    ):
        data = Data(ROWS, others or {}, ROWS[:2])
        done = train(base, by_name(pairs), data, settings, lambda *_: seed, progress, keep)
        return done.curve, {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in pairs.items()}


def test_training_learns_and_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    path = make_tiny_base(tmp_path / "base")
    settings = Settings(steps=12, batch=4, replay_batch=2, kl_weight=0.1, lr=5e-3)
    curve, first = run_training(path, settings)
    assert curve[-1]["nll"] < curve[0]["nll"] - 0.1
    assert curve[0]["kl"] == pytest.approx(0, abs=1e-5)
    again, second = run_training(path, settings)
    assert curve == again
    assert all(torch.equal(first[name][k], second[name][k]) for name in first for k in (0, 1))
    _, other = run_training(path, settings, seed=4)
    assert not all(torch.equal(first[name][0], other[name][0]) for name in first)


def test_the_kl_term_keeps_the_model_near_the_base(tmp_path: Path) -> None:
    path = make_tiny_base(tmp_path / "base")
    free, _ = run_training(path, Settings(steps=12, batch=4, replay_batch=2, kl_weight=1e-6, lr=5e-3))
    held, _ = run_training(path, Settings(steps=12, batch=4, replay_batch=2, kl_weight=20.0, lr=5e-3))
    assert held[-1]["kl"] < free[-1]["kl"] / 2


def test_the_margin_term_prefers_the_wanted_reply_and_its_value_is_the_formula(tmp_path: Path) -> None:
    path = make_tiny_base(tmp_path / "base")
    # two replies to one context: [9, 8, 7] + either
    wanted = Encoded("pair", (9, 8, 7, 40, 41, 42), 3, 6)
    rival = Encoded("pair", (9, 8, 7, 60, 61), 3, 5)
    with load_base(path) as base:
        own, other = reply_scores(base, [wanted, rival])
    expected = math.log1p(math.exp(-2.0 * (own.per_token - other.per_token)))
    settings = Settings(steps=8, batch=1, replay_batch=0, kl_weight=0.0, margin_weight=3.0, margin_beta=2.0, lr=5e-3)

    def last(margin_weight: float) -> tuple[float, float]:
        release()
        with (
            deterministic(threads=1),
            load_base(path) as base,
            attached(base.model, rank=4, alpha=8.0, rslora=False, seed=3) as pairs,
        ):
            used = dataclasses.replace(settings, margin_weight=margin_weight)
            data = Data([wanted], {"pair": rival})
            curve = train(base, by_name(pairs), data, used, lambda *_: 3, lambda *_, **__: None).curve
            a, b = reply_scores(base, [wanted, rival])
            return curve[0]["preference"], a.per_token - b.per_token

    first, gap = last(3.0)
    assert first == pytest.approx(expected, rel=1e-4)
    assert gap > last(0.0)[1]


def test_a_loss_that_explodes_names_its_step(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match=r"at step \d+ of 30 .* on [0-3](, [0-3])*"):
        run_training(make_tiny_base(tmp_path / "base"), Settings(steps=30, lr=1e6, warmup=0, clip=0.0))


def test_scores_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        forward = reply_scores(base, ROWS)
        assert [score.tokens for score in forward] == [len(row.labels) for row in ROWS]
        for score, back in zip(forward, reversed(reply_scores(base, ROWS[::-1])), strict=True):
            assert score.logp == pytest.approx(back.logp, abs=1e-4)


def test_one_base_is_kept_and_its_content_decides(tmp_path: Path) -> None:
    release()
    path = make_tiny_base(tmp_path / "base")
    with load_base(path) as first, load_base(path) as second:
        assert first.model is second.model
        assert not first.model.training
        assert next(first.model.parameters()).dtype == torch.float32
    with load_base(make_tiny_base(tmp_path / "other", seed=1), keep=False):
        pass
    with load_base(path) as third:
        assert third.model is first.model
    make_tiny_base(path, seed=2)
    with load_base(path) as fourth:
        assert fourth.model is not first.model
    release()


def test_threads_take_turns(tmp_path: Path) -> None:
    path, inside, most = make_tiny_base(tmp_path / "base"), [0], [0]

    def use() -> None:
        with load_base(path):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            threading.Event().wait(0.01)
            inside[0] -= 1

    workers = [threading.Thread(target=use) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most[0] == 1


def test_a_folder_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match=r"no config\.json"), load_base(tmp_path):
        pass
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ActionError, match="does not load"), load_base(tmp_path):
        pass
