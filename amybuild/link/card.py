"""The model card of a persona: README.md written from persona.json, without a word of any memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def model_card(persona: Mapping[str, Any]) -> str:
    """A Hugging Face model card (YAML front matter, then Markdown) for the persona described by persona.json.

    What persona.json does not say is left out of the card; nothing raises for a missing part.
    """
    name = str(persona.get("name", "persona"))
    base = _table(persona, "base")
    parts = [
        _front_matter(base),
        f"# {name}",
        _what(name, persona, base),
        _behaviours(persona),
        _readouts(_table(persona, "readout"), persona.get("steering") or []),
        _how(persona, base),
        _loading(name),
        _adapter(persona, base),
        _rebuilding(persona),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: Mapping[str, Any]) -> str:
    lines = ["---"]
    source = str(base.get("source") or "")
    if base.get("revision") and "/" in source:  # a hub name; wheels and paths mean nothing to the hub
        lines.append(f"base_model: {json.dumps(source)}")
    if base.get("license"):
        lines.append(f"license: {json.dumps(str(base['license']))}")
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- amybuild", "- merge", "---"]
    return "\n".join(lines)


def _what(name: str, persona: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    targets = persona.get("targets") or []
    graph = _table(persona, "graph")
    nodes = f" of {graph['nodes']} nodes" if isinstance(graph.get("nodes"), int) else ""
    source = f" (`{base['source']}`)" if base.get("source") else ""
    count = f"{len(targets)} task vector{'' if len(targets) == 1 else 's'}"
    kinds = [_kind(target) for target in targets]
    origins = ", ".join(f"{kinds.count(kind)} {said}" for kind, (said, _) in _ORIGINS.items() if kind in kinds)
    made = f" ({origins.format(nodes=nodes)})" if origins else ""
    return (
        f"`{name}` is the model `{base.get('name', 'base')}`{source} with {count} added to its weights{made}. Each was "
        "measured alone before it was linked into this checkpoint. The weights are complete: nothing has to be added "
        "when it is loaded."
    )


_ORIGINS = {  # the key of a target that tells it: how it came about, and how the table calls it
    "analogy": ("combined from other vectors", "an analogy"),
    "checkpoint": ("taken from a checkpoint fine-tuned elsewhere", "a checkpoint"),
    "adapter": ("taken from an adapter trained elsewhere", "an adapter"),
    "chat": ("trained on a chat", "a chat"),
    "examples": ("trained on a file of examples", "a file of examples"),
    "node": ("trained on the dialogues of a memory graph{nodes}", ""),
}


def _kind(target: Mapping[str, Any]) -> str:
    return next((key for key in _ORIGINS if target.get(key)), "node")


def _behaviours(persona: Mapping[str, Any]) -> str:
    verification = _table(persona, "verification")
    measured = _table(verification, "behaviours")
    rows = []
    for target in persona.get("targets") or []:
        found = _table(measured, str(target.get("name")))
        verified = _table(target, "verify")
        base = found.get("base", _table(verified, "base").get("margin"))
        alone = found.get("alone", _table(verified, "alone").get("margin"))
        node = target.get("node") or target.get("query")
        source = ", ".join([_ORIGINS[_kind(target)][1]] * (_kind(target) != "node") + [f"`{node}`"] * bool(node))
        cells = [f"`{target.get('name')}`", source, _number(target.get("alpha"), "g")]
        rows.append([*cells, _number(base), _number(alone), _number(found.get("persona"))])
    if not rows:
        return ""
    head = ["behaviour", "comes from", "alpha", "base", "vector alone", "in the persona"]
    text = (
        "## Behaviours\n\nHeld-out margin, in nats per token: mean log p of the reply the memory asks for, minus mean "
        "log p of the reply it rejects. Higher is more of the behaviour (a negative alpha subtracts what its vector "
        "learned).\n\n" + _markdown(head, rows, "llrrrr")
    )
    if any(_table(measured, str(one.get("name"))).get("measure") == "log p" for one in persona.get("targets") or []):
        text += "\n\nWhere nothing is rejected, as in a chat, the number is the mean log p of held-out replies alone."
    kl = verification.get("neutral_kl")
    if isinstance(kl, int | float):
        text += f"\n\nOn neutral text the persona is {kl:.4f} nats per token (KL) away from the base."
    return text


def _readouts(readout: Mapping[str, Any], steering: Sequence[Mapping[str, Any]]) -> str:
    concepts, layers = readout.get("concepts") or [], readout.get("layers") or []
    text = ""
    if concepts:
        text = (
            f"## Readouts\n\n`readout.safetensors` and `readout.json` hold one unit direction per concept "
            f"({', '.join(str(one) for one in concepts)}) at the output of block {', '.join(str(n) for n in layers)} "
            "(counted from 0): `layer_<idx>.vectors`, `[n_concepts, hidden_size]`. The projection of the residual "
            "stream on a row says how much of the concept the model carries at that token; `.mean` and `.std` are the "
            "scale of that number over the texts it was found from."
        )
    if steering:
        names = ", ".join(f"`{one.get('name')}`" for one in steering)
        text += f"\n\nSteering directions, in the same format below `steering/`: {names}."
    return text.strip()


def _how(persona: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    link = _table(persona, "link")
    recipes = sorted({str(target["recipe"]) for target in persona.get("targets") or [] if target.get("recipe")})
    ranks = sorted({target["rank"] for target in persona.get("targets") or [] if isinstance(target.get("rank"), int)})
    lines = []
    if recipes:
        rank = f", rank {', '.join(str(rank) for rank in ranks)}" if ranks else ""
        lines.append(f"* Task vectors: recipe {', '.join(f'`{one}`' for one in recipes)} (LoRA{rank}).")
    if link.get("method"):
        elect = f", signs elected by {link['elect']}" if link.get("elect") else ""
        paper = f" ([paper]({link['paper']}))" if link.get("paper") else ""
        lines.append(
            f"* Linked by `{link['method']}`{paper} at density {_number(link.get('density'), 'g')}, lambda "
            f"{_number(link.get('lambda'), 'g')}{elect}; {link.get('tensors_touched', 0)} weight matrices changed, all "
            "other tensors are the base's bytes."
        )
    if base.get("digest"):
        lines.append(f"* Base: `{base['digest']}` (blake3).")
    if _table(persona, "graph").get("digest"):
        lines.append(f"* Memory graph: `{_table(persona, 'graph')['digest']}` (blake3).")
    lines.append("* `persona.json` is the link map: every input digest, alpha, density and measurement.")
    return "## How it was made\n\n" + "\n".join(lines)


def _loading(name: str) -> str:
    return f"""## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{name}"  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
