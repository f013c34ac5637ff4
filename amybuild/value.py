"""Classes of fields, used as those of `dataclasses` are, for modules that a build after one edit imports.

`dataclasses` imports `inspect`, and compiles six methods of each class from source: that was a sixth of such a build's
time. Here a constructor is compiled when the first object is made, and nothing else is. What is left out: slots, order,
and fields of base classes.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_NONE: Any = object()  # no default


class _Field:
    def __init__(self, default: Any, factory: Callable[[], Any] | None, compare: bool) -> None:
        self.default, self.factory, self.compare = default, factory, compare


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
    compared = attrgetter(*(name for name, one in fields.items() if one.compare))

    def __init__(self: Any, *args: Any, **named: Any) -> None:
        cls.__init__ = _constructor(fields, hasattr(cls, "__post_init__"))
        cls.__init__(self, *args, **named)

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
    cls.__fields__ = tuple(fields)
    return cls


def _constructor(fields: dict[str, _Field], more: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"NONE": _NONE}
    given, lines = ["self"], ["    values = self.__dict__"]
    for name, one in fields.items():
        known[f"default_{name}"] = one.factory or one.default
        given.append(f"{name}=NONE" if one.factory else name if one.default is _NONE else f"{name}=default_{name}")
        made = f"default_{name}() if {name} is NONE else {name}" if one.factory else name
        lines.append(f"    values[{name!r}] = {made}")
    if more:
        lines.append("    self.__post_init__()")
    exec("\n".join([f"def __init__({', '.join(given)}):", *lines]), known)
    return known["__init__"]  # type: ignore[no-any-return]


def values(one: Any) -> dict[str, Any]:
    """What the fields of an object hold, by name."""
    return {name: getattr(one, name) for name in one.__fields__}


def replace(one: T, **changes: Any) -> T:
    """The same object with other values in some of its fields."""
    return type(one)(**{**values(one), **changes})
