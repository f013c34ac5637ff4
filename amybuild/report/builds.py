"""One build, the log of builds, and the difference of two, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amybuild.plan.change import Cause, Difference, some
from amybuild.report.link import interference
from amybuild.report.measured import alone, crossed
from amybuild.report.readout import short
from amybuild.report.text import behaviours, table
from amybuild.report.why import Texts, cause_lines

_SOURCES = ("checkpoint", "adapter", "node", "query")
_UNNAMED = ("examples", "chat")


def show(info: Mapping[str, Any], layers: bool = False) -> str:
    """A build's parts, interference and measured behaviours, from its persona.json; `layers`: interference by block."""
    base, link = info["base"], info.get("link", {})
    out = [
        f"{info['name']}  build {info['build'][:12]}  (amybuild {info['amybuild']})",
        f"base   {base['name']}: {base['source']}  {base['digest'][:12]}",
        f"graph  {info['graph']['nodes']} nodes  {info['graph']['digest'][:12]}",
        f"link   {link.get('method')}  density {link.get('density')}  lambda {link.get('lambda')}"
        + (f"  on {link['device']}" if link.get("device") else ""),
    ]
    rows = []
    for target in info["targets"]:
        told = [str(target[key]) for key in _SOURCES if target.get(key)]
        source = next(iter([*told, *(key for key in _UNNAMED if target.get(key))]), "analogy")
        rows.append([target["name"], f"{target['alpha']:g}", target.get("recipe", "-"), source, target["vector"][:12]])
    if rows:
        out += ["", table(rows, ["task", "alpha", "recipe", "from", "vector"])]
    text = corpora(info["targets"])
    out += ["", text] if text else []
    told = [f"  {target['name']}: {target['watch']['told']}" for target in info["targets"] if target.get("watch")]
    out += ["", "drift watch (nats per token at strength 1)", *told] if told else []
    text = interference(link, layers)
    out += ["", text] if text else []
    adapter = info.get("adapter")
    if adapter:
        missed = f"misses {adapter['residual']:.1%} of it, leaves out {adapter['left_out_share']:.1%}"
        out += ["", f"adapter  rank {adapter['rank']}  {missed} (norms)"]
        out += _beside(adapter.get("measured") or {}, info.get("verification", {}))
    readout = info["readout"]
    if readout["concepts"]:
        out += ["", f"readout  {', '.join(readout['concepts'])}  at blocks {', '.join(map(str, readout['layers']))}"]
    text = directions([("readout", readout), *((f"steer.{s['name']}", s) for s in info.get("steering", ()))])
    out += ["", text] if text else []
    text = short(readout)
    out += ["", text] if text else []
    verification = info.get("verification", {})
    for text in (alone(info["targets"]), crossed(verification), behaviours(verification)):
        out += ["", text] if text else []
    return "\n".join(out)


def _beside(adapter: Mapping[str, Any], persona: Mapping[str, Any]) -> list[str]:
    """What base + adapter gains beside what the checkpoint does; of a build that measured it."""
    whole = persona.get("behaviours", {})
    rows = [
        [f"  {name}", f"{row['gain']:+.3f}", f"{whole[name]['gain']:+.3f}"]
        for name, row in adapter.get("behaviours", {}).items()
        if name in whole
    ]
    if not rows:
        return []
    text = table(rows, ["  behaviour", "gain of the adapter", "of the checkpoint"])
    return [text, f"  neutral KL to the base {adapter['neutral_kl']:.4f} and {persona['neutral_kl']:.4f}"]


def corpora(targets: Sequence[Mapping[str, Any]]) -> str:
    """The cards of the tasks' corpora as a table, and their warnings; of a build that tells them."""
    rows, warned = [], []
    for target in targets:
        card = target.get("corpus")
        if not card:
            continue
        characters, tokens = card.get("characters") or {}, card.get("tokens") or {}
        reply = (characters.get("continuation") or {}).get("median")
        cells = [card.get("train"), card.get("heldout"), card.get("heldout_pairs"), card.get("counter"), reply]
        out = card.get("near", 0) + card.get("duplicates", 0)
        rows.append([target["name"], *(f"{n:g}" if n is not None else "-" for n in (*cells, tokens.get("reply"), out))])
        warned += [f"  {target['name']}: {one}" for one in card.get("warnings", ())]
    if not rows:
        return ""
    head = ["corpus", "trained", "held out", "pairs", "counter", "characters", "tokens", "left out"]
    return "\n".join([table(rows, head), "characters: of a median reply; tokens: of all replies trained on", *warned])