messages = [{{"role": "user", "content": "How was your day?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = model.generate(**inputs, max_new_tokens=60)
print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def _adapter(persona: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    adapter = _table(persona, "adapter")
    if not adapter:
        return ""
    missed, outside = adapter.get("residual", 0.0), adapter.get("left_out_share", 0.0)
    text = (
        f"## As an adapter\n\n`adapter/` holds the same link as one LoRA adapter of rank {adapter.get('rank')}, in "
        f"PEFT's format, for the base `{base.get('name', 'base')}` itself: this folder's weights have it already. It "
        f"misses {missed:.2%} of what was added to the linear layers"
    )
    if outside:
        text += f", and {outside:.2%} of all that was added is in weights that no such adapter can hold"
    text += " (Frobenius norms). The measurements above are those of the complete weights, not of the adapter."
    found = (adapter.get("measured") or {}).get("behaviours", {})
    gains = ", ".join(f"{name} {row['gain']:+.3f}" for name, row in found.items())
    return f"{text} Its own gains, on the same held-out text: {gains}." if gains else text


def _rebuilding(persona: Mapping[str, Any]) -> str:
    version = persona.get("amybuild")
    made = f"amybuild {version}" if isinstance(version, str) else "amybuild"
    build = persona.get("build")
    text = f"## How to rebuild it\n\nMade by {made}. In the project it came from:\n\n```\namybuild\n```"
    if build:
        back = f"`amybuild checkout {str(build)[:12]}` brings it back from the cache without training."
        text += f"\n\nBuild `{build}`; {back}"
    return text


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any, form: str = "+.3f") -> str:
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [list(head), rule, *map(list, rows)])
