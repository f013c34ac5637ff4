"""Readouts in words: what each direction is worth, in short from persona.json and in full from quality.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amybuild.report.text import table


def short(readout: Mapping[str, Any]) -> str:
    """What persona.json says of the readout: held-out AUC, its interval, the words' AUC, the drift, the flags."""
    rows, head = [], ["readout", "AUC", "95 %", "words", "drift", ""]
    for name in readout.get("concepts", []):
        one = readout.get("quality", {}).get(name)
        if one is None:
            return ""
        drift = one.get("drift")
        rows.append(
            [
                *(name, f"{one['auc']:.2f}", _interval(one), f"{one['auc_bow']:.2f}"),
                *("-" if drift is None else f"{-drift:+.2f}", "; ".join(one["flags"])),
            ]
        )
    if not rows:
        return ""
    lines = [table(rows, head)]
    lines.append(f"held-out AUC, median {readout['median_auc']:.2f}; words: of a bag of words; drift: in the persona")
    if readout.get("drifted"):
        lines.append(f"drifted beyond the bound: {', '.join(readout['drifted'])}")
    return "\n".join(lines)


def full(report: Mapping[str, Any]) -> str:
    """quality.json as tables: what each concept is worth, what it leans on, which estimator reads it best."""
    concepts = report["concepts"]
    names = [name for name in report["order"] if name in concepts]
    out = [
        f"{report['texts']} texts, read as {report['reading']}, {report['estimator']}"
        + (f" (shrinkage {report['shrinkage']:g})" if report["shrinkage"] else "")
        + f", blocks {', '.join(map(str, report['layers']))}, best {report['best_layer']}"
    ]
    rows = [
        [
            *(name, f"{one['n_pos']}", f"{one['auc']:.2f}", _interval(one), f"{one['auc_bow']:.2f}"),
            *(f"{one['auc_length']:.2f}", f"{one['auc_shuffled']:.2f}", f"{one['auc_shuffled_95']:.2f}"),
            *(_number(one["recall"]), _number(one["false_positives"])),
        ]
        for name, one in ((name, concepts[name]) for name in names)
    ]
    head = ["concept", "texts", "AUC", "95 %", "words", "length", "shuffled", "at most", "found", "false"]
    out += ["", table(rows, head)]
    out.append(
        f"AUC: nested, held out, median {report['median_auc']:.2f}; at most: 95 % of the shuffles; "
        f"found, false: share above the threshold, set for {report['false_positive_rate']:.0%} false"
    )
    rows = []
    for name in names:
        one = concepts[name]
        near = one["nearest_concepts"][0] if one["nearest_concepts"] else ["-", 0.0]
        beside = one["beside_nearest"]
        rows.append(
            [
                *(name, str(near[0]), f"{near[1]:+.2f}", _number(beside["auc"] if beside else None)),
                *(f"{one['redundancy']:.2f}", _number(one["agreement"]), _number(one["first_pc_variance_ratio"])),
                ", ".join(str(text["node"]) for text in one["outliers"][:2]),
            ]
        )
    head = ["concept", "nearest", "cosine", "AUC beside it", "redundancy", "agreement", "first part", "reads lowest"]
    out += ["", table(rows, head)]
    rows = [[label, *(f"{values[name]:.2f}" for name in names)] for label, values in report["estimators"].items()]
    out += ["", table(rows, ["estimator", *names]), "held-out AUC at the best of the blocks kept"]
    flagged = [f"  {name}: {'; '.join(concepts[name]['flags'])}" for name in names if concepts[name]["flags"]]
    out += ["", "not to be relied on:", *flagged] if flagged else []
    out += ["", *(f"warning: {one}" for one in report["warnings"])] if report["warnings"] else []
    return "\n".join(out)


def _interval(one: Mapping[str, Any]) -> str:
    low, high = one["auc_interval"]
    return f"{low:.2f}-{high:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
