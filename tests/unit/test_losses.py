"""What is minimised: each term against its formula, teachers that see more, and vectors of whole weights."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amybuild.actions import measure, train
from amybuild.model.full import unfrozen
from amybuild.model.load import Loaded, deterministic, load_base
from amybuild.model.lora import attached, by_name
from amybuild.model.losses import Data, Objective
from amybuild.model.score import kl_per_token, reply_logits, reply_scores
from amybuild.model.teacher import teachers
from amybuild.model.tokens import Encoded
from amybuild.model.train import Settings
from tests.tiny import make_tiny_base
from tests.unit.test_actions_train import RECIPE, go, world
from tests.unit.test_model_vector import bits

__all__ = ["world"]  # a fixture

WANTED = Encoded("pair", (9, 8, 7, 40, 41, 42), 3, 6)
RIVAL = Encoded("pair", (9, 8, 7, 60, 61), 3, 5)
TAUGHT = Encoded("pair", (30, 31, 32, 9, 8, 7, 40, 41, 42), 6, 9)
OFF = Settings(nll_weight=0.0, kl_weight=0.0, replay_batch=0)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Loaded]:
    with deterministic(threads=1), load_base(make_tiny_base(tmp_path / "base"), keep=False) as found:
        yield found


def nudged(base: Loaded, data: Data, settings: Settings) -> tuple[dict[str, float], dict[str, Any]]:
    """The terms of the loss once the weights are no longer the base's, and the gradients."""
    objective = Objective(base, data, settings)
    with unfrozen(base.model) as (parameters, _):
        with torch.no_grad():
            for number, one in enumerate(parameters.values()):
                one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(number)) * 0.01)
        terms = objective.backward(data.rows, [])
        scores = reply_scores(base, [WANTED, RIVAL])
        terms |= {"wanted": scores[0].logp, "rival": scores[1].logp}
        return terms, {name: one.grad for name, one in parameters.items()}


def test_dpo_is_its_formula_against_the_base(base: Loaded) -> None:
    before = reply_scores(base, [WANTED, RIVAL])
    settings = dataclasses.replace(OFF, preference="dpo", margin_weight=2.0, margin_beta=0.5)
    terms, _ = nudged(base, Data([WANTED], {"pair": RIVAL}), settings)
    gap = (terms["wanted"] - before[0].logp) - (terms["rival"] - before[1].logp)
    assert terms["preference"] == pytest.approx(math.log1p(math.exp(-0.5 * gap)), rel=1e-4)
    assert terms["loss"] == pytest.approx(2.0 * terms["preference"])


