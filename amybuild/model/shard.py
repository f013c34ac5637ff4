"""Sharding: the frozen blocks of a base lie in parts over several processes, and are gathered one at a time (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amybuild.model.hooks import decoder_blocks
from amybuild.model.load import Loaded, load_base
from amybuild.model.score import decoder_of


def join(rank: int, ranks: int, device: str, meeting: Path) -> None:
    """Make this process one of a group: gloo between CPUs, NCCL between GPUs, one GPU each.

    meeting: a file of that group's own, not there yet, on which its processes find each other. So there is no port that
    another program could take meanwhile, and nobody who cannot read the folder can join.
    """
    import torch
    from torch import distributed

    place = torch.device(device, rank) if device == "cuda" else None
    if place is not None:
        torch.cuda.set_device(place)
    backend = "gloo" if place is None else "nccl"
    store = distributed.FileStore(str(meeting), ranks)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks, device_id=place)


def leave() -> None:
    """End what `join` began; the others have to come here too."""
    from torch import distributed

    distributed.destroy_process_group()


@contextmanager
def load_part(path: str | Path, *, dtype: str, device: str) -> Iterator[Loaded]:
    """`load_base` with only this process's part of each decoder block on `device`; call it between `join` and `leave`.

    Every pass has to be run by all of the group, in the same order: a block is gathered from them before it computes,
    forward and backward, and given up behind it. What is gathered are the base's own bits, so a pass gives what it
    gives with the whole base. Embeddings, head and norms stay whole: they would be gathered from the beginning of a
    pass to its end. So does what is attached later, such as LoRA factors.
    """
    with load_base(path, dtype=dtype, device="cpu", keep=False) as base:  # of a base stored so, pages of its files
        _divide(base.model, device)
        yield base


def _divide(model: Any, device: str) -> None:
    import torch
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (get_world_size(),))
    for block in decoder_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # the root: its forward is where all passes begin, and it lets a block be gathered while the one before it computes
    rest = set(model.parameters())
    fully_shard(decoder_of(model), mesh=mesh, ignored_params=rest)
    place = torch.device(device)
    with torch.no_grad():
        for parameter in rest:
            if not isinstance(parameter, torch.distributed.tensor.DTensor):
                parameter.data = parameter.data.to(place)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(place))
