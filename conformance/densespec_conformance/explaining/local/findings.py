"""Describes ops that are wrong by themselves, with what each of them does instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from densespec.network.graph import Graph
from densespec_conformance.judging.compare import Stats


@dataclass(frozen=True)
class WrongOp:
    """Describes an op whose output does not follow from its own inputs.

    Attributes:
        where: The node, or the last of the nodes among which it is.
        among: All nodes that it may be, if the target does not show the values between them. In a
            training step, these are all nodes or weights that it concerns.
        kind: The class of its op, or the part of a training step that it is.
        error: The difference from what it should give for these inputs, relative to that.
        allowed: The difference that rounding may make.
        actual: The output that it gives.
        expected: The output that it should give.
        does: What it does instead, in words; empty if that is not known.
        exact: Whether that gives the output to the last digits.
        rounds: The arithmetic, if all that it does differently is to round more.
        remarks: What is peculiar about the output, if it is not known what the op does.
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
    """Holds all ops of an answer, or parts of a training run, that are wrong by themselves.

    Every other value that the target shows follows from the values before it, so nothing else
    differs in what it shows.

    Attributes:
        judged: Whether everything that the target shows was judged.
    """

    graph: Graph
    wrong: tuple[WrongOp, ...]
    judged: bool = True

    @property
    def complete(self) -> bool:
        """Say whether it is known of each op what it does instead, to the last digits."""
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
        """Say whether all wrong ops differ only in rounding as an arithmetic does."""
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
