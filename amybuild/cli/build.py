"""`amybuild [TARGET…]`: build, dry run, explain."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from amybuild import __version__, noop
from amybuild.cli.common import common_options, enter, size_of
from amybuild.errors import InputError

TYPE_CHECKING = False  # not from typing: `--help` needs none of it
if TYPE_CHECKING:
    import argparse
    from typing import Any

_ABOUT = """\
Build a personality: the memory graph says what it is, Personafile.toml maps its
pattern nodes to task vectors and readouts, amybuild makes them and links one checkpoint.
"""

_MORE = """\
commands:
  amybuild [TARGET…]            build (everything, or the targets named)
  amybuild --explain [TARGET…]  say what is stale and why; builds and writes nothing
  amybuild graph                the DAG as text, dot, mermaid or json
  amybuild log                  the builds made here, and what changed from each to the next
  amybuild show [BUILD]         what a build is made of, and its measured behaviours
  amybuild diff A B             what differs between two builds
  amybuild pin [BUILD]          write Personafile.lock; --name, --list, --remove
  amybuild checkout BUILD       put an earlier build back into dist/, without training; --lock: the pinned one
  amybuild rollback [N]         put the build before the product's back
  amybuild sweep KEY=V,V,…      link and measure many settings of the coefficients, without training
  amybuild chat                 talk to the product: readouts at every token, steered and unsteered
  amybuild export gguf|fold     its steering for llama.cpp, or in a checkpoint that steers by itself
  amybuild gc                   free what no pin, recent build or running process needs
  amybuild fsck                 hash the whole cache again, find damage, mend it
  amybuild push                 upload what is here to a shared store that was named later
  amybuild memory pull          ask the memory server now; status, diff: what is learned, what changed
  amybuild watch [TARGET…]      build again after every edit
  amybuild init [DIR]           a new project to start from
  amybuild doctor               what is wrong with this project and this machine

