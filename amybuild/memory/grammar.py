"""The grammar of queries: text to a tree of stages, or an error at a column."""

from __future__ import annotations

from functools import lru_cache

from lark import Lark, Token, Tree, UnexpectedInput, UnexpectedToken

# A word ends at a space, a bar or a parenthesis; quotes hold anything. A keyword behind a value's first word ends it,
# but only where the grammar allows it: `match:do not panic` is one phrase, `match:a and type:b` are two tests.
_GRAMMAR = r"""
query: _stage ("|" _stage)*
_stage: keep | sort | limit | neighbours | spread
keep: _either
sort: "sort" ":"? NAME NAME?
limit: "limit" ":"? WORD
neighbours: ("neighbours" | "neighbors") ":"? (NODE | STRING) ("," OPTION)*
spread: "spread" ("," OPTION)*

_either: either | _both
either: _both ("or" _both)+
_both: both | _one
both: _one ("and" _one)+
_one: no | "(" _either ")" | every | test
no: "not" _one
every: "all" | "*"
test: NAME ":" COMPARE? value | NAME COMPARE value
value: STRING | WORD+

NAME: /[^\W\d][\w-]*/
COMPARE: /<=|>=|!=|[<>=~]/
WORD: /[^\s|():,<>=!~"'][^\s|()]*/
NODE: /[^\s|,:"'][^|,]*/
STRING: /"[^"]*"|'[^']*'/
OPTION: /[\w-]+\s*=\s*[^\s|,()]+/
%ignore /\s+/
"""

Stages = list[Tree[Token]]


class Refused(Exception):
    """A text that is no query: what is wrong, and at which character (0-based)."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__(what)
        self.what = what
        self.at = at


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(_GRAMMAR, start="query", parser="lalr", keep_all_tokens=False, propagate_positions=True)


def stages_of(text: str) -> Stages:
    """The stages of `text` in their order, each a tree; `Refused` at the first character that fits nothing."""
    try:
        return [stage for stage in _parser().parse(text).children if isinstance(stage, Tree)]
    except UnexpectedInput as error:
        raise _refused(text, error) from None


def _refused(text: str, error: UnexpectedInput) -> Refused:
    at = error.pos_in_stream
    end = len(text.rstrip())
    if at is None or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        at = end + 1 if text[end:] else end
    before, rest = text[:at].rstrip(), text[at:].lstrip()
    if rest[:1] in ("'", '"') and rest.count(rest[0]) % 2:
        return Refused("this quote is not closed", at)
    if not before or before[-1] == "|":
        return Refused("an empty stage" if rest[:1] in ("", "|") else "this begins no stage", at)
    if before[-1] == ":" and rest[:1] in ("", "|", ")"):
        name = before[:-1].split("|")[-1].split()[-1:] or [""]
        return Refused(f"'{name[0].lstrip('(')}:' needs a value", at)
    if not rest:
        return Refused("the query ends too early", at)
    return Refused(f"'{rest.split(None, 1)[0][:40]}' does not fit here", at)
