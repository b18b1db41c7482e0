"""Volumes of three kinds of bodies, as NIfTI files, told apart by a network of three dimensions.

``python examples/volumes.py [BACKEND ...]`` makes the files, trains the same network on each
backend and shows what it is judged by. Needs nibabel: ``pip install 'densespec[nifti]'``.
``docs/tutorials/volumes.md`` goes through the same task step by step; this compares backends.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.training import RunResult

BACKENDS = ("torch.nn", "flax.nnx", "tensorflow", "torch", "jax")
BODIES = ("ball", "cube", "ring")
SIDE = 16
SPEC = DenseNetSpec(
    blocks=(2, 2), growth_rate=8, in_channels=1, classes=len(BODIES), spatial_dims=3
)
RECIPE = densespec.get_recipe("fine-tune").replace(
    epochs=16, batch_size=16, learning_rate=0.01, augmentation="none"
)


def volume(body: str, seed: int) -> np.ndarray:
    """A body of some size somewhere in noise, turned by any angles: (16, 16, 16), int16."""
    draw = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1) - SIDE / 2 + 0.5
    at = (grid - draw.uniform(-2, 2, 3)) @ axes
    radius = draw.uniform(4, 5.5)
    match body:
        case "ball":
            inside = np.linalg.norm(at, axis=-1) < radius
        case "cube":
            inside = np.abs(at).max(-1) < 0.8 * radius
        case _:
            around = np.linalg.norm(at[..., :2], axis=-1) - radius
            inside = np.hypot(around, at[..., 2]) < 2
    return np.asarray(draw.normal(400 * inside - 1000, 200), np.int16)


def write_volumes(folder: Path, train: int = 40, test: int = 20) -> Path:
    """Write so many files of each body, as ``train/BODY`` and ``test/BODY``."""
    import nibabel

    for part, count, first in (("train", train, 0), ("test", test, 100_000)):
        for place, body in enumerate(BODIES):
            (folder / part / body).mkdir(parents=True)
            for number in range(count):
                image = nibabel.Nifti1Image(volume(body, first + 1000 * place + number), np.eye(4))
                nibabel.save(image, folder / part / body / f"{number:03}.nii.gz")
    return folder


def train(backend: str, folder: Path, recipe: TrainingRecipe = RECIPE, **counts: int) -> RunResult:
    """Train on volumes that are written into a folder, as ``densespec train`` does."""
    data = write_volumes(folder / "volumes", **counts)
    return densespec.train(
        SPEC,
        out=folder / "run",
        recipe=recipe,
        data=f"folder:{data}",
        size=(SIDE,) * 3,
        backend=backend,
    )


def row(backend: str) -> str:
    """What the last epoch of a run is judged by, as a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        last = train(backend, Path(folder)).epochs[-1]
    return f"{backend:12} {last['validation_loss']:8.4f} {last['validation_accuracy']:9.2%}"


def main(backends: list[str]) -> None:
    """Train on one backend, or on each in a process of its own, since Keras has one engine."""
    if len(backends) == 1:
        print(row(backends[0]))
        return
    print(f"{'backend':12} {'loss':>8} {'accuracy':>9}", flush=True)
    for backend in backends:
        subprocess.run([sys.executable, __file__, backend], check=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(BACKENDS))
