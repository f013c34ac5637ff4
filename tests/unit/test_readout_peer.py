"""Directions beside those of steering-vectors 0.12.2 on paired texts, from the same model file.

`AMYBUILD_STEERING_VECTORS=PYTHON pytest -m steering_vectors`, with an interpreter that has it (it wants transformers
below 5, so an environment of its own).
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from amybuild.actions import activations
from amybuild.actions.context import ActionContext
from amybuild.readout.estimators import Candidate, Side
from amybuild.readout.split import units
from amybuild.readout.table import Rows, Table
from tests.tiny import make_tiny_base, write_jsonl

PYTHON = os.environ.get("AMYBUILD_STEERING_VECTORS", "")
LAYERS = [0, 1]  # of three: the library reads what its hook gives, so the last block would do too
THEIRS = """
import json, sys
import torch
from steering_vectors import logistic_aggregator, mean_aggregator, pca_aggregator, train_steering_vector
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
job = json.loads(sys.stdin.read())
model = AutoModelForCausalLM.from_pretrained(job["base"], torch_dtype=torch.float32).eval()
tokenizer = PreTrainedTokenizerFast(tokenizer_file=job["base"] + "/tokenizer.json", pad_token="<|pad|>")
made = {"mean": mean_aggregator(), "pca": pca_aggregator(), "logistic": logistic_aggregator({"max_iter": 1000})}
found = {}
for name, aggregator in made.items():
    vector = train_steering_vector(model, tokenizer, [tuple(pair) for pair in job["pairs"]], layers=job["layers"],
                                   aggregator=aggregator, show_progress=False)
    found[name] = {str(layer): vector.layer_activations[layer].tolist() for layer in job["layers"]}
print(json.dumps(found))
"""


def pairs(count: int = 40) -> list[tuple[str, str]]:
    """The same beginning, then one of two endings: read at the last token, as the library does."""
    places = ("the boat", "the kettle", "my dad", "the lamp", "the mud")
    ends = (("and it was there", "it is there and where"), ("not you", "how and what"))
    found = []
    for i in range(count):
        start = f"How do I know {places[i % 5]} when it is {places[(i // 5) % 5]} number {i}"
        found.append((f"{start} {ends[0][i % 2]}", f"{start} {ends[1][i % 2]}"))
    return found


@pytest.fixture(scope="module")
def theirs_and_ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[int, Rows]]:
    """What the library finds, and our activations of the same texts, positives first, per block."""
    folder = tmp_path_factory.mktemp("peer")
    base = make_tiny_base(folder / "base", dtype="float32")
    job = {"base": str(base), "pairs": pairs(), "layers": LAYERS}
    done = subprocess.run([PYTHON, "-c", THEIRS], input=json.dumps(job), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = [text for side in zip(*pairs(), strict=True) for text in side]
    write_jsonl(folder / "texts/texts.jsonl", [{"id": f"t{i:03d}", "text": text} for i, text in enumerate(texts)])
    (folder / "out").mkdir()
    inputs = {"base": base, "texts": folder / "texts"}
    params = {"layers": LAYERS, "reading": "last"}
    activations.run(ActionContext("readout/activations", "0" * 64, params, inputs, folder / "out"))
    rows = load_file(folder / "out/activations.safetensors")
    return json.loads(done.stdout.splitlines()[-1]), {n: rows[f"layer_{n}"].astype(np.float64) for n in LAYERS}


def direction(name: str, rows: Rows) -> Rows:
    marks = np.repeat(np.array([1, -1], np.int8), len(rows) // 2)[:, None]
    found: Rows = Candidate(name).directions(Side(Table.of(rows), marks, rows[:0]))[0]
    return found


@pytest.mark.steering_vectors
@pytest.mark.skipif(not PYTHON, reason="AMYBUILD_STEERING_VECTORS names no interpreter with steering-vectors")
@pytest.mark.parametrize("layer", LAYERS)
def test_paired_texts_give_the_directions_of_steering_vectors(
    theirs_and_ours: tuple[dict[str, Any], dict[int, Rows]], layer: int
) -> None:
    theirs, ours = theirs_and_ours
    rows = ours[layer]
    halves = np.stack(np.split(rows, 2))
    apart = (halves - halves.mean(0)).reshape(rows.shape)  # around each pair's own midpoint: what the library reads

    def cosine(name: str, from_rows: Rows) -> float:
        found = units(np.stack([direction(name, from_rows), np.array(theirs[name][str(layer)])]))
        return float(found[0] @ found[1])

    np.testing.assert_allclose(direction("mean", rows), theirs["mean"][str(layer)], atol=2e-5)
    assert cosine("pca", apart) > 0.9999
    assert cosine("logistic", apart) > 0.98, "ours has another penalty"
    told = {name: round(cosine(name, rows), 3) for name in ("mean", "pca", "logistic")}
    print(f"block {layer}, without the pairing: {told}")
