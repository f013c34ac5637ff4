"""One engine of a real vLLM in a process of its own: a job as JSON on stdin, what came of each request in a file.

A job: model, engine (arguments of `LLM`), rounds (how often all requests are made), requests (`ids`, `max_tokens`,
`steer`: name -> strength), out (a file). An answer: `tokens`, `logprobs` of the generated tokens and `readout`, float
[tokens][n_layers][n_concepts] (None without the plugin), and `cached`, how many prompt tokens came from the cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.load(sys.stdin)
    from vllm import LLM, SamplingParams

    llm = LLM(job["model"], dtype="float32", **job["engine"])
    prompts: Any = [{"prompt_token_ids": one["ids"]} for one in job["requests"]]
    params = [
        SamplingParams(
            max_tokens=one["max_tokens"],
            temperature=0,
            logprobs=1,
            ignore_eos=True,
            detokenize=False,
            extra_args={f"steer.{name}": value for name, value in one.get("steer", {}).items()} or None,
        )
        for one in job["requests"]
    ]
    answers = []
    for _ in range(job.get("rounds", 1)):
        found = []
        for result in llm.generate(prompts, params, use_tqdm=False):
            output = result.outputs[0]
            readout = getattr(output, "readout", None)
            found.append(
                {
                    "tokens": list(output.token_ids),
                    "logprobs": [row[t].logprob for row, t in zip(output.logprobs, output.token_ids, strict=True)],
                    "readout": None if readout is None else readout.tolist(),
                    "cached": result.num_cached_tokens,
                }
            )
        answers.append(found)
    Path(job["out"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
