"""Grad-CAM on every backend: where a network looks, and that it is the same place everywhere.

    python examples/grad_cam.py --out out/grad_cam.png

A small DenseNet learns which of scikit-learn's digits stands somewhere on a noisy canvas, from the
label alone. Grad-CAM (Selvaraju et al. 2017) weighs the channels of the last feature map by the
gradient of a class's logit: the result is high where the digit is. One set of weights serves all
backends; each Keras engine runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.data import Dataset

BACKENDS = ("numpy", "torch.nn", "flax.nnx", "tensorflow", "torch", "jax")
MAP, LOGITS = "final", "classifier"
SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=8,
    bottleneck_width=2,
    compression=0.5,
    stem_width="2k",
    in_channels=1,
    classes=10,
)
RECIPE = TrainingRecipe(epochs=8, batch_size=32, learning_rate=0.1)
CANVAS = 24


def canvases(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Put digits somewhere on noise: images (count, 1, CANVAS, CANVAS) and their labels."""
    from sklearn.datasets import load_digits

    draw, (digits, labels) = np.random.default_rng(seed), load_digits(return_X_y=True)
    chosen = draw.integers(len(digits), size=count)
    images = draw.uniform(0, 0.4, (count, 1, CANVAS, CANVAS)).astype("float32")
    for image, digit in zip(images, digits[chosen], strict=True):
        row, column = draw.integers(CANVAS - 8, size=2)
        image[0, row : row + 8, column : column + 8] += digit.reshape(8, 8) / 16
    return images, labels[chosen]


def trained(folder: Path, *, count: int, epochs: int) -> Path:
    """Train the network and give its checkpoint."""
    x, y = canvases(count, seed=0)
    test_x, test_y = canvases(200, seed=1)
    densespec.train(
        SPEC,
        out=folder / "run",
        recipe=RECIPE.replace(epochs=epochs),
        data=Dataset.of(x, y, test_x, test_y),
        backend="torch.nn+fast",
    )
    return folder / "run" / "last.safetensors"


# Grad-CAM


def grad_cam(backend: str, weights: Path, x: np.ndarray) -> np.ndarray:
    """Say where a network looks for the class that it finds.

    Args:
        x: Images (count, channels, height, width).

    Returns:
        (count, height, width) of the feature map, at least 0.
    """
    gradient = GRADIENTS.get(backend, keras_gradient)
    layout: Any = "channels_last" if gradient is keras_gradient else "channels_first"
    model = densespec.build(
        backend=backend, weights=weights, outputs=(MAP, LOGITS), data_format=layout
    )
    maps, slopes = gradient(model, x)
    importance = slopes.mean((2, 3), keepdims=True)
    return np.maximum((importance * maps).sum(1), 0)


def torch_gradient(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the feature map, and the gradient of the highest logit by it."""
    import torch

    maps, logits = model.eval()(torch.from_numpy(x))
    (slopes,) = torch.autograd.grad(logits.max(1).values.sum(), maps)
    return maps.detach().numpy(), slopes.numpy()


def keras_gradient(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the same by Keras, by what is behind the map: engines differ in their gradients."""
    import keras

    behind = keras.Model(*model.outputs)
    maps, _ = model.predict_on_batch(np.moveaxis(x, 1, -1))
    slopes = _ENGINES[keras.config.backend()](lambda y: behind(y, training=False), maps)
    return np.moveaxis(maps, -1, 1), np.moveaxis(slopes, -1, 1)


def _by_torch(head: Any, maps: np.ndarray) -> np.ndarray:
    import torch

    y = torch.tensor(maps, requires_grad=True)
    (slopes,) = torch.autograd.grad(head(y).max(1).values.sum(), y)
    return slopes.numpy()


def _by_tensorflow(head: Any, maps: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    y = tf.Variable(maps)
    with tf.GradientTape() as tape:
        highest = tf.reduce_sum(tf.reduce_max(head(y), 1))
    return np.asarray(tape.gradient(highest, y))


def _by_jax(head: Any, maps: np.ndarray) -> np.ndarray:
    import jax

    return np.asarray(jax.grad(lambda y: head(y).max(1).sum())(jax.numpy.asarray(maps)))


_ENGINES = {"torch": _by_torch, "tensorflow": _by_tensorflow, "jax": _by_jax}


def flax_gradient(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the same by JAX: behind the map are a mean and the classifier."""
    import jax

    model.eval()
    maps, _ = model(x)
    slopes = jax.grad(lambda y: model.classifier(y.mean((2, 3))).max(1).sum())(maps)
    return np.asarray(maps), np.asarray(slopes)


def numpy_gradient(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the same by hand: behind the map are a mean and a linear layer."""
    maps, logits = model(x)
    kernel = model.weights[f"{LOGITS}.kernel"][logits.argmax(1)]
    positions = maps.shape[2] * maps.shape[3]
    return maps, np.broadcast_to(kernel[:, :, None, None] / positions, maps.shape)


GRADIENTS = {"torch.nn": torch_gradient, "flax.nnx": flax_gradient, "numpy": numpy_gradient}


# All of them


def elsewhere(backend: str, weights: Path, images: Path, out: Path) -> np.ndarray:
    """Run a backend in a process of its own, as Keras's engines need it."""
    words = ["--backend", backend, "--weights", weights, "--images", images, "--out", out]
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)
    return np.load(out)


def draw(images: np.ndarray, cams: dict[str, np.ndarray], path: Path) -> None:
    """Draw each image, and what each backend sees in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * len(images), 1.3 * (1 + len(cams))), layout="constrained")
    axes = figure.subplots(1 + len(cams), len(images), squeeze=False)
    for column, image in enumerate(images):
        axes[0][column].imshow(image[0], cmap="gray")
        for row, cam in enumerate(cams.values(), start=1):
            axes[row][column].imshow(image[0], cmap="gray")
            extent = (-0.5, CANVAS - 0.5, CANVAS - 0.5, -0.5)
            axes[row][column].imshow(
                cam[column], cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear"
            )
    for row, name in enumerate(("image", *cams)):
        axes[row][0].set_ylabel(name)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def compare(
    out: Path, *, count: int = 2000, epochs: int = 8, backends: tuple[str, ...] = BACKENDS
) -> float:
    """Train, run every backend, draw, and give the largest difference between two of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = trained(folder, count=count, epochs=epochs)
        x, _ = canvases(6, seed=2)
        np.save(folder / "images.npy", x)
        cams = {
            backend: elsewhere(backend, weights, folder / "images.npy", folder / f"{backend}.npy")
            for backend in backends
        }
    draw(x, cams, out)
    reference = next(iter(cams.values()))
    return max(float(np.abs(cam - reference).max() / reference.max()) for cam in cams.values())


@click.command()
@click.option("--out", type=Path, default=Path("grad_cam.png"), show_default=True)
@click.option("--backend", help="Run this one alone on given images, and write an array.")
@click.option("--weights", type=Path)
@click.option("--images", type=Path)
def main(out: Path, backend: str | None, weights: Path | None, images: Path | None) -> None:
    """Draw where a network looks, on every backend."""
    if backend is not None and weights is not None and images is not None:
        np.save(out, grad_cam(backend, weights, np.load(images)))
        return
    click.echo(f"largest difference between backends: {compare(out):.1e} of the highest value")


if __name__ == "__main__":
    main()
