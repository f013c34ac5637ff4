"""Passes that are cut short: contexts without gradient, lower blocks run once, blocks computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from amybuild.actions import measure, train
from amybuild.errors import ActionError, InputError
from amybuild.model.frozen import contexts, frozen_logits
from amybuild.model.load import Loaded, deterministic, load_base
from amybuild.model.lora import attached, by_name
from amybuild.model.lower import Lower
from amybuild.model.saving import saving
from amybuild.model.score import reply_logits
from amybuild.model.tokens import Encoded
from tests.tiny import ARCHITECTURES, HYBRID, make_tiny_base
from tests.unit.test_actions_train import RECIPE, go, load, world

__all__ = ["world"]  # a fixture

CONTEXT = tuple(7 + 31 * i % 250 for i in range(70))  # longer than the sliding window and than a chunk of the delta net


def decisions(context: tuple[int, ...] = CONTEXT, count: int = 3) -> list[Encoded]:
    replies = [tuple(5 + (11 * i + 17 * k) % 200 for k in range(1 + 2 * i)) for i in range(count)]
    return [Encoded(f"{i}", context + own, len(context), len(context) + len(own)) for i, own in enumerate(replies)]


@pytest.fixture(scope="module", params=[*ARCHITECTURES, HYBRID])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = make_tiny_base(tmp_path_factory.mktemp(request.param) / "base", request.param, layers=4)
    with deterministic(threads=1), load_base(folder, keep=False) as found:
        yield found


@pytest.fixture
def parameters(base: Loaded) -> Iterator[dict[str, Any]]:
    """Factors that are not those of the base, so that gradients reach both."""
    with attached(base.model, rank=2, alpha=4.0, rslora=False, seed=1) as pairs, torch.no_grad():
        for number, (_, b) in enumerate(pairs.values()):
            b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
        with torch.enable_grad():
            yield by_name(pairs)


def nll(base: Loaded, rows: list[Encoded], how: Callable[..., Any]) -> Any:
    logits, targets, _ = how(base, rows)
    return torch.nn.functional.cross_entropy(logits, targets)


def test_rows_are_grouped_by_their_context() -> None:
    rows = [*decisions(), *decisions((1, 2, 3))]
    order = [rows[i] for i in (3, 0, 4, 1, 5, 2)]
    assert contexts(order) == [[0, 2, 4], [1, 3, 5]]


def test_a_frozen_context_gives_the_loss_of_a_whole_pass(base: Loaded, parameters: dict[str, Any]) -> None:
    rows = [*decisions(), *decisions(CONTEXT[:9]), *decisions((4,))]
    rows = [rows[i] for i in (3, 0, 8, 4, 1, 5, 2, 6, 7)]
    with torch.no_grad():
        whole, targets, states = reply_logits(base, rows)
    found = frozen_logits(base, rows)
    torch.testing.assert_close(found[0].detach(), whole, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(found[2].detach(), states, atol=2e-4, rtol=1e-3)
    assert torch.equal(found[1], targets)


def test_its_gradient_is_that_of_finite_differences_with_the_context_held(
    base: Loaded, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from amybuild.model import frozen

    rows = decisions()
    nll(base, rows, frozen_logits).backward()
    slope = math.sqrt(sum(float(one.grad.square().sum()) for one in parameters.values()))
    # what the context was run to stays what it was before the step: that is what frozen means
    held = frozen._prefix(base, CONTEXT[:-1], len(rows))
    monkeypatch.setattr(frozen, "_prefix", lambda *_: held)
    losses = []
    for step in (2e-3, -4e-3):
        with torch.no_grad():
            for one in parameters.values():
                one.add_(one.grad, alpha=step / slope)
            losses.append(float(nll(base, rows, frozen_logits)))
    assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize("how", [reply_logits, frozen_logits])
def test_blocks_computed_again_give_the_same_gradient(
    base: Loaded, parameters: dict[str, Any], how: Callable[..., Any]
) -> None:
    rows = decisions()
    nll(base, rows, how).backward()
    kept = {name: one.grad.clone() for name, one in parameters.items()}
    for one in parameters.values():
        one.grad = None
    before = [module.training for module in base.model.modules()]
    with saving(base.model):
        nll(base, rows, how).backward()
    for name, one in parameters.items():
        torch.testing.assert_close(one.grad, kept[name], atol=1e-6, rtol=1e-4)
    assert [module.training for module in base.model.modules()] == before


def test_passes_that_begin_at_a_trained_block_are_whole_passes(base: Loaded) -> None:
    rows = [*decisions(CONTEXT[:9]), *decisions(CONTEXT[:40])]
    with attached(base.model, rank=2, alpha=4.0, rslora=False, seed=1, top=2) as pairs:
        assert len({name.split(".")[2] for name in pairs}) == 2
        lower = Lower(base, 2)
        for number, (_, b) in enumerate(pairs.values()):
            b.data.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
        gradients = []
        for how in (reply_logits, lower.logits, lower.logits):
            for pair in pairs.values():
                pair[0].grad = pair[1].grad = None
            nll(base, rows, how).backward()
            gradients.append({name: one.grad.clone() for name, one in by_name(pairs).items()})
        for name, whole in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], whole, atol=1e-5, rtol=1e-3)
            assert torch.equal(gradients[1][name], gradients[2][name])
    for trained in (0, 4, 9):
        with pytest.raises(InputError, match="of 4 blocks"):
            Lower(base, trained)


def test_an_old_library_and_an_unknown_cache_are_refused(base: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from amybuild.model import frozen

    with pytest.raises(ActionError, match="its object cannot be read"):
        frozen._read_only(object(), 2)
    monkeypatch.setattr(transformers, "__version__", "5.6.0")
    with pytest.raises(ActionError, match=r"transformers 5\.6\.0 loses the context"):
        frozen_logits(base, decisions())


@pytest.mark.parametrize(
    "changed",
    [{"context_frozen": True, "batch": 2}, {"top_layers": 1}, {"activation_checkpointing": True}, {"strict": True}],
    ids=lambda one: next(iter(one)),
)
def test_recipes_that_cut_passes_short_learn(world: dict[str, Path], tmp_path: Path, changed: dict[str, Any]) -> None:
    recipe = {**RECIPE, "margin_weight": 1.0, "lr": 2e-2, **changed}
    out = go(train.run, tmp_path / "out", recipe, world)
    told = load(out / "train.json")
    assert told["last"]["preference"] < told["first"]["preference"]
    assert load(go(measure.run, tmp_path / "v", {}, {**world, "vector": out}) / "measure.json")["gain"] > 0


def test_a_frozen_context_needs_all_blocks(world: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run through all blocks"):
        go(train.run, tmp_path / "out", {**RECIPE, "context_frozen": True, "top_layers": 1}, world)
