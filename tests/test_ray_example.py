"""The example on Ray Data: two workers give the answers of one process, also after a stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.data import Dataset
from densespec.errors import DensespecError
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.predicting import predict
from densespec.training.bequest import bequest_of
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.reading import ReadingOptions
from examples.ray_prediction import answers_of, missing
from tests.strategies import tiny

IMAGES, PART = 10, 3


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A network that says what its images need."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
    data = Dataset.of(images, np.arange(10) % 2, classes=("cat", "dog"), name="pets")
    graph = lower(tiny(classes=2, in_channels=3), (8, 8))
    path = tmp_path / "net.safetensors"
    arrays = initial_weights(graph, 1)
    write_checkpoint(
        path, graph, arrays, accompaniment=bequest_of(data, graph, None, ReadingOptions())
    )
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    random, folder = np.random.default_rng(1), tmp_path / "photos"
    folder.mkdir()
    for index in range(IMAGES):
        pixels = random.integers(0, 256, (9 + index, 12, 3), dtype=np.uint8)
        pillow.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def ask(net: Path, photos: Path, out: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [
            *(sys.executable, "-m", "examples.ray_prediction", net, photos, "--out", out),
            *("--backend", "numpy", "--part", str(PART)),
        ],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def said(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("part-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_two_workers_answer_as_one_process_does_and_go_on_after_a_stop(
    net: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    out = tmp_path / "answers"
    done = ask(net, photos, out)
    assert done.returncode == 0, done.stderr
    assert "10 of 10 images answered" in done.stdout
    expected = [
        {"image": str(found.image), "class": guess.label, "probability": guess.probability}
        for found in predict(net, photos, top=1, batch_size=PART)
        for guess in found.guesses
    ]
    assert said(out) == expected

    answers_of(out, 1).unlink()
    again = ask(net, photos, out)
    assert "3 of 10 images answered" in again.stdout
    assert said(out) == expected
    assert "all of 10 images are answered" in ask(net, photos, out).stdout


def test_a_folder_of_answers_is_of_one_plan(tmp_path: Path) -> None:
    plan, images = {"network": "net", "backend": "numpy", "size": 2}, ["a", "b", "c"]
    rows = missing(tmp_path, plan, images)
    assert [json.loads(row["images"]) for row in rows] == [["a", "b"], ["c"]]
    answers_of(tmp_path, 0).write_text("")
    assert [row["part"] for row in missing(tmp_path, plan, images)] == [1]
    with pytest.raises(DensespecError, match="give another --out"):
        missing(tmp_path, plan, [*images, "d"])
