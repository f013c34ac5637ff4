"""Rows of tokens as one forward pass: a prefix tree where the base allows it, padded rows where not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from amybuild.model.load import Loaded
from amybuild.model.tokens import Encoded, pad_id


@dataclass
class Tree:
    """Rows merged where they begin alike (a system prompt, the context of two replies), so that no token runs twice."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)

    def add(self, ids: Iterable[int]) -> None:
        """One row more; its nodes go to `paths`."""
        path: list[int] = []
        parent = -1
        for depth, token in enumerate(ids):
            node = self._children.setdefault((parent, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            path.append(node)
            parent = node
        self.paths.append(path)

    def new_nodes(self, ids: Iterable[int]) -> int:
        """How many nodes `add` would make."""
        parent, count = -1, 0
        for token in ids:
            parent = self._children.get((parent, token), -2) if parent != -2 else -2
            count += parent == -2
        return count


@dataclass(frozen=True)
class Packed:
    """What a model is called with, and where in its last hidden state each reply token is predicted."""

    inputs: dict[str, Any]
    rows: Any  # int64 [n]
    columns: Any  # int64 [n]
    targets: Any  # int64 [n]
    places: Sequence[tuple[int, Sequence[int]]]  # of each row's tokens: its row there, and the columns


def pack(base: Loaded, rows: Sequence[Encoded]) -> Packed:
    """One forward pass for `rows`; n counts all their reply tokens, row by row in the order given."""
    import torch

    targets = torch.tensor([token for row in rows for token in row.labels], device=base.device)
    if packs(base, rows):
        tree = Tree()
        for row in rows:
            tree.add(row.read)
        places = [tree.paths[i][k] for i, row in enumerate(rows) for k in range(row.start - 1, row.end - 1)]
        columns = torch.tensor(places, device=base.device)
        return Packed(
            tree_inputs(base, tree), torch.zeros_like(columns), columns, targets, [(0, path) for path in tree.paths]
        )
    where = [(i, k) for i, row in enumerate(rows) for k in range(row.start - 1, row.end - 1)]
    index = torch.tensor(where, device=base.device)
    inputs = padded_inputs(base, [row.read for row in rows])
    own = [(i, range(len(row.read))) for i, row in enumerate(rows)]
    return Packed(inputs, index[:, 0], index[:, 1], targets, own)


def padded_inputs(base: Loaded, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Right-padded input_ids and attention_mask, int64 [rows, longest]."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id(base.tokenizer), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device)}


def tree_inputs(base: Loaded, tree: Tree) -> dict[str, Any]:
    """input_ids and position_ids [1, nodes], and an additive mask [1, 1, nodes, nodes]: a node sees its ancestors."""
    import torch

    seen = torch.eye(len(tree.ids), dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    dtype = next(base.model.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return {
        "input_ids": torch.tensor([tree.ids], device=base.device),
        "position_ids": torch.tensor([tree.depths], device=base.device),
        "attention_mask": mask[None, None].to(base.device),
    }


def packs(base: Loaded, rows: Sequence[Encoded]) -> bool:
    """Whether this base gives the same states for a tree as for padded rows: tried on it once, not assumed.

    Recurrent and hybrid models leak state from row to row and so fail the trial; a sliding window shorter than a row
    would be lost under a mask of our own.
    """
    window = getattr(base.model.config.get_text_config(), "sliding_window", None)
    if window is not None and max(len(row.read) for row in rows) > window:
        return False
    if "packs" not in base.memo:
        base.memo["packs"] = _trial(base)
    return bool(base.memo["packs"])


def _trial(base: Loaded) -> bool:
    import torch

    from amybuild.model.score import decoder_of

    vocabulary = int(base.model.config.get_text_config().vocab_size)
    rows = [[(7 + 31 * i * (1 + (row if i > 5 else 0))) % vocabulary for i in range(14 - row)] for row in range(3)]
    tree = Tree()
    for row in rows:
        tree.add(row)
    decoder = decoder_of(base.model)
    try:
        with torch.no_grad():
            together = decoder(**tree_inputs(base, tree), use_cache=False)[0][0].float()
            apart = decoder(**padded_inputs(base, rows), use_cache=False)[0].float()
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False
    gap = max(float((together[path] - apart[i, : len(path)]).abs().max()) for i, path in enumerate(tree.paths))
    loose = 1e-3 if next(base.model.parameters()).dtype == torch.float32 else 5e-2
    return gap <= loose * float(apart.abs().max())


def batches(base: Loaded, rows: Sequence[Encoded], tokens: int) -> list[list[int]]:
    """Indices into `rows` in parts of at most `tokens` ids to run (one row at least), alike rows together."""
    found: list[list[int]] = []
    if rows and packs(base, rows):
        tree = Tree()
        for i in sorted(range(len(rows)), key=lambda i: rows[i].read):
            if not found or len(tree.ids) + tree.new_nodes(rows[i].read) > tokens:
                found.append([])
                tree = Tree()
            tree.add(rows[i].read)
            found[-1].append(i)
        return found
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i].read), rows[i].read)):
        if found and (len(found[-1]) + 1) * len(rows[i].read) <= tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found
