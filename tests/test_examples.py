"""The examples of feature maps, on small networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import grad_cam
from tests.strategies import tiny

SPEC = tiny(
    blocks=(1, 1, 1, 1),
    growth_rate=8,
    stem_kind="conv-norm-relu",
    stem_width=16,
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    compression=0.5,
)
BETTER_THAN_CHANCE = 0.3
"""An untrained network overlaps with the discs by a tenth, which is the share that they cover."""


def test_a_unet_in_pytorch_finds_discs() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from examples import unet_torch

    assert unet_torch.train(SPEC, steps=40, size=64) > BETTER_THAN_CHANCE


def _in_keras(backend: str, steps: int) -> float:
    """Run the example in Keras in a process of its own."""
    pytest.importorskip("keras", reason="Keras is not installed")
    code = (
        "from examples import unet_keras; from tests.test_examples import SPEC; "
        f"print(unet_keras.train({backend!r}, SPEC, steps={steps}, size=64))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return float(run.stdout.splitlines()[-1])


def test_a_unet_in_keras_trains() -> None:
    assert 0 <= _in_keras("torch", steps=2) <= 1


@pytest.mark.full
@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_a_unet_in_keras_finds_discs(backend: str) -> None:
    assert _in_keras(backend, steps=60) > BETTER_THAN_CHANCE


@pytest.mark.parametrize(
    "backends",
    [
        ("numpy", "torch.nn"),
        pytest.param(("numpy", "flax.nnx", "torch", "tensorflow", "jax"), marks=pytest.mark.full),
    ],
    ids=lambda backends: "-".join(backends),
)
def test_grad_cam_shows_the_same_on_every_backend(
    backends: tuple[str, ...], tmp_path: Path
) -> None:
    for package in ("torch", "keras", "sklearn", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    apart = grad_cam.compare(tmp_path / "cam.png", count=64, epochs=1, backends=backends)
    assert apart < 1e-3
    assert (tmp_path / "cam.png").stat().st_size > 0


def test_digits_stand_on_their_canvases() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    images, labels = grad_cam.canvases(5, seed=0)
    assert images.shape == (5, 1, grad_cam.CANVAS, grad_cam.CANVAS)
    assert np.all((images.max((1, 2, 3)) > 0.9) & (labels < 10))
