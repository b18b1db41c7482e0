"""Draws a network's architecture as a figure, with its stages from left to right.

Everything is read from the graph. A stage's height falls by the same step with each halving of the
spatial size. A dense block is a row of slices: first its input, then what each layer adds. Each
slice is as wide as it has channels, and the block is as wide as the square root of its channels.
Arcs join each layer to the layers that it reads. Under each stage stand its operations, the shape
of its output, and its parameters with running statistics.

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

from densespec.atomic import atomic_path
from densespec.installed import require
from densespec.network.graph import Graph, Node
from densespec.network.ops import (
    Activation,
    AvgPool,
    BatchNorm,
    BlurPool,
    Concat,
    Conv,
    Dense,
    GlobalPool,
    GroupNorm,
    MaxPool,
    PRelu,
    Relu,
    Sigmoid,
    Softmax,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
DOTS_PER_INCH = 200

TALLEST, SHORTEST, POOLED, VECTOR = 2.0, 0.42, 0.16, 0.9
WIDEST_BLOCK, NARROWEST_BLOCK, WIDEST_SLICE = 1.9, 0.5, 0.22
FUNNEL, BAR = 0.3, 0.14
GAP, MARGIN = 0.15, 0.3

ARC = 0.5
ARC_ENDS = 13
"""Arcs join at most this many slices of a block, so that blocks of any depth stay legible."""

INK, MUTED, RULE = "#1d2733", "#66727f", "#d5dbe1"
GREY, AMBER, SLATE = "#c3cbd4", "#e3a857", "#4a5866"
LIGHT_BLUE, BLUE = (0.81, 0.88, 0.95), (0.13, 0.38, 0.65)

TIMES, NOTHING = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"

ROWS = ("", "operations", "channels", "size", "parameters")
ROW_HEIGHTS = (0.24, 0.38, 0.21, 0.21, 0.21)
TEXT, HEADING, TITLE = 8.0, 8.5, 13.0

ACTIVATIONS = {
    "leaky-relu": "leaky ReLU",
    "elu": "ELU",
    "silu": "SiLU",
    "gelu": "GELU",
    "gelu-tanh": "GELU (tanh)",
    "relu6": "ReLU6",
}
LINE = 0.155


@dataclass(frozen=True)
class _DrawnStage:
    """Holds one stage as it is drawn.

    Attributes:
        cells: texts under it, one for each of ``ROWS``.
        before, after: how often the spatial size has been halved at its input and at its output;
            None if there is no spatial size.
        slices: channels of a dense block's input and of what each layer adds; else empty.
    """

    cells: tuple[str, ...]
    before: float | None
    after: float | None
    slices: tuple[int, ...]
    color: str


def draw(graph: Graph, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Draw a network to a ``.svg``, ``.png`` or ``.pdf`` file, whole or not at all.

    Args:
        title: above the figure; None for the depth and the growth rate.

    Raises:
        ValueError: another suffix.
        PackageMissing: matplotlib is not installed; the message says what to install.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: a figure ends in .svg, .png or .pdf")
    require("drawing", "matplotlib", extra="draw")
    import matplotlib

    undated: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(_STYLE), atomic_path(path) as temporary:
        figure = _Painter(_stages(graph), title or f"DenseNet-{graph.spec.depth}", _totals(graph))
        figure.paint().savefig(
            temporary, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=undated.get(suffix)
        )


_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "text.usetex": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "densespec",
    "pdf.fonttype": 42,
}


def _totals(graph: Graph) -> str:
    """Count what the whole network has, for the line under the title."""
    count = graph.parameters
    parts = [
        f"{count.trainable:,} trainable parameters and {count.non_trainable:,} running statistics"
    ]
    if graph.multiply_adds is not None:
        size = TIMES.join(map(str, graph.input.shape))
        parts.append(f"{graph.multiply_adds:,} multiply-adds at {size}")
    return ", ".join(parts)


def _stages(graph: Graph) -> list[_DrawnStage]:
    halvings: dict[str, float | None] = {}
    for node in graph.nodes:
        before = halvings[node.inputs[0]] if node.inputs else 0.0
        if before is None or len(node.shape) == 1:
            halvings[node.name] = None
        else:
            halvings[node.name] = before + math.log2(getattr(node.op, "stride", 1))
    stages = []
    for name, group in itertools.groupby(graph.nodes, key=lambda node: node.stage):
        nodes = list(group)
        entry = nodes[0].inputs[0] if nodes[0].inputs else nodes[0].name
        weights = [weight.size for node in nodes for weight in node.weights]
        after = halvings[nodes[-1].name]
        slices = _slices(graph, nodes)
        stages.append(
            _DrawnStage(
                cells=(
                    _heading(name),
                    _operations(nodes, slices),
                    str(nodes[-1].shape[0]),
                    _size_text(nodes[-1].shape[1:], after),
                    f"{sum(weights):,}" if weights else NOTHING,
                ),
                before=halvings[entry],
                after=after,
                slices=slices,
                color=_color(nodes),
            )
        )
    return stages


def _slices(graph: Graph, nodes: Sequence[Node]) -> tuple[int, ...]:
    concats = [node for node in nodes if isinstance(node.op, Concat)]
    if not concats:
        return ()
    joined = [graph[concats[0].inputs[0]], *(graph[node.inputs[1]] for node in concats)]
    return tuple(node.shape[0] or 0 for node in joined)


def _heading(name: str) -> str:
    """Put a stage's name, such as ``global_pool`` or ``block3``, in words."""
    letters = name.rstrip("0123456789")
    return f"{letters} {name[len(letters) :]}".replace("_", " ").strip()


