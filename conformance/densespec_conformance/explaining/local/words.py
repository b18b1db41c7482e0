"""Wrong ops in words: what recurs is said once."""

from __future__ import annotations

from collections.abc import Sequence

from densespec.network import ops
from densespec.network.graph import Graph
from densespec_conformance.explaining.local.findings import WrongOp

NAMED = 3
"""How many ops are named before the rest is counted."""

PLURALS: dict[type, str] = {
    ops.Conv: "convolutions",
    ops.BatchNorm: "norms",
    ops.Relu: "ReLUs",
    ops.Activation: "activations",
    ops.GroupNorm: "norms",
    ops.PRelu: "PReLUs",
    ops.Dropout: "dropouts",
    ops.Concat: "concatenations",
    ops.MaxPool: "max pools",
    ops.AvgPool: "average pools",
    ops.BlurPool: "blurring pools",
    ops.GlobalPool: "global pools",
    ops.Dense: "linear layers",
}


def sentence(wrong: Sequence[WrongOp], graph: Graph) -> str:
    """Say which ops are wrong and what they do instead."""
    groups: dict[tuple[type, str], list[WrongOp]] = {}
    for one in wrong:
        groups.setdefault((one.kind, _cause(one)), []).append(one)
    said = "; ".join(f"{_names(members, graph)}: {cause}" for (_, cause), members in groups.items())
    count, all_ops = len(wrong), len(graph.nodes) - 1
    are = "is wrong by itself" if count == 1 else "are wrong by themselves"
    return f"{count} of {all_ops} ops {are}: {said}"


def _cause(one: WrongOp) -> str:
    if one.does:
        return one.does
    remarks = "; ".join(one.remarks)
    return f"{remarks or 'no known cause'} (off by {one.error:.1e}, allowed {one.allowed:.0e})"


def _names(members: Sequence[WrongOp], graph: Graph) -> str:
    kind = members[0].kind
    alike = graph.nodes_of(kind)
    if len(members) == len(alike) > 1:
        return f"all {len(members)} {PLURALS.get(kind, kind.__name__)}"
    named = [_name(one) for one in members[:NAMED]]
    more = len(members) - NAMED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _name(one: WrongOp) -> str:
    if not one.exact and len(one.among) > 1:
        return f"one of {one.among[0]} to {one.among[-1]}"
    return one.where