def test_distillation_is_the_kl_to_the_base_that_sees_more(base: Loaded) -> None:
    with torch.no_grad():
        taught = reply_logits(base, [TAUGHT])[0]
        plain = reply_logits(base, [WANTED])[0]
    objective = Objective(base, Data([WANTED], teachers={"pair": TAUGHT}), dataclasses.replace(OFF, distill_weight=1.0))
    with attached(base.model, rank=2, alpha=4.0, rslora=False, seed=1):
        terms = objective.backward([WANTED], [])
    assert terms["distill"] == pytest.approx(float(kl_per_token(taught, plain).mean()), rel=1e-4)
    alike = Objective(base, Data([WANTED], teachers={"pair": WANTED}), dataclasses.replace(OFF, distill_weight=1.0))
    with attached(base.model, rank=2, alpha=4.0, rslora=False, seed=1):
        assert alike.backward([WANTED], [])["distill"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("term", ["nll_weight", "distill_weight", "margin_weight"])
def test_gradients_are_those_of_finite_differences(base: Loaded, term: str) -> None:
    settings = dataclasses.replace(OFF, preference="dpo", **{term: 1.0})
    data = Data([WANTED], {"pair": RIVAL}, teachers={"pair": TAUGHT})
    with attached(base.model, rank=2, alpha=4.0, rslora=False, seed=1) as pairs:
        objective = Objective(base, data, settings)
        parameters = by_name(pairs)
        with torch.no_grad():
            for number, one in enumerate(parameters.values()):
                one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
        objective.backward(data.rows, [])
        slope = sum(float(one.grad.square().sum()) for one in parameters.values())
        directions = {name: one.grad.clone() / math.sqrt(slope) for name, one in parameters.items()}
        losses = []
        for step in (2e-3, -4e-3):
            with torch.no_grad():
                for name, one in parameters.items():
                    one.add_(step * directions[name])
            losses.append(objective.backward(data.rows, [])["loss"])
    assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(math.sqrt(slope), rel=2e-2)


def lines(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{i}", "messages": [{"role": "user", "content": f"Why {i}?"}], "continuation": f"The {i} it is."}
        for i in range(count)
    ]


def test_a_teacher_sees_other_examples_and_never_the_row_itself(base: Loaded) -> None:
    from amybuild.model.tokens import encode

    known = lines(6)
    rows = [encode(base.tokenizer, one["id"], one["messages"], one["continuation"]) for one in known]

    def taught(**changed: Any) -> dict[str, Encoded]:
        fields = {"reply": "continuation", "examples": 2, "text": "", "seed": 1, "max_tokens": 900, **changed}
        return teachers(base.tokenizer, known, rows, **fields)

    found = taught()
    for row, line in zip(rows, known, strict=True):
        text = base.tokenizer.decode(found[row.id].ids)
        assert found[row.id].labels == row.labels
        assert text.count("assistant\n") == 3
        assert text.count(line["continuation"]) == 1
    assert taught() == found
    assert taught(seed=2) != found
    with_text = base.tokenizer.decode(taught(text="You listen.", examples=0)["3"].ids)
    assert "system\nYou listen." in with_text
    assert with_text.count("assistant\n") == 1


def test_weights_set_free_are_the_base_again_afterwards(base: Loaded) -> None:
    before = bits(base.model)
    with unfrozen(base.model) as (parameters, values):
        assert not any("embed" in name or "lm_head" in name for name in parameters)
        assert any("norm" in name for name in parameters)
        with torch.no_grad():
            for one in parameters.values():
                one.neg_()
        assert all(torch.equal(-parameters[name], value) for name, value in values.items())
    assert bits(base.model) == before
    assert not any(one.requires_grad for one in base.model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "apollo", "apollo-mini"])
def test_full_weights_learn_and_are_verified_like_any_vector(
    world: dict[str, Path], tmp_path: Path, optimizer: str
) -> None:
    recipe = {**RECIPE, "tune": "full", "optimizer": optimizer, "apollo_rank": 8, "margin_weight": 1.0, "lr": 2e-3}
    out = go(train.run, tmp_path / "out", recipe, world)
    told = json.loads((out / "train.json").read_text())
    assert told["last"]["nll"] < told["first"]["nll"]
    low, high = {"adamw": (0.99, 1.01), "apollo": (0.2, 0.3), "apollo-mini": (0.0, 0.08)}[optimizer]
    assert low < told["state_share"] < high
    tensors = load_file(out / "delta.safetensors")
    assert all(one.dtype == torch.bfloat16 for one in tensors.values())
    assert {"curve.jsonl", "delta.safetensors", "train.json"} == {file.name for file in out.iterdir()}
    found = json.loads((go(measure.run, tmp_path / "v", {}, {**world, "vector": out}) / "measure.json").read_text())
    assert found["gain"] > 0


def test_recipes_for_preference_and_distillation_run(world: dict[str, Path], tmp_path: Path) -> None:
    dpo = {**RECIPE, "preference": "dpo", "nll_weight": 0.1, "margin_weight": 1.0, "margin_beta": 0.5}
    told = json.loads((go(train.run, tmp_path / "dpo", dpo, world) / "train.json").read_text())
    assert told["first"]["preference"] == pytest.approx(math.log(2), abs=1e-4)  # nothing is preferred yet
    assert told["last"]["preference"] < told["first"]["preference"]
    distill = {**RECIPE, "nll_weight": 0.0, "distill_weight": 1.0, "teacher_examples": 2, "lr": 2e-2}
    told = json.loads((go(train.run, tmp_path / "distill", distill, world) / "train.json").read_text())
    assert told["last"]["distill"] < told["first"]["distill"]
