"""Task vectors as values with algebra, read from what holds one: an adapter, a checkpoint, differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from amybuild.errors import ActionError
from amybuild.link.delta import Delta, Dense, Difference, added, scaled
from amybuild.link.lora import CONFIG as ADAPTER
from amybuild.link.lora import read_adapter
from amybuild.link.tensors import INDEX, SINGLE, Shard, Stored, all_tensors, read_shard, read_shards
from amybuild.value import value

DENSE = "delta.safetensors"


@value
class TaskVector:
    """tau = W_tuned - W_base (arXiv 2212.04089) by weight name; weights that are not named do not change.

    A value with algebra: `2.0 * a`, `-a`, `a + b`, `b - a + c`. Sums of factors are exact (they are concatenated), all
    others are taken row by row in float32 when asked for; a sum keeps the union of the weights.
    """

    name: str
    deltas: Mapping[str, Delta]

    def __mul__(self, factor: float) -> TaskVector:
        return TaskVector(self.name, {weight: scaled(delta, factor) for weight, delta in self.deltas.items()})

    __rmul__ = __mul__

    def __neg__(self) -> TaskVector:
        return self * -1.0

    def __add__(self, other: TaskVector) -> TaskVector:
        total = dict(self.deltas)
        for weight, delta in other.deltas.items():
            total[weight] = added(total[weight], delta) if weight in total else delta
        return TaskVector(self.name, {weight: total[weight] for weight in sorted(total)})

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + -other

    def bind(self, shapes: Mapping[str, tuple[int, ...]]) -> TaskVector:
        """The same vector under the names its weights have in the base; `shapes` = the base's tensors.

        A stored name may lack or have leading components (checkpoints are saved with and without their head): such a
        name is taken when exactly one fits. Raises `ActionError` naming a tensor that is missing, ambiguous or of
        another shape.
        """
        where = f"task vector {self.name}"
        bound: dict[str, Delta] = {}
        for weight, delta in self.deltas.items():
            stored = _stored_name(weight, shapes, where)
            if stored in bound:
                raise ActionError(f"two of its weights are the base's '{stored}'", where=where)
            if tuple(shapes[stored]) != tuple(delta.shape):
                raise ActionError(
                    f"'{stored}' is {list(shapes[stored])} in the base, {list(delta.shape)} in the vector",
                    where=where,
                    remedy="the vector was trained on another base: train it again on this one",
                )
            bound[stored] = delta
        return TaskVector(self.name, bound)


def _stored_name(weight: str, known: Collection[str], where: str) -> str:
    if weight in known:
        return weight
    parts = weight.split(".")
    shorter = [".".join(parts[i:]) for i in range(1, len(parts) - 1)]
    found = [name for name in shorter if name in known][:1] or sorted(n for n in known if n.endswith("." + weight))
    if len(found) == 1:
        return found[0]
    if found:
        raise ActionError(f"'{weight}' could be any of {', '.join(found[:4])} in the base", where=where)
    raise ActionError(
        f"the base has no tensor '{weight}'",
        where=where,
        remedy="the vector was trained on another base, or on a weight tied to one that is stored under another name",
    )


def read_vector(folder: Path, name: str, base: Sequence[Shard] = ()) -> TaskVector:
    """The task vector an artifact folder holds; nothing dense is read yet.

    A PEFT adapter (`adapter_config.json`), differences by weight name (`delta.safetensors`), or a fine-tuned
    checkpoint in Hugging Face's layout, which is compared with `base`, the shards of the model it comes from. Raises
    `ActionError`.
    """
    where = f"task vector {name}"
    if (folder / ADAPTER).is_file() or not (folder.is_dir() and _holds_weights(folder)):
        return TaskVector(name, dict(read_adapter(folder, where)))
    if (folder / DENSE).is_file():
        shard = read_shard(folder / DENSE, where, "build it again")
        for stored in shard.tensors:
            stored.check_float(where)
        return TaskVector(name, {weight: Dense(stored) for weight, stored in shard.weights.items()})
    return TaskVector(name, _differences(read_shards(folder, where, "save the checkpoint again"), base, where))


def _holds_weights(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (DENSE, SINGLE, INDEX))


Found = tuple[Shard, Stored]


def _differences(tuned: Sequence[Shard], base: Sequence[Shard], where: str) -> dict[str, Delta]:
    """tuned - base of every float weight of the base.

    A head that only one of the two stores, because the other ties it to the embedding, is compared with the embedding;
    what is no float (buffers, quantised weights) must agree byte for byte.
    """
    theirs = {stored.name: (shard, stored) for shard, stored in all_tensors(tuned)}
    ours = {stored.name: (shard, stored) for shard, stored in all_tensors(base)}
    remedy = "give a checkpoint that was fine-tuned from this base"
    deltas: dict[str, Delta] = {}
    for name, mine in ours.items():
        twin = name if name in theirs else _twin(name, ours)
        if twin not in theirs:
            raise ActionError(f"it has no tensor '{name}'", where=where, remedy=remedy)
        yours = theirs[twin]
        if mine[1].shape != yours[1].shape:
            shapes = f"{list(mine[1].shape)} in the base, {list(yours[1].shape)} in the checkpoint"
            raise ActionError(f"'{name}' is {shapes}", where=where, remedy=remedy)
        if mine[1].is_float and yours[1].is_float:
            deltas[name] = Difference(yours[0].weights[twin], mine[0].weights[name])
        elif not _agree(mine, yours):
            odd = yours[1] if mine[1].is_float else mine[1]
            raise ActionError(
                f"'{name}' is not the base's, and no difference can be taken of {odd.code}",
                where=where,
                remedy="give a float32, float16 or bfloat16 checkpoint, its integer buffers those of the base",
            )
    for name in theirs.keys() - ours.keys():
        if _twin(name, theirs) not in ours:
            raise ActionError(f"the base has no tensor '{name}'", where=where, remedy=remedy)
    return deltas


def _twin(name: str, tensors: Mapping[str, Found]) -> str | None:
    # another tensor with the same content: the embedding that a stored head is tied to
    here = tensors[name]
    return next((other for other, found in tensors.items() if other != name and _agree(here, found)), None)


def _agree(one: Found, other: Found) -> bool:
    a, b = one[1], other[1]
    return a.code == b.code and a.shape == b.shape and np.array_equal(one[0].raw(a), other[0].raw(b))
