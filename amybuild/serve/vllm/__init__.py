"""Readouts and steering in vLLM, as a general plugin: does nothing unless VLLM_READOUT_VECTORS is set."""

from __future__ import annotations

import os

VECTORS, MANIFEST, STEERING = "VLLM_READOUT_VECTORS", "VLLM_READOUT_MANIFEST", "VLLM_READOUT_STEERING"


def register() -> None:
    """The entry point: vLLM calls it in each of its processes, before a model is loaded there."""
    if os.environ.get(VECTORS):
        from amybuild.serve.vllm.install import install

        install()
