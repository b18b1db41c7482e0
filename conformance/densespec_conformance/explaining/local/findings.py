"""Ops that are wrong by themselves, with what each of them does instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from densespec.network.graph import Graph
from densespec_conformance.judging.compare import Stats


@dataclass(frozen=True)
class WrongOp:
    """An op whose output does not follow from its own inputs.

    Attributes:
        where: The node, or the last of the nodes among which it is.
        among: All nodes that it may be, where the target does not show the values between them; of
            a training step, all nodes or weights that it concerns.
        kind: The class of its op, or what it is of a training step.
        error: The difference from what it should give for these inputs, relative to that.
        allowed: How far it may be by rounding.
        actual: What it gives.
        expected: What it should give.
        does: What it does instead, in words; empty where that is not known.
        exact: Whether that gives the output to the last digits.
        rounds: The arithmetic, where all that it does otherwise is to round more.
        remarks: What is peculiar about the output, where it is not known what the op does.
    """

    where: str
    among: tuple[str, ...]
    kind: type | str
    error: float
    allowed: float
    actual: Stats
    expected: Stats
    does: str = ""
    exact: bool = False
    rounds: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalFindings:
    """All ops of an answer, or parts of a training run, that are wrong by themselves.

    Every other value that the target shows follows from the values before it, so that nothing else
    is different in what it shows.

    Attributes:
        judged: Whether everything was judged that the target shows.
    """

    graph: Graph
    wrong: tuple[WrongOp, ...]
    judged: bool = True

    @property
    def complete(self) -> bool:
        """Whether it is known of each what it does instead, to the last digits."""
        return self.judged and all(one.exact for one in self.wrong)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Name all ops, in the order of the network."""
        return tuple(node.name for node in self.graph.nodes[1:])

    @property
    def names(self) -> set[str]:
        """Name every node that is, or may be, wrong."""
        return {name for one in self.wrong for name in one.among}

    def leaves_room_for(self, arithmetic: str) -> bool:
        """Whether all that every wrong op does otherwise is to round as an arithmetic does."""
        return all(one.rounds == arithmetic for one in self.wrong)

    def has_name(self, patterns: Iterable[set[str]]) -> bool:
        """Say whether a cause may be one that has a name: it is that of half the ops of a kind or
        more, or of just the ops that a known pattern has."""
        known = [frozenset(pattern) for pattern in patterns]
        groups: dict[tuple[Any, str], set[str]] = {}
        for one in self.wrong:
            groups.setdefault((one.kind, one.does), set()).add(one.where)
            groups.setdefault((one.kind, ""), set()).add(one.where)
        return any(
            2 * len(names) >= len(self.graph.nodes_of(kind)) or names in known
            for (kind, _), names in groups.items()
        )
