"""Other people's DenseNets, as the peer tests and ``docs/peers_table.py`` use them.

Each is built by its own package, given random weights, run, and saved and loaded by its own means.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from densespec import DenseNetSpec, get
from densespec_conformance.adapters.constructing import import_module

Arrays = dict[str, np.ndarray]

TOLERANCE = 1e-5
"""Relative, in float32: a few hundred roundings of 6e-8 each, in another order."""

FEATURES, LOGITS = "final.relu", "classifier"
"""What is compared, by the names of the nodes that compute it."""


class Network(Protocol):
    """One network of a peer."""

    def randomise(self) -> None:
        """Give every norm random weights and statistics; kernels are random already."""

    def forward(self, x: np.ndarray) -> Arrays:
        """Its feature map and, with a classifier, its logits. ``x`` and both are channels first."""

    def save(self, path: Path) -> None:
        """Save its weights as the peer's documentation says to, by the suffix."""

    def load(self, path: Path) -> None:
        """Load a weight file as strictly as the peer can."""


@dataclass(frozen=True)
class Peer:
    """A network that a package offers.

    Attributes:
        package: its distribution's name.
        network: as the package calls it.
        layout: that its files are found to be of.
        writes: layout to convert to for it.
        suffixes: of the files that it saves.
        variant: densespec's network of that name.
        implements: fields in which the peer's network is another one than the variant.
        named: catalogue's name of exactly the peer's network.
        make: builds it.
        size: side of the images to run it on.
    """

    package: str
    network: str
    layout: str
    variant: str
    make: Callable[[], Network]
    suffixes: tuple[str, ...]
    writes: str
    loads: tuple[str, ...]
    implements: Mapping[str, Any] = field(default_factory=dict)
    named: str | None = None
    size: int = 64

    @property
    def name(self) -> str:
        return f"{self.package} {self.network}"

    @property
    def spec(self) -> DenseNetSpec:
        """Of the peer's own network."""
        return get(self.variant).replace(**self.implements)

    @property
    def version(self) -> str:
        return metadata.version(self.package)

    def images(self, spec: DenseNetSpec, count: int = 2) -> np.ndarray:
        """Seeded images, channels first."""
        shape = (count, spec.in_channels, *(self.size,) * spec.spatial_dims)
        return np.random.default_rng(4).standard_normal(shape).astype("float32")

    def missing(self) -> str | None:
        """Why it can't be run here, if it can't."""
        modules = {"torchvision": "torch", "timm": "torch", "monai": "torch", "keras": "torch"}
        for name in (modules.get(self.package, "keras"), self.package.replace("-", "_")):
            if importlib.util.find_spec(name) is None:
                return f"{name} is not installed"
        if self.package.startswith("keras"):
            return _engine_conflict()
        return None


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


# Networks in PyTorch


def randomise(module: Any) -> None:
    """Give every norm random weights and statistics, and counters a number."""
    import torch

    generator = torch.Generator().manual_seed(3)
    for key, tensor in module.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif key.endswith("num_batches_tracked"):
            tensor.fill_(5)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) / 4)


class TorchNetwork:
    """A module, and the function that gives its feature map."""

    def __init__(self, module: Any, features: Callable[[Any, Any], Any]) -> None:
        self.module, self.features = module.eval(), features

    def randomise(self) -> None:
        randomise(self.module)

    def forward(self, x: np.ndarray) -> Arrays:
        import torch

        with torch.no_grad():
            images = torch.from_numpy(x)
            features = self.features(self.module, images)
            return {FEATURES: features.numpy(), LOGITS: self.module(images).numpy()}

    def save(self, path: Path) -> None:
        import torch
        from safetensors.torch import save_file

        state = self.module.state_dict()
        if path.suffix == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
        else:
            torch.save(state, path)

    def load(self, path: Path) -> None:
        import torch
        from safetensors.torch import load_file

        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, weights_only=True)
        self.module.load_state_dict(state, strict=True)


def _rectified(module: Any, x: Any) -> Any:
    """torchvision and MONAI apply the last ReLU outside of ``features``."""
    return module.features(x).clamp(min=0)


def import_torchvision() -> Any:
    """The package, also beside a build of PyTorch that it was not made for."""
    return import_module("torchvision")


def _torchvision(name: str) -> TorchNetwork:
    return TorchNetwork(getattr(import_torchvision().models, name)(weights=None), _rectified)


def _timm(name: str) -> TorchNetwork:
    import_torchvision()
    import timm

    module = timm.create_model(name, pretrained=False)
    return TorchNetwork(module, lambda module, x: module.forward_features(x))


def _monai(name: str, **arguments: int) -> TorchNetwork:
    import_torchvision()
    nets = importlib.import_module("monai.networks.nets")
    return TorchNetwork(getattr(nets, name)(**arguments), _rectified)


TORCH_FILES = (".pth", ".safetensors")


def _torch_peer(package: str, network: str, **fields: Any) -> Peer:
    layout = "monai" if package == "monai" else "torchvision"
    variant = fields.setdefault("variant", network.lower())
    if not fields.get("implements"):
        fields["named"] = variant
    return Peer(
        **{"package": package, "network": network, "layout": layout, "suffixes": TORCH_FILES}
        | {"writes": package, "loads": TORCH_FILES}
        | fields
    )


def _monai_peer(name: str, dims: int, in_channels: int, classes: int, size: int = 64) -> Peer:
    return _torch_peer(
        "monai",
        f"{name}, {dims}-D",
        variant=name.lower(),
        implements={"spatial_dims": dims, "in_channels": in_channels, "classes": classes},
        named={2: name.lower(), 3: f"{name.lower()}-3d"}.get(dims),
        size=size,
        make=functools.partial(
            _monai, name, spatial_dims=dims, in_channels=in_channels, out_channels=classes
        ),
    )


