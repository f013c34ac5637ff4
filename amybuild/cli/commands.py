"""The commands: find the one that is asked for, call its function, print its error, exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from amybuild.errors import AmyError, InputError, did_you_mean

TYPE_CHECKING = False  # not from typing: `--help` needs none of it
if TYPE_CHECKING:
    from amybuild.noop import Answer

COMMANDS = {  # command -> where its function is; a module is imported when its command is asked for
    "graph": "history:graph",
    "log": "history:log",
    "show": "history:show",
    "diff": "history:diff",
    "quality": "quality:quality",
    "pin": "history:pin",
    "checkout": "history:checkout",
    "gc": "store:gc",
    "fsck": "store:fsck",
    "push": "store:push",
    "watch": "watch:watch",
    "init": "project:init",
    "doctor": "project:doctor",
    "rollback": "history:rollback",
    "sweep": "sweep:sweep",
    "chat": "serve:chat",
    "export": "serve:export",
    "memory": "memory:memory",
}
# options of a build whose value may look like a command: a task can be named `chat`, a folder `memory`
_TAKES_VALUE = {"-f", "--file", "-C", "--directory", "-o", "--out", "-j", "--jobs"}
_TAKES_VALUE |= {"--force", "--without", "--only", "--set", "--memory"}
_signals: list[int] = []  # that asked this process to end: an import turns a KeyboardInterrupt into an error of its own


def _function(entry: str) -> Callable[[Sequence[str]], int]:
    import importlib

    module, _, name = entry.partition(":")
    found: Callable[[Sequence[str]], int] = getattr(importlib.import_module(f"amybuild.cli.{module}"), name)
    return found


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The command, wherever it stands among the common options."""
    position = 0
    while position < len(argv):
        word = argv[position]
        if word in COMMANDS:
            return word, argv[:position] + argv[position + 1 :]
        if not word.startswith("-"):
            near = did_you_mean(word, COMMANDS) if "." not in word and "/" not in word else None
            if near and word not in ("persona", "readout", "checkpoint"):
                raise InputError(f"no command or target '{word}'", remedy=near)
            return None, argv
        position += 2 if word in _TAKES_VALUE else 1
    return None, argv


def main(argv: list[str], found: Answer | None = None, leave: Callable[[], object] = bool) -> int:
    """Run one command; returns its exit code. `found`: what was said when all was up to date, which no longer holds.
    `leave` is called when the little that changed was made, and nothing of it is left to take down."""
    try:
        code = _answer(argv, found, leave)
    except Exception:
        if not _signals:
            raise
        code = _interrupted()
    return 130 if code and _signals else code  # what failed after a signal may have failed by it


def _answer(argv: list[str], found: Answer | None, leave: Callable[[], object]) -> int:
    try:
        _stand()
        command, rest = _split(argv)
        if found is not None and command is None:
            return _after_edit(argv, found, leave)
        return _function(COMMANDS[command] if command else "build:run")(rest)
    except AmyError as error:
        print(f"amybuild: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk behind our own output, say
        if os.environ.get("AMYBUILD_TRACEBACK"):
            raise
        print(f"amybuild: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 2


def _stand() -> None:
    """Libraries that are asked for later end the process where no folder is."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError("the current folder is gone", remedy="cd into one that exists") from error


def _after_edit(argv: list[str], found: Answer, leave: Callable[[], object]) -> int:
    from amybuild.cli import edited

    ran = edited.run(argv, found)
    if ran is None:
        leave()
        return 0
    from amybuild.cli import build

    return build.run(argv, ran)


def _interrupted() -> int:
    print("amybuild: interrupted; finished actions are kept", file=sys.stderr)
    return 130


def _stop(number: int, frame: object) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


def end_politely() -> None:
    """A polite kill ends like Ctrl-C: finished actions are kept, nothing half-done stays."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, _stop)
