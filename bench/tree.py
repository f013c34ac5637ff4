"""Writes the tree of modules, each with its first sentence, into README.md.

python bench/tree.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORDER = (
    *(
        "errors",
        "events",
        "digest",
        "kept",
        "noop",
        "evidence",
        "personafile",
        "memory",
        "graph",
        "plan",
        "cache",
        "execute",
    ),
    *(
        "model",
        "actions",
        "link",
        "serve",
        "report",
        "product",
        "versions",
        "pins",
        "build",
        "watch",
        "doctor",
        "cli",
        "__main__",
    ),
)


def sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, without its full stop."""
    first = (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n\n")[0]
    return first.replace("\n", " ").rstrip(".")


def row(path: Path, indent: str) -> str:
    return f"{indent}{path.name:<{25 - len(indent)}}{sentence(path)}".rstrip()


def tree(package: Path) -> str:
    """The package in the order of the stages; rooms with their files below them."""
    lines = [f"{package.name}/"]
    entries = [p for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]
    known = {name: i for i, name in enumerate(ORDER)}
    for entry in sorted(entries, key=lambda p: (known.get(p.stem, len(ORDER)), p.name)):
        if entry.is_dir():
            about = sentence(entry / "__init__.py")
            lines.append(f"  {entry.name + '/':<23}{about}".rstrip())
            lines += [row(one, "    ") for one in sorted(entry.rglob("*.py")) if one.name != "__init__.py"]
        elif entry.name != "__init__.py":
            lines.append(row(entry, "  "))
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new, count = re.subn(r"^amybuild/\n.*?(?=\n```)", lambda _: tree(ROOT / "amybuild"), text, flags=re.S | re.M)
    assert count == 1, "README.md has no code block that begins with amybuild/"
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
