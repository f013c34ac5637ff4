"""`[link] adapter_rank`: one merged LoRA adapter beside the checkpoint, from the same link, that PEFT loads."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.harness import Space


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(20, 40)[None]).logits
    return found


def told(space: Space) -> dict[str, Any]:
    return json.loads((space.product / "persona.json").read_text())["adapter"]  # type: ignore[no-any-return]


def with_adapter(space: Space) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(space.root / "models" / "tiny", dtype=torch.float32)
    return logits(PeftModel.from_pretrained(base, space.product / "adapter"))


def test_the_exact_adapter_speaks_as_the_checkpoint_does(built: Space) -> None:
    built.edit("Personafile.toml", 'method = "ties"\ndensity = 0.5', 'method = "linear"\nadapter_rank = 4')
    assert built.build().ran == {
        *("checkpoint/link", "checkpoint/adapter", "persona/adapter", "persona/measure", "persona/verify"),
        "persona/drift",
    }
    assert told(built)["residual"] == pytest.approx(0, abs=1e-6)
    assert told(built)["left_out_share"] == 0
    linked = logits(AutoModelForCausalLM.from_pretrained(built.product, dtype=torch.float32))
    base = logits(AutoModelForCausalLM.from_pretrained(built.root / "models" / "tiny", dtype=torch.float32))
    # the checkpoint is rounded to bfloat16, the adapter is not
    assert (with_adapter(built) - linked).norm() < 0.5 * (base - linked).norm()
    shown = built.run("show").out
    assert "adapter  rank 4  misses 0.0% of it" in shown
    info = json.loads((built.product / "persona.json").read_text())
    found, whole = info["adapter"]["measured"]["behaviours"], info["verification"]["behaviours"]
    assert found.keys() == whole.keys()
    for name, row in found.items():
        assert row["base"] == whole[name]["base"]
        assert row["gain"] == pytest.approx(whole[name]["gain"], abs=0.1 * abs(whole[name]["gain"]) + 1e-3)
        assert f"{name} {row['gain']:+.3f} {whole[name]['gain']:+.3f}" in " ".join(shown.split())
    files = {path.name for path in (built.product / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_rank_costs_what_is_told_and_links_nothing_again(built: Space) -> None:
    built.edit("Personafile.toml", "density = 0.5", "density = 0.5\nadapter_rank = 2")
    assert built.build().ran == {"checkpoint/adapter", "persona/adapter"}
    small = told(built)["residual"]
    built.edit("Personafile.toml", "adapter_rank = 2", "adapter_rank = 16")
    assert built.build().ran == {"checkpoint/adapter", "persona/adapter"}
    assert 0 < told(built)["residual"] < small < 1
    with_adapter(built)
    built.edit("Personafile.toml", "\nadapter_rank = 16", "")
    assert built.build().ran == set()
    assert not (built.product / "adapter").exists()


def test_an_adapter_made_here_is_a_vector_elsewhere(built: Space) -> None:
    built.edit("Personafile.toml", 'method = "ties"\ndensity = 0.5', 'method = "linear"\nadapter_rank = 4')
    built.build()
    wanted = (built.product / "model.safetensors").read_bytes()
    built.build("-o", "dist/other")
    built.edit(
        "Personafile.toml", "[steer.joy]", '[task.other]\nadapter = "dist/other/adapter"\nrecipe = "quick"\n[steer.joy]'
    )
    built.build("--only", "other")
    linked = (built.product / "model.safetensors").read_bytes()
    assert len(linked) == len(wanted)
    assert sum(a != b for a, b in zip(linked, wanted, strict=True)) < 0.01 * len(wanted)
