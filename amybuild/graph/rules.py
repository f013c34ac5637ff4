"""The table of rules: which function an action runs and which libraries its result depends on."""

from __future__ import annotations

from collections.abc import Mapping

from amybuild.value import field, value

_MODEL = ("torch", "transformers", "tokenizers", "safetensors")
_ONE_MODEL = {"model": 1}
MODULES = {"scikit-learn": "sklearn"}  # libraries that are imported by another name than they are installed by


@value
class Rule:
    """A kind of action. There is one `model` at a time: who needs it holds the base and all cores."""

    name: str
    entry: str  # "module:function"
    libraries: tuple[str, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)  # what every action of it needs
    data: tuple[str, ...] = ()  # files of the package that it reads


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("base", "amybuild.actions.base:run", (*_MODEL, "gguf"), resources=_ONE_MODEL),
        Rule(
            "neutral",
            "amybuild.actions.neutral:run",
            _MODEL,
            resources=_ONE_MODEL,
            data=("actions/neutral_prompts.txt",),
        ),
        Rule("corpus", "amybuild.actions.corpus:run"),
        Rule("chat", "amybuild.actions.chat:run"),
        Rule("train", "amybuild.actions.train:run", _MODEL, resources=_ONE_MODEL),
        Rule("adopt", "amybuild.actions.adopt:run", ("safetensors",)),
        Rule("combine", "amybuild.link.combine:run", ("numpy",)),
        Rule("baseline", "amybuild.actions.baseline:run", _MODEL, resources=_ONE_MODEL),
        Rule("measure", "amybuild.actions.measure:run", _MODEL, resources=_ONE_MODEL),
        Rule("verify", "amybuild.actions.verify:run"),
        Rule("cross", "amybuild.actions.cross:run", _MODEL, resources=_ONE_MODEL),
        Rule("texts", "amybuild.actions.texts:run"),
        Rule("labels", "amybuild.actions.labels:run"),
        Rule("activations", "amybuild.actions.activations:run", _MODEL, resources=_ONE_MODEL),
        Rule("vectors", "amybuild.actions.vectors:run", ("numpy", "scikit-learn", "safetensors")),
        Rule("quality", "amybuild.actions.quality:run", ("numpy", "scikit-learn", "safetensors")),
        Rule("drift", "amybuild.actions.drift:run", (*_MODEL, "numpy", "scikit-learn"), resources=_ONE_MODEL),
        Rule("link", "amybuild.link.run:run", ("numpy", "numba"), resources=_ONE_MODEL),
        Rule("adapter", "amybuild.link.merged:run", ("numpy", "numba"), resources=_ONE_MODEL),
        Rule("persona_measure", "amybuild.actions.persona_measure:run", _MODEL, resources=_ONE_MODEL),
        Rule("persona_verify", "amybuild.actions.persona_verify:run"),
    )
}
