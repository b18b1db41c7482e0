"""Draws ``docs/images/augmentation.png``: ``python docs/data_figure.py``.

The photographs are those that come within scikit-learn. Needs matplotlib and scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

from densespec.atomic import atomic_path
from densespec.data import Batches, Normalisation, Split
from densespec.data.augment import centred

PATH = Path(__file__).parent / "images" / "augmentation.png"
EPOCHS = 6
PLAIN = Normalisation((0.45, 0.45, 0.45), (1.0, 1.0, 1.0))
"""Shifts alone, so that an image is shown again by shifting it back; zeros are grey."""


def views(photograph: np.ndarray, augmentation: str, size: int) -> list[np.ndarray]:
    """A photograph as for evaluation, then as each epoch sees it; (size, size, 3) in [0, 1]."""
    split = Split(photograph[None], np.zeros(1, int))
    found = [
        Batches(split, PLAIN, augmentation=name, size=(size, size)).batch(epoch, 0)[0][0]
        for name, epoch in [("none", 0), *((augmentation, epoch) for epoch in range(EPOCHS))]
    ]
    return [np.clip(image.transpose(1, 2, 0) + 0.45, 0, 1) for image in found]


def figure() -> Figure:
    china, flower = (image.transpose(2, 0, 1) for image in load_sample_images().images)
    rows = {
        "cifar": views(centred(flower, (32, 32)), "cifar", 32),
        "imagenet": views(china, "imagenet", 112),
    }
    result = Figure(figsize=(9, 2.9), layout="constrained")
    grid = result.subplots(len(rows), EPOCHS + 1)
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        axes[0].set_ylabel(name)
        for column, (axis, image) in enumerate(zip(axes, images, strict=True)):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if name == "cifar":
                axis.set_title(f"epoch {column - 1}" if column else "evaluation", fontsize=9)
    return result


if __name__ == "__main__":
    with atomic_path(PATH) as temporary:
        figure().savefig(temporary, format="png", dpi=100)
