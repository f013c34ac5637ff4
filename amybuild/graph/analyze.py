"""Analysis: a Persona and its memory graph become an ActionGraph. No torch, no disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.graph.graph import Action, ActionGraph, NodeSource, PathSource
from amybuild.memory.graph import AskedGraph, MemoryGraph
from amybuild.memory.node import Node, cut
from amybuild.memory.query import QueryError
from amybuild.memory.text import inside
from amybuild.personafile.schema import WRITTEN as WRITTEN  # what is shown of a change depends on it: `plan.change`
from amybuild.personafile.schema import Base, Persona, Readout, Recipe, Steer, Task, Texts

_CORPUS = ("heldout", "min_examples")
_TRAIN = (
    *("learn", "tune", "rank", "lora_alpha", "rslora", "steps", "batch", "replay_batch", "kl_weight", "lr", "schedule"),
    *("optimizer", "apollo_rank", "apollo_refresh", "apollo_scale", "apollo_growth", "tokens_per_pass", "nll_weight"),
    *("preference", "distill_weight", "teacher", "teacher_examples", "teacher_tokens"),
    *("context_frozen", "top_layers", "activation_checkpointing", "strict", "watch_every", "max_drift"),
    *("margin_weight", "margin_beta", "warmup", "weight_decay", "clip", "max_tokens", "dtype", "device", "threads"),
    "shards",
)
_LOADED = ("dtype", "device", "threads")
_MEASURE = ("max_tokens", "samples", "sample_tokens", *_LOADED)
CROSS = "max_cross_share"  # the one gate of a recipe that needs the other behaviours: it is held by the persona
_TEXTS = ("min_chars",)
_LABELS = ("min_score", "max_negative_mentions", "min_chars", "max_per_concept")
_ACTIVATIONS = ("layers", "reading", "max_tokens", "dtype", "device")
_DRIFT = ("dtype", "device")
_VECTORS = ("layers", "n_layers", "estimator", "false_positive_rate")


def _take(recipe: Recipe, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    return {n: recipe.fields[n] for n in names}, {n: recipe.origins[n] for n in names}


@dataclass(frozen=True)
class _Read:
    """What the texts of a direction are read from. `form` says how, `sides` which labels they get where that says."""

    nodes: tuple[NodeSource, ...] = ()
    source: PathSource | None = None
    form: Mapping[str, Any] = field(default_factory=dict)
    sides: Mapping[str, Any] = field(default_factory=dict)


class _Analysis:
    def __init__(self, persona: Persona, memory: MemoryGraph | AskedGraph, digest_path: Callable[[Path], str]) -> None:
        self.persona = persona
        self.memory = memory
        self.digest_path = digest_path
        self.graph = ActionGraph()
        self.vectors: dict[str, str] = {}  # task -> the action that makes its vector

    def run(self) -> ActionGraph:
        persona = self.persona
        self.base = self._base(persona.base)
        target = f"base.{persona.base.name}"
        self.neutral = self.graph.add(
            Action(f"{target}/neutral", target, "neutral", dict(persona.neutral), {"base": self.base})
        )
        tasks = {task.name: task for task in persona.tasks}
        for task in persona.tasks:
            self._task(task, tasks)
        products = self._checkpoint()
        directions = [self._steer(steer) for steer in persona.steers]
        if persona.readout:
            directions += self._readout(persona.readout, products[0])
        self.graph.whole = (*products, *self._verified(*products), *directions)
        return self.graph

    def _base(self, base: Base) -> str:
        params = {
            key: list(value) if isinstance(value, tuple) else value
            for key in ("kind", "wheel", "hub", "revision", "file", "sha256")
            if (value := getattr(base, key)) is not None
        }
        source = None if base.path is None else self._outside(base.path, f"{base.where} path")
        target = f"base.{base.name}"
        origins = dict.fromkeys(params, "base")
        return self.graph.add(Action(f"{target}/import", target, "base", params, source=source, origins=origins))

    def _outside(self, name: str, where: str) -> PathSource:
        """A file or folder that an action reads, by its path from the project, with what it holds now."""
        path = (self.persona.root / name).resolve()
        if not os.path.exists(path):  # Path.exists raises for a name that is too long
            remedy = "a path starts at the project, and ~ is no home there"
            raise InputError(f"no such file or folder: {name}", where=where, remedy=remedy)
        return PathSource(path, self.digest_path(path))

    def _inside(self, name: str, where: str, kind: str) -> PathSource:
        """The same of what people wrote, one of `WRITTEN`: it must lie in the project, with all that it holds."""
        path = inside(self.persona.root, name, f"{where} {kind}")
        return PathSource(path, self.digest_path(path), kind)

    def _nodes(self, where: str, node: str | None, query: str | None) -> tuple[NodeSource, ...]:
        """The nodes a target reads; a section is a source of its own, so an edit beside it is no edit of it."""
        try:
            if node is None:
                found = [self._whole(key) for key in sorted(self.memory.keys(query or "all"))]
            else:
                key, part = self.memory.find(node)
                found = [self._whole(key) if part is None else _source(cut(self.memory.nodes[key], part))]
        except InputError as error:
            place = f"{where}, column {error.column}" if isinstance(error, QueryError) else where
            raise InputError(error.what, where=place, remedy=error.remedy) from None
        if not found:
            raise InputError(f"the query '{query}' matches no node", where=where, remedy="try it with fewer stages")
        return tuple(found)

    def _whole(self, key: str) -> NodeSource:
        """A node, whose text is read when an action needs it."""
        nodes = self.memory.nodes
        return NodeSource(key, self.memory.digests[key], lambda: nodes[key].canonical())

    def _task(self, task: Task, tasks: dict[str, Task]) -> str:
        if task.name in self.vectors:
            return self.vectors[task.name]
        target = task.target
        inputs = {"base": self.base, "neutral": self.neutral}
        if task.has_dialogues:
            inputs["corpus"] = self._corpus(task)
        self.vectors[task.name] = vector = self._vector(task, tasks, inputs)
        needs = task.recipe.resources
        params, origins = _take(task.recipe, _MEASURE)
        baseline = Action(f"{target}/baseline", target, "baseline", params, inputs, origins=origins, resources=needs)
        read = {**inputs, "vector": vector, "baseline": self.graph.add(baseline)}
        params = params | {"alpha": task.alpha, "lambda": self.persona.link.lam}
        if task.scale:
            params["scale"] = [dict(row) for row in task.scale]
        measure = Action(f"{target}/measure", target, "measure", params, read, origins=origins, resources=needs)
        gates = {name: bound for name, bound in task.recipe.gates.items() if name != CROSS}
        held = {"measure": self.graph.add(measure)}
        self.graph.add(Action(f"{target}/verify", target, "verify", {"gates": gates}, held))
        return vector

    def _corpus(self, task: Task) -> str:
        """The action that makes a task's examples: from nodes, from a JSONL file, or from a chat."""
        params, origins = _take(task.recipe, _CORPUS)
        id = f"{task.target}/corpus"
        nodes: tuple[NodeSource, ...] = ()
        source: PathSource | None = None
        if task.chat:
            params |= {one.name: getattr(task.chat, one.name) for one in fields(task.chat) if one.name != "path"}
            params |= {"names": dict(task.chat.names), "redact": list(task.chat.redact)}
            source = self._inside(task.chat.path, task.where, "chat")
        elif task.examples is not None:
            source = self._inside(task.examples, task.where, "examples")
        else:
            nodes = self._nodes(f"{task.where} {'node' if task.node else 'query'}", task.node, task.query)
        rule = "chat" if task.chat else "corpus"
        return self.graph.add(Action(id, task.target, rule, params, nodes=nodes, source=source, origins=origins))

    def _vector(self, task: Task, tasks: dict[str, Task], inputs: dict[str, str]) -> str:
        """The action that makes a task's vector: an analogy, one taken from outside, or a training."""
        if task.analogy:
            three = {role: self._task(tasks[getattr(task.analogy, role)], tasks) for role in "abc"}
            return self.graph.add(Action(task.vector, task.target, "combine", {}, {"base": self.base, **three}))
        for kind in ("checkpoint", "adapter"):
            path = getattr(task, kind)
            if path is not None:
                source = self._outside(path, f"{task.where} {kind}")
                read = {"base": self.base}
                return self.graph.add(Action(task.vector, task.target, "adopt", {"kind": kind}, read, source=source))
        params, origins = _take(task.recipe, _TRAIN)
        needs = dict(task.recipe.resources)
        if params["shards"] > 1 and params["device"] == "cuda":
            needs["gpu"] = max(params["shards"], needs.get("gpu", 0))
        read = dict(inputs)
        if params["distill_weight"] > 0 and params["teacher"] == "node":  # only such a teacher reads prose
            nodes = self._nodes(f"{task.where} node", task.node, task.query)
            least = {"min_chars": 0}
            read["texts"] = self.graph.add(Action(f"{task.target}/texts", task.target, "texts", least, nodes=nodes))
        return self.graph.add(Action(task.vector, task.target, "train", params, read, origins=origins, resources=needs))

    def _texts(self, where: str, query: str, texts: Texts | None, concept: str) -> _Read:
        """The texts of a direction: tagged memories of `query`, or `texts`."""
        if texts is None:
            return _Read(self._nodes(f"{where} query", None, query))
        form = {"form": texts.form}
        if texts.path is not None:
            return _Read(source=self._inside(texts.path, where, texts.form), form=form)
        if texts.negatives is None:
            nodes = self._nodes(f"{where} {'node' if texts.node else 'query'}", texts.node, texts.query)
            return _Read(nodes, form=form, sides={"concept": concept})
        good = self._nodes(f"{where} positives", None, texts.query)
        bad = self._nodes(f"{where} negatives", None, texts.negatives)
        both = sorted({one.key for one in good} & {one.key for one in bad})
        if both:
            what = f"{len(both)} nodes are on both sides, such as {both[0]}"
            raise InputError(what, where=f"{where} negatives", remedy="make the queries exclude each other")
        nodes = tuple(sorted((*good, *bad), key=lambda one: one.key))
        return _Read(nodes, form=form, sides={"concept": concept, "negatives": [one.key for one in bad]})

    def _direction(self, target: str, read: _Read, concepts: dict[str, Any], recipe: Recipe, model: str) -> str:
        """texts -> activations, and labels, -> vectors -> quality: of a steering target or the readout, on `model`.

        Only labels know the concepts: targets that read the same texts share one pass over them.
        """
        params, origins = _take(recipe, _TEXTS)
        params |= read.form
        nodes, source = read.nodes, read.source
        texts = self.graph.add(Action(f"{target}/texts", target, "texts", params, {}, nodes, source, origins))
        params, origins = _take(recipe, _LABELS)
        params |= {**read.form, **read.sides, **concepts}
        labels = self.graph.add(Action(f"{target}/labels", target, "labels", params, {}, nodes, source, origins))
        params, origins = _take(recipe, _ACTIVATIONS)
        inputs = {"base": model, "texts": texts, "neutral": self.neutral}
        needs = recipe.resources
        acts = self.graph.add(
            Action(f"{target}/activations", target, "activations", params, inputs, origins=origins, resources=needs)
        )
        params, origins = _take(recipe, _VECTORS)
        inputs = {"labels": labels, "activations": acts}
        vectors = self.graph.add(Action(f"{target}/vectors", target, "vectors", params, inputs, origins=origins))
        inputs = {**inputs, "texts": texts, "vectors": vectors}
        return self.graph.add(Action(f"{target}/quality", target, "quality", params, inputs, origins=origins))

    def _steer(self, steer: Steer) -> str:
        read = self._texts(steer.where, steer.query, steer.texts, steer.emotion)
        chosen = {"concepts": [steer.emotion], "top": None, "min_examples": 3}
        return self._direction(steer.target, read, chosen, steer.recipe, self.base)

    def _readout(self, readout: Readout, checkpoint: str) -> list[str]:
        """Its quality, and its drift: how well it reads the model that it was not found on."""
        read = self._texts(readout.where, readout.query, readout.texts, "")
        chosen = {"concepts": list(readout.concepts), "top": readout.top, "min_examples": readout.min_examples}
        model, other = (self.base, checkpoint) if readout.on == "base" else (checkpoint, self.base)
        quality = self._direction("readout", read, chosen, readout.recipe, model)
        params, origins = _take(readout.recipe, _DRIFT)
        params |= {"max_drift": readout.max_drift, "drift_texts": readout.drift_texts}
        roles = ("vectors", "labels", "activations", "texts")
        inputs = {"other": other, **{role: f"readout/{role}" for role in roles}}
        needs = readout.recipe.resources
        drift = Action("persona/drift", "persona", "drift", params, inputs, origins=origins, resources=needs)
        return [quality, self.graph.add(drift)]

    def _checkpoint(self) -> list[str]:
        """The link, and the adapter where one is asked for."""
        link, linked = self.persona.link, self.persona.linked()
        params = {
            "method": link.method,
            "lambda": link.lam,
            "alphas": {task.name: task.alpha for task in linked},
            **link.params,
        }
        own = [{**row, "vector": task.name} for task in linked for row in task.scale]
        if own:  # the first that matches counts: a vector's own factors come before everybody's
            params["scale"] = [*own, *params.get("scale", ())]
        inputs = {"base": self.base, **{f"vector.{t.name}": self.vectors[t.name] for t in linked}}
        gates = tuple(f"{task.target}/verify" for task in linked)
        checkpoint = self.graph.add(Action("checkpoint/link", "checkpoint", "link", params, inputs, after=gates))
        products = [checkpoint]
        if link.adapter_rank is not None:
            params = params | {"rank": link.adapter_rank}
            adapter = Action("checkpoint/adapter", "checkpoint", "adapter", params, inputs, after=gates)
            products.append(self.graph.add(adapter))
        return products

    def _verified(self, checkpoint: str, adapter: str | None = None) -> list[str]:
        """The linked checkpoint measured on every behaviour, every vector on those of the others, and the gates.

        Where there is an adapter it is measured as the checkpoint is.
        """
        linked = self.persona.linked()
        told = {task.name: task for task in linked if task.has_dialogues}
        longest = {name: task.recipe.fields["max_tokens"] for name, task in told.items()}
        on = {
            f"{step}.{name}": f"{task.target}/{step}" for name, task in told.items() for step in ("corpus", "baseline")
        }
        read = {"base": self.base, "neutral": self.neutral, **on}
        params = {"device": self.persona.neutral["device"], "max_tokens": max(longest.values(), default=192)}
        found = []
        if adapter is not None:
            inputs = {**read, "adapter": adapter}
            found.append(self.graph.add(Action("persona/adapter", "persona", "persona_measure", params, inputs)))
        inputs = {**read, "checkpoint": checkpoint}
        measure = Action("persona/measure", "persona", "persona_measure", params, inputs)
        inputs = {"measure": self.graph.add(measure), **{f"vector.{t.name}": f"{t.target}/measure" for t in linked}}
        bounds = {task.name: task.recipe.gates[CROSS] for task in linked if CROSS in task.recipe.gates}
        if len(linked) > 1 and told:
            inputs["cross"] = self._cross(linked, longest, on)
        params = {"gates": dict(self.persona.gates), "cross": bounds}
        return [self.graph.add(Action("persona/verify", "persona", "persona_verify", params, inputs)), *found]

    def _cross(self, linked: tuple[Task, ...], longest: Mapping[str, int], on: Mapping[str, str]) -> str:
        how = {task.name: {name: task.recipe.fields[name] for name in _LOADED} for task in linked}
        params = {
            "alphas": {task.name: task.alpha for task in linked},
            "lambda": self.persona.link.lam,
            "scale": {task.name: [dict(row) for row in task.scale] for task in linked if task.scale},
            "how": how,
            "max_tokens": dict(longest),
        }
        inputs = {"base": self.base, **{f"vector.{task.name}": self.vectors[task.name] for task in linked}, **on}
        return self.graph.add(Action("persona/cross", "persona", "cross", params, inputs))


def _source(node: Node) -> NodeSource:
    return NodeSource(node.key, node.digest, node.canonical())


def analyze(persona: Persona, memory: MemoryGraph | AskedGraph, digest_path: Callable[[Path], str]) -> ActionGraph:
    """The action graph of `persona`. `digest_path` digests a file or folder outside the project."""
    return _Analysis(persona, memory, digest_path).run()
