"""One build, and the difference of two, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amybuild.report.link import interference
from amybuild.report.text import behaviours, table

_SOURCES = ("checkpoint", "adapter", "node", "query")


def show(info: Mapping[str, Any], layers: bool = False) -> str:
    """A build's parts, interference and measured behaviours, from its persona.json; `layers`: interference by block."""
    base, link = info["base"], info.get("link", {})
    out = [
        f"{info['name']}  build {info['build'][:12]}  (amybuild {info['amybuild']})",
        f"base   {base['name']}: {base['source']}  {base['digest'][:12]}",
        f"graph  {info['graph']['nodes']} nodes  {info['graph']['digest'][:12]}",
        f"link   {link.get('method')}  density {link.get('density')}  lambda {link.get('lambda')}",
    ]
    rows = []
    for target in info["targets"]:
        source = next((str(target[key]) for key in _SOURCES if target.get(key)), "analogy")
        rows.append([target["name"], f"{target['alpha']:g}", target.get("recipe", "-"), source, target["vector"][:12]])
    if rows:
        out += ["", table(rows, ["task", "alpha", "recipe", "from", "vector"])]
    text = interference(link, layers)
    out += ["", text] if text else []
    adapter = info.get("adapter")
    if adapter:
        missed = f"misses {adapter['residual']:.1%} of it, leaves out {adapter['left_out_share']:.1%}"
        out += ["", f"adapter  rank {adapter['rank']}  {missed} (norms)"]
    readout = info["readout"]
    if readout["concepts"]:
        out += ["", f"readout  {', '.join(readout['concepts'])}  at blocks {', '.join(map(str, readout['layers']))}"]
    measured = behaviours(info.get("verification", {}))
    return "\n".join([*out, "", measured] if measured else out)


def difference(result: Mapping[str, Any]) -> str:
    """`amybuild.build.compare` for people."""
    out = [f"{result['a'][:12]} -> {result['b'][:12]}"]
    for id, entry in result["actions"].items():
        if "only_in" in entry:
            out.append(f"{id}: only in {entry['only_in']}")
            continue
        tail = " (same result)" if entry["same_output"] else ""
        changes = entry["changes"] or [{"kind": "input", "name": "its inputs", "old": None, "new": None}]
        for change in changes:
            value = ""
            if change["kind"] not in ("node", "code", "input"):
                value = f" {change['old']} -> {change['new']}"
            out.append(f"{id}: {change['kind']} {change['name']}{value}{tail}")
    if len(out) == 1:
        out.append("the same build")
    for hash, measured in result["verification"].items():
        text = behaviours(measured)
        if text:
            out += ["", f"{hash[:12]}", text]
    return "\n".join(out)
