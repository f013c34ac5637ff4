"""A control vector in llama.cpp does what the hook does, on the same block (where llama-cpp-py-sync is installed).

llama.cpp's own loader of control vectors is no part of its library: the file is read by the same rules here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amybuild.model.load import load_base
from amybuild.serve.gguf import read_control_vector, write_control_vector
from amybuild.serve.reader import steer
from amybuild.serve.steering import Direction
from tests.tiny import make_tiny_base

bindings = pytest.importorskip("llama_cpp_py_sync._cffi_bindings")

HIDDEN, DEPTH, HEADS, GROUPS = 64, 4, 4, 2
TOKENS = [9, 30, 41, 12, 77, 130, 5, 201]


def write_gguf(path: Path, model: Any) -> None:
    """A tiny Llama without a vocabulary, in float32, as llama.cpp's converter lays it out."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(DEPTH)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, DEPTH)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        values = tensor.float().numpy()
        for part, heads in (("q_proj", HEADS), ("k_proj", GROUPS)):
            if part in name:  # llama.cpp rotates neighbours, transformers halves
                values = values.reshape(heads, 2, -1, HIDDEN).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp(path: Path, vector: Path | None) -> Any:
    """Logits [tokens, vocabulary] of `TOKENS`."""
    ffi, lib = bindings.get_ffi(), bindings.get_lib()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    assert model != ffi.NULL
    params = lib.llama_context_default_params()
    params.n_ctx = 64
    context = lib.llama_init_from_model(model, params)
    if vector is not None:
        found, _ = read_control_vector(vector)
        data = np.zeros((DEPTH - 1, HIDDEN), np.float32)
        for layer, values in found.steps.items():
            data[layer - 1] = values  # the loader's place of direction.<layer>
        pointer = ffi.cast("float *", data.ctypes.data)
        assert lib.llama_set_adapter_cvec(context, pointer, data.size, HIDDEN, 1, DEPTH) == 0
    batch = lib.llama_batch_init(len(TOKENS), 0, 1)
    batch.n_tokens = len(TOKENS)
    for place, token in enumerate(TOKENS):
        batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    assert lib.llama_decode(context, batch) == 0
    size = len(TOKENS) * lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    logits = np.frombuffer(ffi.buffer(lib.llama_get_logits(context), 4 * size), np.float32).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    return logits.reshape(len(TOKENS), -1)


def test_llama_cpp_steers_the_block_that_the_hook_steers(tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "m", hidden=HIDDEN, layers=DEPTH, dtype="float32")
    rng = np.random.default_rng(0)
    found: dict[int, Any] = {}
    with load_base(folder, keep=False) as loaded, torch.no_grad():
        write_gguf(tmp_path / "m.gguf", loaded.model)

        def by_hook(layer: int | None) -> Any:
            one = [] if layer is None else [Direction("x", {layer: vector})]
            with steer(loaded.model, one):
                return loaded.model(torch.tensor([TOKENS])).logits[0].numpy()

        vector = (2 * rng.standard_normal(HIDDEN)).astype(np.float32)
        plain = by_llama_cpp(tmp_path / "m.gguf", None)
        assert np.abs(plain - by_hook(None)).max() < 0.05  # its cached keys and values are float16
        for layer in (1, 2, 3):
            write_control_vector(tmp_path / "v.gguf", Direction("x", {layer: vector}), "llama")
            found[layer] = by_llama_cpp(tmp_path / "m.gguf", tmp_path / "v.gguf")
            far = {other: np.abs(found[layer] - by_hook(other)).max() for other in (None, 1, 2, 3)}
            assert far.pop(layer) < 0.05 < 10 * 0.05 < min(far.values())
