"""The query language: stages joined by ``|``, each making a ranked selection of nodes from the one before.

    all | type:episodic | age:<7d | key:journal#j-* | sort:weight desc | limit:20
    (key:people/* or match:"boat yard") and not weight:<0.3
    neighbours:core-personality, min_strength=0.5 | limit:5
    match:grief | spread, max_hops=2 | sort:created desc

A test is ``field:value``, ``field:>value`` or ``field > value``; `fields.FIELDS` has them all. `sort` puts the largest
first unless ``asc`` follows. Nothing here reads a clock: see `MemoryGraph.now`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from amybuild.errors import InputError, did_you_mean
from amybuild.memory.fields import ELSEWHERE, FIELDS, SORTABLE, Test
from amybuild.memory.links import spread

if TYPE_CHECKING:
    from lark import Token, Tree

    from amybuild.memory.graph import MemoryGraph

Found = dict[str, float]  # key -> score, in the order of the selection
Stage = Callable[["MemoryGraph", Found], Found]

_STAGES = ("all", "sort", "limit", "neighbours", "spread")
_FORMS = f"tests: {', '.join(field.example for field in FIELDS.values())}; stages: {', '.join(_STAGES)}"
_DEEP = 50
_FIRST = re.compile(r"[\s(]*(?:not\s+)*([^\W\d][\w-]*)")
_PLAIN = re.compile(r"\s*(?:(?:all|\*)|type:([\w-]+))\s*")


class QueryError(InputError):
    """A query that cannot be read, or asked of this graph; `column` is 1-based."""

    def __init__(self, text: str, at: int, what: str, remedy: str | None) -> None:
        one_line = "".join(char if char.isprintable() else " " for char in text)
        self.column = at + 1
        super().__init__(f"{what}\n  {one_line}\n  {' ' * at}^", where=f"query, column {at + 1}", remedy=remedy)


@lru_cache(maxsize=256)  # many targets ask the same
def parse_query(text: str) -> tuple[Stage, ...]:
    """The stages of `text`. Raises `QueryError` and nothing else."""
    if plain := _PLAIN.fullmatch(text):  # what every steering target asks, without a parser's import
        return (_keep(FIELDS["type"].compare(FIELDS["type"].value, "", plain[1])),) if plain[1] else ()
    from amybuild.memory.grammar import Refused, stages_of

    try:
        stages = stages_of(text)
    except Refused as error:
        first = _FIRST.match(text, text.rfind("|", 0, error.at) + 1)
        if first and first[1] not in (*FIELDS, *_STAGES, "neighbors"):  # what follows it is not what is wrong
            _unknown(text, first.start(1), first[1])
        raise QueryError(text, error.at, error.what, _FORMS) from None
    return tuple(_MAKE[stage.data](_Maker(text), stage.children) for stage in stages if not _idle(stage))


def run_query(stages: tuple[Stage, ...], graph: MemoryGraph) -> Found:
    """The keys that come out of the last stage, in its order; before the first one it is all nodes by key."""
    found: Found = dict.fromkeys(graph.index, 1.0)
    for stage in stages:
        found = stage(graph, found)
    return found


def _unknown(text: str, at: int, name: str) -> NoReturn:
    if name in ELSEWHERE:
        remedy = "the graph does not hold it: ask the memory's own server, or select by other fields"
        raise QueryError(text, at, f"'{name}' is not known here", remedy)
    known = (*FIELDS, *_STAGES)
    raise QueryError(text, at, f"'{name}' is no field and no stage", did_you_mean(name, known) or _FORMS)


def _keep(test: Test) -> Stage:
    def stage(graph: MemoryGraph, found: Found) -> Found:
        index = graph.index
        return {key: score for key, score in found.items() if test(graph, index[key])}

    return stage


def _idle(stage: Tree[Token]) -> bool:
    """Whether a stage is `all`: what takes everything need not look at it."""
    return stage.data == "keep" and stage.children[0].data == "every"  # type: ignore[union-attr]


def _reads_texts(tree: Any) -> bool:
    """Whether a test looks at texts, which may have to be read from their files: such tests come last."""
    return any(test.children[0] == "match" for test in tree.find_data("test"))


class _Maker:
    """Makes a stage of its tree; knows the text for messages."""

    def __init__(self, text: str) -> None:
        self.text = text

    def fail(self, token: Any, what: str, remedy: str | None) -> NoReturn:
        raise QueryError(self.text, token.start_pos, what, remedy)

    def keep(self, children: list[Any]) -> Stage:
        return _keep(self.test(children[0], 0))

    def test(self, tree: Tree[Token], depth: int) -> Test:
        if depth > _DEEP:
            raise QueryError(self.text, tree.meta.start_pos, "nested too deeply", f"at most {_DEEP} levels")
        if tree.data == "every":
            return lambda graph, node: True
        if tree.data == "test":
            return self.field(tree.children)
        inner = [self.test(one, depth + 1) for one in sorted(tree.children, key=_reads_texts)]  # type: ignore[arg-type]
        if tree.data == "no":
            return lambda graph, node: not inner[0](graph, node)
        some = any if tree.data == "either" else all
        return lambda graph, node: some(test(graph, node) for test in inner)

    def field(self, children: list[Any]) -> Test:
        name, value = children[0], children[-1]
        sign = str(children[1]) if len(children) == 3 else ""
        field = FIELDS.get(name)
        if field is None:
            _unknown(self.text, name.start_pos, name)
        words = value.children
        typed = self.text[words[0].start_pos : words[-1].end_pos]
        if words[0].type == "STRING":
            typed = typed[1:-1]
        elif name not in ("key", "match") and len(words) > 1:
            self.fail(words[1], f"'{words[1]}' does not fit here", "put '|' or 'and' before it, or quotes around both")
        for word in words[1:]:  # `match:boat type:episodic` is a forgotten bar, not a phrase
            if word.partition(":")[0] in FIELDS and ":" in word:
                self.fail(word, "a test inside a value", "put '|' or 'and' before it, or quotes around the value")
        if not typed.strip():
            self.fail(words[0], f"'{name}:' needs a value", f"for example {field.example}")
        try:
            return field.compare(field.value, sign, typed)
        except InputError as error:
            self.fail(words[0], error.what, error.remedy)
        except (re.error, RecursionError, OverflowError):
            self.fail(words[0], "this cannot be compared", f"for example {field.example}")

    def sort(self, children: list[Any]) -> Stage:
        name, way = children[0], children[1] if len(children) > 1 else "desc"
        name = name.update(value="created") if name == "timestamp" else name
        if name not in SORTABLE:
            if name in ELSEWHERE:
                _unknown(self.text, name.start_pos, name)
            self.fail(name, f"'{name}' cannot be sorted by", did_you_mean(name, SORTABLE) or ", ".join(SORTABLE))
        if way not in ("asc", "desc"):
            self.fail(way, f"'{way}' is no direction", "write asc or desc")
        value = FIELDS[name].value

        def stage(graph: MemoryGraph, found: Found) -> Found:
            index = graph.index
            values = {key: value(graph, index[key]) for key in sorted(found)}
            there = [key for key in values if values[key] is not None]
            there.sort(key=lambda key: values[key], reverse=way == "desc")  # stable: what is equal stays by key
            return {key: found[key] for key in (*there, *(key for key in values if values[key] is None))}

        return stage

    def limit(self, children: list[Any]) -> Stage:
        most = self.number(children[0], children[0], int, 1, math.inf)
        return lambda graph, found: dict(list(found.items())[: int(most)])

    def neighbours(self, children: list[Any]) -> Stage:
        token, *options = children
        key = token[1:-1] if token.type == "STRING" else token.strip()
        least = self.options(options, min_strength=(float, 0.0, 0.0, 1.0))["min_strength"]

        def stage(graph: MemoryGraph, found: Found) -> Found:
            try:
                near = graph.net.get(graph.find(key)[0], {})
            except InputError as error:
                self.fail(token, error.what, error.remedy)
            by_strength = sorted(near.items(), key=lambda one: (-one[1], one[0]))
            return {other: strength for other, strength in by_strength if other in found and strength >= least}

        return stage

    def spread(self, children: list[Any]) -> Stage:
        given = self.options(
            children,
            max_hops=(int, 3, 1, 20),
            edge_decay=(float, 0.5, 0.0, 1.0),
            min_activation=(float, 0.01, 0.0, 1.0),
        )
        hops, decay, least = int(given["max_hops"]), given["edge_decay"], given["min_activation"]
        return lambda graph, found: spread(graph.net, found, hops, decay, least)

    def options(self, tokens: list[Any], **known: tuple[type, float, float, float]) -> Mapping[str, float]:
        """``name=value`` of a stage; `known` has kind, default, least and most of each."""
        found = {name: row[1] for name, row in known.items()}
        for token in tokens:
            name, _, typed = (part.strip() for part in token.partition("="))
            if name not in known:
                hint = did_you_mean(name, known) or f"options: {', '.join(known)}"
                self.fail(token, f"'{name}' is no option here", hint)
            kind, _, least, most = known[name]
            found[name] = self.number(token, typed, kind, least, most)
        return found

    def number(self, token: Any, typed: str, kind: type, least: float, most: float) -> float:
        try:
            value = float(typed)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (kind is int and not value.is_integer()) or math.isinf(value):
            whole = "a whole number" if kind is int else "a number"
            up = f"{least:g} or more" if math.isinf(most) else f"{least:g}..{most:g}"
            self.fail(token, f"'{typed[:40]}' is not {whole} ({up})", "for example limit:20 or spread, max_hops=4")
        return value


_MAKE: Mapping[str, Callable[[_Maker, list[Any]], Stage]] = {
    "keep": _Maker.keep,
    "sort": _Maker.sort,
    "limit": _Maker.limit,
    "neighbours": _Maker.neighbours,
    "spread": _Maker.spread,
}