def _size_text(size: Sequence[int | None], halvings: float | None) -> str:
    if halvings is None:
        return NOTHING
    if any(n is not None for n in size):
        return TIMES.join("?" if n is None else str(n) for n in size)
    return "any" if halvings == 0 else f"1/{2**halvings:g}"


def _operations(nodes: Sequence[Node], slices: Sequence[int]) -> str:
    if slices:
        layers = len(slices) - 1
        first = itertools.takewhile(lambda node: not isinstance(node.op, Concat), nodes)
        windows = [_window_text(node.op.window) for node in first if isinstance(node.op, Conv)]
        return f"{layers} layer{'s' * (layers > 1)}, k = {slices[1]}\n{', '.join(windows)} conv"
    named = [text for node in nodes if (text := _operation(node))]
    return "\n".join(named) or ", ".join(filter(None, map(_between, nodes)))


def _operation(node: Node) -> str:
    """Describe those operations that a reader of a figure looks for."""
    match node.op:
        case Conv(window=window, stride=stride):
            return f"{_window_text(window)} conv" + f", /{stride}" * (stride > 1)
        case MaxPool(window=window, stride=stride):
            return f"{_window_text(window)} max" + f", /{stride}" * (stride > 1)
        case BlurPool(window=window, stride=stride):
            return f"{_window_text(window)} blur, /{stride}"
        case AvgPool(window=window, stride=stride):
            return f"{_window_text(window)} avg, /{stride}"
        case GlobalPool(kind=kind):
            return _GLOBAL_POOLS[kind]
        case Dense():
            return "linear"
        case Softmax():
            return "softmax"
        case Sigmoid():
            return "sigmoid"
    return ""


_GLOBAL_POOLS = {
    "avg": "average",
    "max": "maximum",
    "avgmax": "average + max",
    "catavgmax": "average, max",
}


def _between(node: Node) -> str:
    """Describe what stands between convolutions, for a stage that has none."""
    match node.op:
        case BatchNorm():
            return "norm"
        case GroupNorm(channels=channels, groups=groups):
            return "instance norm" if groups == channels else "group norm"
        case Relu():
            return "ReLU"
        case Activation(kind=kind):
            return ACTIVATIONS[kind]
        case PRelu():
            return "PReLU"
    return ""


