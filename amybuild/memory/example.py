"""`Example`: one case of a behaviour, and what makes turns a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amybuild.digest import digest_value
from amybuild.errors import InputError
from amybuild.value import value

Turn = tuple[int, str, str]  # line, role, text
Place = Callable[[int], str]  # where a line is, for messages


@value
class Example:
    """One case of a behaviour: what was said before, the reply that is learned, and replies that are not.

    `messages` are ``(role, text)`` pairs that end with a user turn. `counter` marks a case in which the behaviour
    should NOT show: its continuation is then the right reply. `id` depends on the content alone (16 hex digits).
    """

    id: str
    node: str
    messages: tuple[tuple[str, str], ...]
    continuation: str
    rejected: tuple[str, ...] = ()
    counter: bool = False

    def chat(self) -> list[dict[str, str]]:
        """`messages` as chat templates take them."""
        return [{"role": role, "content": text} for role, text in self.messages]


def make_example(
    node: str,
    messages: Sequence[tuple[str, str]],
    continuation: str,
    rejected: Sequence[str] = (),
    counter: bool = False,
) -> Example:
    """An `Example` with the id of its content."""
    content = {
        "messages": [list(one) for one in messages],
        "continuation": continuation,
        "rejected": list(rejected),
        "counter": counter,
    }
    name = digest_value("example", content)[:16]
    return Example(name, node, tuple(messages), continuation, tuple(rejected), counter)


def checked(key: str, place: Place, context: list[Turn], reply: Turn, rejected: list[str], counter: bool) -> Example:
    """The `Example` of turns: an optional system turn, then user and assistant in turn, then the reply. `InputError`
    with the place when they are not."""
    wanted = "user"
    for number, (at, role, _) in enumerate(context):
        if number == 0 and role == "system":
            continue
        if role != wanted:
            what = f"{role} speaks where {wanted} should"
            raise bad(place(at), what, "after an optional System turn, User and Assistant take turns")
        wanted = "assistant" if role == "user" else "user"
    if not context or context[-1][1] != "user":
        raise bad(place(reply[0]), "no User turn before the last Assistant turn", "say what it is a reply to")
    if reply[2] in rejected or len(set(rejected)) < len(rejected):
        raise bad(
            place(reply[0]), "the same reply twice", "rejected replies differ from the learned one and each other"
        )
    return make_example(key, [(role, text) for _, role, text in context], reply[2], rejected, counter)


def bad(where: str, what: str, remedy: str) -> InputError:
    """An error about what a person wrote, that quotes none of it."""
    return InputError(what, where=where, remedy=remedy)
