"""Training runs that start from trained weights by name, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import densespec
from densespec.data import Dataset, Normalisation
from densespec.network.graph import lower
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.preprocessing import Preprocessing
from densespec.training import read_log
from densespec.training.bequest import bequest_of
from densespec.weights.checkpoint import read_checkpoint
from densespec.weights.reading import ReadingOptions
from tests.pretrained.publishing_server import noisy_image
from tests.test_convert import SPEC

pytest.importorskip("pooch", reason="pooch is not installed")

NORMAL = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ("cat", "dog")


def photos() -> Dataset:
    x = noisy_image(shape=(8, 3, 32, 32))
    y = np.arange(8) % 2
    return Dataset.of(x, y, x[:2], y[:2], classes=CLASSES, normalisation=NORMAL, name="photos")


def trained(folder: Path, **options: Any) -> Accompaniment:
    said = {"data": photos(), "recipe": "digits", "backend": "numpy", "epochs": 1}
    said["changes"] = {"batch_size": 4, "dtype": "float64"}
    densespec.train(**{**said, **options}, out=folder)
    return read_checkpoint(folder / "last.safetensors").accompaniment


def test_a_run_leaves_its_classes_its_images_and_where_it_started(
    registry_file: Path, tmp_path: Path
) -> None:
    left = trained(tmp_path / "run", weights="testing:Net.V1", classes=2, trainable_from="head")
    assert left.labels == CLASSES
    assert left.preprocessing == Preprocessing(mean=NORMAL.mean, std=NORMAL.std, size=(32, 32))
    assert left.provenance is not None
    assert left.provenance.name == "testing:Net.V1"

    resumed = trained(tmp_path / "run", resume=True, epochs=2, recipe=None, changes=None)
    assert resumed == left
    assert read_checkpoint(tmp_path / "run" / "best.safetensors").accompaniment == left

    model = densespec.build(None, backend="numpy", weights=tmp_path / "run" / "best.safetensors")
    assert densespec.preprocessing(model) == left.preprocessing
    densespec.save_pretrained(model, tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog"}
    assert config["provenance"]["name"] == "testing:Net.V1"


def test_images_that_a_run_brings_to_a_size_are_cropped(tmp_path: Path) -> None:
    spec = SPEC.replace(classes=2, blocks=(1, 1))
    left = trained(tmp_path / "run", spec=spec, size=(16, 16))
    assert left.provenance is None
    assert left.preprocessing is not None
    assert (left.preprocessing.size, left.preprocessing.crop) == ((16, 16), 0.875)


def test_files_that_have_the_size_already_are_left_as_they_are(tmp_path: Path) -> None:
    for number, image in enumerate(noisy_image(shape=(16, 32, 32, 3))):
        path = tmp_path / "photos" / ("train", "test")[number // 8] / CLASSES[number % 2]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"{number}.png")
    data = f"folder:{tmp_path / 'photos'}"
    spec = SPEC.replace(classes=2, blocks=(1, 1))
    left = trained(tmp_path / "run", spec=spec, data=data, size=(32, 32))
    assert left.preprocessing is not None
    assert left.preprocessing.crop == 1.0
    last = read_log(tmp_path / "run" / "log.jsonl")[-1]
    measured = densespec.evaluate(tmp_path / "run" / "last.safetensors", data)
    np.testing.assert_allclose(measured.loss, last["validation_loss"], rtol=1e-5)


def test_bytes_of_another_scale_are_prepared_as_they_were_trained_on() -> None:
    x = np.random.default_rng(0).integers(0, 17, (20, 3, 32, 32), dtype=np.uint8)
    data = Dataset.of(x, np.arange(20) % 2, classes=CLASSES, scale=16.0)
    left = bequest_of(
        data, lower(SPEC.replace(classes=2), (32, 32)), None, ReadingOptions()
    ).preprocessing
    assert left is not None
    expected = data.normalisation.apply(x, np.dtype(np.float64))
    np.testing.assert_allclose(left.batch(np.moveaxis(x, 1, -1)), expected, atol=1e-5)