def directions(targets: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """How many texts each direction was found from, and what is to be known of them; of a build that tells it."""
    rows, warned = [], []
    for name, target in targets:
        card = target.get("texts") or {}
        for concept, row in card.get("per_concept", {}).items():
            numbers = [row.get("positives"), row.get("negatives"), row.get("settings")]
            rows.append([name, concept, *("-" if n is None else f"{n}" for n in numbers)])
        warned += [f"  {name}: {one}" for one in card.get("warnings", ())]
    return "\n".join([table(rows, ["texts", "concept", "with it", "without", "settings"]), *warned]) if rows else ""


def words(found: Difference, most: int = 3) -> str:
    """What differs between two builds in a few words: ``task.voice alpha 0.4 -> 0.3; node pattern-voice edited``."""
    told = [cause.text for cause in found.causes()]
    told += [f"new {_targets(found.only_b)}"] if found.only_b else []
    told += [f"{_targets(found.only_a)} gone"] if found.only_a else []
    if not told and found.untold:
        told = [f"{some(list(found.untold), 3)} (its account is no longer in the cache)"]
    if not told:
        told = ["the same build" if found.nothing else "the same inputs, another result"]
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more" if len(told) > most else "")


def _targets(actions: tuple[str, ...]) -> str:
    return some(list(dict.fromkeys(id.rpartition("/")[0] for id in actions)), 3)


def log_lines(rows: Sequence[Mapping[str, Any]], left: int) -> str:
    """The log as a table: build, time, how it came about, its names, what changed against the one before."""
    cells = [
        [
            row["build"][:12],
            row["time"][:16].replace("T", " "),
            " ".join(filter(None, [row["how"] if row["how"] != "build" else "", row["variant"]])),
            ", ".join(row["names"]),
            row["changed"],
        ]
        for row in rows
    ]
    kept = [i for i in range(5) if any(line[i] for line in cells)]  # no column that has nothing in it
    widths = {i: max(len(line[i]) for line in cells) for i in kept} if cells else {}
    out = ["  ".join(f"{line[i]:<{widths[i]}}" for i in kept).rstrip() for line in cells]
    return "\n".join([*out, f"and {left} more (-n 0 shows all)"] if left else out)


def difference(
    found: Difference, a: Mapping[str, Any], b: Mapping[str, Any], texts: Texts, *, stat: bool, show_all: bool
) -> str:
    """Two builds compared: causes with old and new text, what only one has, and measured behaviours side by side.

    `a` and `b` are their persona.json.
    """
    out = [f"{found.a[:12]} -> {found.b[:12]}"]
    if found.nothing:
        return "\n".join([*out, "the same build"])
    causes = found.causes()
    if not causes:
        causes = [Cause("the same inputs, another result", tuple(found.changes))] if found.changes else []
    out += ["", *cause_lines(causes, texts, show_all, stat=stat)]
    for hash, only in ((found.a, found.only_a), (found.b, found.only_b)):
        if only:
            out += [f"only in {hash[:12]}: {some(list(only), len(only) if show_all else 6)}", ""]
    if found.untold:
        out += [f"{some(list(found.untold), 6)}: the account of one of the two is no longer in the cache", ""]
    if found.same_output:
        out += [f"the same result all the same: {some(sorted(found.same_output), 6)}", ""]
    out.append(side_by_side(a.get("verification", {}), b.get("verification", {}), found.a[:8], found.b[:8]))
    return "\n".join(line.rstrip() for line in out).rstrip("\n")


def side_by_side(a: Mapping[str, Any], b: Mapping[str, Any], one: str, two: str) -> str:
    """Each behaviour's margin in the persona, and the neutral KL, of two builds beside each other."""
    before, after = ({k: v.get("persona") for k, v in m.get("behaviours", {}).items()} for m in (a, b))
    rows = [[name, *_pair(before.get(name), after.get(name), "+.3f")] for name in {**before, **after}]
    for name, key in (("neutral KL", "neutral_kl"), ("neutral perplexity, over the base's", "ppl_ratio")):
        if key in a or key in b:
            rows.append([name, *_pair(a.get(key), b.get(key), ".4f")])
    return table(rows, ["in the persona", one, two, "difference"]) if rows else ""


def _pair(old: float | None, new: float | None, form: str) -> list[str]:
    numbers = ["-" if n is None else format(n, form) for n in (old, new)]
    return [*numbers, "-" if old is None or new is None else format(new - old, f"+{form.lstrip('+')}")]


def difference_json(found: Difference, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """``diff --json``: digests, no text of any node."""
    actions: dict[str, Any] = {
        id: {
            "same_output": id in found.same_output,
            "changes": [{"kind": c.kind, "name": c.name, "old": c.old, "new": c.new} for c in changes],
        }
        for id, changes in [*found.changes.items(), *((id, ()) for id in found.untold)]
    }
    for hash, only in ((found.a, found.only_a), (found.b, found.only_b)):
        actions |= {id: {"only_in": hash[:12]} for id in only}
    measured = {found.a: a.get("verification", {}), found.b: b.get("verification", {})}
    return {"a": found.a, "b": found.b, "actions": dict(sorted(actions.items())), "verification": measured}
