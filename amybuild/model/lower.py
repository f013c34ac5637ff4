"""Frozen lower blocks run once per row: what enters the first trained block is kept, and passes begin there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amybuild.errors import InputError
from amybuild.model.hooks import decoder_blocks
from amybuild.model.load import Loaded
from amybuild.model.pack import Packed, pack, padded_inputs
from amybuild.model.score import chosen_logits
from amybuild.model.tokens import Encoded


class _EnoughError(Exception):
    """The state that was wanted is known: the rest of the pass is not needed."""


class Lower:
    """The blocks below the top `trained` ones of a base that does not change below them.

    The states [tokens, hidden] of a row are computed alone, so they depend on no other row, and lie in the base's memo:
    every behaviour that reads the same row has them for nothing.
    """

    def __init__(self, base: Loaded, trained: int) -> None:
        self._base = base
        blocks = list(decoder_blocks(base.model))
        if not 0 < trained < len(blocks):
            what = f"{trained} of {len(blocks)} blocks"
            raise InputError(what, where="top_layers", remedy=f"1 to {len(blocks) - 1}; 0 trains all")
        self._below, self._entry = blocks[:-trained], blocks[-trained]

    def logits(self, base: Loaded, rows: Sequence[Encoded]) -> tuple[Any, Any, Any]:
        """`score.reply_logits` without the lower blocks."""
        packed = pack(base, rows)
        with self._entered(self._arranged(packed, rows)):
            logits, states = chosen_logits(base, packed.inputs, packed.rows, packed.columns)
        return logits, packed.targets, states

    def _arranged(self, packed: Packed, rows: Sequence[Encoded]) -> Any:
        """The rows' states where `packed` has their tokens: [rows, columns, hidden], zero at pads."""
        found = [self._states(row) for row in rows]
        hidden = found[0].new_zeros(*packed.inputs["input_ids"].shape, found[0].shape[-1])
        for (row, columns), states in zip(packed.places, found, strict=True):
            hidden[row, columns] = states
        return hidden

    def _states(self, row: Encoded) -> Any:
        import torch

        memo, key = self._base.memo, f"below {len(self._below)} {','.join(map(str, row.read))}"
        if key not in memo:

            def keep(_module: Any, args: Any, kwargs: Any) -> None:
                memo[key] = (args[0] if args else kwargs["hidden_states"])[0].detach().clone()
                raise _EnoughError

            def look(_module: Any, _args: Any, output: Any) -> None:
                memo["blocks give tuples"] = isinstance(output, tuple)

            handles = [
                self._entry.register_forward_pre_hook(keep, with_kwargs=True),
                self._below[-1].register_forward_hook(look),
            ]
            try:
                with torch.no_grad():
                    self._base.model(**padded_inputs(self._base, [row.read]), use_cache=False)
            except _EnoughError:
                pass
            finally:
                for handle in handles:
                    handle.remove()
        return memo[key]

    @contextmanager
    def _entered(self, hidden: Any) -> Iterator[None]:
        """Inside the block a pass goes by the lower blocks, and `hidden` enters the first trained one."""
        wraps = self._base.memo["blocks give tuples"]

        def skip(states: Any, *_: Any, **__: Any) -> Any:
            return (states,) if wraps else states

        def enter(_module: Any, args: Any, kwargs: Any) -> Any:
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        handle = self._entry.register_forward_pre_hook(enter, with_kwargs=True)
        for block in self._below:
            block.forward = skip
        try:
            yield
        finally:
            handle.remove()
            for block in self._below:
                del block.forward
