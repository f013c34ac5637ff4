"""Rule `vectors`: labelled activations become unit directions per concept and block, and the readout manifest."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from amybuild.actions.context import ActionContext
from amybuild.actions.labelled import Settings, one_thread, read_labelled, settings, threshold
from amybuild.errors import ActionError

if TYPE_CHECKING:
    from amybuild.readout.choose import Choice, Data
    from amybuild.readout.table import Rows


def run(ctx: ActionContext) -> None:
    """inputs: labels, activations. params: estimator, layers, n_layers, false_positive_rate, concepts (default: all).

    Writes readout.json and readout.safetensors, float32, per block: `layer_<idx>.vectors` [n_concepts, hidden], the
    directions to read with (unit norm, positive = the concept is there); `.mean`, `.std`, `.threshold` [n_concepts],
    of the texts' projections on them; `.steer` [n_concepts, hidden], the directions to steer with (unit norm: the
    difference of the means, since what separates best moves little); `.gap` [n_concepts], the distance of the two
    means along `.steer`. A threshold is passed by `false_positive_rate` of the negatives when they are held out.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from amybuild.readout.choose import choose

    how = settings(ctx.params)
    with one_thread():
        data, about = read_labelled(
            ctx.inputs["labels"], ctx.inputs["activations"], ctx.params.get("concepts"), how.layers
        )
        ctx.progress(0, 2)
        choice = choose(data, how.tried, how.layers, how.count)
        ctx.progress(1, 2)
        tensors: dict[str, Any] = {}
        for layer in choice.layers:
            for name, value in directions(data, choice, layer, how.rate).items():
                tensors[f"layer_{layer}.{name}"] = np.ascontiguousarray(value, dtype=np.float32)
    save_file(tensors, ctx.out / "readout.safetensors")
    bound = {"vectors_sha256": hashlib.sha256((ctx.out / "readout.safetensors").read_bytes()).hexdigest()}
    text = json.dumps(manifest(data, about, choice, how) | bound, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (ctx.out / "readout.json").write_text(text, encoding="utf-8")
    ctx.progress(2, 2)


def directions(data: Data, choice: Choice, layer: int, rate: float) -> dict[str, Rows]:
    """The tensors of one block, by the last part of their names."""
    import numpy as np

    from amybuild.readout.estimators import Candidate, Side
    from amybuild.readout.split import held_out, spreads, units

    rows, marks, plain = data.rows[layer], data.marks, data.nuisance[layer]
    side = Side(rows, marks, plain)
    vectors = units(choice.candidate.directions(side))
    steer = units(Candidate("mean").directions(side))
    for concept, one in zip(data.concepts, vectors * np.linalg.norm(steer, axis=1, keepdims=True), strict=True):
        if not np.isfinite(one).all() or not one.any():
            raise ActionError(
                f"its positives and negatives are alike in block {layer}",
                where=f"concept '{concept}'",
                remedy="it needs texts that differ from the rest",
            )
    (scores,) = held_out(rows, marks, plain, data.folds("inner"), [choice.candidate])
    mean, std = spreads(vectors, rows)
    bars = [threshold(scores[marks[:, c] < 0, c], rate) for c in range(len(vectors))]
    return {
        "vectors": vectors,
        "mean": mean,
        "std": std,
        "threshold": mean + std * np.array(bars),
        "steer": steer,
        "gap": (side.differences * steer).sum(1),
    }


def manifest(data: Data, about: dict[str, Any], choice: Choice, how: Settings) -> dict[str, Any]:
    """readout.json: the keys of the contract, then how the directions came about."""
    table = choice.table[choice.candidate]
    quality = {
        concept: {
            str(layer): {
                "auc_cv": round(float(table[layer][c]), 6),
                "n_pos": int((data.marks[:, c] > 0).sum()),
                "n_neg": int((data.marks[:, c] < 0).sum()),
            }
            for layer in choice.layers
        }
        for c, concept in enumerate(data.concepts)
    }
    return {
        "format_version": 1,
        "concepts": list(data.concepts),
        "layers": list(choice.layers),
        "hidden_size": about["hidden_size"],
        "dtype": "float32",
        "hook_point": "block_output",
        "layer_index_base": 0,
        "num_layers": data.depth,
        "reading": about["reading"],
        "estimator": choice.candidate.name,
        "shrinkage": choice.candidate.shrinkage,
        "best_layer": choice.best,
        "steer": "mean",
        "false_positive_rate": how.rate,
        "polarity": "positives_high",
        "norm": "unit",
        "texts": len(data.ids),
        "quality": quality,
        "auc_cv_by_layer": {str(layer): round(float(found.mean()), 6) for layer, found in table.items()},
        "auc_cv_by_estimator": {
            one.label: round(max(float(found.mean()) for found in rows.values()), 6)
            for one, rows in choice.table.items()
        },
    }
