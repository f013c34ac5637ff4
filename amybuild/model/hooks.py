"""Scoped hooks: read the residual stream at the output of chosen decoder blocks, undone whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amybuild.errors import ActionError, InputError
from amybuild.model.score import decoder_of


def decoder_blocks(model: Any) -> Any:
    """The ModuleList of decoder blocks of any Hugging Face causal LM: the list as long as the configuration says.

    Of several such lists in the decoder, the one with the most parameters. ActionError when there is none.
    """
    import torch

    config = model.config.get_text_config(decoder=True)
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        module
        for module in decoder_of(model).modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise ActionError(
            f"cannot find the {count} decoder blocks of this model",
            where=str(getattr(config, "model_type", "base")),
            remedy="readouts need a base whose blocks stand in one list, as decoder-only models of transformers do",
        )
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


class Enough(Exception):
    """Ends a forward pass from inside, once all that is wanted of it was read."""


@contextmanager
def capture(
    model: Any, layers: Sequence[int], read: Callable[[Any], Any] | None = None, *, stop: bool = False
) -> Iterator[dict[int, Any]]:
    """Inside the block every forward pass fills the dict: layer (0-based) -> read(output of that block).

    The output is the residual stream [batch, tokens, hidden] as the block leaves it: for the last block this is before
    the final norm, unlike the last of `hidden_states`. Without `read` it is kept whole (detached). With `stop` the pass
    raises `Enough` behind the last of `layers`. InputError for a layer the model does not have.
    """
    blocks = decoder_blocks(model)
    for layer in layers:
        if not 0 <= layer < len(blocks):
            raise InputError(
                f"no block {layer} in this model", where="layers", remedy=f"blocks are counted 0 to {len(blocks) - 1}"
            )
    found: dict[int, Any] = {}
    last = max(layers, default=-1)

    def hook_of(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = (output[0] if isinstance(output, tuple) else output).detach()
            found[layer] = read(hidden) if read else hidden
            if stop and layer == last:
                raise Enough

        return hook

    handles: list[Any] = []
    try:
        for layer in layers:
            handles.append(blocks[layer].register_forward_hook(hook_of(layer)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
