"""Optimisers: the paper's formulas, steps as long as Adam's on any shape, states that are small and can be put back."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any

import pytest
import torch

from amybuild.model import apollo
from amybuild.model.optim import OPTIMIZERS, Optimizer, state_bytes
from amybuild.model.train import Settings

SHAPES = {"a.wide": (24, 96), "b.tall": (80, 16), "c.square": (32, 32), "d.norm": (32,)}


def seed(purpose: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose} {number}".encode()).digest()[:7], "big")


def parameters(names: tuple[str, ...] = tuple(SHAPES)) -> dict[str, Any]:
    found = {}
    for name in names:
        generator = torch.Generator().manual_seed(len(name))
        found[name] = torch.nn.Parameter(torch.randn(SHAPES[name], generator=generator))
    return found


def give_gradients(held: dict[str, Any], step: int) -> None:
    for name, one in held.items():
        one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(seed(name, step)))


def run(optimizer: Optimizer, held: dict[str, Any], steps: range, rate: float = 1e-2) -> None:
    for step in steps:
        give_gradients(held, step)
        optimizer.step(rate)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_put_back_goes_on_with_the_same_bits(name: str) -> None:
    settings = Settings(optimizer=name, apollo_rank=4, apollo_refresh=3, weight_decay=0.1)
    straight = parameters()
    run(OPTIMIZERS[name](straight, settings, seed), straight, range(7))
    for pause in range(7):
        held = parameters()
        first = OPTIMIZERS[name](held, settings, seed)
        run(first, held, range(pause))
        kept = {key: value.clone() for key, value in first.state().items()}
        second = OPTIMIZERS[name](held, settings, seed)
        second.load(kept)
        run(second, held, range(pause, 7))
        assert all(torch.equal(held[key], straight[key]) for key in held), f"after a pause at {pause}"


@pytest.mark.parametrize("name", ["apollo", "apollo-mini"])
def test_a_projection_depends_on_its_own_name_only(name: str) -> None:
    settings = Settings(optimizer=name, apollo_rank=4)
    alone, others = parameters(("b.tall",)), parameters()
    run(OPTIMIZERS[name](alone, settings, seed), alone, range(4))
    run(OPTIMIZERS[name](others, settings, seed), others, range(4))
    assert torch.equal(alone["b.tall"], others["b.tall"])


@pytest.mark.parametrize("name", ["apollo", "apollo-mini"])
def test_a_step_is_as_long_as_adams_on_any_shape(name: str) -> None:
    held = {key: torch.nn.Parameter(torch.zeros(256, width)) for key, width in (("wide", 512), ("tall", 128))}
    before = {key: one.detach().clone() for key, one in held.items()}
    optimizer = OPTIMIZERS[name](held, Settings(optimizer=name, apollo_rank=32), seed)
    run(optimizer, held, range(1), rate=1.0)
    for key, one in held.items():
        # of one random direction the length has a relative spread of 1 / sqrt(2 * columns); of 32 less
        assert float((one.detach() - before[key]).square().mean().sqrt()) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("tensorwise", [False, True])
def test_an_update_is_the_formula_of_the_paper(tensorwise: bool) -> None:
    name = "apollo-mini" if tensorwise else "apollo"
    rank, beta1, beta2, rate = 1 if tensorwise else 4, 0.9, 0.99, 0.01
    settings = Settings(optimizer=name, apollo_rank=rank, apollo_growth=0.0, apollo_scale=2.0)
    held = parameters(("a.wide",))
    optimizer = OPTIMIZERS[name](held, settings, seed)
    drawn = torch.randn(rank, 24, generator=torch.Generator().manual_seed(seed("projection a.wide", 0)))
    projection, first, second = drawn.double() / math.sqrt(rank), 0.0, 0.0
    expected = held["a.wide"].detach().double()
    for step in range(3):
        give_gradients(held, step)
        gradient = held["a.wide"].grad.double()
        image = projection @ gradient
        first, second = beta1 * first + (1 - beta1) * image, beta2 * second + (1 - beta2) * image**2
        adam = (first / (1 - beta1 ** (step + 1))) / (second / (1 - beta2 ** (step + 1))).sqrt()
        over = (0, 1) if tensorwise else 0
        scaling = adam.square().sum(over).sqrt() / image.square().sum(over).sqrt()
        expected = expected - rate * 2.0 * math.sqrt(24 / rank) * gradient * scaling
        optimizer.step(rate)
    torch.testing.assert_close(held["a.wide"].detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_an_update_grows_by_no_more_than_its_limit() -> None:
    held = {"x": torch.nn.Parameter(torch.zeros(8, 40))}
    optimizer = OPTIMIZERS["apollo-mini"](held, Settings(optimizer="apollo-mini", beta1=0.0, beta2=0.5), seed)
    lengths = []
    for step in range(6):
        give_gradients(held, step)
        before = held["x"].detach().clone()
        optimizer.step(1.0)
        lengths.append(float((held["x"].detach() - before).norm()))
    assert all(after <= 1.01 * earlier * 1.0001 for earlier, after in itertools.pairwise(lengths))


def test_the_state_of_apollo_mini_is_small() -> None:
    held = {f"{i}": torch.nn.Parameter(torch.zeros(576, 1536)) for i in range(2)}
    held["norm"] = torch.nn.Parameter(torch.zeros(576))
    sizes = {}
    for name in OPTIMIZERS:
        optimizer = OPTIMIZERS[name](held, Settings(optimizer=name), seed)
        run(optimizer, held, range(1))
        sizes[name] = state_bytes(optimizer)
    assert sizes["apollo-mini"] < 0.005 * sizes["adamw"]
    assert sizes["apollo"] < 0.25 * sizes["adamw"]


@pytest.mark.parametrize("tensorwise", [False, True])
def test_the_published_package_takes_the_same_steps(tensorwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install apollo-torch`, which nobody but a test may use: an oracle whose projections we are given."""
    published = pytest.importorskip("apollo_torch")
    rank, name = (1, "apollo-mini") if tensorwise else (4, "apollo")
    mine, theirs = (torch.nn.Parameter(torch.zeros(24, 96)) for _ in range(2))
    group = {
        "params": [theirs], "rank": rank, "proj": "random", "scale_type": "tensor" if tensorwise else "channel",
        "scale": 24 / rank, "update_proj_gap": 200, "proj_type": "std",
    }  # fmt: skip
    oracle = published.APOLLOAdamW([group], lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, disable_nl=True)
    monkeypatch.setattr(apollo, "drawn", lambda *_: _projection(oracle, rank))
    optimizer = OPTIMIZERS[name]({"x": mine}, Settings(optimizer=name, apollo_rank=rank, apollo_growth=0.0), seed)
    for step in range(5):
        give_gradients({"x": mine}, step)
        theirs.grad = mine.grad.clone()
        oracle.step()
        optimizer.step(0.01)
    torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=1e-4, atol=1e-7)


def _projection(oracle: Any, rank: int) -> Any:
    (state,) = oracle.state.values()
    return state["projector"].ortho_matrix.detach().float().reshape(-1, rank).T.reshape(rank, 24)