TIMM_PLAIN = ("densenet121", "densenet161", "densenet169", "densenet201")
TIMM_DEEP = ("densenet264d", "densenetblur121d")
"""timm's networks whose stem has three convolutions."""

TORCH_PEERS = (
    *(
        _torch_peer("torchvision", name, make=functools.partial(_torchvision, name))
        for name in ("densenet121", "densenet161", "densenet169", "densenet201")
    ),
    *(_torch_peer("timm", name, make=functools.partial(_timm, name)) for name in TIMM_PLAIN),
    *(
        _torch_peer("timm", name, layout="densespec-torch", make=functools.partial(_timm, name))
        for name in TIMM_DEEP
    ),
    _monai_peer("DenseNet121", 2, 1, 4),
    _monai_peer("DenseNet169", 2, 3, 7),
    _monai_peer("DenseNet201", 2, 3, 7),
    _monai_peer("DenseNet264", 2, 3, 7),
    _monai_peer("DenseNet121", 1, 2, 3, size=256),
    _monai_peer("DenseNet121", 3, 1, 2, size=32),
)


# Networks in Keras


def _engine_conflict() -> str | None:
    """Why Keras does not run on PyTorch in this process, if it does not."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    import keras

    engine = keras.backend.backend()
    return None if engine == "torch" else f"Keras runs on {engine} already"


class KerasNetwork:
    """A model whose feature map is the output of its layer ``relu``."""

    def __init__(self, model: Any, backbone: Any, has_classifier: bool = True) -> None:
        self.model, self.backbone, self.has_classifier = model, backbone, has_classifier

    def randomise(self) -> None:
        import keras

        random = np.random.default_rng(3)
        for variable in self.model.variables:
            if "variance" in variable.path:
                variable.assign(random.uniform(0.5, 2, variable.shape))
            elif len(variable.shape) == 1 and variable.dtype == "float32":
                noise = random.standard_normal(variable.shape) / 4
                variable.assign(keras.ops.convert_to_numpy(variable) + noise)

    def forward(self, x: np.ndarray) -> Arrays:
        import keras

        images = np.moveaxis(x, 1, -1)
        parts = keras.Model(self.backbone.input, self.backbone.get_layer("relu").output)
        features = np.asarray(keras.ops.convert_to_numpy(parts(images, training=False)))
        found = {FEATURES: np.moveaxis(features, -1, 1)}
        if self.has_classifier:
            logits = self.model(images, training=False)
            found[LOGITS] = np.asarray(keras.ops.convert_to_numpy(logits))
        return found

    def save(self, path: Path) -> None:
        if path.name.endswith(".weights.h5"):
            self.model.save_weights(path)
        else:
            self.model.save(path)

    def load(self, path: Path) -> None:
        self.model.load_weights(path, skip_mismatch=False)


def _keras_applications(name: str) -> KerasNetwork:
    import keras

    model = getattr(keras.applications, name)(
        weights=None, classifier_activation=None, input_shape=(64, 64, 3)
    )
    return KerasNetwork(model, model)


def _keras_hub(blocks: list[int], classes: int | None, **options: Any) -> KerasNetwork:
    import keras_hub

    backbone = keras_hub.models.DenseNetBackbone(blocks, **options)
    if classes is None:
        return KerasNetwork(backbone, backbone, has_classifier=False)
    model = keras_hub.models.DenseNetImageClassifier(backbone, num_classes=classes)
    return KerasNetwork(model, backbone)


KERAS = {
    "batch_norm_epsilon": 1.001e-5,
    "batch_norm_momentum": 0.01,
    "running_variance": "biased",
    "dropout_place": "conv",
}
SMALL = {"blocks": (1, 2, 1), "growth_rate": 8, "compression": 0.4, "stem_width": 64}


def _keras_hub_peer(network: str, classes: int | None, **fields: Any) -> Peer:
    options = {
        "growth_rate": fields.get("growth_rate", 32),
        "compression_ratio": fields.get("compression", 0.5),
    }
    blocks = list(fields.get("blocks", (6, 12, 24, 16)))
    head = {} if classes is None else {"classes": classes}
    return Peer(
        package="keras-hub",
        network=network,
        layout="keras-hub",
        variant="densenet121",
        implements={**KERAS, "padding": "same", **fields, **head},
        make=functools.partial(_keras_hub, blocks, classes, **options),
        suffixes=(".weights.h5", ".keras"),
        writes="keras-hub",
        loads=(".weights.h5",),
    )


KERAS_HUB_121 = _keras_hub_peer("DenseNetImageClassifier of the 121", 1000)

KERAS_PEERS = (
    *(
        Peer(
            package="keras",
            network=f"applications.{name}",
            layout="keras-applications",
            variant=name.lower(),
            implements=KERAS,
            make=functools.partial(_keras_applications, name),
            suffixes=(".weights.h5", ".keras", ".h5"),
            writes="keras-applications",
            loads=(".weights.h5", ".h5"),
        )
        for name in ("DenseNet121", "DenseNet169", "DenseNet201")
    ),
    KERAS_HUB_121,
    _keras_hub_peer("DenseNetBackbone of the 121", None),
    _keras_hub_peer("DenseNetImageClassifier, small", 5, **SMALL),
    _keras_hub_peer("DenseNetBackbone, small", None, **SMALL),
)

PEERS = (*TORCH_PEERS, *KERAS_PEERS)
