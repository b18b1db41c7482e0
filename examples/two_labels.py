"""Two labels an image: pairs of scikit-learn's digits, side by side, and which digits they show.

``python examples/two_labels.py [BACKEND ...]`` trains the same network on each backend and shows
what it is judged by. A tenth of the labels to train on is not known, as in tables of chest X-rays.
``docs/tutorials/several-labels.md`` goes through such a task step by step; this compares backends.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data
from densespec.training import RunResult

BACKENDS = ("torch.nn", "tensorflow", "torch", "jax")
SPEC = DenseNetSpec(
    blocks=(3, 3), growth_rate=8, bottleneck_width=2, compression=0.5, in_channels=1, classes=10
)
RECIPE = densespec.get_recipe("fine-tune").replace(
    loss="sigmoid",
    epochs=12,
    batch_size=64,
    learning_rate=0.01,
    augmentation="none",
)
UNKNOWN = 0.1
"""The share of labels that nobody gave."""


def pairs(split: data.Split, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 1, 8, 16) of two digits, and labels (count, 10): 1 where a digit is shown."""
    chosen = np.random.default_rng(seed).integers(0, len(split), (2, count))
    assert isinstance(split.x, np.ndarray), "digits are in memory"
    left, right = (split.x[rows] for rows in chosen)
    labels = np.zeros((count, 10))
    for rows in chosen:
        labels[np.arange(count), split.y[rows]] = 1
    return np.concatenate([left, right], 3), labels


def dataset(train: int = 2000, test: int = 500) -> data.Dataset:
    """Pairs to train on, with labels that are not known, and pairs of other digits to test on."""
    digits = data.load("digits")
    x, y = pairs(digits.train, train, 0)
    y[np.random.default_rng(1).random(y.shape) < UNKNOWN] = np.nan
    given = (*pairs(digits.test, test, 2),)
    return data.Dataset.of(x, y, *given, classes=digits.classes, name="pairs of digits", scale=16)


def train(backend: str, folder: Path, recipe: TrainingRecipe = RECIPE, **sizes: int) -> RunResult:
    """Train on the pairs, and keep the epoch with the best mean AUC."""
    return densespec.train(
        SPEC,
        out=folder / backend,
        recipe=recipe,
        data=dataset(**sizes),
        backend=backend,
        metrics=("auc", "f1"),
        best="auc",
    )


def row(backend: str) -> str:
    """What the best epoch of a run is judged by, as a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        best = train(backend, Path(folder)).best_epoch
    assert best is not None, "every epoch is judged"
    figures = best["metrics"]
    return (
        f"{backend:12} {best['validation_loss']:8.4f} {best['validation_accuracy']:9.2%} "
        f"{figures['auc']:8.4f} {figures['f1']:8.4f}"
    )


def main(backends: list[str]) -> None:
    """Train on one backend, or on each in a process of its own, since Keras has one engine."""
    if len(backends) == 1:
        print(row(backends[0]))
        return
    print(f"{'backend':12} {'loss':>8} {'accuracy':>9} {'auc':>8} {'f1':>8}", flush=True)
    for backend in backends:
        subprocess.run([sys.executable, __file__, backend], check=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(BACKENDS))
