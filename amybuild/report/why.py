"""`--explain` for people: the answer, each cause with its old and new text, the chain of every stale target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from amybuild.plan.change import Cause, Change, readable, some, symbol, told_whole
from amybuild.plan.explain import ActionReason, Explanation, account, as_json
from amybuild.report.text import DIFF_LINES, about, duration, node_diff, text_diff

_CAUSES, _TARGETS, _NAMES, _DIFFS, _LINES = 6, 12, 4, 3, 60  # shown without --all
_EVERYTHING = 10**9


@dataclass(frozen=True)
class Texts:
    """Where the words behind digests are: of memory nodes (canonical bytes), and of functions."""

    node: Callable[[str], bytes | None]
    source: Callable[[str], str | None]


def explanation(
    result: Explanation, name: str, texts: Texts, *, show_all: bool = False, asked: Sequence[str] = ()
) -> str:
    """``--explain`` for people. `name` is of the persona; `asked` are the targets that were named: a fresh one of them
    is accounted for like all of them are with `show_all`, which lifts every limit on lists and diffs too."""
    causes = result.causes()
    stale = [t for t in result.targets if result.target_state(t) != "up-to-date"]
    fine = [t for t in result.targets if t not in stale]
    out = [*_answer(result, ", ".join(asked) or name, causes), ""]
    shown = stale if show_all else stale[:_TARGETS]
    if _nothing_yet(result):
        names = {t: ", ".join(id.rpartition("/")[2] for id in result.targets[t]) for t in shown}
        out += [f"{target:<{max(map(len, names))}}  {actions}" for target, actions in names.items()]
    else:
        out += cause_lines(causes, texts, show_all)
        for target in shown:
            out += [*_target(result, target, causes, show_all), ""]
    if len(stale) > len(shown):
        out += [f"and {_number(len(stale) - len(shown), 'more target')} (--all shows them)", ""]
    accounted = fine if show_all else [t for t in fine if t in asked]
    for target in accounted:
        out += [f"{target}: up to date", *(_fresh(result.actions[id]) for id in result.targets[target]), ""]
    rest = [t for t in fine if t not in accounted]
    if rest:
        out.append(f"up to date: {some(rest, _EVERYTHING if show_all else _TARGETS)}")
    if accounted:
        out.append("compared just now: memory nodes by content, files and code by size, mtime, ctime and inode")
    return "\n".join(line.rstrip() for line in out).rstrip("\n")


def _nothing_yet(result: Explanation) -> bool:
    return all(a.state == "missing" for a in result.actions.values())


def explanation_json(result: Explanation) -> str:
    """``--explain --json``."""
    return json.dumps(as_json(result), indent=1)


# the answer


def _answer(result: Explanation, name: str, causes: list[Cause]) -> list[str]:
    """The first lines: stale or not, because of what, and what a build would cost."""
    product = result.product
    if product is not None:
        what = f"not as it was put there ({some(list(product.changed), 3)})"
        if not product.changed or product.holds is None:
            what = f"of build {product.holds[:12]}" if product.holds else "not there"
        return [f"{name} is built, but {product.folder} is {what}", "a build puts it back from the cache: no time"]
    if result.up_to_date:
        return [f"{name} is up to date ({len(result.actions)} actions)"]
    if _nothing_yet(result):
        waits = any(a.place for a in result.actions.values())
        cost = _cost(list(result.actions.values())) if waits else f"{_number(len(result.actions), 'action')} to run"
        return [f"nothing of {name} was built here yet", cost]
    told = "; ".join(cause.whole for cause in causes[:3])
    more = f"; and {_number(len(causes) - 3, 'more cause')}" if len(causes) > 3 else ""
    return [f"{name} {'are' if ', ' in name else 'is'} stale: {told}{more}", _cost(list(result.actions.values()))]


def _cost(actions: list[ActionReason]) -> str:
    """``2 actions run (about 41 min), 3 may follow (about 1 min); 1 result waits in the cache``."""
    runs = [a for a in actions if a.runs]
    may = [a for a in actions if a.state != "up-to-date" and not a.runs and not a.place]
    parts = []
    if runs:
        parts.append(f"{_number(len(runs), 'action')} {'runs' if len(runs) == 1 else 'run'}{_seconds(runs)}")
    if may:
        verb = "may follow" if runs else "may run"
        parts.append(f"{len(may) if runs else _number(len(may), 'action')} {verb}{_seconds(may)}")
        if runs and all(a.state == "unknown" for a in may):
            parts[-1] += f" if {'its result differs' if len(runs) == 1 else 'their results differ'}"
    waits = [", ".join(parts)] if parts else []
    for place in dict.fromkeys(a.place for a in actions if a.place):
        count = sum(a.place == place for a in actions)
        verb = "waits" if count == 1 else "wait"
        waits.append(f"{_number(count, 'result')} {verb} in the {'cache' if place == 'here' else f'{place} store'}")
    return "; ".join(waits if parts else ["nothing has to run", *waits])


def _seconds(actions: list[ActionReason]) -> str:
    known = [a.cost for a in actions if a.cost is not None]
    never = len(actions) - len(known)
    told = [about(sum(known))] if known else []
    if never:
        told.append(f"{never} never ran" if known else "never ran yet")
    return f" ({', '.join(told)})"


def _number(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


# causes


def cause_lines(causes: Iterable[Cause], texts: Texts, show_all: bool, *, stat: bool = False) -> list[str]:
    """Each cause with the actions it touches, and with old and new text unless `stat` asks for names alone."""
    causes = list(causes)
    shown = causes if show_all else causes[:_CAUSES]
    left = _EVERYTHING if show_all else _LINES
    out: list[str] = []
    for cause in shown:
        out.append(f"{cause.text}  ({some(list(cause.actions), _EVERYTHING if show_all else _NAMES)})")
        for number, change in enumerate(() if stat else cause.changes):
            if not show_all and (left <= 0 or number == _DIFFS):
                out.append("    … the rest of the texts: --all")
                break
            lines = _details(change, texts, show_all)
            left -= len(lines)
            named = [f"    {symbol(change.name)}"] if lines and len(cause.changes) > 1 else []
            out += [*named, *(f"    {line}" for line in lines)]
    if len(causes) > len(shown):
        out.append(f"and {_number(len(causes) - len(shown), 'more cause')} (--all shows them)")
    return [*out, ""] if out else []


def _details(change: Change, texts: Texts, show_all: bool) -> list[str]:
    """Old and new of a change whose sentence does not say them: a diff of two texts, or two long values."""
    most = _EVERYTHING if show_all else DIFF_LINES
    if change.kind in ("node", "code") and (change.verb != "edited" and not show_all):
        return []
    if change.kind == "node":
        old, new = (digest and texts.node(digest) for digest in (change.old, change.new))
        unknown = (change.old and old is None) or (change.new and new is None)
        return ["(its old text was not kept)"] if unknown else node_diff(old or None, new or None, change.name, most)
    if change.kind == "code" and not change.name.startswith("file:"):
        before, after = (texts.source(digest) if digest else "" for digest in (change.old, change.new))
        if before is None or after is None:
            return ["(its old source was not kept)"]
        return text_diff(before.splitlines(), after.splitlines(), symbol(change.name), most)
    if change.kind in ("param", "recipe", "base") and not told_whole(change):
        values = (("-", readable(change.old)), ("+", readable(change.new)))
        return [f"{sign} {v if show_all or len(v) <= 200 else f'{v[:200]}…'}" for sign, v in values]
    return []


# targets


def _target(result: Explanation, target: str, causes: list[Cause], show_all: bool) -> list[str]:
    """A stale target: the shortest chain to its nearest cause (or to every one), and what runs of it."""
    actions = [result.actions[id] for id in result.targets[target]]
    roots = set(result.target_causes(target))
    told: dict[tuple[str, ...], list[str]] = {}  # chain -> the causes at its end
    for cause in causes:
        ways = [way for id in cause.actions if id in roots and (way := result.chain(target, id))]
        if ways:
            told.setdefault(min(ways, key=len), []).append(cause.text)
    state = result.target_state(target)
    out = [f"{target}: {'never built' if state == 'missing' else state}"]
    nearest = sorted(told, key=len)
    for way in nearest if show_all else nearest[:1]:
        out.append(f"  because   {' <- '.join(way)}: {'; '.join(told.pop(way))}")
    left = sum(map(len, told.values()))
    if left:
        out[-1] += f" (and {_number(left, 'more cause')})"
    for word, chosen in (
        ("runs", [a for a in actions if a.runs]),
        ("may run", [a for a in actions if a.state != "up-to-date" and not a.runs and not a.place]),
    ):
        if chosen:
            names = [f"{a.id.rpartition('/')[2]}{_last(a.cost)}" for a in chosen]
            out.append(f"  {word:<9} {', '.join(names)}")
    for place in dict.fromkeys(a.place for a in actions if a.place):
        names = [a.id.rpartition("/")[2] for a in actions if a.place == place]
        where = "the cache" if place == "here" else f"the {place} store"
        out.append(f"  {'reuses':<9} {', '.join(names)} (waiting in {where})")
    return out


def _last(seconds: float | None) -> str:
    return "" if seconds is None else f" (last run {duration(seconds)})"


def _fresh(one: ActionReason) -> str:
    """Why an action is up to date: what was compared, and when its result was made."""
    record = one.record
    made = f"; built {record.finished[:16].replace('T', ' ')}, took {duration(record.seconds)}" if record else ""
    return f"  {one.id.rpartition('/')[2]:<11} {account(one.components)}{made}"
