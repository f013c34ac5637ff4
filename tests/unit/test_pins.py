"""Checkout from a lock trusts nothing that the lock does not pin: the link map must tell of the pinned results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.actions import ActionCache
from amybuild.cache.history import PRODUCT, build_hash
from amybuild.cache.store import Store
from amybuild.errors import ActionError, PinError
from amybuild.personafile.lock import Account, Lock, render
from amybuild.pins import checkout_lock, pinned_build
from amybuild.product import keep_map

OUTPUTS = {"checkpoint/link": "1" * 64, "steer.joy/vectors": "2" * 64}
HASH = build_hash("tess", OUTPUTS)


def link_map(**changes: Any) -> dict[str, Any]:
    actions = {id: {"key": "k", "output": output} for id, output in OUTPUTS.items()}
    steering = [{"name": "joy", "digest": "2" * 64}]
    return {"name": "tess", "build": HASH, "actions": actions, "steering": steering, **changes}


def lock(folder: Path, info: dict[str, Any]) -> Path:
    store = Store(folder / "cache/v1")
    pair = keep_map(ActionCache(store), info, "2026-01-01T00:00:00")
    store.close()
    top = {"checkpoint/link": ("k", OUTPUTS["checkpoint/link"]), PRODUCT: pair}
    account = Account(HASH, "tess", "b", "g", top)
    (folder / "Personafile.lock").write_text(
        render(Lock({"steer.joy/vectors": ("k", OUTPUTS["steer.joy/vectors"])}, {"checkpoint": account}))
    )
    return folder / "Personafile.lock"


def test_a_link_map_that_fits_is_used_and_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match=r"checkpoint/link, steer\.joy/vectors of build"):
        checkout_lock(lock(tmp_path, link_map()), None, "now")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"build": "0" * 64},
        {"actions": {}},
        {"actions": {id: {"output": "3" * 64} for id in OUTPUTS}},
        {"steering": [{"name": "../../joy", "digest": "2" * 64}]},
        {"steering": [{"name": "joy", "digest": "3" * 64}]},
        {"steering": "joy"},
        {"steering": None},
    ],
)
def test_a_link_map_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(PinError, match="another build"):
        checkout_lock(lock(tmp_path, link_map(**changes)), None, "now")
    assert not (tmp_path / "dist").exists()


def test_the_account_that_fits_is_the_pinned_build() -> None:
    pins = {"task.a/train": ("k", "o")}
    fitting = Account(build_hash("tess", {"task.a/train": "o", "checkpoint/link": "l"}), "tess", "b", "g",
                      {"checkpoint/link": ("k", "l"), PRODUCT: ("k", "p")})  # fmt: skip
    stale = Account(fitting.hash, "tess", "b", "g", {"checkpoint/link": ("k", "other")})
    assert pinned_build(Lock(pins, {"checkpoint": stale, "task.a": fitting})) == fitting
    assert pinned_build(Lock(pins, {"checkpoint": stale})) is None
    assert pinned_build(Lock({"task.a/train": ("k", "edited")}, {"task.a": fitting})) is None
