"""`amybuild chat` talks to a product and shows its readouts; `amybuild export` writes its steering for others."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amybuild.cli.common import command, enter
from amybuild.errors import InputError


def chat(argv: Sequence[str]) -> int:
    parser = command("chat", "Talk to a built persona; steer it, and see what it carries at every token.")
    _shared(parser)
    parser.add_argument("-m", "--message", action="append", metavar="TEXT", help="say this and stop (default: ask)")
    parser.add_argument("--compare", action="store_true", help="every reply unsteered, steered, and steered away")
    parser.add_argument("--readout", type=int, metavar="K", help="show the K strongest concepts at every token")
    parser.add_argument("--controls", action="store_true", help="measure each direction: sign, and a random control")
    parser.add_argument("--max-tokens", type=int, default=120, metavar="N", help="longest reply (120)")
    parser.add_argument(
        "--temperature", type=float, default=0.7, metavar="T", help="of sampling; 0 = the likeliest (0.7)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (0)")
    args = enter(parser, argv)
    if args.max_tokens < 1 or not 0 <= args.temperature < 100 or (args.readout is not None and args.readout < 1):
        raise InputError("a length and a count are at least 1, a temperature at least 0", where="chat")
    from amybuild.serve.files import MANIFEST, read_readout

    product = _product(args)
    asked = _asked(product, args.steer)
    readout = read_readout(product) if (product / MANIFEST).is_file() else None
    if readout is None and (args.readout or args.controls):
        raise InputError("it has no readout", where=str(product), remedy="add a [readout] to the Personafile")
    steered = [one.at(how.towards) for one, how in asked]
    from amybuild.serve.chat import opened

    with opened(product, readout) as loaded:
        if args.controls:
            return _controls(args, loaded, product, asked)
        conditions = {"steered" if steered else "reply": steered}
        if args.compare:
            away = [one.at(-how.away) for one, how in asked]
            conditions = {"unsteered": [], "steered": steered, "steered away": away} if steered else {"unsteered": []}
        histories: dict[str, list[dict[str, str]]] = {name: [] for name in conditions}
        for message in args.message or _typed(args.quiet):
            for name, directions in conditions.items():
                _say(args, loaded, readout, message, name, directions, histories[name], len(conditions) > 1)
    return 0


def export(argv: Sequence[str]) -> int:
    parser = command("export", "Write a product's steering for other programs: llama.cpp (gguf), or any server (fold).")
    parser.add_argument("what", choices=("gguf", "fold"), help="control vectors | a checkpoint that steers by itself")
    _shared(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help="the folder to write (default: beside the product)")
    parser.add_argument("--away", action="store_true", help="away from the concept: alpha_neg (or X) turned round")
    args = enter(parser, argv)
    from amybuild.serve.files import model_config
    from amybuild.serve.fold import fold, fold_of
    from amybuild.serve.gguf import write_control_vector

    product = _product(args)
    config = model_config(product)
    asked = _asked(product, args.steer)
    if not asked:
        remedy = "name one with --steer NAME, or set apply = true in its [steer.NAME]"
        raise InputError("nothing to export: no steering target applies", where=str(product), remedy=remedy)
    strengths = {one.name: -how.away if args.away else how.towards for one, how in asked}
    directions = [one.at(strengths[one.name]) for one, _ in asked]
    out = Path(args.output or f"{product}-{'steered' if args.what == 'fold' else 'gguf'}")
    result: dict[str, Any] = {"schema": 1, "output": str(out), "strengths": strengths}
    if args.what == "fold":
        fold_of(config, str(product))
        worst = fold(product, out, directions, strengths)
        result["difference"] = worst
        told = f"{out}: reloaded, it is within {worst:.1e} nats of the steered {product.name}"
    else:
        if out.exists() and not out.is_dir():
            raise InputError("is no folder", where=str(out), remedy="name a folder to write into")
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{one.name}.gguf" for one in directions]
        for path, one in zip(paths, directions, strict=True):
            write_control_vector(path, one, str(config.get("model_type")))
        result["files"] = [str(path) for path in paths]
        told = "\n".join(f"{path}  strength {strengths[path.stem]:g}, as --control-vector FILE" for path in paths)
    print(json.dumps(result) if args.json else told)
    return 0


def _shared(parser: Any) -> None:
    parser.add_argument("product", nargs="?", metavar="DIR", help="the product (default: the one in dist/)")
    parser.add_argument(
        "--steer",
        action="append",
        default=[],
        metavar="NAME[=X]",
        help="along this steering target or concept, X class gaps far either way (default: its alphas; all that apply)",
    )


def _product(args: Any) -> Path:
    if args.product:
        if not Path(args.product).is_dir():
            raise InputError(f"no such folder: {args.product}", where="DIR")
        return Path(args.product)
    found = sorted(path.parent for path in (Path(args.file).parent / "dist").glob("*/persona.json"))
    if len(found) != 1:
        what = "more than one product in dist/" if found else "no product in dist/"
        raise InputError(what, where=args.file, remedy="name its folder" if found else "build it: amybuild")
    return found[0]


def _asked(product: Path, words: Sequence[str]) -> list[tuple[Any, Any]]:
    """(direction, its strengths) for each --steer, or for all that apply. A strength that is named counts both ways."""
    from amybuild.serve.chat import Strengths, strengths
    from amybuild.serve.steering import read_steering

    told = strengths(product)
    wanted: dict[str, Strengths] = {}
    for word in words or [name for name, how in told.items() if how.apply]:
        name, sign, text = word.partition("=")
        try:
            wanted[name] = Strengths(True, float(text), float(text)) if sign else told.get(name, Strengths())
        except ValueError:
            raise InputError(f"{text!r:.40} is no number", where="--steer", remedy="as in --steer warmth=1.5") from None
    found = read_steering(product, list(wanted)) if wanted else {}
    for name, one in found.items():
        one.at(wanted[name].towards)  # finite, or it says so
    return [(found[name], how) for name, how in wanted.items()]


def _typed(quiet: bool) -> Iterator[str]:
    """Lines that somebody types, or that a file holds."""
    while True:
        if sys.stdin.isatty() and not quiet:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _say(
    args: Any, loaded: Any, readout: Any, message: str, name: str, directions: Any, history: Any, labelled: bool
) -> None:
    """One reply, as it is made."""
    from amybuild.serve.chat import reply, standardised

    history.append({"role": "user", "content": message})
    silent = args.json or args.readout
    if labelled and not args.json:
        print(f"[{name}] ", end="", flush=True)

    def told(text: str, _rows: Any) -> None:
        if not silent:
            print(text, end="", flush=True)

    how = {"most": args.max_tokens, "seed": args.seed, "temperature": args.temperature}
    made = reply(loaded, history, readout, directions, told=told, **how)
    history.append({"role": "assistant", "content": made.text})
    if args.json:
        rows = None if made.readout is None else made.readout.tolist()
        print(json.dumps({"condition": name, "text": made.text, "tokens": list(made.tokens), "readout": rows}))
    elif args.readout and made.readout is not None:
        print(made.text)
        scores = standardised(readout, made.readout)
        for token, row in zip(made.tokens, scores, strict=True):
            strongest = sorted(zip(readout.concepts, row, strict=True), key=lambda pair: -abs(pair[1]))
            shown = "  ".join(f"{concept} {value:+.1f}" for concept, value in strongest[: args.readout])
            print(f"  {token!r:<16} {shown}")
    else:
        print(flush=True)


def _controls(args: Any, loaded: Any, product: Path, asked: Sequence[tuple[Any, Any]]) -> int:
    """Measure each direction; exit 1 when one does not turn round with its sign or is no better than chance."""
    from amybuild.serve.chat import controls
    from amybuild.serve.files import read_readout
    from amybuild.serve.steering import FOLDER

    if not asked:
        raise InputError("no steering target applies", where="--controls", remedy="name one with --steer NAME")
    good = True
    for one, how in asked:
        own = product / FOLDER / one.name
        readout = read_readout(own if own.is_dir() else product)
        concept = readout.concepts[0] if own.is_dir() else one.name
        found = controls(loaded, readout, concept, one, how, seed=args.seed)
        good = good and found["reverses"] and found["beats_random"]
        if args.json:
            print(json.dumps({"name": one.name, **found}))
            continue
        print(f"{one.name}  the unsteered model's readout of {concept} in texts made while steering (deviations)")
        for name in ("unsteered", "towards", "away", "random"):
            row = found[name]
            print(f"  {name:<10} {row['readout']:+.3f} ± {row['se']:.3f}   log p {row['logp']:+.2f} per token")
        word = "turns round with its sign" if found["reverses"] else "does NOT turn round with its sign"
        print(f"  {word}; {'more' if found['beats_random'] else 'NO more'} than a random direction of its length")
    return 0 if good else 1
