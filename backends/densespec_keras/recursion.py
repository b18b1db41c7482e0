"""Lets Python's functions call each other as deeply as Keras needs: it walks through models by
recursion, a call or two for each layer on the longest way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from densespec.network.graph import Graph

_CALLS = 4
"""A node takes at most this many calls within each other."""


@contextlib.contextmanager
def deep_enough_for(graph: Graph) -> Iterator[None]:
    """Raise Python's limit for a while, if a graph is deep."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 1000 + _CALLS * len(graph.nodes)))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
