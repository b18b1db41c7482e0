"""What the same weights of DenseNet-121 compute in torchvision, timm, keras-hub and densespec.

    python examples/same_weights.py

torchvision makes the network, with initial weights, and timm writes them as a folder of the Hub.
timm, keras-hub and densespec load that folder, and all four look at the same image. What keras-hub
does otherwise is then told by changing two fields of densespec's spec, one by one and both.

Needs torchvision, timm and keras-hub beside densespec[torch].
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import densespec

SIZE = 224
FIELDS: tuple[tuple[str, Any], ...] = (("padding", "same"), ("batch_norm_epsilon", 1.001e-5))
"""What keras-hub's network has otherwise than torchvision's."""


def main() -> None:
    """Print the table."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    x = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        expected = torchvision_saved_by_timm(Path(folder), x)
        found = [*others(Path(folder), x)]
    table = Table("network", "against torchvision", "against keras-hub")
    theirs = dict(found)["keras-hub"]
    for name, value in found:
        table.add_row(name, f"{apart(value, expected):.1e}", f"{apart(value, theirs):.1e}")
    Console().print(table)
    print("Largest difference, as a share of the largest value.")


def torchvision_saved_by_timm(folder: Path, x: np.ndarray) -> np.ndarray:
    """Make torchvision's network, write its weights as a folder of the Hub, and run it.

    Returns:
        Its feature map, (1, channels, height, width).
    """
    import timm
    import torch
    import torchvision
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = torchvision.models.densenet121(weights=None).eval()
    keeper = timm.create_model("densenet121", pretrained=False)
    keeper.load_state_dict(network.state_dict())
    save_for_hf(keeper, str(folder), safe_serialization=True)
    with torch.no_grad():
        return np.asarray(torch.relu(network.features(torch.from_numpy(x))))


def others(folder: Path, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Load the folder with everything else that reads it, and give what each computes."""
    import keras_hub
    import timm
    import torch

    weights = next(folder.glob("*.safetensors"))
    with torch.no_grad():
        network = timm.create_model("densenet121", pretrained=False, checkpoint_path=str(weights))
        yield "timm", np.asarray(network.eval().forward_features(torch.from_numpy(x)))
        backbone = keras_hub.models.DenseNetBackbone.from_preset(str(folder))
        yield "keras-hub", keras_on(backbone, x)
        spec = densespec.get("densenet121")
        yield "densespec, Keras", densespec_on(spec, folder, x)
        for name, value in FIELDS:
            yield (
                f"... with {name} = {value!r}",
                densespec_on(spec.replace(**{name: value}), folder, x),
            )
        yield "... with both", densespec_on(spec.replace(**dict(FIELDS)), folder, x)


def densespec_on(spec: densespec.DenseNetSpec, folder: Path, x: np.ndarray) -> np.ndarray:
    """Run densespec's Keras model of a spec with the folder's weights."""
    with densespec.open_weights(next(folder.glob("*.safetensors"))) as found:
        arrays = found.arrays()
    return keras_on(densespec.build(spec, backend="torch", weights=arrays, include_top=False), x)


def keras_on(model: Any, x: np.ndarray) -> np.ndarray:
    """Run a Keras model, whose images are channels-last, on channels-first images."""
    return np.moveaxis(np.asarray(model.predict(np.moveaxis(x, 1, -1), verbose=0)), -1, 1)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Give the largest difference, as a share of the largest value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


if __name__ == "__main__":
    main()
