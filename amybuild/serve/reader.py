"""Readouts and steering on a Hugging Face model: scoped hooks, for plain forward passes and while it generates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amybuild.errors import InputError
from amybuild.model.hooks import decoder_blocks
from amybuild.serve.files import Array, ReadoutFile, check_fits
from amybuild.serve.steering import Direction, total


@dataclass
class Reading:
    """What a model carried, filled by each forward pass while `read` is open.

    A pass over a batch is float32 [batch, tokens, n_layers, n_concepts], padding included; the readout of a position is
    the one that goes with the token sampled there. `passes` holds every pass since the last `clear`.
    """

    passes: list[Array] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what was read so far."""
        self.passes.clear()

    @property
    def last(self) -> Array:
        """float32 [batch, n_layers, n_concepts]: the last position of the last pass, the newest token's readout when
        batches are padded on the left."""
        newest: Array = self.passes[-1][:, -1]
        return newest

    def prompt(self, attention_mask: Any) -> list[Array]:
        """Per text float32 [its tokens, n_layers, n_concepts], pads left out: the first pass since `clear`.

        attention_mask: [batch, tokens] as the tokenizer gave it; either side may be padded.
        """
        keep = np.asarray(attention_mask).astype(bool)
        if not self.passes or keep.shape != self.passes[0].shape[:2]:
            raise InputError("the attention mask is not of the first pass that was read", where="readout")
        return [rows[marks] for rows, marks in zip(self.passes[0], keep, strict=True)]

    def generated(self) -> Array:
        """float32 [batch, passes, n_layers, n_concepts]: the last position of each pass, so of each token that
        `generate` made (left padding, greedy or sampled; rows after a text's end are not meaningful)."""
        tokens: Array = np.stack([one[:, -1] for one in self.passes], axis=1)
        return tokens


@contextmanager
def read(model: Any, readout: ReadoutFile) -> Iterator[Reading]:
    """While open, every forward pass of `model` is projected on the readout's vectors, in float32.

    A projection is the dot product of a block's output with a unit row (not a cosine, not standardised). `InputError`
    when the readout is of another model.
    """
    import torch

    check_fits(readout, model.config.to_dict(), "the model")
    device = next(model.parameters()).device
    vectors = {layer: torch.tensor(readout.vectors[layer], device=device) for layer in readout.layers}
    reading, found = Reading(), dict[int, Array]()
    final = max(readout.layers)

    def hook_of(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = (output[0] if isinstance(output, tuple) else output).detach()
            found[layer] = (hidden.float() @ vectors[layer].to(hidden.device).T).cpu().numpy()
            if layer == final:
                reading.passes.append(np.stack([found[one] for one in readout.layers], axis=2))

        return hook

    with _hooked(model, {layer: hook_of(layer) for layer in readout.layers}):
        yield reading


@contextmanager
def steer(model: Any, directions: Iterable[Direction]) -> Iterator[None]:
    """While open, the directions' steps are added to the blocks' outputs, at every position.

    Open it before `read`, and the readout shows the steered stream. `InputError` for a block the model does not have.
    """
    import torch

    steps = {layer: torch.tensor(step) for layer, step in total(directions).items()}

    def hook_of(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            moved = hidden + steps[layer].to(hidden)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    with _hooked(model, {layer: hook_of(layer) for layer in sorted(steps)}):
        yield


@contextmanager
def _hooked(model: Any, hooks: Mapping[int, Any]) -> Iterator[None]:
    """Forward hooks on decoder blocks, undone whatever happens."""
    blocks = decoder_blocks(model)
    for layer in hooks:
        if not 0 <= layer < len(blocks):
            raise InputError(f"no block {layer} in this model", where="layers", remedy=f"it has {len(blocks)}, from 0")
    with ExitStack() as stack:
        for layer, hook in hooks.items():
            stack.callback(blocks[layer].register_forward_hook(hook).remove)
        yield
