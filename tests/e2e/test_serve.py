"""`chat` and `export` on a product, and what the product says of its steering."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import Result, Space
from tests.readouts import write_readout
from tests.tiny import make_tiny_base

STEERED = [
    {"name": "warmth", "apply": True, "alpha_pos": 2.0, "alpha_neg": 0.5},
    {"name": "calm", "apply": False},
]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product's folder as `amybuild` lays it out, without a training."""
    folder = make_tiny_base(tmp_path_factory.mktemp("product") / "tess", dtype="float32")
    write_readout(folder, ["warm", "cold"], [1, 2], 32, 3)
    for seed, one in enumerate(STEERED):
        write_readout(folder / "steering" / str(one["name"]), [str(one["name"])], [1, 2], 32, 3, seed=seed + 1)
    (folder / "persona.json").write_text(json.dumps({"name": "tess", "build": "b" * 64, "steering": STEERED}))
    return folder


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line in an empty folder."""
    from amybuild.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0) -> Result:
        found = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert found == code, err
        return Result(found, out, err)

    return run


def test_chat_tells_the_readout_of_every_token(here: Any, product: Path) -> None:
    shown = here("chat", product, "-m", "How do I boil an egg?", "--readout", 2, "--max-tokens", 4).out
    assert len([line for line in shown.splitlines() if "warm " in line and "cold " in line]) == 4
    row = json.loads(here("chat", product, "-m", "How do I boil an egg?", "--json", "--max-tokens", 4).out)
    assert np.shape(row["readout"]) == (4, 2, 2)
    assert row["condition"] == "steered"  # warmth applies


def test_chat_compares_and_follows_a_conversation(here: Any, product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What makes that call heavy?\n\nHow?\n"))
    found = here("chat", product, "--compare", "--steer", "calm=3", "--max-tokens", 6, "--json").out
    rows = [json.loads(line) for line in found.splitlines()]
    assert [row["condition"] for row in rows] == ["unsteered", "steered", "steered away"] * 2
    assert len({json.dumps(row["readout"]) for row in rows}) == 6


def test_a_strength_that_is_named_counts_both_ways(here: Any, product: Path) -> None:
    words = ("chat", product, "-m", "How?", "--json", "--max-tokens", 5, "--compare", "--steer")
    readouts = [
        [json.loads(line)["readout"] for line in here(*words, f"warmth={x}").out.splitlines()] for x in (0, 3, -3)
    ]
    still, there, back = readouts
    assert still[0] == still[1] == still[2]
    assert there[1:] == back[:0:-1]
    assert there[1] != there[2]
    told = json.loads(here("export", "gguf", product, "-o", "out", "--json", "--away", "--steer", "warmth=3").out)
    assert told["strengths"] == {"warmth": -3.0}


def test_export_gguf_writes_what_applies_at_its_strength(here: Any, product: Path) -> None:
    from amybuild.serve.gguf import read_control_vector
    from amybuild.serve.steering import read_steering

    told = json.loads(here("export", "gguf", product, "-o", "out", "--json").out)
    assert (told["files"], told["strengths"]) == (["out/warmth.gguf"], {"warmth": 2.0})
    one = read_steering(product)["warmth"]
    found, hint = read_control_vector(Path("out/warmth.gguf"))
    assert hint == "llama"
    np.testing.assert_array_equal(found.steps[2], one.at(2).steps[2])
    here("export", "gguf", product, "-o", "out", "--away", "--steer", "warmth", "--steer", "cold")
    np.testing.assert_array_equal(read_control_vector(Path("out/warmth.gguf"))[0].steps[1], one.at(-0.5).steps[1])
    assert Path("out/cold.gguf").is_file()  # a concept of the readout, with alpha 1


def test_export_fold_writes_a_checkpoint_that_steers_by_itself(here: Any, product: Path) -> None:
    told = json.loads(here("export", "fold", product, "-o", "folded", "--json").out)
    assert told["difference"] <= 1e-4
    assert json.loads(Path("folded/steering.json").read_text())["from"] == "b" * 64
    assert json.loads(Path("folded/config.json").read_text())["mlp_bias"] is True
    assert Path("folded/readout.safetensors").is_file()
    here("chat", "folded", "-m", "How?", "--max-tokens", 2)
    assert "is there already" in here("export", "fold", product, "-o", "folded", code=2).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chat",), "no product in dist/"),
        (("chat", "nowhere"), "no such folder"),
        (("chat", "PRODUCT", "--steer", "warmht"), "did you mean 'warmth'"),
        (("chat", "PRODUCT", "--steer", "warmth=much"), "is no number"),
        (("chat", "PRODUCT", "--steer", "warmth=inf"), "finite"),
        (("chat", "PRODUCT", "--max-tokens", "0"), "at least 1"),
        (("export", "gguf", "PRODUCT/steering"), "config.json"),
        (("export", "gguf", "PRODUCT", "-o", "PRODUCT/config.json"), "is no folder"),
        (("chat", "PRODUCT", "--steer", "warmth=1e6"), "at most 1000"),
    ],
)
def test_wrong_words_are_refused(here: Any, product: Path, words: tuple[str, ...], said: str) -> None:
    assert said in here(*[word.replace("PRODUCT", str(product)) for word in words], code=2).err


def test_readout_files_of_another_model_are_refused_before_it_is_loaded(
    here: Any, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(product, "other")
    write_readout(Path("other"), ["warm", "cold"], [1, 2], 16, 3)
    monkeypatch.setattr("amybuild.model.load._read", lambda *_: pytest.fail("the model was loaded"))
    assert "hidden size 16" in here("chat", "other", "-m", "How?", code=2).err


def test_the_persona_tells_how_it_steers_and_a_change_of_that_runs_nothing(built: Space) -> None:
    def told() -> Any:
        (one,) = json.loads((built.product / "persona.json").read_text())["steering"]
        return one["apply"], one["alpha_pos"], one["alpha_neg"]

    assert told() == (False, 1.0, 1.0)
    file = built.root / "Personafile.toml"
    steering = '[steer.joy]\nemotion = "joy"\n'
    assert steering in file.read_text()
    file.write_text(file.read_text().replace(steering, f"{steering}apply = true\nalpha_pos = 1.5\n"))
    assert built.build().ran == set()
    assert told() == (True, 1.5, 1.0)
    file.write_text(file.read_text().replace("alpha_pos = 1.5", "alpha_pos = -1"))
    assert "alpha_pos" in built.run("--json").err


def test_the_index_names_the_weights_and_not_the_readout(built: Space) -> None:
    index = json.loads((built.product / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model.safetensors"}


def test_what_a_build_makes_is_what_chat_and_export_take(built: Space) -> None:
    out = built.root / "out"
    told = json.loads(
        built.run("export", "gguf", "--steer", "joy=0.5", "--steer", "worry", "-o", str(out), "--json").out
    )
    assert told["strengths"] == {"joy": 0.5, "worry": 1.0}
    words = ("chat", "-m", "What troubles you?", "--steer", "joy=2", "--compare", "--max-tokens", "3", "--json")
    rows = [json.loads(line) for line in built.run(*words).out.splitlines()]
    assert [np.shape(row["readout"]) for row in rows] == [(3, 2, 2)] * 3
    assert rows[0]["readout"] != rows[1]["readout"] != rows[2]["readout"]
