"""Folders that densespec writes in timm's format, loaded by those who read that format."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.hub import IMAGENET, from_pretrained, save_pretrained
from tests.peers.networks import difference, import_torchvision

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SPEC = densespec.get("densenet121").replace(
    blocks=(1, 2, 1), growth_rate=8, stem_width="2k", in_channels=2, classes=4
)
LABELS = ["cat", "dog", "ant", "bee"]


@pytest.fixture(scope="module")
def timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    import timm

    return timm


def _ours(spec: densespec.DenseNetSpec = SPEC, **options: Any) -> Any:
    model = densespec.build(spec, backend="torch.nn", seed=3, **options).eval()
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) / 4)
    return model


def _apart(ours: Any, theirs: Any, channels: int) -> float:
    x = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = theirs(x)
        return difference(getattr(found, "logits", found).numpy(), ours(x).numpy())


@pytest.mark.parametrize(
    "options",
    [{}, {"include_top": False, "pooling": "avg"}, {"include_top": False, "pooling": "max"}],
    ids=["with a classifier", "to the mean", "to the maximum"],
)
def test_timm_builds_the_same_network_from_a_folder(
    timm: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    ours = _ours(**options)
    save_pretrained(ours, tmp_path, format="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert _apart(ours, theirs, channels=2) < 1e-6
    again = from_pretrained(tmp_path, backend="torch.nn").eval()
    assert _apart(ours, again, channels=2) == 0


def test_timm_finds_what_images_need_and_the_labels(timm: Any, tmp_path: Path) -> None:
    spec = SPEC.replace(in_channels=3)
    save_pretrained(_ours(spec), tmp_path, preprocessing=IMAGENET, format="timm", labels=LABELS)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    found = timm.data.resolve_data_config(model=model)
    assert [*found["mean"], *found["std"]] == [*IMAGENET.mean, *IMAGENET.std]
    assert (tuple(found["input_size"]), found["interpolation"]) == ((3, 224, 224), "bilinear")
    assert found["crop_pct"] == 1.0
    assert model.pretrained_cfg["label_names"] == LABELS


def test_transformers_wraps_a_folder(timm: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = _ours(SPEC.replace(in_channels=3))
    save_pretrained(ours, tmp_path, preprocessing=IMAGENET, format="timm", labels=LABELS)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert _apart(ours, theirs, channels=3) < 1e-6
    assert list(theirs.config.id2label.values()) == LABELS


def test_keras_hub_loads_the_plain_121(tmp_path: Path) -> None:
    """It has these blocks by the architecture's name, and its own padding and epsilon."""
    if importlib.util.find_spec("keras_hub") is None:
        pytest.skip("keras-hub is not installed")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import keras_hub

    if keras.backend.backend() != "torch":
        pytest.skip(f"Keras runs on {keras.backend.backend()} already")
    ours = _ours(densespec.get("densenet121"))
    save_pretrained(ours, tmp_path, preprocessing=IMAGENET, format="timm")
    theirs = keras_hub.models.DenseNetBackbone.from_preset(str(tmp_path))
    kernel = theirs.get_layer("conv1_conv").kernel
    array = ours.state_dict()["features.conv0.weight"].numpy()
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(kernel), np.moveaxis(array, (0, 1), (-1, -2))
    )