def _window_text(window: Sequence[int]) -> str:
    return TIMES.join(map(str, window))


def _color(nodes: Sequence[Node]) -> str:
    if len(nodes[-1].shape) == 1:
        return SLATE
    return AMBER if nodes[0].stage.startswith("transition") else GREY


class _Painter:
    """Lays stages out, each in a cell as wide as its shape and its texts need, and paints them."""

    def __init__(self, stages: Sequence[_DrawnStage], title: str, totals: str) -> None:
        self.stages, self.title, self.totals = stages, title, totals
        deepest = max(stage.after or 0.0 for stage in stages)
        self._step = (TALLEST - SHORTEST) / max(deepest, 4.0)
        self._broadest = max([sum(stage.slices) for stage in stages if stage.slices], default=1)

    def paint(self) -> Figure:
        from matplotlib.figure import Figure

        widths = [self._cell_width(stage) for stage in self.stages]
        header = max(_text_width(row, TEXT) for row in ROWS) + GAP
        titles = max(_text_width(self.title, TITLE, bold=True), _text_width(self.totals, TEXT))
        width = 2 * MARGIN + max(header + sum(widths), titles)
        under = sum(ROW_HEIGHTS) + MARGIN
        above = max(self._height(s.after) / 2 + (ARC if s.slices else 0.1) for s in self.stages)
        middle = under + TALLEST / 2 + 0.15
        height = middle + max(above, TALLEST / 2) + 0.8

        figure = Figure(figsize=(width, height), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        self._paint_titles(axes, height)
        left = (width - header - sum(widths)) / 2
        self._paint_rows(axes, left, left + header + sum(widths), under)
        lefts = itertools.accumulate(widths[:-1], initial=left + header)
        centers = [x + w / 2 for x, w in zip(lefts, widths, strict=True)]
        for stage, center in zip(self.stages, centers, strict=True):
            self._paint_stage(axes, stage, center, middle)
            self._paint_cells(axes, stage, center, under)
        self._paint_arrows(axes, centers, middle)
        return figure

    def _height(self, halvings: float | None) -> float:
        return VECTOR if halvings is None else TALLEST - self._step * halvings

    def _width(self, stage: _DrawnStage) -> float:
        if stage.slices:
            width = WIDEST_BLOCK * math.sqrt(sum(stage.slices) / self._broadest)
            return max(NARROWEST_BLOCK, min(width, WIDEST_SLICE * len(stage.slices)))
        return BAR if stage.before == stage.after else FUNNEL

    def _cell_width(self, stage: _DrawnStage) -> float:
        heading, *others = stage.cells
        lines = [line for cell in others for line in cell.split("\n")]
        texts = max(_text_width(line, TEXT) for line in lines)
        return max(self._width(stage), texts, _text_width(heading, HEADING, bold=True)) + GAP

    def _paint_titles(self, axes: Axes, height: float) -> None:
        _write(axes, MARGIN, height - 0.33, self.title, TITLE, ha="left", weight="bold")
        _write(axes, MARGIN, height - 0.57, self.totals, TEXT, ha="left", color=MUTED)

    def _paint_rows(self, axes: Axes, left: float, right: float, top: float) -> None:
        for text, y in zip(ROWS, _row_centers(top), strict=True):
            _write(axes, left, y, text, TEXT, ha="left", color=MUTED)
        y = top - ROW_HEIGHTS[0]
        axes.plot([left, right], [y, y], color=RULE, linewidth=0.8)

    def _paint_cells(self, axes: Axes, stage: _DrawnStage, x: float, top: float) -> None:
        for index, (text, y) in enumerate(zip(stage.cells, _row_centers(top), strict=True)):
            if index == 0:
                _write(axes, x, y, text, HEADING, weight="bold")
            else:
                _write(axes, x, y, text, TEXT)

    def _paint_stage(self, axes: Axes, stage: _DrawnStage, x: float, y: float) -> None:
        from matplotlib.patches import Polygon

        if stage.slices:
            self._paint_block(axes, stage, x, y)
            return
        half, pools = self._width(stage) / 2, stage.before is not None and stage.after is None
        left = self._height(stage.before) / 2
        right = POOLED / 2 if pools else self._height(stage.after) / 2
        corners = [(x - half, y - left), (x - half, y + left), (x + half, y + right)]
        corners.append((x + half, y - right))
        axes.add_patch(Polygon(corners, closed=True, facecolor=stage.color, linewidth=0))

    def _paint_block(self, axes: Axes, stage: _DrawnStage, x: float, y: float) -> None:
        from matplotlib.patches import Rectangle

        width, height = self._width(stage), self._height(stage.after)
        left, right = x - width / 2, x + width / 2
        bounds = [
            left + width * channels / sum(stage.slices)
            for channels in itertools.accumulate(stage.slices, initial=0)
        ]
        layers = len(stage.slices) - 1
        # Each slice reaches to the block's end, under the next ones: no seams between them.
        for index, start in enumerate(bounds[:-1]):
            color = GREY if index == 0 else _blend(index / layers)
            patch = Rectangle((start, y - height / 2), right - start, height)
            patch.set(facecolor=color, linewidth=0)
            axes.add_patch(patch)
        thin = min(0.6, 72 * width / len(stage.slices) / 4)
        if thin > 0.2:
            axes.vlines(bounds[1:-1], y - height / 2, y + height / 2, "white", linewidth=thin)
        centers = [(a + b) / 2 for a, b in itertools.pairwise(bounds)]
        self._paint_arcs(axes, centers, y + height / 2)

    def _paint_arcs(self, axes: Axes, xs: Sequence[float], y: float) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path as Curve

        ends = _spread(xs, ARC_ENDS)
        reach = ends[-1] - ends[0]
        vertices, codes = [], []
        for a, b in itertools.combinations(ends, 2):
            top = y + 4 / 3 * ARC * ((b - a) / reach) ** 0.7
            vertices += [(a, y), (a, top), (b, top), (b, y)]
            codes += [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        arcs = PathPatch(Curve(vertices, codes), fill=False, linewidth=0.6, edgecolor=BLUE)
        arcs.set_alpha(0.55)
        axes.add_patch(arcs)

    def _paint_arrows(self, axes: Axes, centers: Sequence[float], y: float) -> None:
        from matplotlib.patches import FancyArrowPatch

        for (one, x), (other, after) in itertools.pairwise(zip(self.stages, centers, strict=True)):
            arrow = FancyArrowPatch(
                (x + self._width(one) / 2 + 0.03, y),
                (after - self._width(other) / 2 - 0.03, y),
                arrowstyle="-|>,head_width=1.6,head_length=2.8",
                mutation_scale=1,
                shrinkA=0,
                shrinkB=0,
                color=MUTED,
                linewidth=0.8,
            )
            axes.add_patch(arrow)


def _row_centers(top: float) -> Iterator[float]:
    for height in ROW_HEIGHTS:
        yield top - height / 2
        top -= height


def _blend(fraction: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * fraction for a, b in zip(LIGHT_BLUE, BLUE, strict=True))


def _spread(values: Sequence[float], count: int) -> list[float]:
    """Choose at most ``count`` of the values: the first, and equal steps back from the last."""
    last = len(values) - 1
    step = math.ceil(last / (count - 1))
    return [values[index] for index in sorted({0, *range(last, 0, -step)})]


def _write(axes: Axes, x: float, y: float, text: str, size: float, **style: Any) -> None:
    """Write lines of text around a height. Their baselines do not depend on the letters."""
    lines = text.split("\n")
    style = {"ha": "center", "va": "baseline", "color": INK} | style
    for index, line in enumerate(lines):
        above = ((len(lines) - 1) / 2 - index) * LINE
        axes.text(x, y + above - size / 200, line, fontsize=size, **style)


def _text_width(text: str, size: float, *, bold: bool = False) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    font = FontProperties(weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) / 72