`amybuild COMMAND --help` tells more. A BUILD is a hash, the beginning of
one, a name given by `pin --name`, @ (the last one) or @~1 (the one before it).
exit codes: 0 done, 1 an action failed, 2 bad input, 3 not what is pinned, 4 --check differs, 5 cache damaged,
130 interrupted (run it again: finished actions are kept)
"""


def _build_parser() -> argparse.ArgumentParser:
    import argparse

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "amybuild", description=_ABOUT, epilog=_MORE, formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="task.NAME, steer.NAME, readout, checkpoint, persona (default)"
    )
    common_options(parser)
    add = parser.add_argument
    add("--explain", action="store_true", help="why each target is stale or not; builds nothing")
    add("--all", action="store_true", help="with --explain: every target and cause, whole diffs")
    add("-n", "--dry-run", action="store_true", help="say what would run")
    add(
        "-j",
        "--jobs",
        type=int,
        default=2,
        metavar="N",
        help="at most N actions at once (fewer when they need the model, a GPU or memory)",
    )
    add("-k", "--keep-going", action="store_true", help="after a failure build what does not depend on it")
    add(
        "--force", action="append", default=[], metavar="NAME", help="run this target's actions even if they are cached"
    )
    add(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="a variant: leave this task vector out of the link",
    )
    add(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="a variant: link this task vector alone (repeatable)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a variant: for example task.listening.alpha=0.3",
    )
    add("--locked", action="store_true", help="fail (3) unless everything is as Personafile.lock pins it")
    add("--offline", action="store_true", help="ask no memory server: take what it said last")
    add("--pull", action="store_true", help="ask the memory server now, however new its last answer is")
    add(
        "--check",
        action="store_true",
        help="run again (all, or the targets named) and compare with the cache (4: differs)",
    )
    add("--memory", metavar="SIZE", help="what actions may ask for in all, as in 16G (default: what is free)")
    add("-o", "--out", metavar="DIR", help="put the product there instead of dist/<persona>")
    add("--version", action="version", version=f"amybuild {__version__}")
    return parser


def _options(args: argparse.Namespace) -> Any:
    from pathlib import Path

    from amybuild.build import Options, Variant

    if args.jobs < 1:
        raise InputError("must be at least 1", where="-j")
    return Options(
        file=Path(args.file),
        targets=tuple(args.targets),
        variant=Variant(tuple(args.without), tuple(args.only), tuple(args.set)),
        force=tuple(args.force),
        jobs=args.jobs,
        keep_going=args.keep_going,
        locked=args.locked,
        server=_asked(args),
        check=args.check,
        out=Path(args.out) if args.out else None,
        memory=size_of(args.memory, "--memory"),
    )


def _asked(args: argparse.Namespace) -> str:
    """When a memory server is asked. Whatever only looks never asks."""
    if sum((args.offline, args.pull, args.locked)) > 1:
        raise InputError("--offline, --pull and --locked exclude each other", where="amybuild")
    if args.locked:
        return "pinned"
    return "never" if args.offline or args.explain or args.dry_run else "now" if args.pull else "due"


# options under which "up to date" is an answer that may be kept: any other one, and those to come, ask something else
_PLAIN = ("targets", "file", "directory", "no_color", "quiet", "jobs", "keep_going", "without", "only", "set", "out")


def _plain(parser: argparse.ArgumentParser, args: argparse.Namespace) -> bool:
    return all(name in _PLAIN or value == parser.get_default(name) for name, value in vars(args).items())


def run(argv: Sequence[str], ran: Sequence[str] = ()) -> int:
    """`ran`: actions that this very command ran already."""
    asked = noop.question(list(argv))  # before -C changes what a relative path means
    parser = _build_parser()
    args = enter(parser, argv)
    from amybuild.build import Project

    project = Project(_options(args))
    if args.explain:
        return _explain(project, args)
    evidence = project.evidence() if _plain(parser, args) else None
    plan = project.plan()
    if args.dry_run:
        return _dry_run(plan, args)
    code, summary = _execute(project, plan, args, ran)
    if evidence is not None:
        _keep(asked, project, summary, evidence, args)
    return code


def _keep(asked: tuple[str, str], project: Any, summary: Any, evidence: Any, args: argparse.Namespace) -> None:
    """Keep what the next no-op will say, if all is up to date now."""
    from amybuild import compiled
    from amybuild.build import proof, tells
    from amybuild.value import replace

    place = os.path.realpath(os.path.dirname(asked[0]))
    if place != os.path.realpath(project.store.root / "noop"):
        return  # called in a way that `noop.question` does not see through
    proven = proof(project, summary, evidence)
    if proven is not None:
        again = replace(summary, ran=[], hits=[*summary.ran, *summary.hits], published=False)
        recalled = project.recalled
        built = "" if args.quiet else _last_line(again, "0.0 s", "", recalled) + "\n"
        explained = "" if args.targets else _fresh(project) + "\n"  # of what was named there is an account
        span = () if recalled is None or recalled.until is None else (recalled.read, recalled.until)
        known = compiled.take(project, summary, evidence)
        if known and not tells(project, known.build):
            known = None  # amended, the account would go on telling what is another by now
        behind = compiled.keep(compiled.place_of(asked[0]), known) if known else None
        noop.keep(asked, built, explained, proven, span, behind)


def _fresh(project: Any) -> str:
    told = f", {project.recalled.told}" if project.recalled else ""
    return f"{project.persona.name} is up to date ({len(project.actions)} actions{told})"


def _explain(project: Any, args: argparse.Namespace) -> int:
    result = project.explain()
    if args.json:
        from amybuild.report.why import explanation_json

        print(explanation_json(result))
    elif result.up_to_date and not args.all and not args.targets:
        print(_fresh(project))
    else:
        from amybuild.report.why import Texts, explanation

        texts = Texts(project.node_text, project.source_text)
        print(explanation(result, project.persona.name, texts, show_all=args.all, asked=args.targets))
    return 0


def _dry_run(plan: Any, args: argparse.Namespace) -> int:
    states = {id: d.state.value for id, d in plan.decisions.items()}
    if args.json:
        import json

        print(json.dumps({"actions": states}))
        return 0
    words = {"run": "would run", "unknown": "depends on what runs before it"}
    for id, state in states.items():
        if state in words:
            print(f"{id}: {words[state]}")
    print(f"{sum(s == 'hit' for s in states.values())} of {len(states)} actions are in the cache")
    return 0


def _sink(args: argparse.Namespace, total: int, nothing: bool) -> Any:
    from amybuild.report import progress

    if args.json:
        return progress.JsonLines()
    if args.quiet:
        return progress.Silent()
    live = not nothing and not args.no_color and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return progress.LiveDisplay(total) if live else progress.PlainLines(total)


def _execute(project: Any, plan: Any, args: argparse.Namespace, ran: Sequence[str] = ()) -> tuple[int, Any]:
    from amybuild.build import build

    began = time.monotonic()
    sink = _sink(args, len(project.actions), plan.done)
    try:
        summary = build(project, plan, sink)
    finally:
        sink.close()
    seconds = time.monotonic() - began
    summary.ran[:0] = [id for id in ran if id in summary.hits]
    summary.hits = [id for id in summary.hits if id not in ran]
    if args.json:
        sink.summary(summary.ran, summary.hits, list(summary.failed), summary.build, seconds)
    elif not args.quiet:
        tell(summary, seconds, project.recalled)
    return 1 if summary.failed else 0, summary


def tell(summary: Any, seconds: float, recalled: Any = None) -> None:
    """What a build says when it is over."""
    from amybuild.report.text import behaviours, duration

    _warn(summary.warnings if summary.ran else ())
    if summary.info and (summary.ran or summary.published):
        text = behaviours(summary.info.get("verification", {}))
        print(text + "\n" if text else "", end="")
    print(_last_line(summary, duration(seconds), duration(summary.saved), recalled), file=sys.stderr)


def _warn(warnings: Sequence[str], shown: int = 3) -> None:
    for warning in warnings[:shown]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > shown:
        print(f"warning: … and {len(warnings) - shown} more", file=sys.stderr)


def _last_line(summary: Any, seconds: str, saved: str, recalled: Any) -> str:
    if summary.failed:
        blocked = f", {len(summary.blocked)} not reached" if summary.blocked else ""
        return f"{len(summary.failed)} failed, {len(summary.ran)} ran, {summary.reused} reused{blocked} ({seconds})"
    build = f", build {summary.build[:12]}" if summary.build else ""
    build += f", {recalled.told}" if recalled is not None else ""
    place = f" -> {os.path.relpath(summary.product)}" if summary.product and summary.published else ""
    if not summary.ran:
        word = "put back from the cache" if summary.published else "is up to date"
        return f"{summary.persona} {word} ({summary.reused} actions{build}, {seconds}){place}"
    reused = f"{summary.reused} reused" + (f" (saved {saved})" if summary.reused else "")
    return f"{len(summary.ran)} ran, {reused} in {seconds}{build}{place}"
