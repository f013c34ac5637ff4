"""Vectors from outside: a fine-tuned checkpoint, a PEFT adapter, another persona; and what is wrong with some."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from amybuild.versions import open_cache
from tests.harness import Space
from tests.tiny import make_tiny_base

OUTSIDE = '[task.other]\n{kind} = "models/other"\nrecipe = "quick"\n{more}\n[steer.joy]'


def add(space: Space, kind: str, more: str = "") -> None:
    space.edit("Personafile.toml", "[steer.joy]", OUTSIDE.format(kind=kind, more=more))


def only_other(space: Space) -> None:
    """Link the vector from outside alone, as it is."""
    space.edit("Personafile.toml", 'method = "ties"\ndensity = 0.5', 'method = "linear"')
    space.build("--only", "other")


def tuned(space: Space, **changes: int) -> Path:
    """A checkpoint of the base's shape at models/other, without its tokenizer."""
    folder = make_tiny_base(space.root / "models" / "other", **{"seed": 1, **changes})  # type: ignore[arg-type]
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    return folder


def trained_adapter(space: Space, task: str = "listen") -> Path:
    """The vector a built project trained, as a folder of somebody else's."""
    digest = str(next(t["vector"] for t in info(space)["targets"] if t["name"] == task))
    folder = space.root / "models" / "other"
    folder.mkdir()
    open_cache(space.root)[0].export(digest, folder)
    for path in folder.iterdir():
        if not path.name.startswith("adapter_"):
            path.unlink()
    return folder


LINKED = {"checkpoint/link", "persona/measure", "persona/verify", "persona/drift"}


def info(space: Space) -> dict[str, list[dict[str, object]]]:
    return json.loads((space.product / "persona.json").read_text())  # type: ignore[no-any-return]


def verified(space: Space, name: str = "other") -> dict[str, object]:
    return next(t["verify"] for t in info(space)["targets"] if t["name"] == name)  # type: ignore[return-value]


# adapters


def test_an_adapter_is_linked_like_the_vector_it_is(built: Space) -> None:
    trained_adapter(built)
    built.build("--only", "listen")
    wanted = (built.product / "model.safetensors").read_bytes()
    add(built, "adapter")
    result = built.build("--only", "other")
    assert result.ran == {f"task.other/{step}" for step in ("adopt", "baseline", "measure", "verify")} | LINKED
    assert (built.product / "model.safetensors").read_bytes() == wanted
    found = verified(built)
    assert found["neutral_kl"] > 0  # type: ignore[operator]
    assert "gain" not in found
    assert built.build("--only", "other").ran == set()


def test_nodes_beside_a_vector_from_outside_measure_it_and_train_nothing(built: Space) -> None:
    trained_adapter(built)
    add(built, "adapter", 'node = "pattern-listen"')
    ran = built.build("--only", "other", "--only", "listen").ran
    assert "task.other/train" not in ran
    assert "task.other/adopt" in ran
    found = {name: verified(built, name) for name in ("other", "listen")}
    assert found["other"]["gain"] == found["listen"]["gain"]
    assert "models/other" in built.run("show").out


def test_a_changed_file_is_adopted_again_and_another_file_changes_nothing(built: Space) -> None:
    folder = trained_adapter(built)
    add(built, "adapter")
    built.build()
    (folder / "notes.txt").write_text("x")
    assert built.build().ran == {"task.other/adopt"}
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: value * 1.5 for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    assert built.build().ran == {
        *("task.other/adopt", "task.other/measure", "task.other/verify", "persona/cross"),
        *LINKED,
    }


# checkpoints


