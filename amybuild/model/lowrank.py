"""A frozen linear layer with LoRA factors beside it, as one step of autograd: nothing is computed for the weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def beside(module: Any, a: Any, b: Any, scaling: float) -> Callable[[Any], Any]:
    """A forward for `module` (Linear, or Conv1D with its weight [in, out]): x @ W.T + bias + scaling * x @ a.T @ b.T.

    a [r, in] and b [out, r] are float32 and so is their product, whatever the base computes in. The weight is read when
    it is called: where a base lies in parts it is whole only then.
    """
    across = type(module).__name__ == "Conv1D"

    def forward(x: Any) -> Any:
        weight = module.weight.T if across else module.weight
        return _Beside.apply(x, weight, module.bias, a, b, scaling)  # type: ignore[no-untyped-call]

    return forward


class _Beside(torch.autograd.Function):
    """Sums go into the product that is there already, so a pass makes and keeps no other tensor of its width."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        low = (rows.to(a.dtype) @ a.T).mul_(scaling)
        out = torch.nn.functional.linear(rows, weight, bias).to(a.dtype)
        out.addmm_(low, b.T)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scaling, ctx.shape = scaling, x.shape
        return out.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        rows, weight, a, b, low = ctx.saved_tensors
        above = gradients[0].reshape(-1, gradients[0].shape[-1])
        wide = above.to(a.dtype)
        through = (wide @ b).mul_(ctx.scaling)
        below = None
        if ctx.needs_input_grad[0]:
            below = (above @ weight).to(a.dtype).addmm_(through, a).to(rows.dtype).view(ctx.shape)
        return below, None, None, through.T @ rows.to(a.dtype), wide.T @ low, None
