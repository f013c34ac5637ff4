"""`amybuild init` and `amybuild doctor`: a project to start from, and what is wrong with one."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from amybuild.cli.common import command, enter
from amybuild.errors import InputError

_PACKAGE = Path(__file__).resolve().parent.parent
_RECIPES = ("lora-sft", "caa")


def init(argv: Sequence[str]) -> int:
    parser = command("init", "A new project: Personafile, recipes, and a memory of three nodes to edit.")
    parser.add_argument("folder", nargs="?", metavar="DIR", default=".", help="where (default: here)")
    args = enter(parser, argv)
    folder = Path(args.folder)
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_") or "persona"
    files = _starter(name)
    ignored = (folder / ".gitignore").exists() and files.pop(".gitignore")  # a repository often has one already
    there = sorted(path for path in files if (folder / path).exists())
    if there:
        some = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
        remedy = "nothing was written; choose another folder: amybuild init DIR"
        raise InputError(f"already there: {some}", where=os.fspath(folder), remedy=remedy)
    for path, data in files.items():
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / path, "xb") as file:
                file.write(data)
        except OSError as error:
            raise InputError(f"cannot write: {error.strerror}", where=os.fspath(folder / path)) from None
    if args.json:
        print(json.dumps({"folder": os.fspath(folder.resolve()), "files": sorted(files)}))
    elif not args.quiet:
        go = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(os.fspath(folder))} && "
        print(f"{name}: {len(files)} files in {folder}; now {go}amybuild", file=sys.stderr)
        if ignored:
            print("add /cache/ and /dist/ to your .gitignore", file=sys.stderr)
    return 0


def _starter(name: str) -> dict[str, bytes]:
    """The files of a new project: path -> content."""
    starter = _PACKAGE / "starter"
    files = {
        "Personafile.toml": (starter / "Personafile.toml").read_bytes().replace(b'"NAME"', b'"%s"' % name.encode())
    }
    files[".gitignore"] = (starter / "gitignore").read_bytes()
    for path in sorted((starter / "memory").glob("*.md")):
        files[f"memory/{path.name}"] = path.read_bytes()
    recipes = _PACKAGE / "recipes"  # in a wheel; in a checkout they lie beside the package
    recipes = recipes if recipes.is_dir() else _PACKAGE.parent / "recipes"
    for recipe in _RECIPES:
        files[f"recipes/{recipe}.toml"] = (recipes / f"{recipe}.toml").read_bytes()
    return files


def doctor(argv: Sequence[str]) -> int:
    args = enter(command("doctor", "What is wrong with this project and this machine. Exit 1 when something is."), argv)
    from dataclasses import asdict

    from amybuild.doctor import examine

    found = examine(Path(args.file))
    failed = any(one.level == "fail" for one in found)
    if args.json:
        print(json.dumps({"schema": 1, "ok": not failed, "findings": [asdict(one) for one in found]}, indent=1))
        return int(failed)
    width = min(shutil.get_terminal_size().columns, 120)
    for one in found:
        if one.level != "ok" or not args.quiet:
            line = f"{one.level:<4}  {one.name:<12}  {one.what}"
            print(line if len(line) <= width or not sys.stdout.isatty() else line[: width - 1] + "…")
            if one.remedy and one.level != "ok":
                print(f"{'':20}{one.remedy}")
    return int(failed)