def test_a_checkpoint_alone_comes_out_as_it_is(space: Space) -> None:
    folder = tuned(space)
    add(space, "checkpoint")
    only_other(space)
    assert (space.product / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert verified(space)["neutral_kl"] > 0  # type: ignore[operator]


def test_another_persona_is_a_vector(built: Space, tiny_base: Path) -> None:
    built.build("-o", "dist/other")
    assert (built.root / "dist/other/model.safetensors").is_file()
    built.edit(
        "Personafile.toml", "[steer.joy]", '[task.other]\ncheckpoint = "dist/other"\nrecipe = "quick"\n[steer.joy]'
    )
    only_other(built)
    linked = (built.product / "model.safetensors").read_bytes()
    assert linked == (built.root / "dist/other/model.safetensors").read_bytes()
    assert linked != (tiny_base / "model.safetensors").read_bytes()


def test_an_analogy_over_checkpoints_with_a_equal_b_is_c(space: Space) -> None:
    tuned(space)
    add(space, "checkpoint", '[task.same]\nanalogy = { a = "listen", b = "listen", c = "other" }\nrecipe = "quick"')
    space.edit("Personafile.toml", 'method = "ties"\ndensity = 0.5', 'method = "linear"')
    space.build("--only", "other")
    wanted = load_file(space.product / "model.safetensors")
    space.build("--only", "same")
    for name, value in load_file(space.product / "model.safetensors").items():
        assert (value == wanted[name]).float().mean() > 0.99, name


def test_a_vectors_own_scale_reaches_its_link_and_its_measurement(built: Space) -> None:
    trained_adapter(built)
    add(built, "adapter")
    built.build("--only", "other")
    whole = verified(built)["neutral_kl"]
    built.edit(
        "Personafile.toml",
        'adapter = "models/other"',
        'adapter = "models/other"\nscale = [{match = "*", factor = 0.0}]',
    )
    assert built.build("--only", "other").ran == {"task.other/measure", "task.other/verify"} | LINKED
    assert verified(built)["neutral_kl"] == pytest.approx(0, abs=1e-6) != whole


# what is wrong


def _rename(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    first = sorted(tensors)[0]
    tensors["model.new.weight"] = tensors.pop(first)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no tensors here")


def _integers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.int() for name, value in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_rename, ["the base has no tensor 'model.new.weight'"]),
        (_pickle, ["pickled weights", "convert them to safetensors"]),
        (_garbage, ["not a readable safetensors file"]),
        (_integers, ["is stored as I32, in the base as BF16"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["no model.safetensors and no index"]),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), ["this is an adapter", "adapter ="]),
    ],
)
def test_a_checkpoint_that_is_none(space: Space, damage: Callable[[Path], object], said: list[str]) -> None:
    damage(tuned(space))
    add(space, "checkpoint")
    result = space.run("task.other/adopt", "--no-color")
    assert result.code == 1
    for words in ["models/other", *said]:
        assert words in result.err, result.err


def test_a_checkpoint_of_another_size_is_named_by_its_first_tensor(space: Space) -> None:
    tuned(space, hidden=64)
    add(space, "checkpoint")
    result = space.run("task.other/adopt", "--no-color")
    assert result.code == 1
    assert "'model.embed_tokens.weight' is [" in result.err
    assert "64], in the base [" in result.err
    tuned_less = space.root / "models" / "other"
    shutil.rmtree(tuned_less)
    tuned(space, layers=2)
    result = space.run("task.other/adopt", "--no-color")
    assert "the checkpoint lacks the base's tensor 'model.layers.2." in result.err


def _configured(**fields: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))

    return change


def _renamed_module(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "x_proj"): value for name, value in load_file(path).items()}, path)


def _narrow(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({n: v[:, :-1].contiguous() if "lora_A" in n else v for n, v in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_configured(use_dora=True), "use_dora"),
        (_configured(modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "pickled weights"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (_renamed_module, "the base has no tensor 'model.layers.0.self_attn.x_proj.weight'"),
        (_narrow, "in the base ["),
    ],
)
def test_an_adapter_that_cannot_be_linked(built: Space, damage: Callable[[Path], object], said: str) -> None:
    damage(trained_adapter(built))
    add(built, "adapter")
    result = built.run("task.other/adopt", "--no-color")
    assert result.code == 1
    assert said in result.err, result.err


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('checkpoint = "models/nowhere"', "no such file or folder: models/nowhere"),
        ('adapter = "models/nowhere"', "[task.other] adapter"),
        ('checkpoint = "models/tiny"\nadapter = "models/tiny"', "exactly one of"),
        ('checkpoint = "models/tiny"\nanalogy = {a="listen", b="listen", c="close"}', "exactly one of"),
        ('checkpoint = "models/tiny"\nnode = "pattern-lisen"', "did you mean 'pattern-listen'?"),
        ('chekpoint = "models/tiny"', "exactly one of"),
        ('checkpoint = "models/tiny"\nscale = [{match = "*"}]', "'factor' is missing"),
        ('checkpoint = "models/tiny"\nscale = [{match = "", factor = 1.0}]', "must not be empty"),
        ('checkpoint = "models/tiny"\nscale = 3', "[task.other] scale"),
    ],
)
def test_a_table_that_is_wrong(space: Space, table: str, said: str) -> None:
    space.edit("Personafile.toml", "[steer.joy]", f'[task.other]\n{table}\nrecipe = "quick"\n[steer.joy]')
    result = space.run()
    assert result.code == 2
    assert said in result.err
