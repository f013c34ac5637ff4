"""What a readout is worth: nested held-out scores, where choosing and fitting never see the text that measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from amybuild.readout.choose import Choice, Data, choose
from amybuild.readout.estimators import Candidate, Side
from amybuild.readout.split import aucs, held_out, read, units
from amybuild.readout.table import Rows

SHUFFLES = 40


@dataclass(frozen=True)
class Nested:
    """Held-out scores in standard deviations, [n, concepts]: of the whole procedure, and by block for the blocks kept.

    `choices` are what the training side of each fold chose; `passed` [n, concepts] says whether a text passed the
    threshold of its fold's training side.
    """

    scores: Rows
    by_layer: dict[int, Rows]
    passed: Rows
    choices: tuple[Choice, ...]


def nested(
    data: Data,
    tried: Sequence[Candidate],
    layers: Sequence[int] | None,
    count: int,
    kept: Sequence[int],
    bar: Callable[[Rows], float],
    step: Callable[[int, int], None],
) -> Nested:
    """Per outer fold: estimator and block are chosen on the other folds, directions are found there, the fold is read.

    `kept`: blocks to score in any case (with the fold's own estimator). `bar` makes a threshold of held-out scores of
    negatives. `step` is told the folds done and all.
    """
    fold = data.folds()
    scores, passed = np.full(data.marks.shape, np.nan), np.full(data.marks.shape, np.nan)
    by_layer = {layer: scores.copy() for layer in kept}
    choices = []
    every = np.unique(fold)
    for done, k in enumerate(every):
        step(done, len(every))
        here = fold == k
        part = data.part(~here)
        choice = choose(part, tried, layers, count)
        choices.append(choice)
        for layer in {*kept, choice.best}:
            side = Side(part.rows[layer], part.marks, part.nuisance[layer])
            found = read(units(choice.candidate.directions(side)), side.rows, data.rows[layer][here])
            if layer in by_layer:
                by_layer[layer][here] = found
            if layer == choice.best:
                scores[here] = found
                (known,) = held_out(side.rows, part.marks, side.nuisance, part.folds("inner"), [choice.candidate])
                bars = np.array([bar(known[part.marks[:, c] < 0, c]) for c in range(known.shape[1])])
                passed[here] = np.where(np.isnan(found), np.nan, found > bars)
    return Nested(scores, by_layer, passed, tuple(choices))


def shuffled(data: Data, candidate: Candidate, layer: int, seed: int) -> Rows:
    """AUCs [SHUFFLES, concepts] when the texts' label rows are dealt anew: what chance gives with as many texts."""
    rng = np.random.default_rng(seed)
    rows, plain, found = data.rows[layer], data.nuisance[layer], []
    for _ in range(SHUFFLES):
        marks = data.marks[rng.permutation(len(data.ids))]
        (scores,) = held_out(rows, marks, plain, replace(data, marks=marks).folds(), [candidate])
        found.append(aucs(scores, marks))
    return np.array(found)


def bag_of_words(texts: Sequence[str], data: Data) -> Rows:
    """Scores [n, concepts] of a logistic regression on words (TF-IDF), held out by the same folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    fold = data.folds()
    scores = np.full(data.marks.shape, np.nan)
    for k in np.unique(fold):
        known, here = np.flatnonzero(fold != k).tolist(), np.flatnonzero(fold == k).tolist()
        words = TfidfVectorizer(sublinear_tf=True)
        train, test = words.fit_transform([texts[i] for i in known]), words.transform([texts[i] for i in here])
        for c in range(data.marks.shape[1]):
            y = data.marks[known, c]
            if (y > 0).any() and (y < 0).any():
                model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
                scores[here, c] = model.fit(train[y != 0], y[y != 0]).decision_function(test)
    return scores
