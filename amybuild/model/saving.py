"""Activation checkpointing: decoder blocks computed again for the gradient, instead of all they computed kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amybuild.errors import ActionError


@contextmanager
def saving(model: Any) -> Iterator[None]:
    """Inside the block a pass keeps what enters each decoder block only; the same numbers for a third more time.

    The blocks alone are told that they train: dropout below them stays off. They may read a cache when they are
    computed again, since ours are never written to. ActionError for a model whose blocks cannot be computed again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        what = f"{type(model).__name__} has no blocks that can be computed again"
        raise ActionError(what, where="activation_checkpointing", remedy="set it to false")
    enable, disable = _switches(model)
    enable({"use_reentrant": False})
    for block in blocks:
        block.training = block._can_checkpoint_with_cache = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False
            del block._can_checkpoint_with_cache
        disable()


def _switches(model: Any) -> tuple[Any, Any]:
    """On and off, under their name of today, or that of transformers before 5.20."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    return getattr(model, f"{name}_checkpointing_enable"), getattr(model, f"{name}_checkpointing_disable")
