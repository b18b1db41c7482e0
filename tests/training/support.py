"""What the tests of training share: a tiny network, tiny data, and runs of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densespec.network.files import write_spec
from densespec.recipes.moments import flat_moments
from densespec.recipes.presets import write_recipe
from densespec.recipes.recipe import TrainingRecipe
from densespec.training import RunResult, read_log, train
from densespec.training.progress import Silent
from densespec.weights.checkpoint import Checkpoint, read_checkpoint
from tests.strategies import tiny

SPEC = tiny(in_channels=1, bottleneck_width=2, dropout_rate=0.3)
RECIPE = TrainingRecipe(
    epochs=3,
    batch_size=8,
    learning_rate=0.05,
    milestones=(1, 2),
    gamma=0.5,
    weight_decay=1e-3,
    augmentation="cifar",
    label_smoothing=0.1,
    dtype="float64",
    average=0.9,
    average_warmup=3,
)
RICH = RECIPE.replace(rotation=20, erasing=0.3, mixup=0.4, accumulate=3)
"""Whatever else a recipe may ask of a run."""
IMAGES, SIZE = 28, (6, 6)
"""Not a multiple of the batch size, so that an epoch ends in a smaller batch."""
STEPS = 4
"""Of an epoch."""

TIMES = ("time", "seconds", "images_per_second")
"""What differs between two logs of the same run."""


class Notes(Silent):
    """Keeps what a user would be told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def arrays(seed: int = 1, images: int = IMAGES) -> dict[str, np.ndarray]:
    """Images of three classes that differ in their mean, and their labels."""
    draw = np.random.default_rng(seed)
    found = {}
    for part, count in (("train", images), ("test", 9)):
        y = np.arange(count) % 3
        x = draw.normal(y[:, None, None, None], 1.0, (count, 1, *SIZE)).astype(np.float32)
        found |= {f"x_{part}": x, f"y_{part}": y}
    return found


def data(folder: Path, **options: Any) -> str:
    """The same as a file, in the words of ``densespec.data.load``."""
    path = folder / "data.npz"
    if not path.exists():
        np.savez(path, **arrays(**options))
    return f"arrays:{path}"


def run(folder: Path, **options: Any) -> RunResult:
    """A new run of the tiny network on numpy, in ``folder/run``."""
    given: dict[str, Any] = {
        "spec": SPEC,
        "recipe": RECIPE,
        "backend": "numpy",
        "data": data(folder),
        "out": folder / "run",
    }
    return train(**(given | options))


def resumed(folder: Path, **options: Any) -> RunResult:
    """The run in ``folder/run``, gone on with."""
    return train(out=folder / "run", resume=True, **options)


def last(folder: Path) -> Checkpoint:
    return read_checkpoint(folder / "run" / "last.safetensors")


def log(folder: Path) -> list[dict[str, Any]]:
    return read_log(folder / "run" / "log.jsonl")


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The log without what differs between two runs."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in log(folder)]


def assert_same_end(actual: Path, expected: Path) -> None:
    """The same steps, weights and momentum, to the bit, and the same log."""
    ours, theirs = last(actual), last(expected)
    assert ours.training is not None
    assert theirs.training is not None
    assert ours.training.step == theirs.training.step
    for name, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], array, err_msg=name)
    moments = flat_moments(ours.training.moments)
    for name, array in flat_moments(theirs.training.moments).items():
        np.testing.assert_array_equal(moments[name], array, err_msg=name)
    assert timeless(actual) == timeless(expected)


def files(folder: Path) -> tuple[Path, Path]:
    """A spec file and a recipe file of the tiny network."""
    spec, recipe = folder / "net.toml", folder / "recipe.toml"
    write_spec(SPEC, spec)
    write_recipe(RECIPE, recipe)
    return spec, recipe


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "densespec", "train", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **changes}


def process(
    *arguments: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``densespec train`` as a user runs it."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**(env or {})),
        check=False,
    )
