"""The keys that say which texts a direction is found from: tagged memories, or texts that come with their labels."""

from __future__ import annotations

from amybuild.personafile.check import Table
from amybuild.personafile.schema import Texts

TAGGED = "type:episodic"  # the memories whose tags count, where no query says which
_FORMS = "emotion, node, query, positives with negatives, stories, pairs"


def read_outside(table: Table) -> Texts | None:
    """``stories = "folder"`` or ``pairs = "file.jsonl"`` of a table, or None; `InputError` for both."""
    given = [key for key in ("stories", "pairs") if key in table.data]
    if len(given) > 1:
        raise table.fail("both 'stories' and 'pairs'", "pairs", "keep one of them")
    paths = {key: table.take(key, str) for key in ("stories", "pairs")}
    return Texts(given[0], path=paths[given[0]]) if given else None


def read_steer(table: Table, name: str) -> tuple[str, str, Texts | None]:
    """``(concept, query of tagged memories, other texts or None)`` of ``[steer.name]``.

    With an `emotion` the tagged memories count, all or those of `query`; without, the dialogues of `node` or `query`,
    or the memories of two queries, `positives` and `negatives`; or `stories` or `pairs`, which know the concept.
    """
    emotion = table.take("emotion", str)
    node, query, positives, negatives = (table.take(key, str) for key in ("node", "query", "positives", "negatives"))
    concept = (emotion or name).lower()
    texts = read_outside(table)
    others = [key for key in ("node", "query", "positives", "negatives") if key in table.data]
    if texts:
        if others:
            raise table.fail(f"'{texts.form}' says which texts already", others[0], "remove one of the two")
        return concept, TAGGED, texts
    if positives is not None or negatives is not None:
        if positives is None or negatives is None or node is not None or query is not None:
            raise table.fail("needs both 'positives' and 'negatives', and neither node nor query")
        return concept, TAGGED, Texts("sides", query=positives, negatives=negatives)
    if emotion is not None:
        if node is not None:
            raise table.fail("an emotion's texts are all that are tagged, not one node", "node", 'write query = "…"')
        return concept, query if query is not None else TAGGED, None
    if (node is None) == (query is None):
        raise table.fail(f"needs one of {_FORMS}", remedy='write emotion = "warmth", for example')
    return concept, TAGGED, Texts("dialogues", node=node, query=query)
