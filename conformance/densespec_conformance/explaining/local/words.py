"""Puts wrong ops in words, and says only once what recurs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from densespec.network import ops
from densespec.network.graph import Graph
from densespec_conformance.explaining.local.findings import LocalFindings, WrongOp

SHOWN = 3
"""At most this many causes are named if what is shown does not tell them apart."""

NAMED = 3
"""This many ops are named before the rest is counted."""

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


def sentence_of_training(findings: LocalFindings) -> str:
    """Say which parts of training steps are wrong, and what is done instead."""
    graph = findings.graph
    names = [weight.name for weight in graph.weights if weight.trainable]
    groups: dict[tuple[type | str, str], list[WrongOp]] = {}
    for one in findings.wrong:
        groups.setdefault((one.kind, _cause(one)), []).append(one)
    said = (f"{_place(each, graph, names)}: {cause}" for (_, cause), each in groups.items())
    return f"in training, {'; '.join(said)}"


def _place(members: Sequence[WrongOp], graph: Graph, names: Sequence[str]) -> str:
    kind = members[0].kind
    if isinstance(kind, type):
        return _names(members, graph)
    if kind == "gradient":
        return f"gradient of {weights_in_words([one.where for one in members], names)}"
    return members[0].where


def weights_in_words(some: Sequence[str], names: Sequence[str], noun: str = "weights") -> str:
    """Name some of the weights of a network: all, all of some kinds, or a few."""
    if len(some) == len(names) > 1:
        return f"all {len(names)} {noun}"
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in some)
    alike = [name for name in names if name.rpartition(".")[2] in kinds]
    if len(alike) == len(some) > NAMED:
        *most, last = kinds
        return f"every {', '.join(most)} and {last}" if most else f"every {last}"
    return _listed(some)


def alike_in_words(causes: Iterable[str]) -> str:
    """Name every cause that explains the same."""
    named = list(dict.fromkeys(words for words in causes if words))
    return "; or, which this does not tell, ".join(named[:SHOWN])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def sentence(wrong: Sequence[WrongOp], graph: Graph) -> str:
    """Say which ops are wrong and what they do instead."""
    groups: dict[tuple[type | str, str], list[WrongOp]] = {}
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
    kind: Any = members[0].kind
    alike = graph.nodes_of(kind)
    if len(members) == len(alike) > 1:
        return f"all {len(members)} {PLURALS.get(kind, kind.__name__)}"
    return _listed([_name(one) for one in members])


def _name(one: WrongOp) -> str:
    if not one.exact and len(one.among) > 1:
        return f"one of {one.among[0]} to {one.among[-1]}"
    return one.where
