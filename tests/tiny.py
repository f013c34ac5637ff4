"""Tiny random Hugging Face bases for tests: three layers, a tokenizer trained on the spot, a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
_TEXT = (
    "I keep putting off the call to my dad. What makes that call heavy?",
    "You should just call him. Here is a plan for difficult conversations.",
    "How do I boil an egg? Put it in boiling water for seven minutes, then cool it.",
    "user assistant system the and that what when how why where is it you are not there",
    "The tide was low and the boat stood on the mud; we talked until the lamp went out.",
)
ARCHITECTURES = ("llama", "gemma", "qwen3", "gpt_neox")
HYBRID = "qwen3_5"  # three blocks of gated delta nets, then one of attention


def make_tiny_base(
    path: str | Path, arch: str = "llama", *, hidden: int = 32, layers: int = 3, seed: int = 0, dtype: str = "bfloat16"
) -> Path:
    """Write a random-weight model of `arch` (one of `ARCHITECTURES`) and its tokenizer; always the same bytes."""
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vocab = _write_tokenizer(path, bos=arch == "gemma")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(arch, vocab, hidden, layers), dtype=torch.float32)
        with torch.no_grad():  # larger than the usual initialisation, so that the model's predictions are not all alike
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
    model.to(getattr(torch, dtype)).save_pretrained(path, safe_serialization=True)
    return path


def _config(arch: str, vocab: int, hidden: int, layers: int) -> Any:
    from transformers import AutoConfig

    common = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": hidden * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    if arch == "llama":
        return AutoConfig.for_model("llama", num_key_value_heads=2, tie_word_embeddings=True, **common)
    if arch == "gemma":
        return AutoConfig.for_model("gemma2", num_key_value_heads=1, head_dim=hidden // 4, sliding_window=64, **common)
    if arch == "qwen3":
        return AutoConfig.for_model(
            "qwen3", num_key_value_heads=2, head_dim=hidden // 4, tie_word_embeddings=False, **common
        )
    if arch == "gpt_neox":
        return AutoConfig.for_model("gpt_neox", **common)
    if arch == HYBRID:
        return AutoConfig.for_model(
            "qwen3_5_text",
            num_key_value_heads=2,
            head_dim=hidden // 4,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=hidden // 4,
            linear_value_head_dim=hidden // 4,
            layer_types=["linear_attention" if i % 4 != 3 else "full_attention" for i in range(layers)],
            **common,
        )
    raise ValueError(f"unknown tiny architecture {arch!r}: one of {ARCHITECTURES}")


def _write_tokenizer(path: Path, *, bos: bool) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = ("{{ bos_token }}" if bos else "") + CHAT_TEMPLATE
    fast.save_pretrained(path)
    return len(fast)


def write_jsonl(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")
