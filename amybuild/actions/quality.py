"""Rule `quality`: what each readout is worth on texts that had no part in it, beside what words and chance give."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amybuild.actions.context import ActionContext
from amybuild.actions.labelled import Settings, chosen, one_thread, read_labelled, settings, threshold
from amybuild.errors import ActionError

if TYPE_CHECKING:
    from amybuild.readout.choose import Data
    from amybuild.readout.nested import Nested
    from amybuild.readout.table import Rows

FEW = 8  # positives
LOUD = 0.5  # of a direction's squared length in one dimension
COLLAPSED = 0.9  # mean |cosine| of different concepts
REDUNDANT = 0.9  # R squared
OUTLIERS = 3


def run(ctx: ActionContext) -> None:
    """inputs: vectors, labels, activations, texts. params: as of `vectors`. Writes quality.json, without any text.

    The AUC of a concept is that of the whole procedure: per outer fold estimator and block are chosen and directions
    found on the other folds, then the fold is read. Texts of one setting are never in two folds. Its 95 % interval is a
    bootstrap over texts. Beside it stand, over the same folds, a bag of words, the texts' length, and shuffled labels.
    A concept is flagged unless its interval lies above 95 % of the shuffles, and that of what it gains on the words,
    over the same resamples, above nothing.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from amybuild.readout.account import cosines
    from amybuild.readout.nested import bag_of_words, nested, shuffled

    how = settings(ctx.params)
    manifest = json.loads((ctx.inputs["vectors"] / "readout.json").read_text(encoding="utf-8"))
    tensors = load_file(ctx.inputs["vectors"] / "readout.safetensors")
    lines = (ctx.inputs["texts"] / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {line["id"]: line for line in map(json.loads, filter(str.strip, lines))}
    kept, best = [int(layer) for layer in manifest["layers"]], int(manifest["best_layer"])
    with one_thread():
        data, _ = read_labelled(ctx.inputs["labels"], ctx.inputs["activations"], manifest["concepts"], how.layers)
        if not set(data.ids) <= texts.keys():
            raise ActionError("the texts and the activations do not belong together", remedy="build both again")

        def bar(negatives: Rows) -> float:
            return threshold(negatives, how.rate)

        def step(done: int, total: int) -> None:
            ctx.progress(done, total + 1)

        found = nested(data, how.tried, how.layers, how.count, kept, bar, step)
        words = [texts[name]["text"] for name in data.ids]
        baselines = {
            "bow": bag_of_words(words, data),
            "length": _length(words, data),
            "shuffled": shuffled(data, chosen(manifest), best, seed=0),
        }
        vectors = tensors[f"layer_{best}.vectors"].astype(np.float64)
        concepts = {
            concept: _concept(c, data, found, baselines)
            | _geometry(c, data, vectors, found.scores, best)
            | {"largest_dimension": float(np.square(tensors[f"layer_{best}.steer"][c]).max())}
            | {"outliers": _outliers(c, data, found.scores, texts)}
            for c, concept in enumerate(data.concepts)
        }
        for concept in concepts.values():
            concept["flags"] = flags(concept)
        report = {
            "format_version": 1,
            **{key: manifest[key] for key in ("layers", "best_layer", "estimator", "shrinkage", "reading", "texts")},
            "false_positive_rate": how.rate,
            "concepts": concepts,
            "median_auc": float(np.median([one["auc"] for one in concepts.values()])),
            "held_out_together": _together(data),
            "flagged": [name for name, one in concepts.items() if one["flags"]],
            "folds": [
                {"estimator": one.candidate.label, "layers": list(one.layers), "best_layer": one.best}
                for one in found.choices
            ],
            "order": list(data.concepts),  # of the rows and columns of the matrices
            "cosine": cosines(vectors).tolist(),
            **_whole(data, found, how, kept),
        }
        report["warnings"] = _warnings(report, ctx.inputs["labels"] / "card.json")
    text = json.dumps(_rounded(report), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    (ctx.out / "quality.json").write_text(text, encoding="utf-8")
    ctx.progress(1, 1)


def _length(words: Sequence[str], data: Data) -> Any:
    """How well the number of characters alone tells each concept, whichever way round; [concepts]."""
    import numpy as np

    from amybuild.readout.split import aucs

    lengths = np.array([[float(len(text))] * len(data.concepts) for text in words])
    found = aucs(lengths, data.marks)
    return np.maximum(found, 1.0 - found)


def _concept(c: int, data: Data, found: Nested, baselines: Mapping[str, Any]) -> dict[str, Any]:
    """The held-out numbers of one concept. Seeds are fixed: the same texts have the same interval in any build."""
    import numpy as np

    from amybuild.readout.split import auc, interval, resampled

    marks = data.marks[:, c]
    both = np.column_stack([found.scores[:, c], baselines["bow"][:, c]])
    known = ~np.isnan(both).any(1)
    good, bad = both[known & (marks > 0)], both[known & (marks < 0)]
    drawn = resampled(good, bad, seed=c)
    own = {name for name, mark in zip(data.groups, marks, strict=True) if mark > 0}
    passed = found.passed[:, c]
    layers = {}
    for layer, by_layer in found.by_layer.items():
        column = by_layer[:, c]
        there = ~np.isnan(column)
        layers[str(layer)] = {"auc": auc(column[there & (marks > 0)], column[there & (marks < 0)])}
    return {
        "n_pos": int((marks > 0).sum()),
        "n_neg": int((marks < 0).sum()),
        "settings": None if own <= set(data.ids) else len(own),
        "auc": auc(good[:, 0], bad[:, 0]),
        "auc_interval": interval(drawn[:, 0], (0.0, 1.0)),
        "auc_bow": auc(good[:, 1], bad[:, 1]),
        "auc_over_bow": interval(drawn[:, 0] - drawn[:, 1], (-1.0, 1.0)),
        "auc_length": baselines["length"][c],
        "auc_shuffled": baselines["shuffled"][:, c].mean(),
        "auc_shuffled_95": np.quantile(baselines["shuffled"][:, c], 0.95),
        "recall": passed[known & (marks > 0)].mean() if len(good) else None,
        "false_positives": passed[known & (marks < 0)].mean() if len(bad) else None,
        "layers": layers,
    }


def _geometry(c: int, data: Data, vectors: Rows, scores: Rows, best: int) -> dict[str, Any]:
    """What the direction of one concept is like at the best block."""
    import numpy as np

    from amybuild.readout.account import agreement, beside, cosines, redundancy

    near = cosines(vectors)[c]
    others = [int(i) for i in np.argsort(-near) if i != c]
    mean, first = agreement(data.rows[best], data.marks[:, [c]])
    found: dict[str, Any] = {
        "nearest_concepts": [[data.concepts[i], near[i]] for i in others[:3]],
        "redundancy": redundancy(vectors)[c],
        "agreement": mean[0],
        "first_pc_variance_ratio": first[0],
        "beside_nearest": None,
    }
    if others:
        measured = beside(scores, data.marks, c, others[0])
        if measured is not None:
            value, good, bad = measured
            found["beside_nearest"] = {"concept": data.concepts[others[0]], "auc": value, "n_pos": good, "n_neg": bad}
    return found


def _outliers(c: int, data: Data, scores: Rows, texts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The positives that read lowest: mislabelled, or what the direction does not know."""
    places = [i for i in range(len(data.ids)) if data.marks[i, c] > 0 and scores[i, c] == scores[i, c]]
    places.sort(key=lambda i: (scores[i, c], data.ids[i]))
    return [{"node": texts[data.ids[i]].get("node"), "score": scores[i, c]} for i in places[:OUTLIERS]]


def _whole(data: Data, found: Nested, how: Settings, kept: Sequence[int]) -> dict[str, Any]:
    """What concerns all concepts: the confusion, the estimators compared at the blocks kept, over the outer folds."""
    from amybuild.readout.account import confusion
    from amybuild.readout.estimators import ESTIMATORS, candidates
    from amybuild.readout.split import aucs, held_out

    fold = data.folds()
    rows = [one for name in ESTIMATORS for one in candidates(name)]
    best: dict[str, dict[str, float]] = {}
    for layer in kept:
        scores = held_out(data.rows[layer], data.marks, data.nuisance[layer], fold, rows)
        for one, values in zip(rows, scores, strict=True):
            measured = dict(zip(data.concepts, aucs(values, data.marks).tolist(), strict=True))
            before = best.setdefault(one.label, measured)
            best[one.label] = {concept: max(value, before[concept]) for concept, value in measured.items()}
    return {
        "confusion": confusion(found.scores, data.marks).tolist(),
        "estimators": best,
        "tried": [one.label for one in how.tried],
    }


def flags(concept: Mapping[str, Any]) -> list[str]:
    """Why the numbers of a concept should not be relied on; empty: they stand."""
    found = []
    if concept["n_pos"] < FEW:
        found.append(f"only {concept['n_pos']} positives")
    if concept["settings"] == 1:
        found.append("all positives are of one setting")
    if concept["auc_over_bow"][0] <= 0:
        found.append("not surely above a bag of words")
    if concept["auc_interval"][0] <= concept["auc_shuffled_95"]:
        found.append("not surely above shuffled labels")
    if concept["auc"] < 0.5:
        found.append("its sign turns on held-out texts")
    if concept["auc_length"] >= concept["auc"]:
        found.append("the length of a text says as much")
    if concept["largest_dimension"] > LOUD:
        found.append("one dimension is most of its direction: a first token or a pad may be in it")
    if concept["redundancy"] > REDUNDANT:
        found.append("the other concepts say it all")
    return found


def _together(data: Data) -> dict[str, int] | None:
    """How many groups the texts are held out in, and the texts of the largest; None where no setting is known."""
    count = Counter(data.groups)
    return {"groups": len(count), "largest": max(count.values())} if count.keys() - set(data.ids) else None


def _warnings(report: Mapping[str, Any], card: Any) -> list[str]:
    """Those of the labels, and what is wrong with all directions together."""
    told = json.loads(card.read_text(encoding="utf-8")).get("warnings", []) if card.is_file() else []
    count = len(report["cosine"])
    apart = [abs(report["cosine"][i][j]) for i in range(count) for j in range(i)]
    if apart and sum(apart) / len(apart) > COLLAPSED:
        told = [*told, "the directions of all concepts are nearly one: do all texts end alike?"]
    return list(told)


def _rounded(value: Any) -> Any:
    """JSON values with six digits; NaN is null."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    return None if value != value else round(float(value), 6)
