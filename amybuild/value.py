"""Classes of fields, used as those of `dataclasses` are, for modules that a build after one edit imports.

`dataclasses` imports `inspect` and compiles six methods of each class from source: that was a sixth of such a build's
time. Here the methods are closures over the names of the fields. Left out: slots, order, fields of base classes.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_NONE: Any = object()  # no default


class _Field:
    def __init__(self, default: Any, factory: Callable[[], Any] | None, compare: bool) -> None:
        self.optional = factory is not None or default is not _NONE
        self.make = factory or (lambda: default)
        self.compare = compare


def field(*, default: Any = _NONE, default_factory: Callable[[], Any] | None = None, compare: bool = True) -> Any:
    """A field with a default, one that is made for each object, or one that objects are not compared by."""
    return _Field(default, default_factory, compare)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: Any = None, /, *, frozen: bool = True) -> Any:
    """A class decorator: the annotated names of the class are its fields, in order; frozen ones can be hashed."""
    return _made(cls, frozen) if cls is not None else lambda one: _made(one, frozen)


def _made(cls: Any, frozen: bool) -> Any:
    fields: dict[str, _Field] = {}
    for name in cls.__annotations__:
        given = cls.__dict__.get(name, _NONE)
        fields[name] = given if isinstance(given, _Field) else _Field(given, None, True)
        if isinstance(given, _Field):
            delattr(cls, name)
    names, after = tuple(fields), getattr(cls, "__post_init__", None)
    compared = attrgetter(*(name for name, one in fields.items() if one.compare))

    def __init__(self: Any, *args: Any, **named: Any) -> None:
        if named or len(args) != len(names):
            args = _complete(cls.__name__, fields, args, named)
        self.__dict__.update(zip(names, args, strict=True))
        if after:
            after(self)

    def __eq__(self: Any, other: object) -> Any:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def __repr__(self: Any) -> str:
        return f"{cls.__name__}({', '.join(f'{name}={one!r}' for name, one in values(self).items())})"

    def __setattr__(self: Any, name: str, *_: Any) -> None:
        raise AttributeError(f"{cls.__name__}.{name} cannot be changed")

    cls.__init__, cls.__eq__, cls.__repr__ = __init__, __eq__, __repr__
    cls.__hash__ = (lambda self: hash(compared(self))) if frozen else None
    if frozen:
        cls.__setattr__ = cls.__delattr__ = __setattr__
    cls.__fields__ = names
    return cls


def _complete(what: str, fields: dict[str, _Field], args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The values of all fields, in order, from some of them."""
    left = list(fields)[len(args) :]
    odd = [*args[len(fields) :], *(name for name in named if name not in left)]
    missing = [name for name in left if name not in named and not fields[name].optional]
    if odd or missing:
        raise TypeError(f"{what}({', '.join(fields)}): missing {missing}, twice or too many {odd}")
    return (*args, *(named[name] if name in named else fields[name].make() for name in left))


def values(one: Any) -> dict[str, Any]:
    """What the fields of an object hold, by name."""
    return {name: getattr(one, name) for name in one.__fields__}


def replace(one: T, **changes: Any) -> T:
    """The same object with other values in some of its fields."""
    return type(one)(**{**values(one), **changes})
