"""Draws a run: loss, accuracy and metrics over the epochs, the learning rate, and backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densespec.atomic import atomic_path
from densespec.installed import is_installed
from densespec.training.log import LogLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING, VALIDATION, RULE, INK = "#2f6db3", "#d9822b", "#9aa5b1", "#1d2733"
DOTS_PER_INCH = 130
MARKED = 12
"""At most this many learning rates of a run are marked one by one."""


def can_draw() -> bool:
    """Say whether matplotlib is installed."""
    return is_installed("matplotlib")


def draw_curve(
    records: Sequence[LogLine], path: Path, *, title: str, epochs: int, steps_per_epoch: int
) -> None:
    """Draw a log as a PNG, atomically.

    Args:
        epochs: the number of epochs of the whole run.
        steps_per_epoch: what the horizontal axis is divided by.
    """
    from matplotlib.figure import Figure

    steps = [r for r in records if r["kind"] == "step"]
    ends = [r for r in records if r["kind"] == "epoch"]
    metrics = list(dict.fromkeys(n for r in ends for n in r["metrics"] if ":" not in n))
    figure = Figure(figsize=(9, 10 if metrics else 7), layout="constrained")
    loss, accuracy, *more = figure.subplots(3 if metrics else 2, 1, sharex=True)

    def points(rows: Sequence[LogLine], value: str) -> tuple[list[float], list[Any]]:
        known = [row for row in rows if row[value] is not None]
        return [row["step"] / steps_per_epoch for row in known], [row[value] for row in known]

    few = "o" if len(ends) <= 60 else None
    loss.plot(*points(steps, "loss"), color=TRAINING, alpha=0.25, linewidth=0.8)
    for axes, value in ((loss, "loss"), (accuracy, "accuracy")):
        style = {"marker": few, "markersize": 3, "linewidth": 1.6}
        axes.plot(*points(ends, value), color=TRAINING, label="training", **style)
        x, y = points(ends, f"validation_{value}")
        if x:
            axes.plot(x, y, color=VALIDATION, label="validation", **style)
        _frame(axes, value)
    positive = all(r["loss"] > 0 for r in steps)
    loss.set(yscale="log" if steps and positive else "linear", title=title)
    loss.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    loss.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _few(value) else "")
    for axes in more:
        _draw_metrics(axes, ends, metrics, steps_per_epoch, marker=few)
    (more or [accuracy])[-1].set(xlabel="epoch", xlim=(0, max(epochs, 1)))
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _mark(loss, accuracy, steps, steps_per_epoch)
    if len({row["learning_rate"] for row in steps}) > MARKED:
        _draw_rate(loss, *points(steps, "learning_rate"))
    handles, labels = loss.get_legend_handles_labels()
    if handles:
        accuracy.legend(handles, labels, frameon=False, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)


def _frame(axes: Axes, label: str) -> None:
    axes.set(ylabel=label)
    axes.grid(color=RULE, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_metrics(
    axes: Axes,
    ends: Sequence[LogLine],
    names: Sequence[str],
    steps_per_epoch: int,
    *,
    marker: str | None,
) -> None:
    """Draw the further metrics of the test images, as means over classes."""
    for name in names:
        known = [row for row in ends if name in row["metrics"]]
        x = [row["step"] / steps_per_epoch for row in known]
        y = [row["metrics"][name] for row in known]
        axes.plot(x, y, label=name, marker=marker, markersize=3, linewidth=1.6)
    _frame(axes, "metrics")
    axes.legend(frameon=False, loc="lower right")


def _draw_rate(loss: Axes, x: Sequence[float], rates: Sequence[Any]) -> None:
    """Draw a learning rate that changes often, as a line with an axis of its own."""
    axes = loss.twinx()
    axes.plot(x, rates, color=RULE, linewidth=1, zorder=0)
    axes.set(ylabel="learning rate")
    axes.spines[["top"]].set_visible(False)


def _few(value: float) -> bool:
    """Say whether a minor tick of a logarithmic axis shows its value: all would crowd it."""
    return f"{value:e}"[0] in "25"


def _mark(loss: Axes, accuracy: Axes, steps: Sequence[LogLine], steps_per_epoch: int) -> None:
    """Mark where the learning rate or the backend changes, with names at the top of each panel."""
    for axes, value, dashes, text in (
        (loss, "learning_rate", ":", "rate {:g}"),
        (accuracy, "backend", "--", "{}"),
    ):
        if len({row[value] for row in steps}) > MARKED:
            continue
        before = None
        for row in steps:
            if row[value] == before:
                continue
            x = (row["step"] - 1) / steps_per_epoch
            if before is not None:
                for each in (loss, accuracy):
                    each.axvline(x, color=RULE, linestyle=dashes, linewidth=1, zorder=0)
            axes.annotate(
                text.format(row[value]),
                (x, 1.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(4, -2),
                textcoords="offset points",
                va="top",
                fontsize=8,
                color=INK,
            )
            before = row[value]
