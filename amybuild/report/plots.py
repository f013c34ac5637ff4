"""Heat maps of a quality report as pictures; needs matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amybuild.errors import InputError

FORMATS = ("svg", "png")


def heat_maps(report: Mapping[str, Any], folder: Path, form: str = "svg") -> list[Path]:
    """Write cosine, confusion and estimators as `<name>.<form>` into `folder`; the files written."""
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "matplotlib is not installed", where="--plots", remedy="pip install 'amybuild[plots]'"
        ) from None
    rcParams["svg.hashsalt"] = "amybuild"  # else every picture has other ids
    names = list(report["order"])
    labels = list(report["estimators"])
    compared = [[report["estimators"][label][name] for name in names] for label in labels]
    maps: dict[str, tuple[str, Sequence[Sequence[float]], Sequence[str], float, float]] = {
        "cosine": ("cosine of the directions", report["cosine"], names, -1.0, 1.0),
        "confusion": ("AUC of each readout (column) on each label (row)", report["confusion"], names, 0.0, 1.0),
        "estimators": ("held-out AUC by estimator", compared, labels, 0.0, 1.0),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (title, values, rows, low, high) in maps.items():
        figure = Figure(figsize=(2.5 + 0.5 * len(names), 1.8 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(values, cmap="RdBu_r", vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                strong = abs(value - (low + high) / 2) > 0.35 * (high - low)
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", size=7, color="white" if strong else "black")
        axes.set_title(title, size=10)
        figure.colorbar(image)
        written.append(folder / f"{name}.{form}")
        figure.savefig(written[-1], metadata={"Date": None} if form == "svg" else None)
    return written
