"""What is said of readouts: the short table of a build, the full one of a report, the heat maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amybuild.errors import InputError
from amybuild.report.plots import heat_maps
from amybuild.report.readout import full, short
from tests.harness import Space
from tests.unit.test_readout_quality import report

QUALITY = {
    "joy": {"auc": 0.91, "auc_interval": [0.85, 0.96], "auc_bow": 0.7, "flags": [], "drift": 0.02},
    "worry": {"auc": 0.6, "auc_interval": [0.5, 0.7], "auc_bow": 0.8, "flags": ["only 5 positives"], "drift": 0.2},
}
READOUT = {"concepts": ["joy", "worry"], "layers": [1], "median_auc": 0.755, "quality": QUALITY, "drifted": ["worry"]}


def test_a_build_tells_its_readouts_in_a_table() -> None:
    assert short(READOUT).splitlines() == [
        "readout  AUC        95 %  words  drift",
        "joy      0.91  0.85-0.96   0.70  -0.02",
        "worry    0.60  0.50-0.70   0.80  -0.20  only 5 positives",
        "held-out AUC, median 0.76; words: of a bag of words; drift: in the persona",
        "drifted beyond the bound: worry",
    ]
    assert short({"concepts": [], "layers": []}) == ""
    assert short({"concepts": ["joy"], "layers": [1]}) == "", "a build from before readouts were measured"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report(tmp_path_factory.mktemp("quality"))


def test_a_report_in_full(found: dict[str, Any]) -> None:
    text = full(found)
    lines = text.splitlines()
    assert lines[0].startswith("90 texts, read as mean, ")
    joy = next(line.split() for line in lines if line.startswith("joy"))
    assert joy[2] == f"{found['concepts']['joy']['auc']:.2f}"
    assert any(line.startswith("logistic_l1 ") for line in lines)
    assert "  calm: not surely above" in text
    assert "warning: told before" in text


@pytest.mark.parametrize("form", ["svg", "png"])
def test_heat_maps_are_pictures_and_the_same_again(found: dict[str, Any], tmp_path: Path, form: str) -> None:
    pytest.importorskip("matplotlib")
    head = {"svg": b"<?xml", "png": b"\x89PNG"}[form]
    one, two = (heat_maps(found, tmp_path / name, form) for name in ("a", "b"))
    assert [path.name for path in one] == [f"{name}.{form}" for name in ("cosine", "confusion", "estimators")]
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes().startswith(head)
        assert a.read_bytes() == b.read_bytes()


def test_without_matplotlib_the_extra_is_named(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match="plots"):
        heat_maps(found, tmp_path)


def test_the_command_tells_the_last_build(built: Space, tmp_path: Path) -> None:
    assert "held out, median" in built.run("quality").out
    assert list(json.loads(built.run("quality", "steer.joy", "--json").out)["concepts"]) == ["joy"]
    assert "held-out AUC, median" in built.run("show").out
    wrong = built.run("quality", "steer.jo")
    assert wrong.code == 2
    assert "did you mean 'steer.joy'" in wrong.err
    pytest.importorskip("matplotlib")
    assert built.run("quality", "--plots", str(tmp_path / "maps")).code == 0
    assert (tmp_path / "maps" / "cosine.svg").is_file()
