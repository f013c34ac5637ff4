"""Rule `drift`: how well readouts found on one model read another, the persona made of it or its base."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from amybuild.actions.activations import read_answer, read_text
from amybuild.actions.context import ActionContext
from amybuild.actions.labelled import chosen, one_thread, read_labelled
from amybuild.digest import digest_value
from amybuild.errors import ActionError
from amybuild.model.data import write_json
from amybuild.model.load import deterministic, load_base
from amybuild.model.train import checked

if TYPE_CHECKING:
    from amybuild.readout.choose import Data
    from amybuild.readout.estimators import Candidate
    from amybuild.readout.table import Rows


def run(ctx: ActionContext) -> None:
    """inputs: other (the model to read), vectors, labels, activations, texts. params: max_drift, drift_texts, ….

    Directions are found on the activations of each fold's other texts, as the readout's were, and read the fold's
    texts in both models, so that no text is read by a direction that knew it. At most `drift_texts` texts are passed
    through the other model (0: all), chosen by hash. Writes drift.json: per concept both AUCs at the readout's best
    block, what is lost, and `drifted`, those that lose more than `max_drift`.
    """
    import numpy as np
    import torch

    params = ctx.params
    bound, most = checked(params, "max_drift", float, 0.05), checked(params, "drift_texts", int, 100)
    manifest = json.loads((ctx.inputs["vectors"] / "readout.json").read_text(encoding="utf-8"))
    best, reading = int(manifest["best_layer"]), str(manifest["reading"])
    text = (ctx.inputs["texts"] / "texts.jsonl").read_text(encoding="utf-8")
    lines = {line["id"]: line for line in map(json.loads, filter(str.strip, text.splitlines()))}
    data, about = read_labelled(ctx.inputs["labels"], ctx.inputs["activations"], manifest["concepts"], (best,))
    places = sample(data, most)
    rows = np.empty((len(places), data.rows[best].hidden))
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    with (
        deterministic(),
        torch.no_grad(),
        load_base(ctx.inputs["other"], dtype=dtype, device=device, keep=False) as model,
    ):
        if int(model.model.config.get_text_config(decoder=True).hidden_size) != rows.shape[1]:
            raise ActionError("the two models are of different sizes", where=ctx.action)
        for done, place in enumerate(places):
            ctx.progress(done, len(places))
            line = lines[data.ids[place]]
            answer = read_answer(line) if reading == "answer" else 0
            rows[done] = read_text(model, [best], line, reading, answer, int(about["max_tokens"]))[0].numpy()
    with one_thread():
        here, there = both(data, rows, best, chosen(manifest), places)
    concepts = {}
    for c, concept in enumerate(data.concepts):
        lost = float(here[c] - there[c])
        concepts[concept] = {"auc_own": float(here[c]), "auc_other": float(there[c]), "lost": lost}
    drifted = [concept for concept, one in concepts.items() if one["lost"] > bound]
    report = {"layer": best, "texts": len(places), "max_drift": bound, "concepts": concepts, "drifted": drifted}
    write_json(ctx.out / "drift.json", report)
    ctx.progress(1, 1)


def sample(data: Data, most: int) -> list[int]:
    """The places of at most `most` texts (0: all), by the order of a hash of their ids: the same on any build."""
    order = sorted(range(len(data.ids)), key=lambda i: digest_value("drift", data.ids[i]))
    return sorted(order[:most] if most else order)


def both(data: Data, other: Rows, layer: int, candidate: Candidate, places: list[int]) -> tuple[Rows, Rows]:
    """AUCs [concepts] over the texts at `places`, ascending, in the readout's own model and in the `other` (their rows
    [places, hidden]).

    What is read is the projection itself, in the units of the own model's texts: what a consumer sees.
    """
    import numpy as np

    from amybuild.readout.estimators import Side
    from amybuild.readout.split import aucs, read, units
    from amybuild.readout.table import Table

    rows, fold = data.rows[layer], data.folds()
    asked = np.zeros(len(rows), dtype=bool)
    asked[places] = True
    marks = data.marks[asked]
    scores = [np.full(marks.shape, np.nan) for _ in range(2)]
    for k in np.unique(fold[asked]):
        held = fold == k
        side = Side(rows[~held], data.marks[~held], data.nuisance[layer])
        directions = units(candidate.directions(side))
        for found, source in zip(scores, (rows[asked], Table.of(other)), strict=True):
            found[held[asked]] = read(directions, side.rows, source[held[asked]])
    return aucs(scores[0], marks), aucs(scores[1], marks)
