"""Talking to a product: replies with the readout of every token, steered or not, and the controls of steering."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amybuild.errors import InputError
from amybuild.model.load import Loaded, deterministic, load_base
from amybuild.serve.files import Array, ReadoutFile, check_fits, model_config
from amybuild.serve.reader import read, steer
from amybuild.serve.steering import Direction, random_like

PROMPTS = (  # everyday openings that leave room for a feeling and ask for none
    *("How was your day?", "Tell me about the street you live on.", "What should I cook tonight?"),
    *("I have just moved to a new town.", "Describe a walk by the sea.", "What do you think of winter?"),
    *("My sister is coming to visit tomorrow.", "Tell me a short story about a letter.", "How do people make friends?"),
    *("I found an old photograph.", "What happens on a long train journey?", "Say something about music."),
)


@dataclass(frozen=True)
class Strengths:
    """How a product steers by one of its directions: unasked or not, and how far each way, in class gaps."""

    apply: bool = False
    towards: float = 1.0
    away: float = 1.0


@dataclass(frozen=True)
class Reply:
    """A reply: its tokens as text, and float32 [n_tokens, n_layers, n_concepts] (None where nothing was read)."""

    tokens: tuple[str, ...]
    readout: Array | None

    @property
    def text(self) -> str:
        return "".join(self.tokens).strip()


def strengths(product: Path) -> dict[str, Strengths]:
    """What persona.json says of each steering target; a folder without one says nothing."""
    try:
        entries = json.loads((product / "persona.json").read_bytes()).get("steering", [])
        return {
            str(one["name"]): Strengths(
                one.get("apply") is True, float(one.get("alpha_pos", 1.0)), float(one.get("alpha_neg", 1.0))
            )
            for one in entries
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError("is not readable", where=str(product / "persona.json"), remedy="run amybuild again") from None


@contextmanager
def opened(product: Path, readout: ReadoutFile | None = None) -> Iterator[Loaded]:
    """The product's model in float32, where there is a GPU on it; refused unread when the readout is of another."""
    if readout:
        check_fits(readout, model_config(product), str(product))
    with load_base(product, device="auto") as loaded:
        yield loaded


def reply(
    loaded: Loaded,
    messages: Sequence[Mapping[str, str]],
    readout: ReadoutFile | None = None,
    directions: Iterable[Direction] = (),
    *,
    most: int = 120,
    seed: int = 0,
    temperature: float = 0.7,
    told: Callable[[str, Array | None], None] = lambda text, rows: None,
) -> Reply:
    """The reply to a conversation, sampled with `seed` (the same words for the same question).

    `told(text, [n_layers, n_concepts])` hears each token as it is made, its readout with it.
    """
    import torch

    if loaded.tokenizer.chat_template is None:
        remedy = "chat with a base that was made for it (an -Instruct one)"
        raise InputError("this model has no chat template", where="tokenizer", remedy=remedy)
    text = loaded.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    inputs = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(loaded.device)
    _check_room(loaded, inputs["input_ids"].shape[1], most)
    reading = read(loaded.model, readout) if readout else nullcontext()
    ids: list[int] = []
    done = ""

    class Streamer:
        """Hears the prompt first, then each token when it is chosen: the last pass is the one it was read in."""

        def put(self, value: Any) -> None:
            nonlocal done
            if value.numel() != 1 or not self.began:
                self.began = True
                return
            ids.append(int(value))
            whole = loaded.tokenizer.decode(ids, skip_special_tokens=True)
            new = "" if whole.endswith("\ufffd") else whole[len(done) :]  # a character may be several tokens long
            told(new, passes.last[0] if passes else None)
            pieces.append(new)
            done += new

        began = False

        def end(self) -> None:
            """Nothing is held back."""

    pieces: list[str] = []
    with steer(loaded.model, directions), reading as passes, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sampled = (
            {"do_sample": True, "temperature": temperature, "top_p": 0.95} if temperature else {"do_sample": False}
        )
        loaded.model.generate(**inputs, max_new_tokens=most, streamer=Streamer(), pad_token_id=_pad(loaded), **sampled)
        rows = passes.generated()[0, : len(ids)] if passes else None
    return Reply(tuple(pieces), rows)


