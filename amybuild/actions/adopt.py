"""Rule `adopt`: a fine-tuned checkpoint or a PEFT adapter from outside becomes a vector, checked against the base."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.lora import CONFIG, WEIGHTS
from amybuild.model.vector import INDEX, weight_files

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FLOATS = ("F64", "F32", "F16", "BF16")
_HEAD = "lm_head.weight"

Header = Mapping[str, tuple[str, tuple[int, ...]]]  # tensor -> (dtype code, shape)


def run(ctx: ActionContext) -> None:
    """inputs: base; source: the folder. params: kind = checkpoint | adapter. Writes the weights found there, no more.

    Tensors must have the base's names and shapes, or ActionError names the first that has not. Only safetensors are
    read. The copies share their blocks with the originals where the file system can.
    """
    kinds = {"checkpoint": _checkpoint, "adapter": _adapter}
    kind = ctx.params.get("kind")
    if kind not in kinds:
        raise InputError(f"unknown kind {kind!r}", where="adopt", remedy=f"one of {', '.join(kinds)}")
    source = ctx.inputs["source"]
    if not source.is_dir():
        raise ActionError("not a folder", where=str(source), remedy=f"name the folder of the {kind}")
    base: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in weight_files(ctx.inputs["base"]):
        base |= _header(ctx.inputs["base"] / name)
    names = kinds[str(kind)](source, base)
    for done, name in enumerate(names, 1):
        _copy(source / name, ctx.out / name)
        ctx.progress(done, len(names))


def _checkpoint(source: Path, base: Header) -> list[str]:
    """The files of a fine-tuned checkpoint: all of the base's tensors, and no other."""
    if (source / CONFIG).is_file():
        raise ActionError("this is an adapter", where=str(source), remedy='write adapter = "…" instead of checkpoint')
    try:
        names = weight_files(source)
    except ActionError as error:
        raise ActionError(error.what, where=str(source), remedy=_remedy(source, error.remedy)) from None
    tuned: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        tuned |= _header(source / name)
    # a stored head where the base ties its own: the linker compares it with the embedding
    missing, strange = sorted(base.keys() - tuned.keys()), sorted(tuned.keys() - base.keys() - {_HEAD})
    for found, what in ((strange, "the base has no tensor"), (missing, "the checkpoint lacks the base's tensor")):
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise ActionError(f"{what} '{found[0]}'{more}", where=str(source), remedy="it must be tuned from this base")
    for tensor, (code, shape) in sorted(tuned.items()):
        if tensor not in base:
            continue
        _check_shape(source, tensor, shape, base[tensor][1])
        if code != base[tensor][0] and not (code in _FLOATS and base[tensor][0] in _FLOATS):
            what = f"'{tensor}' is stored as {code}, in the base as {base[tensor][0]}"
            raise ActionError(what, where=str(source), remedy="give a float32, float16 or bfloat16 checkpoint")
    return names if names == ["model.safetensors"] else [INDEX, *names]


def _adapter(source: Path, base: Header) -> list[str]:
    """The two files of a PEFT LoRA adapter whose modules are the base's linear layers."""
    from amybuild.model.lora import read_adapter

    if not (source / WEIGHTS).is_file():
        raise ActionError(f"no {WEIGHTS}", where=str(source), remedy=_remedy(source, "name the adapter's folder"))
    for module, factors in read_adapter(source).factors.items():
        weight = f"{module}.weight"
        found = weight if weight in base else next((name for name in sorted(base) if weight.endswith(f".{name}")), None)
        if found is None:
            what = f"the base has no tensor '{weight}'"
            raise ActionError(what, where=str(source), remedy="the adapter was trained on another base")
        shape = (int(factors.b.shape[0]), int(factors.a.shape[1]))
        if shape[::-1] != base[found][1]:  # a Conv1D stores [in, out]
            _check_shape(source, found, shape, base[found][1])
    return [CONFIG, WEIGHTS]


def _check_shape(source: Path, tensor: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        what = f"'{tensor}' is {list(shape)}, in the base {list(wanted)}"
        raise ActionError(what, where=str(source), remedy="it must be tuned from this base")


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every tensor of a safetensors file, from its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
    except (OSError, SafetensorError) as error:
        what = f"not a readable safetensors file ({type(error).__name__})"
        raise ActionError(what, where=str(path), remedy="write it again") from error


def _remedy(source: Path, otherwise: str | None) -> str | None:
    if any(path.suffix in PICKLES for path in source.iterdir()):
        return "pickled weights run code when they are read, and are not: convert them to safetensors"
    return otherwise


def _copy(source: Path, target: Path) -> None:
    """A copy of a file, sharing its blocks where the file system can."""
    with source.open("rb") as read, target.open("wb") as write:
        left = os.fstat(read.fileno()).st_size
        try:
            while left > 0 and (count := os.copy_file_range(read.fileno(), write.fileno(), left)):
                left -= count
        except (OSError, AttributeError):
            left = -1
    if left:
        shutil.copyfile(source, target)
