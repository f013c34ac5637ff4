"""The product loads with transformers alone, survives tampering, and keeps what others put beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Space


def test_it_loads_with_transformers_alone_and_its_template_is_the_bases(built: Space, tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(built.product, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(built.product)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_base).chat_template
    ids = tokenizer("My boat troubles me", return_tensors="pt").input_ids
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, base(ids).logits)
    assert model.config.architectures == base.config.architectures


def test_the_readout_manifest_is_the_contract(built: Space) -> None:
    import json

    from safetensors.torch import load_file

    manifest = json.loads((built.product / "readout.json").read_text())
    tensors = load_file(built.product / "readout.safetensors")
    assert manifest["format_version"] == 1
    assert manifest["layers"] == [1, 2]
    for layer in manifest["layers"]:
        vectors = tensors[f"layer_{layer}.vectors"]
        assert tuple(vectors.shape) == (len(manifest["concepts"]), manifest["hidden_size"])
        assert vectors.norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_without_any_vector_the_product_is_the_base_byte_for_byte(built: Space, tiny_base: Path) -> None:
    built.build("--without", "listen", "--without", "close")
    assert (built.product / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["edited", "deleted", "folder gone"])
def test_a_damaged_product_is_restored_without_running(built: Space, damage: str) -> None:
    config = built.product / "config.json"
    good = config.read_bytes()
    if damage == "edited":
        config.write_bytes(good.replace(b"hidden", b"hiddem"))
    elif damage == "deleted":
        config.unlink()
    else:
        import shutil

        shutil.rmtree(built.product)
    done = built.build()
    assert done.ran == set()
    assert "config.json" in done.out
    assert "not as put there; restored" in done.out
    assert config.read_bytes() == good


def test_editing_the_product_never_reaches_the_store(built: Space) -> None:
    model = built.product / "model.safetensors"
    good = model.read_bytes()
    with model.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\0" * 8)
    built.build()
    assert model.read_bytes() == good


def test_files_of_others_stay(built: Space) -> None:
    (built.product / "notes.txt").write_text("mine")
    built.build("--without", "close")
    assert (built.product / "notes.txt").read_text() == "mine"


def test_out_goes_where_it_is_told_but_never_over_something_else(built: Space) -> None:
    built.build("-o", "elsewhere")
    assert (built.root / "elsewhere" / "persona.json").is_file()
    (built.root / "precious").mkdir()
    (built.root / "precious" / "thesis.txt").write_text("1")
    refused = built.run("-o", "precious")
    assert refused.code == 2
    assert "no product" in refused.err
    assert (built.root / "precious" / "thesis.txt").read_text() == "1"


def test_a_swap_that_was_killed_half_way_is_taken_back(built: Space) -> None:
    (built.product / "notes.txt").write_text("mine")
    built.product.rename(built.product.parent / ".tess.old")
    (built.product.parent / ".tess.new").mkdir()
    assert built.build().ran == set()
    assert (built.product / "notes.txt").read_text() == "mine"
    assert [p.name for p in built.product.parent.iterdir()] == ["tess"]


def test_another_account_of_the_same_build_copies_no_checkpoint_again(built: Space) -> None:
    weights, account = built.product / "model.safetensors", built.product / "persona.json"
    was, good, told = weights.stat().st_ino, weights.read_bytes(), account.read_text()
    (built.product / "notes.txt").write_text("mine")
    built.edit("memory/pattern-listen.md", "I ask before I mend.", "I listen before I mend.")  # prose
    assert built.build().ran == {"task.listen/corpus"}
    assert account.read_text() != told
    assert (weights.stat().st_ino, weights.read_bytes()) == (was, good)
    assert (built.product / "notes.txt").read_text() == "mine"
    assert built.build().ran == set(), "and it counts as untouched"
    with weights.open("r+b") as file:
        file.write(b"\0" * 8)
    built.edit("memory/pattern-listen.md", "I listen before I mend.", "I ask before I mend.")
    built.build()
    assert weights.read_bytes() == good, "a file that was changed from outside is none to go on with"
