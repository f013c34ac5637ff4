"""The table of rules: which function an action runs and which libraries its result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MODEL = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Rule:
    """A kind of action. `heavy` ones hold the model and all cores, so one runs at a time."""

    name: str
    entry: str  # "module:function"
    libraries: tuple[str, ...] = ()
    heavy: bool = False
    data: tuple[str, ...] = ()  # files of the package that it reads


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("base", "amybuild.actions.base:run", (*_MODEL, "gguf"), heavy=True),
        Rule("neutral", "amybuild.actions.neutral:run", _MODEL, heavy=True, data=("actions/neutral_prompts.txt",)),
        Rule("corpus", "amybuild.actions.corpus:run"),
        Rule("train", "amybuild.actions.train:run", (*_MODEL, "peft"), heavy=True),
        Rule("combine", "amybuild.link.combine:run", ("numpy",)),
        Rule("verify", "amybuild.actions.verify:run", _MODEL, heavy=True),
        Rule("texts", "amybuild.actions.texts:run"),
        Rule("labels", "amybuild.actions.labels:run"),
        Rule("activations", "amybuild.actions.activations:run", _MODEL, heavy=True),
        Rule("vectors", "amybuild.actions.vectors:run", ("torch", "safetensors")),
        Rule("link", "amybuild.link.run:run", ("numpy", "numba"), heavy=True),
        Rule("persona_verify", "amybuild.actions.persona_verify:run", _MODEL, heavy=True),
    )
}
