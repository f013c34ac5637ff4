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


@dataclass
class _Module:
    """The top-level definitions of one module, and what its imports name."""

    symbols: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # local name -> (module, symbol)


def _bound(statement: ast.stmt) -> Iterable[str]:
    """The names that a top-level statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]


class CodeIndex:
    """Digests of the code behind entry points, from source text alone (nothing is imported or run)."""

    def __init__(self, root: Path, package: str) -> None:
        self.root = root  # the folder of `package`
        self.package = package
        self._modules: dict[str, _Module | None] = {}

    def _path(self, module: str) -> Path | None:
        parts = module.split(".")[1:]
        for path in (self.root.joinpath(*parts).with_suffix(".py"), self.root.joinpath(*parts, "__init__.py")):
            if path.is_file():
                return path
        return None

    def _module(self, name: str) -> _Module | None:
        if name in self._modules:
            return self._modules[name]
        path = self._path(name) if name.split(".")[0] == self.package else None
        module = None
        if path is not None:
            tree = ast.parse(path.read_bytes())
            _strip_docstrings(tree)
            module = _Module()
            for node in ast.walk(tree):  # imports inside functions count too
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    for alias in node.names:
                        module.imports[alias.asname or alias.name] = (node.module, alias.name)
                elif isinstance(node, ast.Import):
                    for alias in node.names:
                        if alias.asname:
                            module.imports[alias.asname] = (alias.name, None)
            for statement in tree.body:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    continue
                for symbol in _bound(statement):
                    module.symbols.setdefault(symbol, []).append(statement)
        self._modules[name] = module
        return module

    def closure(self, entry: str) -> dict[str, str]:
        """``{"module:symbol": digest}`` of everything in the project that `entry` ("module:function") can reach."""
        found: dict[str, str] = {}
        start, _, symbol = entry.partition(":")
        todo = [(start, symbol)]
        while todo:
            name, symbol = todo.pop()
            if name.startswith(_IGNORED) or f"{name}:{symbol}" in found:
                continue
            module = self._module(name)
            if module is None:
                continue
            if symbol not in module.symbols:
                if symbol in module.imports:  # a re-export
                    todo.append(self._follow(*module.imports[symbol]))
                continue
            statements = module.symbols[symbol]
            text = "\n".join(ast.dump(one) for one in statements)
            found[f"{name}:{symbol}"] = digest_bytes(text.encode())
            for one in statements:
                todo.extend(self._references(one, name, module))
        return dict(sorted(found.items()))

    def _follow(self, module: str, symbol: str | None) -> tuple[str, str]:
        """``from amybuild.model import load`` may name a module: then there is nothing to follow yet."""
        return (module, symbol or "")

    def _references(self, statement: ast.stmt, name: str, module: _Module) -> Iterable[tuple[str, str]]:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                if node.id in module.symbols:
                    yield (name, node.id)
                elif node.id in module.imports:
                    source, symbol = module.imports[node.id]
                    if symbol is not None:
                        yield (source, symbol)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                source, symbol = module.imports.get(node.value.id, ("", None))
                if source:  # module.attribute, whether imported as a module or from a package
                    yield (source if symbol is None else f"{source}.{symbol}", node.attr)


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
