"""Code identity: a digest per function a rule runs and all it calls in the project; formatting does not count."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amybuild.digest import digest_bytes

# Messages and progress cannot change a result.
_IGNORED = ("amybuild.errors", "amybuild.events")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_WHOLE = "*"  # the symbol that stands for all of a module
_LOOSE = "(module)"  # … for its statements that bind nothing


@dataclass
class _Module:
    """The top-level definitions of one module, and what its imports name (in functions too)."""

    symbols: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, set[tuple[str, str | None]]] = field(default_factory=dict)  # local name -> (module, symbol)
    stars: list[str] = field(default_factory=list)  # from … import *
    loose: list[ast.stmt] = field(default_factory=list)  # statements that bind no name but may change what others do


def _bound(statement: ast.stmt) -> Iterable[str]:
    """The names that a top-level statement defines."""
    if isinstance(statement, _DEFINITIONS):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, _DEFINITIONS):
            yield node.name


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITIONS):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]


def _idle(statement: ast.stmt) -> bool:
    """Whether a statement that binds nothing is no part of what the module does when it is imported by a rule."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test)


def _chain(node: ast.AST) -> tuple[str, list[str]] | None:
    """``a.b.c`` as ("a", ["b", "c"]); None when it does not begin with a name."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, attributes[::-1]) if isinstance(node, ast.Name) else None


class CodeIndex:
    """Digests of the code behind entry points, from source text alone (nothing is imported or run).

    It errs on the side of too much: a local variable that is named like a function of the module counts as a use of
    it. What it cannot see is a module or function found by a computed name.
    """

    def __init__(self, root: Path, package: str) -> None:
        self.root = root  # the folder of `package`
        self.package = package
        self._modules: dict[str, _Module | None] = {}
        self._paths: dict[str, Path | None] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._found: dict[str, list[ast.stmt]] = {}  # digest -> what it is of

    def _path(self, module: str) -> Path | None:
        if module not in self._paths:
            first, *parts = module.split(".")
            inside = self.root.joinpath(*parts)
            tries = (inside.with_suffix(".py"), inside / "__init__.py") if parts else (inside / "__init__.py",)
            found = [path for path in tries if path.is_file()] if first == self.package else []
            self._paths[module] = found[0] if found else None
        return self._paths[module]

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = None if path is None else _read(path, name)
        return self._modules[name]

    def closure(self, entry: str) -> dict[str, str]:
        """``{"module:symbol": digest}`` of everything in the project that `entry` ("module:function") can reach."""
        found: dict[str, str] = {}
        seen: set[tuple[str, str]] = set()
        start, _, symbol = entry.partition(":")
        todo = [(start, symbol)]
        while todo:
            name, symbol = todo.pop()
            module = None if (name, symbol) in seen or name in _IGNORED else self._module(name)
            seen.add((name, symbol))
            if module is None:
                continue
            if symbol == _WHOLE:
                todo.extend((name, one) for one in module.symbols)
            elif symbol not in module.symbols:  # a re-export, or nothing
                todo.extend(self._imported(module, symbol, []))
                todo.extend((star, symbol) for star in module.stars)
            statements = module.loose if symbol == _LOOSE else module.symbols.get(symbol, [])
            if statements:
                todo.append((name, _LOOSE))
                found[f"{name}:{symbol}"] = self._digest(name, symbol, statements)
            for one in statements:
                todo.extend(self._references(one, name, module))
        return dict(sorted(found.items()))

    def _digest(self, name: str, symbol: str, statements: list[ast.stmt]) -> str:
        digest = self._digests.get((name, symbol))
        if digest is None:
            digest = digest_bytes("\n".join(ast.dump(one) for one in statements).encode())
            self._digests[name, symbol] = digest
            self._found[digest] = statements
        return digest

    def source(self, digest: str) -> str | None:
        """The source behind a digest that `closure` gave, as the digest sees it: no comments, no docstrings."""
        found = self._found.get(digest)
        return None if found is None else "\n".join(ast.unparse(one) for one in found)

    def sources(self) -> dict[str, str]:
        """The source behind every digest that `closure` gave."""
        return {digest: self.source(digest) or "" for digest in self._found}

    def _references(self, statement: ast.stmt, name: str, module: _Module) -> Iterable[tuple[str, str]]:
        """What a statement of the module `name` uses, as (module, symbol); symbols may turn out not to exist."""
        stack: list[ast.AST] = [statement]
        while stack:
            node = stack.pop()
            chain = _chain(node) if isinstance(node, ast.Name | ast.Attribute) else None
            if chain is None:
                stack.extend(ast.iter_child_nodes(node))
                continue
            first, attributes = chain
            if first in module.symbols or first not in module.imports:
                yield (name, first)
            yield from self._imported(module, first, attributes)

    def _imported(self, module: _Module, name: str, attributes: list[str]) -> Iterable[tuple[str, str]]:
        """What ``name.attribute.…`` means where `name` was imported: a symbol, or a module as a whole."""
        for source, symbol in module.imports.get(name, ()):
            path = [*([symbol] if symbol else []), *attributes]
            while path and self._path(f"{source}.{path[0]}") and not self._defines(source, path[0]):
                source = f"{source}.{path.pop(0)}"
            yield (source, path[0] if path else _WHOLE)

    def _defines(self, name: str, symbol: str) -> bool:
        module = self._module(name)
        return module is not None and (symbol in module.symbols or symbol in module.imports)


def _read(path: Path, name: str) -> _Module:
    tree = ast.parse(path.read_bytes())
    _strip_docstrings(tree)
    module = _Module()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = name.split(".")
                up = node.level - (path.name == "__init__.py")
                source = ".".join([*parts[: len(parts) - up], *([source] if source else [])])
            for alias in node.names:
                if alias.name == "*":
                    module.stars.append(source)
                else:
                    module.imports.setdefault(alias.asname or alias.name, set()).add((source, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:  # ``import a.b`` binds a, ``import a.b as c`` binds a.b
                local = alias.asname or alias.name.partition(".")[0]
                module.imports.setdefault(local, set()).add((alias.name if alias.asname else local, None))
    for statement in tree.body:
        names = list(_bound(statement))
        for symbol in names:
            module.symbols.setdefault(symbol, []).append(statement)
        if not names and not _idle(statement):
            module.loose.append(statement)
    return module


def source_stats(root: Path) -> list[list[int | str]]:
    """What tells that no source file changed: path, size, mtime, ctime, inode of each, sorted."""
    stats: list[list[int | str]] = []
    stack = [os.fspath(root)]
    while stack:
        for entry in os.scandir(stack.pop()):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    stack.append(entry.path)
            elif entry.name.endswith((".py", ".txt")):
                s = entry.stat()
                stats.append([os.path.relpath(entry.path, root), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino])
    return sorted(stats, key=str)


def untouched(root: Path, stats: list[list[int | str]]) -> bool:
    """Whether the files of `stats` are what they were; a new file counts when another one comes to import it."""
    for name, *was in stats:
        try:
            s = os.stat(f"{root}/{name}")
        except OSError:
            return False
        if [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] != was:
            return False
    return True


def library_versions(names: Iterable[str], path: Iterable[str] | None = None) -> Mapping[str, str]:
    """Installed versions by reading folder names (importing `importlib.metadata` costs more than a no-op build)."""
    wanted = {name.replace("-", "_").lower(): name for name in names}
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(".dist-info"):
                name, _, version = entry[:-10].rpartition("-")
                key = wanted.get(name.replace("-", "_").lower())
                if key is not None and key not in found:
                    found[key] = version
    return {name: found.get(name, "absent") for name in wanted.values()}
