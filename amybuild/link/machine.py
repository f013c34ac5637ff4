"""Loops as machine code: numba compiles one once, a file keeps it, and later runs load it without importing numba.

A link lasts a second or two, and numba would take a third of that to be imported and to type its first call. Kept is an
object file of plain code, which llvmlite loads. Its name is a digest of the loop (bytecode, constants, the loops it
calls), its signature, the version of llvmlite (every numba needs its own) and the processor; its first line is the
digest of the rest. It lies beside this package's bytecode or, where that is not writable, in the user's cache folder
(`NUMBA_CACHE_DIR` overrides both). Without a place for it a loop is compiled in every process: a second each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from amybuild.digest import digest_bytes, digest_value

_WORDS = {"i8": ctypes.c_int64, "u8": ctypes.c_uint64, "f4": ctypes.c_float, "f8": ctypes.c_double}
_LIBRARY = ("llvm.", "memset", "memcpy", "memmove")  # what compiled code may call
_lock = threading.RLock()


class Loop:
    """A function over arrays and numbers, called as one and run as machine code without the interpreter lock.

    `kinds`: per parameter numpy's dtype code ("f4") and for an array its axes ("f4[:,:]"); arrays are C-contiguous. No
    kinds: a part of other loops, for which Python calls it never. A loop allocates nothing, raises nothing and returns
    nothing.
    """

    def __init__(self, body: FunctionType, kinds: tuple[str, ...], fastmath: Collection[str] = ()) -> None:
        self.body, self.kinds, self.fastmath = body, kinds, fastmath
        self._run: Callable[..., int] | None = None
        self._shape: tuple[tuple[Any, int], ...] = ()  # per parameter: dtype, axes (0: a number)

    def __call__(self, *arguments: Any) -> None:
        """Raises `TypeError` when an argument is not of its kind: machine code would not notice."""
        run = self._run or self._load()
        words: list[Any] = [_ASIDE, _ASIDE]  # where numba's functions put a result and an error
        for value, (dtype, axes) in zip(arguments, self._shape, strict=True):
            if not axes:
                words.append(value)
                continue
            if value.dtype != dtype or value.ndim != axes or not value.flags.c_contiguous:
                raise TypeError(f"{self.body.__name__}: {value.dtype} {value.shape} for {dtype}")
            words.append(_Array.from_address(_pointer(value.__array_struct__, None)).data)
            words.extend(value.shape)
        if run(*words):
            raise RuntimeError(f"{self.body.__name__} failed")

    def _load(self) -> Callable[..., int]:
        with _lock:
            if self._run is None:
                named = _name(self)
                code = next(_kept(named), None)
                if code is None:
                    code = _compile(self)
                    _keep(named, code)
                self._shape = tuple((np.dtype(kind.partition("[")[0]), kind.count(":")) for kind in self.kinds)
                words = [word for kind in self.kinds for word in _words(kind)]
                self._run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *words)(_address(code))
            return self._run


def compiled(*kinds: str, fastmath: Collection[str] = ()) -> Callable[[Any], Any]:
    """A decorator: the function as a `Loop`."""
    return lambda body: Loop(body, kinds, fastmath)


class _Array(ctypes.Structure):
    """What numpy tells C of an array (its array interface), as far as it is asked for."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("two", "axes", "kind", "itemsize", "flags")),
        *((name, ctypes.c_void_p) for name in ("shape", "strides", "data")),
    )


_pointer = ctypes.pythonapi.PyCapsule_GetPointer  # `__array_interface__` makes a dict: a microsecond per argument
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_buffer = ctypes.create_string_buffer(64)
_ASIDE = ctypes.addressof(_buffer)
_ENTRY = "loop"  # the name of the function in an object file


def _words(kind: str) -> list[Any]:
    axes = kind.count(":")
    return [ctypes.c_void_p, *[ctypes.c_int64] * axes] if axes else [_WORDS[kind]]


def _used(loop: Loop) -> dict[str, Any]:
    """The constants and loops that a loop's body names."""
    named = {name: loop.body.__globals__.get(name) for name in loop.body.__code__.co_names}
    return {name: value for name, value in named.items() if isinstance(value, int | float | Loop)}


def _name(loop: Loop) -> str:
    import llvmlite

    _, cpu, features = _machine()
    about = [_identity(loop), llvmlite.__version__, sys.version_info[:2], cpu, features]
    return f"{loop.body.__name__}-{digest_value('link.loop', about)[:32]}.o"


def _identity(loop: Loop) -> list[Any]:
    code = loop.body.__code__
    used = {name: _identity(one) if isinstance(one, Loop) else one for name, one in _used(loop).items()}
    constants = repr([one for one in code.co_consts if one != loop.body.__doc__])
    return [code.co_code.hex(), constants, code.co_names, code.co_varnames, used, loop.kinds, sorted(loop.fastmath)]


def _compile(loop: Loop) -> bytes:
    """An object file with one function, `_ENTRY`: (aside, aside, pointer, extents …, number, …) -> 0."""
    import llvmlite.binding as llvm
    from numba import carray, cfunc, types

    names, parts, shapes = [], [], []
    for place, kind in enumerate(loop.kinds):
        axes = kind.count(":")
        number = getattr(types, np.dtype(kind.partition("[")[0]).name)
        extents = [f"n{place}_{axis}" for axis in range(axes)]
        names += [f"a{place}", *extents]
        shapes += [types.CPointer(number) if axes else number, *[types.int64] * axes]
        parts.append(f"carray(a{place}, ({', '.join(extents)},))" if axes else f"a{place}")
    scope = {"carray": carray, "body": _jitted(loop)}
    exec(f"def {_ENTRY}({', '.join(names)}):\n    body({', '.join(parts)})", scope)
    entry = cfunc(types.void(*shapes))(scope[_ENTRY])
    module = llvm.parse_assembly(entry.inspect_llvm())
    for function in module.functions:
        if function.name == entry.native_name.removeprefix("cfunc."):
            function.name = _ENTRY
        elif not function.is_declaration:
            function.linkage = "internal"
    target = _machine()[0]
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    strange = [one.name for one in module.functions if one.is_declaration and not one.name.startswith(_LIBRARY)]
    if strange:
        raise RuntimeError(f"{loop.body.__name__} calls {strange[0]}: it allocates, raises or returns something")
    return bytes(target.emit_object(module))


def _jitted(loop: Loop) -> Any:
    from numba import njit

    inner = {name: _jitted(one) for name, one in _used(loop).items() if isinstance(one, Loop)}
    body = FunctionType(loop.body.__code__, {**loop.body.__globals__, **inner}, loop.body.__name__)
    return njit(error_model="numpy", fastmath=set(loop.fastmath))(body)


@cache
def _machine() -> tuple[Any, str, str]:
    """The target that code is made for, and the processor's name and features."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", jit=True), cpu, features


_engines: list[Any] = []  # code lives as long as its engine


def _address(code: bytes) -> int:
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine()[0])
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(_ENTRY))


def _places() -> list[Path]:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Path(chosen)]
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [Path(__file__).parent / "__pycache__", Path(user) / "amybuild"]


def _kept(name: str) -> Iterator[bytes]:
    for place in _places():
        with contextlib.suppress(OSError):
            check, _, code = (place / name).read_bytes().partition(b"\n")
            if check == digest_bytes(code).encode():
                yield code


def _keep(name: str, code: bytes) -> None:
    for place in _places():
        beside = place / f"{name}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(digest_bytes(code).encode() + b"\n" + code)
            os.replace(beside, place / name)
            return
