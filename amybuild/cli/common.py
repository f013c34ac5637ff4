"""What every command shares: the options, going where -C says, and the project's history."""

from __future__ import annotations

import os
from collections.abc import Sequence

from amybuild.errors import InputError

TYPE_CHECKING = False  # not from typing: `--help` needs none of it
if TYPE_CHECKING:
    import argparse


def common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--file", metavar="FILE", default="Personafile.toml", help="the Personafile (default: Personafile.toml)"
    )
    parser.add_argument("-C", "--directory", metavar="DIR", help="go there first")
    parser.add_argument("--no-color", action="store_true", help="no colours, no live display")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors and results")
    parser.add_argument("--json", action="store_true", help="results (and events) as JSON on stdout")


def command(name: str, about: str) -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(f"amybuild {name}", description=about, allow_abbrev=False)
    common_options(parser)
    return parser


def enter(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse, options before, between and behind names, and go where -C says."""
    args = parser.parse_intermixed_args(argv)
    if args.directory:
        try:
            os.chdir(args.directory)
        except OSError as error:
            raise InputError(f"{error.strerror}: {args.directory}", where="-C") from None
    return args


def size_of(text: str | None, where: str) -> int | None:
    """Bytes of ``20G``, ``500M``, ``1.5T``; None for None."""
    from amybuild.build import bytes_of

    size = None if text is None else bytes_of(text)
    if text is not None and size is None:
        raise InputError(f"{text[:40]!r} is no size", where=where, remedy=f"for example {where} 16G")
    return size
