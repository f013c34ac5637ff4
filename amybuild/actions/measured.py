"""What one measuring action wrote, read by another."""

from __future__ import annotations

import json
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError


def read_measured(ctx: ActionContext, role: str, name: str) -> dict[str, Any]:
    """`name` (a JSON object) of the input `role`; ActionError when it is not there."""
    try:
        found: dict[str, Any] = json.loads((ctx.inputs[role] / name).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError) as error:
        what = f"no measurement there ({type(error).__name__})"
        raise ActionError(what, where=f"{ctx.action}, {role}", remedy="build it again") from error
    return found
