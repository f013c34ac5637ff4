"""The command line: an up-to-date project is answered at once; whatever else is asked goes to `cli.commands`."""

import os
import sys

from amybuild import __version__, noop


def _known(words: list[str], found: "noop.Answer | None") -> bool:
    """Say what needs no looking: the version, or that nothing changed since an earlier no-op."""
    text = noop.said(found, words) if found else None
    if words == ["--version"]:
        text = f"amybuild {__version__}\n", ""
    if text is None:
        return False
    try:
        print(text[0], end="", flush=True)
        print(text[1], end="", file=sys.stderr, flush=True)
    except OSError:  # nobody reads our output, or it cannot be written: the whole program knows what to say
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    found = noop.look(words)
    if _known(words, found):
        return 0
    from amybuild.cli import commands

    return commands.main(words, found)


def _open_streams() -> None:
    """A standard stream that the caller closed is the null device: else the next file that is opened has its number,
    and whatever a library prints goes there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _leave() -> None:
    """All is said and written; to take the interpreter down in order costs a fifth of what it costs to start."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run() -> None:
    """The console script."""
    import gc

    _open_streams()
    gc.set_threshold(100_000)  # a large project is many objects that stay: not to be looked through every 700 new ones
    words = sys.argv[1:]
    try:
        found = noop.look(words)
        if _known(words, found):
            os._exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    from amybuild.cli import commands

    commands.end_politely()
    sys.exit(commands.main(words, found, _leave))
