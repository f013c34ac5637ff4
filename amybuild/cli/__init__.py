"""The command line: an up-to-date project is answered at once; whatever else is asked goes to `cli.commands`."""

import sys

from amybuild import noop


def _known(words: list[str]) -> bool:
    """Answer from the stamp of an earlier no-op, if there is one that holds."""
    found = noop.answer(words)
    if found is None:
        return False
    try:
        sys.stdout.write(found[0])
        sys.stdout.flush()
        sys.stderr.write(found[1])
    except OSError:  # nobody reads our output, or it cannot be written: the whole program knows what to say
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if _known(words):
        return 0
    from amybuild.cli import commands

    return commands.main(words)


def run() -> None:
    """The console script."""
    try:
        if _known(sys.argv[1:]):
            return
    except KeyboardInterrupt:
        sys.exit(130)
    from amybuild.cli import commands

    commands.end_politely()
    sys.exit(commands.main(sys.argv[1:]))
