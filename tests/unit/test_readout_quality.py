"""The quality report: what was planted is told, what was not is flagged, and no text is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from amybuild.actions import quality, vectors
from amybuild.actions.context import ActionContext
from amybuild.readout.account import agreement, beside, confusion, redundancy
from amybuild.readout.split import units
from amybuild.readout.table import Table
from tests.tiny import write_jsonl

HIDDEN, LAYERS, COUNT = 24, 5, 90
WORDS = ("harbour", "kettle", "ladder", "violin", "orchard", "tunnel", "letter", "garden")


def report(folder: Path, seed: int = 0, rooms: int = 0, loud: float = 0.0, **params: Any) -> dict[str, Any]:
    """joy is in the activations of block 3; worry only in the words; calm nowhere; glee is joy's twin.

    With `rooms` each text is in one of so many, and all of calm in one. `loud`: what joy adds to one dimension.
    """
    rng = np.random.default_rng(seed)
    joy, worry, calm = (rng.random(COUNT) < 0.35 for _ in range(3))
    glee = joy ^ (rng.random(COUNT) < 0.1)
    rows = {layer: rng.standard_normal((COUNT, HIDDEN)).astype(np.float32) for layer in range(LAYERS)}
    rows[3][joy, :4] += 2.0
    rows[3][joy, 4] += loud
    ids = [f"t{i:02d}" for i in range(COUNT)]
    lines = [
        {
            "id": name,
            "node": f"n-{name}",
            "text": " ".join([*rng.choice(WORDS, 12), "secretword" if worry[i] else "otherword"]),
        }
        for i, name in enumerate(ids)
    ]
    marks = {"joy": joy, "worry": worry, "calm": calm, "glee": glee}
    labels = [
        {"id": name, "labels": {c: 1 if m[i] else -1 for c, m in marks.items()}}
        | ({"settings": [f"room-{0 if calm[i] else 1 + i % rooms}"]} if rooms else {})
        for i, name in enumerate(ids)
    ]
    write_jsonl(folder / "texts" / "texts.jsonl", lines)
    write_jsonl(folder / "labels" / "labels.jsonl", labels)
    (folder / "labels" / "card.json").write_text(json.dumps({"concepts": list(marks), "warnings": ["told before"]}))
    (folder / "acts").mkdir()
    save_file({f"layer_{layer}": value for layer, value in rows.items()}, folder / "acts" / "activations.safetensors")
    about = {"ids": ids, "layers": list(rows), "num_layers": LAYERS, "hidden_size": HIDDEN, "reading": "mean"}
    (folder / "acts" / "ids.json").write_text(json.dumps(about))
    inputs = {name: folder / place for name, place in (("labels", "labels"), ("activations", "acts"))}
    for rule, out in ((vectors, "vectors"), (quality, "quality")):
        (folder / out).mkdir()
        rule.run(ActionContext(f"readout/{out}", "0" * 64, {"n_layers": 1, **params}, inputs, folder / out))
        inputs |= {"vectors": folder / "vectors", "texts": folder / "texts"}
    return json.loads((folder / "quality" / "quality.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report(tmp_path_factory.mktemp("quality"))


def test_what_is_in_the_activations_is_read_and_stands(found: dict[str, Any]) -> None:
    joy = found["concepts"]["joy"]
    low, high = joy["auc_interval"]
    assert 0.9 < low <= joy["auc"] <= high
    assert joy["auc"] == joy["layers"]["3"]["auc"]
    assert joy["flags"] == []
    assert joy["recall"] > 0.7
    assert joy["false_positives"] < 0.2
    assert 0.4 < joy["auc_shuffled"] < 0.6 < joy["auc_shuffled_95"] < 0.8
    assert found["flagged"] == ["worry", "calm"]
    assert {one["best_layer"] for one in found["folds"]} == {3}


def test_what_only_the_words_know_is_flagged(found: dict[str, Any]) -> None:
    worry = found["concepts"]["worry"]
    assert worry["auc_bow"] > 0.9
    assert worry["auc"] < 0.7
    assert "not surely above a bag of words" in worry["flags"]
    assert "not surely above shuffled labels" in found["concepts"]["calm"]["flags"]


def test_twins_are_told(found: dict[str, Any]) -> None:
    glee = found["concepts"]["glee"]
    assert glee["nearest_concepts"][0][0] == "joy"
    assert glee["beside_nearest"]["concept"] == "joy"
    assert glee["auc"] > 0.8 > glee["beside_nearest"]["auc"]
    names = list(found["concepts"])
    assert names == sorted(names)
    order = found["order"]
    assert found["confusion"][order.index("joy")][order.index("worry")] < 0.7
    assert found["cosine"][0][0] == pytest.approx(1.0)
    assert glee["outliers"][0]["node"].startswith("n-t")


def test_every_estimator_is_compared_and_no_text_is_told(found: dict[str, Any]) -> None:
    assert {"mean", "lda 0.9", "logistic", "logistic_l1", "pca", "linear 0.5"} <= set(found["estimators"])
    assert set(found["estimators"]["mean"]) == set(found["concepts"])
    assert "secretword" not in json.dumps(found)
    assert found["warnings"][0] == "told before"


def test_the_same_again(tmp_path: Path, found: dict[str, Any]) -> None:
    assert report(tmp_path) == found


def test_settings_are_held_out_whole_and_a_concept_of_one_is_flagged(tmp_path: Path, found: dict[str, Any]) -> None:
    assert found["held_out_together"] is None
    assert found["concepts"]["joy"]["settings"] is None
    there = report(tmp_path, rooms=8)
    assert there["held_out_together"]["groups"] == 9
    calm, joy = there["concepts"]["calm"], there["concepts"]["joy"]
    assert (calm["settings"], calm["auc"], calm["auc_interval"]) == (1, 0.5, [0.0, 1.0])
    assert "all positives are of one setting" in calm["flags"]
    assert joy["settings"] > 1
    assert joy["auc"] > 0.9
    assert "room-" not in json.dumps(there)


def test_a_direction_that_is_one_dimension_is_flagged(tmp_path: Path, found: dict[str, Any]) -> None:
    assert found["concepts"]["worry"]["largest_dimension"] < 0.5
    loud = report(tmp_path, loud=40.0)["concepts"]["joy"]
    assert loud["largest_dimension"] > 0.9
    assert any("one dimension" in flag for flag in loud["flags"])


def test_directions_that_are_all_one_are_warned_of(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    whole = {"cosine": [[1.0, 0.95], [0.95, 1.0]]}
    assert "nearly one" in quality._warnings(whole, card)[0]
    assert quality._warnings({"cosine": [[1.0]]}, card) == []


def test_few_positives_and_length_are_flagged() -> None:
    good = {"n_pos": 20, "settings": None, "auc": 0.9, "auc_interval": [0.8, 0.95], "auc_over_bow": [0.1, 0.3]}
    good |= {"auc_length": 0.6, "auc_shuffled_95": 0.65, "largest_dimension": 0.1, "redundancy": 0.2}
    assert quality.flags(good) == []
    for change, word in (
        ({"n_pos": 5}, "only 5"),
        ({"auc_over_bow": [0.0, 0.3]}, "bag of words"),
        ({"settings": 1}, "one setting"),
        ({"largest_dimension": 0.99}, "one dimension"),
        ({"auc_length": 0.95}, "length"),
        ({"redundancy": 0.95}, "other concepts"),
        ({"auc": 0.3}, "sign"),
    ):
        assert any(word in one for one in quality.flags(good | change)), change


def test_the_numbers_of_the_account() -> None:
    rng = np.random.default_rng(0)
    vectors = units(rng.standard_normal((3, 50)))
    twin = units(vectors[:1] + 0.05 * vectors[1:2])
    values = redundancy(np.concatenate([vectors, twin]))
    assert values[0] > 0.95
    assert values[2] < 0.1
    marks = np.array([[1]] * 30 + [[-1]] * 30, np.int8)
    rows = rng.standard_normal((60, 50)) * 0.01
    rows[:30, 0] += 5.0
    mean, first = agreement(Table.of(rows), marks)
    assert mean[0] > 0.99
    assert first[0] > 0.99
    both = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]] * 5, np.int8)
    scores = both.astype(float)
    scores[:, 1] = scores[:, 0]  # the second readout reads the first concept
    table = confusion(scores, both)
    assert table[0, 1] == 1.0
    assert table[1, 0] == 0.5
    assert beside(scores, both, 0, 1) == (1.0, 5, 5)
    assert beside(scores, np.abs(both), 0, 1) is None
