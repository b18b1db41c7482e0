"""A network's architecture as a figure: stages from left to right, read off its graph.

A stage's height falls by the same step with each halving of the spatial size. A dense block is a
row of slices, its input and then what each layer adds, as wide as they have channels; the block
itself grows with the square root of its channels. Arcs join each layer to those it reads. Under
each stage stand its operations, the shape of its output, and its parameters.

All lengths are inches.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densespec.files import atomic_path
from densespec.graph import Graph, Node
from densespec.ops import AvgPool, BatchNorm, Concat, Conv, Dense, GlobalPool, MaxPool, Relu, Softmax

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Curve

SUFFIXES = (".svg", ".png", ".pdf")
DOTS_PER_INCH = 200

TALLEST = 2.1
SHORTEST = 0.42
WIDEST_BLOCK = 2.3
NARROWEST_BLOCK = 0.55
WIDEST_SLICE = 0.22
FUNNEL = 0.34
BAR = 0.15
VECTOR = 0.9
GAP = 0.16
MARGIN = 0.3
ARC = 0.5
ARC_ENDS = 13
"""Layers of a block that arcs are drawn for, so that blocks of any depth stay legible."""

INK, MUTED, RULE = "#1d2733", "#66727f", "#d5dbe1"
GREY, AMBER, SLATE = "#c3cbd4", "#e3a857", "#4a5866"
LIGHT_BLUE, BLUE = (0.81, 0.88, 0.95), (0.13, 0.38, 0.65)
ROWS = ("", "operations", "channels", "size", "parameters")
ROW_HEIGHTS = (0.2, 0.34, 0.2, 0.2, 0.2)


@dataclass(frozen=True)
class _Stage:
    """One stage as it is drawn.

    Attributes:
        cells: texts under it, one for each of ``ROWS``.
        before, after: how often the spatial size has been halved at its input and output; None
            where there is no spatial size.
        slices: channels of a dense block's input and of what each layer adds; empty otherwise.
        width: of its shape.
    """

    cells: tuple[str, ...]
    before: float | None
    after: float | None
    slices: tuple[int, ...]
    color: str
    width: float


def draw(graph: Graph, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Draw a network to a ``.svg``, ``.png`` or ``.pdf`` file, whole or not at all.

    Args:
        title: above the figure; None for the depth and the growth rate.

    Raises:
        ValueError: another suffix.
        ImportError: matplotlib is not installed; says what to install.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: a figure ends in .svg, .png or .pdf")
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'densespec[draw]'") from error
    style = {"svg.fonttype": "none", "svg.hashsalt": "densespec", "pdf.fonttype": 42}
    with matplotlib.rc_context(style), atomic_path(path) as temporary:
        figure = _figure(graph, title or f"DenseNet-{graph.spec.depth}")
        dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(
            temporary, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=dates.get(suffix)
        )
