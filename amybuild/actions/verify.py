"""Rule `verify`: what was measured of one task vector against its gates; a vector that fails is not linked."""

from __future__ import annotations

from amybuild.actions.context import ActionContext
from amybuild.actions.gates import ALONE, MONOTONE, failures, hold, known
from amybuild.actions.measured import read_measured
from amybuild.model.data import write_json

NAMES = (MONOTONE, *(gate.name for gate in ALONE))


def run(ctx: ActionContext) -> None:
    """inputs: measure. params: gates. Writes verify.json: measure.json with the gates that it passed.

    Gates are in this key and in no other: another gate measures nothing again. Raises ActionError with every gate that
    fails and its measured number.
    """
    gates = known(ctx.params.get("gates", {}), NAMES)
    measured = read_measured(ctx, "measure", "measure.json")
    hold(ctx.action, failures(ALONE, measured, gates))
    write_json(ctx.out / "verify.json", {**measured, "gates": dict(gates), "passed": True})
    ctx.progress(1, 1)