def _check_room(loaded: Loaded, said: int, most: int) -> None:
    """`InputError` when a conversation of so many tokens, with a reply of `most`, is more than the model reads."""
    room = getattr(loaded.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(room, int) and said + most > room:
        raise InputError(
            f"{said} tokens, and {most} to come, are more than the model's {room} positions",
            where="conversation",
            remedy="begin a new one, say less at once, or give --max-tokens",
        )


def standardised(readout: ReadoutFile, rows: Array) -> Array:
    """[…, n_layers, n_concepts] -> […, n_concepts]: each block's projections in deviations from their mean, then the
    mean over blocks. Without `.mean` and `.std` in the file the projections themselves."""
    if "mean" in readout.beside and "std" in readout.beside:
        mean, std = (np.stack([readout.beside[kind][one] for one in readout.layers]) for kind in ("mean", "std"))
        rows = (rows - mean) / std
    found: Array = rows.mean(-2)
    return found


def controls(
    loaded: Loaded,
    readout: ReadoutFile,
    concept: str,
    one: Direction,
    how: Strengths,
    *,
    tokens: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Does steering do what it says? Texts made under each condition are read by the unsteered model.

    Conditions: unsteered, towards, away (the sign check: it must turn round), and a random direction as long as
    `towards`. Of each `readout`, the mean over its texts of the concept's standardised projection on their tokens, with
    its standard error `se`; and `logp`, the mean log probability per token that the unsteered model gives the texts.
    """
    conditions: dict[str, list[Direction]] = {
        "unsteered": [],
        "towards": [one.at(how.towards)],
        "away": [one.at(-how.away)],
        "random": [random_like(one.at(how.towards), seed)],
    }
    column = readout.concepts.index(concept)
    found: dict[str, Any] = {}
    with deterministic():
        for name, directions in conditions.items():
            values, logp = _read_texts(loaded, readout, column, directions, tokens, seed)
            error = float(values.std(ddof=1) / len(values) ** 0.5)
            found[name] = {"readout": float(values.mean()), "se": error, "logp": logp}
    base, towards, away, random = (found[name]["readout"] for name in ("unsteered", "towards", "away", "random"))
    found["reverses"] = bool(towards > base > away)
    found["beats_random"] = bool(towards - base > abs(random - base))
    return found


def _read_texts(
    loaded: Loaded, readout: ReadoutFile, column: int, directions: list[Direction], tokens: int, seed: int
) -> tuple[Array, float]:
    """[prompts] standardised projections of the generated texts, and their log probability, both without steering."""
    import torch

    tokenizer, model = loaded.tokenizer, loaded.model
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False)
        for p in PROMPTS
    ]
    inputs = tokenizer(chats, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs = inputs.to(loaded.device)
    start = inputs["input_ids"].shape[1]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with steer(model, directions):
            made = model.generate(
                **inputs, max_new_tokens=tokens, do_sample=True, temperature=0.7, top_p=0.95, pad_token_id=_pad(loaded)
            )
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(made[:, start:])], 1)
        ends = (made[:, start:] == tokenizer.eos_token_id).cumsum(1) if tokenizer.eos_token_id is not None else 0
        own = (torch.zeros_like(made[:, start:]) + ends) == 0  # what follows the end of a text is padding
        own[:, 0] = True
        places = (mask.cumsum(1) - 1).clamp(min=0)
        with read(model, readout) as reading:
            logits = model(input_ids=made, attention_mask=mask, position_ids=places).logits
        logp = logits[:, start - 1 : -1].log_softmax(-1).gather(-1, made[:, start:, None])[..., 0]
    weights = own.cpu().numpy()
    scores = standardised(readout, reading.passes[0][:, start:])[..., column]
    values: Array = (scores * weights).sum(1) / weights.sum(1)
    return values, float(logp[own].mean())


def _pad(loaded: Loaded) -> Any:
    tokenizer = loaded.tokenizer
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
