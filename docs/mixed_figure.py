"""Draws ``docs/images/mixed-precision.png``: ``python docs/mixed_figure.py``.

It trains a small network on scikit-learn's digits in float32 and in mixed bfloat16, from a few
seeds each. It needs PyTorch, matplotlib and scikit-learn, and takes some minutes.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

import densespec
from densespec import DenseNetSpec
from densespec.atomic import atomic_path
from densespec.training.log import LogLine

PATH = Path(__file__).parent / "images" / "mixed-precision.png"
SPEC = DenseNetSpec(blocks=(3, 3), growth_rate=8, stem_width=16, in_channels=1, classes=10)
EPOCHS = 8
COLOURS = {"float32": "#2f6db3", "mixed_bfloat16": "#d9822b"}
SEEDS = (0, 1, 2)


def epochs(dtype: str, seed: int, folder: Path) -> tuple[LogLine, ...]:
    """Train once, and return the log's lines of epochs."""
    changes = {"dtype": dtype, "seed": seed}
    out = folder / f"{dtype}-{seed}"
    return densespec.train(
        SPEC, out=out, data="digits", backend="torch.nn", epochs=EPOCHS, changes=changes
    ).epochs


def figure(runs: dict[str, list[tuple[LogLine, ...]]]) -> Figure:
    """Draw the loss and the validation accuracy of all runs over the epochs."""
    result = Figure(figsize=(9, 3.4), layout="constrained")
    parts = {"loss": "training loss", "validation_accuracy": "validation accuracy"}
    for axes, (value, title) in zip(result.subplots(1, 2), parts.items(), strict=True):
        for dtype, lines in runs.items():
            for number, run in enumerate(lines):
                label = None if number else dtype
                shown = [line[value] for line in run]
                axes.plot(range(1, EPOCHS + 1), shown, color=COLOURS[dtype], alpha=0.7, label=label)
        axes.set(title=title, xlabel="epoch", yscale="log" if value == "loss" else "linear")
        axes.grid(alpha=0.3)
    axes.legend()
    return result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = {d: [epochs(d, seed, Path(scratch)) for seed in SEEDS] for d in COLOURS}
    for dtype, lines in found.items():
        last = [run[-1] for run in lines]
        for value in ("loss", "validation_accuracy"):
            numbers = [line[value] for line in last]
            print(dtype, value, *(f"{n:.4f}" for n in numbers), f"{statistics.mean(numbers):.4f}")
    with atomic_path(PATH) as temporary:
        figure(found).savefig(temporary, format="png", dpi=100)
