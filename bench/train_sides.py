"""The sides of `bench/train.py`: each is one process that trains on the given rows and prints what it took."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

CONTEXT, DECISIONS, REPLY = 2048, 8, 32
FACTORS = {"rank": 8, "alpha": 16.0}
RATE = 2e-4


class Clock:
    """CPU and wall seconds of each step, told when one ends."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.start()

    def start(self) -> None:
        self._last = (time.process_time(), time.perf_counter())

    def tick(self) -> None:
        now = (time.process_time(), time.perf_counter())
        self.cpu.append(now[0] - self._last[0])
        self.wall.append(now[1] - self._last[1])
        self._last = now


def told(clock: Clock, losses: list[float], tokens: list[int]) -> dict[str, Any]:
    """What the parent reads, with the process's own cost so far (imports and loading included)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    cost = {"whole_cpu": time.process_time(), "peak_mib": peak / 1024}
    return {"cpu": clock.cpu, "wall": clock.wall, "losses": losses, "tokens": tokens, **cost}


def learned(job: dict[str, Any], rows: list[Any], units: list[list[int]], **changed: Any) -> dict[str, Any]:
    """Our loop, plain NLL, on `rows`; `units` are the rows of each step, in order."""
    from amybuild.model import train as loop
    from amybuild.model.load import deterministic, load_base
    from amybuild.model.lora import attached, by_name
    from amybuild.model.losses import Data

    steps = len(units)
    settings = loop.Settings(steps=steps, batch=1, kl_weight=0.0, lr=RATE, warmup=0.0)
    settings = dataclasses.replace(settings, **changed)
    if not settings.context_frozen:  # which batch comes when is given: the other side has the same
        loop.choice = lambda lengths, *_: list(units[_[2]]) if len(lengths) else []
    with (
        deterministic(job["threads"]),
        load_base(job["base"]) as base,
        attached(base.model, **FACTORS, rslora=False, seed=0) as pairs,
    ):
        clock = Clock()

        def tick(*_: Any, **__: Any) -> None:
            clock.tick()

        done = loop.train(base, by_name(pairs), Data(rows), settings, lambda *_: 0, tick)
    tokens = [sum(rows[i].end for i in unit) for unit in units]
    return told(clock, [row["loss"] for row in done.curve], tokens)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """The given batches, one after the other."""
    rows, batch = encoded(job), int(job["batch"])
    units = [list(range(at, at + batch)) for at in range(0, len(rows), batch)]
    return learned(job, rows, units, batch=batch)


def encoded(job: dict[str, Any]) -> list[Any]:
    from amybuild.model.tokens import Encoded

    return [Encoded(str(i), tuple(r["ids"]), r["start"], r["end"]) for i, r in enumerate(job["rows"])]


def frozen(job: dict[str, Any], kind: str) -> dict[str, Any]:
    """Eight decisions behind one context of 2,048 tokens, all made of the rows' own text: with the context frozen, in
    whole rows one at a time (one step is timed: it takes minutes), or in one prefix tree, whose gradient is exact.
    """
    from amybuild.model.tokens import Encoded

    text = [token for row in job["rows"] for token in row["ids"]]
    context, rest = tuple(text[:CONTEXT]), text[CONTEXT:]
    cuts = [tuple(rest[at : at + REPLY]) for at in range(0, DECISIONS * REPLY, REPLY)]
    rows = [Encoded(str(i), context + cut, CONTEXT, CONTEXT + REPLY) for i, cut in enumerate(cuts)]
    together = [list(range(DECISIONS))]
    how = {
        "frozen": ("context frozen", together * job["steps"], {"context_frozen": True}),
        "rows": ("full backpropagation, a row at a time", together, {"tokens_per_pass": 16}),
        "tree": ("full backpropagation, prefix tree", together * job["steps"], {"tokens_per_pass": 1 << 20}),
    }
    what, units, changed = how[kind]
    return {"what": what, **learned(job, rows, units, **changed)}


def trl(job: dict[str, Any]) -> dict[str, Any]:
    """SFTTrainer on the same ids, with PEFT's LoRA; a first step is a step here too."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(job["threads"])
    clock = Clock()

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    rows = job["rows"]
    data = {
        "input_ids": [row["ids"][: row["end"]] for row in rows],
        "completion_mask": [[int(k >= row["start"]) for k in range(row["end"])] for row in rows],
    }
    fields = {
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch"],
        "learning_rate": RATE,
        "adam_beta2": 0.99,
        "max_length": None,
        "logging_steps": 1,
        "logging_first_step": True,
    } | job["given"]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32),
        args=SFTConfig(
            output_dir=job["scratch"], report_to=[], save_strategy="no", bf16=False, use_cpu=True, disable_tqdm=True,
            completion_only_loss=True, packing=False, lr_scheduler_type="linear", warmup_steps=0, **fields,
        ),
        train_dataset=Dataset.from_dict(data),
        processing_class=AutoTokenizer.from_pretrained(job["base"]),
        peft_config=LoraConfig(
            r=FACTORS["rank"], lora_alpha=FACTORS["alpha"], lora_dropout=0.0, target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[Steps()],
    )  # fmt: skip
    seen: list[int] = []
    inner = trainer.compute_loss

    def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(int(inputs["attention_mask"].sum()))
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return told(clock, losses, seen)


def main() -> None:
    side, file = sys.argv[1], Path(sys.argv[2])
    job = json.loads(file.read_text(encoding="utf-8"))
    sides = {"ours": ours, "trl": trl} | {
        f"frozen-{kind}": lambda job, kind=kind: frozen(job, kind) for kind in ("frozen", "tree", "rows")
    }
    print(json.dumps(sides[side](job)))


if __name__ == "__main__":
    main()
