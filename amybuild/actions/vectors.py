"""Rule `vectors`: labelled activations become unit directions per concept and block, and the readout manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

MIN_POSITIVES = 3
MAX_FOLDS = 5
PRIOR = (0.4, 1.0)  # blocks "auto" looks at, as shares of the depth
PRIOR_CENTRE = 0.7  # breaks ties


@dataclass(frozen=True)
class Labelled:
    """The activations and, per concept, marks in the order of the rows: 1, -1, or 0 for unlabelled."""

    ids: tuple[str, ...]
    layers: tuple[int, ...]
    about: Mapping[str, Any]
    rows: Mapping[int, Rows]
    marks: Mapping[str, NDArray[np.int8]]


def difference_of_means(positives: Rows, negatives: Rows) -> Rows:
    """mean(positives) - mean(negatives): float64 [n, hidden] twice -> [hidden] (arXiv 2312.06681)."""
    difference: Rows = positives.mean(0) - negatives.mean(0)
    return difference


ESTIMATORS: Mapping[str, Callable[[Any, Any], Any]] = {"mean": difference_of_means}


def run(ctx: ActionContext) -> None:
    """inputs: labels, activations. params: concepts (default: those of the labels), layers, n_layers, estimator.

    Writes readout.safetensors (`layer_<idx>.vectors` float32 [n_concepts, hidden], unit norm, positive = the concept is
    there; `.mean`, `.std` float32 [n_concepts]: the projections of all texts) and readout.json. layers "auto": the
    `n_layers` blocks with the best mean cross-validated AUC within the prior window of 40-100 % depth.
    """
    import numpy as np
    from safetensors.numpy import save_file

    params = ctx.params
    name = params.get("estimator", "mean")
    if name not in ESTIMATORS:
        raise InputError(f"unknown estimator {name!r}", where="estimator", remedy=f"one of {', '.join(ESTIMATORS)}")
    data = read_labelled(ctx.inputs["labels"], ctx.inputs["activations"], params.get("concepts"))
    for concept, marks in data.marks.items():
        _enough(concept, marks)
    quality = measure(data, ESTIMATORS[name], ctx)
    means = {layer: float(np.mean([quality[c][layer] for c in data.marks])) for layer in data.layers}
    layers = choose_layers(params.get("layers", "auto"), params.get("n_layers", 3), means, data.about["num_layers"])

    tensors: dict[str, Any] = {}
    for layer in layers:
        x = data.rows[layer]
        vectors = np.stack([_unit(ESTIMATORS[name](x[m > 0], x[m < 0]), c, layer) for c, m in data.marks.items()])
        projections = x @ vectors.T
        tensors[f"layer_{layer}.vectors"] = vectors.astype(np.float32)
        tensors[f"layer_{layer}.mean"] = projections.mean(0).astype(np.float32)
        tensors[f"layer_{layer}.std"] = projections.std(0).astype(np.float32)
    save_file(tensors, ctx.out / "readout.safetensors")
    manifest = {
        "format_version": 1,
        "concepts": list(data.marks),
        "layers": layers,
        "hidden_size": data.about["hidden_size"],
        "dtype": "float32",
        "hook_point": "block_output",
        "layer_index_base": 0,
        "num_layers": data.about["num_layers"],
        "reading": data.about["reading"],
        "estimator": name,
        "polarity": "positives_high",
        "norm": "unit",
        "texts": len(data.ids),
        "quality": {
            concept: {str(layer): _account(marks, quality[concept][layer]) for layer in layers}
            for concept, marks in data.marks.items()
        },
        "auc_cv_by_layer": {str(layer): round(value, 6) for layer, value in means.items()},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (ctx.out / "readout.json").write_text(text, encoding="utf-8")


def read_labelled(labels: Path, activations: Path, wanted: Any) -> Labelled:
    """Join labels.jsonl, its card.json and the activations; ActionError when they do not belong together."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        lines = [json.loads(x) for x in (labels / "labels.jsonl").read_text(encoding="utf-8").splitlines() if x.strip()]
        card = labels / "card.json"
        named = json.loads(card.read_text(encoding="utf-8")).get("concepts") if card.is_file() else None
        about = json.loads((activations / "ids.json").read_text(encoding="utf-8"))
        stored = load_file(activations / "activations.safetensors")
        ids = tuple(str(name) for name in about["ids"])
        layers = tuple(int(layer) for layer in about["layers"])
        rows = {layer: stored[f"layer_{layer}"].astype(np.float64) for layer in layers}
        found = {str(line["id"]): dict(line["labels"]) for line in lines}
        same = found.keys() <= set(ids) and all(len(x) == len(ids) for x in rows.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        same = False
    if not same:
        raise ActionError("the labels and the activations do not belong together", remedy="build both again")
    known = sorted({concept for marks in found.values() for concept in marks})
    concepts = [str(one) for one in wanted or named or known]
    marks = {c: np.array([int(found.get(name, {}).get(c, 0)) for name in ids], dtype=np.int8) for c in concepts}
    if not marks:
        raise ActionError("no concept is labelled", remedy="tag memories with emotions")
    return Labelled(ids, layers, about, rows, marks)


def measure(data: Labelled, estimator: Callable[[Any, Any], Any], ctx: ActionContext) -> dict[str, dict[int, float]]:
    """{concept: {layer: cross-validated AUC}}."""
    quality: dict[str, dict[int, float]] = {}
    for done, (concept, marks) in enumerate(data.marks.items()):
        ctx.progress(done, len(data.marks))
        fold = folds(data.ids, marks)
        quality[concept] = {layer: cross_validated_auc(x, marks, fold, estimator) for layer, x in data.rows.items()}
    ctx.progress(len(data.marks), len(data.marks))
    return quality


def folds(ids: Sequence[str], marks: NDArray[np.int8]) -> NDArray[np.int64]:
    """Which fold each labelled row is held out in (-1: none), by the order of its id's hash within its side.

    Every fold gets positives and negatives alike; there are as many as the smaller side has rows, five at most.
    """
    import numpy as np

    count = min(MAX_FOLDS, int((marks > 0).sum()), int((marks < 0).sum()))
    fold = np.full(len(ids), -1, dtype=np.int64)
    for side in (1, -1):
        places = [i for i in range(len(ids)) if marks[i] == side]
        places.sort(key=lambda i: hashlib.sha256(ids[i].encode()).digest())
        for order, i in enumerate(places):
            fold[i] = order % count
    return fold


def cross_validated_auc(
    x: Rows, marks: NDArray[np.int8], fold: NDArray[np.int64], estimator: Callable[[Any, Any], Any]
) -> float:
    """Area under the ROC curve of held-out projections, the mean over folds weighted by their pairs; 0.5 = chance.

    With a single negative there is nothing to hold out: 0.5.
    """
    if fold.max() < 1:
        return 0.5
    won = pairs = 0.0
    for k in range(int(fold.max()) + 1):
        train = (fold >= 0) & (fold != k)
        direction = estimator(x[train & (marks > 0)], x[train & (marks < 0)])
        held = fold == k
        good, bad = x[held & (marks > 0)] @ direction, x[held & (marks < 0)] @ direction
        won += auc(good, bad) * good.size * bad.size
        pairs += good.size * bad.size
    return won / pairs


def auc(good: Rows, bad: Rows) -> float:
    """The chance that one of `good` is above one of `bad`, ties counted half: float64 [n], [m] -> 0..1."""
    import numpy as np

    ordered = np.sort(bad)
    below = np.searchsorted(ordered, good, "left").sum() + np.searchsorted(ordered, good, "right").sum()
    return float(below) / (2.0 * good.size * bad.size)


def choose_layers(layers: Any, count: Any, means: Mapping[int, float], depth: int) -> list[int]:
    """The blocks to keep, ascending. "auto": the best `count` by mean AUC in the prior window, ties to the nearest 70 %
    depth. A list is taken as it is; InputError for a block without activations."""
    if layers != "auto":
        if not isinstance(layers, list) or not layers or not all(layer in means for layer in layers):
            raise InputError(f"{layers!r} are not among the blocks read", where="layers", remedy='use "auto"')
        return sorted(set(layers))
    if type(count) is not int or count < 1:
        raise InputError(f"{count!r} is not a number of 1 or more", where="n_layers", remedy="for example 3")
    share = {layer: (layer + 1) / depth for layer in means}
    window = [layer for layer in means if PRIOR[0] <= share[layer] <= PRIOR[1]] or list(means)
    window.sort(key=lambda layer: (-round(means[layer], 6), abs(share[layer] - PRIOR_CENTRE), layer))
    return sorted(window[:count])


def _enough(concept: str, marks: NDArray[np.int8]) -> None:
    good, bad = int((marks > 0).sum()), int((marks < 0).sum())
    if good < MIN_POSITIVES or bad < 1:
        raise ActionError(
            f"{good} positive and {bad} negative texts; at least {MIN_POSITIVES} and 1 are needed",
            where=f"concept '{concept}'",
            remedy="tag more memories with it, or choose another concept",
        )


def _unit(vector: Rows, concept: str, layer: int) -> Rows:
    import numpy as np

    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise ActionError(
            f"its positives and negatives are alike in block {layer}",
            where=f"concept '{concept}'",
            remedy="it needs texts that differ from the rest",
        )
    return vector / norm


def _account(marks: NDArray[np.int8], value: float) -> dict[str, Any]:
    return {"auc_cv": round(value, 6), "n_pos": int((marks > 0).sum()), "n_neg": int((marks < 0).sum())}
