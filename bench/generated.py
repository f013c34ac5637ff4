"""A persona of N tasks whose cache is full: what the engine's own cost is measured on, without any model.

Every task has a memory node of its own and the three actions that it always has. The corpora are made by the real rule;
what needs a model (base, replies, training, verification, link) is written by `stand_in`, a few bytes each. Keys,
records, trees and product are real, so the command line cannot tell this cache from one that took days to fill.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

RECIPE = 'kind = "task"\nrank = 2\nsteps = 3\nheldout = 0.4\n[gates]\nmax_neutral_kl = 50.0\n'
HEAD = """\
[persona]
name = "many"
base = "tiny"

[base.tiny]
path = "models/tiny"

[graph]
source = "memory"
"""
EMPTY = "\x02" + 7 * "\0" + "{}"  # a safetensors file without tensors
THINGS = ("boat", "kettle", "letter", "garden", "engine", "map", "coat", "lamp", "piano", "ladder", "tent", "clock")


def node(number: int) -> str:
    """The Markdown of one pattern: a sentence of prose and twelve dialogues."""
    blocks = [
        f"```dialogue{' counter' if i % 6 == 5 else ''}\nUser: My {thing} troubles me today.\n"
        f"Assistant: What is it about the {thing} that weighs on you ({number})?\n"
        f"Not: Sell the {thing} and buy a new one.\n```\n"
        for i, thing in enumerate(THINGS)
    ]
    return f"# Pattern {number}\n\nI ask before I mend. Edit 0.\n\n" + "\n".join(blocks)


def write_project(root: Path, targets: int) -> None:
    """Personafile, recipe, memory and a base of one file for `targets` tasks."""
    for folder in ("models/tiny", "recipes", "memory"):
        (root / folder).mkdir(parents=True)
    (root / "models/tiny/config.json").write_text("{}\n")
    (root / "recipes/quick.toml").write_text(RECIPE)
    tables = [f'[task.t{i:05d}]\nnode = "pattern-{i:05d}"\nrecipe = "quick"\nalpha = 0.5\n' for i in range(targets)]
    (root / "Personafile.toml").write_text("\n".join([HEAD, *tables]))
    for i in range(targets):
        (root / "memory" / f"pattern-{i:05d}.md").write_text(node(i))


def edit(root: Path, number: int, times: int) -> None:
    """Another sentence of prose in one node: its corpus is made again, comes out the same, and there it stops."""
    path = root / "memory" / f"pattern-{number:05d}.md"
    before, _, rest = path.read_text().partition("Edit ")
    path.write_text(f"{before}Edit {times}.{rest[rest.index('.') + 1 :]}")


def stand_in(rule: str, action: str, out: Path) -> None:
    """What a rule that needs a model leaves behind, in a few bytes."""
    files: dict[str, Any] = {"weights.safetensors": f"{rule} {action}"}
    if rule in ("measure", "verify"):
        margin = {"margin": 0.1, "margin_behaviour": 0.1, "margin_counter": 0.1, "pairs": 4}
        files = {
            f"{rule}.json": {"alpha": 0.5, "lambda": 1.0, "base": margin, "alone": margin, "gain": 0.1, "of": action}
        }
    elif rule == "persona_verify":
        files = {"verify.json": {"behaviours": {}, "neutral_kl": 0.01, "gained": 0}}
    elif rule == "link":
        files = {"config.json": {}, "model.safetensors": EMPTY, "link.json": {"method": "ties", "density": 0.2}}
    for name, content in files.items():
        (out / name).write_text(content if isinstance(content, str) else json.dumps(content))


def fill_cache(root: Path) -> None:
    """Make every action's result and record, in order, then let the engine publish the product."""
    from amybuild.build import Options, Project, build
    from amybuild.cache.actions import Record
    from amybuild.execute.job import Job
    from amybuild.perform import run_job
    from amybuild.plan.plan import decide

    os.fsync = lambda _: None  # type: ignore[assignment]  # of this process: a bench project may be lost with the power
    project = Project(Options(file=root / "Personafile.toml"))
    outputs: dict[str, str] = {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for id, action in project.actions.items():
        decision = decide(action, outputs, project.identity, project.cache.lookup)
        if decision.output is None:
            manifest = decision.manifest
            assert manifest is not None
            room = project.store.scratch()
            (out := room / "out").mkdir()
            if action.rule == "corpus":
                nodes = room / "nodes"
                nodes.mkdir()
                (nodes / "nodes.jsonl").write_bytes(b"".join(one.data + b"\n" for one in action.nodes))
                job = Job(id, action.rule, manifest.key, action.params)
                run_job(job, {"nodes": nodes}, out, _silent)
            else:
                stand_in(action.rule, id, out)
            rows = tuple((k, n, v) for k, n, v in manifest.as_json())
            output = project.store.put_tree(out)
            project.cache.publish(Record(id, action.rule, manifest.key, rows, output, 0.01, now))
        outputs[id] = output if decision.output is None else decision.output
    project.store.close()
    summary = build(project, project.plan(), _ignore)
    assert summary.published, "the product was not made"
    assert not summary.ran


def _silent(done: int, total: int, **fields: float | str) -> None: ...


def _ignore(event: Any) -> None: ...
