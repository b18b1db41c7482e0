"""Networks of other programs: written in a program's layout, and found again as they were."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, get, variants
from densespec.errors import WeightsError
from densespec.network.differences import spec_differences
from densespec.network.graph import lower
from densespec.weights.containers import SUFFIXES, open_file, write_file
from densespec.weights.convert import convert
from densespec.weights.evidence import inferred_fields, spec_from
from densespec.weights.layouts import get_layout, layouts
from densespec.weights.opening import IdentifiedWeights, identify, open_weights
from tests.original_torch import OriginalDenseNet
from tests.test_convert import SPEC, arrays_of, assert_same, checkpoint, random_weights, refusal_of
from tests.test_layouts import tensors_of

DECIDED = [
    (name, container)
    for name, layout in layouts().items()
    if layout.implements
    for container in layout.containers
    if container != "keras"
]
"""Every layout whose program does one thing, and every kind of file that it is written in."""

PLAIN = {"pytorchcv-cifar": {"bottleneck_width": None, "growth_rate": 12}}
"""What else a program may have."""


def _spec_of(layout: str) -> DenseNetSpec:
    return SPEC.replace(**{"stem_width": 64} | dict(get_layout(layout).implements))


def _suffix(container: str) -> str:
    return next(suffix for suffix, name in SUFFIXES.items() if name == container)


def _comes_back(spec: DenseNetSpec, layout: str, container: str, folder: Path) -> None:
    pytest.importorskip("h5py" if "keras" in container else "torch")
    source = checkpoint(folder / "source.safetensors", spec)
    target = folder / f"theirs{_suffix(container)}"
    convert(source, target, to_layout=layout)
    with open_weights(target) as found:
        assert found.layout.name == ("torchvision" if layout == "timm" else layout)
        assert not spec_differences(found.spec, spec)
        assert_same(found.arrays(), arrays_of(source))


@pytest.mark.parametrize(("layout", "container"), DECIDED)
def test_a_network_of_a_program_comes_back_from_its_files(
    layout: str, container: str, tmp_path: Path
) -> None:
    _comes_back(_spec_of(layout), layout, container, tmp_path)


@pytest.mark.parametrize("layout", PLAIN)
def test_so_does_one_without_a_bottleneck(layout: str, tmp_path: Path) -> None:
    _comes_back(_spec_of(layout).replace(**PLAIN[layout]), layout, "torch", tmp_path)


# The two published originals of densenet169-bc


@pytest.mark.parametrize(
    ("layout", "container", "variant"),
    [
        ("original-torch", "torch", "densenet169-bc-pytorch"),
        ("original-keras", "keras-weights", "densenet169-bc-keras"),
        ("original-keras", "keras-legacy", "densenet169-bc-keras"),
        ("original-keras-functional", "keras-weights", "densenet169-bc-keras"),
    ],
)
def test_the_published_originals_are_the_variants_of_their_names(
    layout: str, container: str, variant: str
) -> None:
    theirs = get_layout(layout)
    evidence = theirs.evidence(tensors_of(theirs, get(variant), container))
    found = spec_from(inferred_fields(evidence), theirs.implements)
    assert found == get(variant).replace(stem_width=64)


ORIGINAL = get("densenet169-bc-pytorch").replace(
    blocks=(2, 1, 1), growth_rate=4, stem_width=8, classes=5
)


def _original(**options: Any) -> Any:
    return OriginalDenseNet(blocks=(2, 1, 1), growth_rate=4, stem_width=8, classes=5, **options)


def _computed(model: Any) -> np.ndarray:
    import torch

    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64))
    with torch.no_grad():
        return np.asarray(model.eval().double()(torch.from_numpy(x)))


def _expected(arrays: Any) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64))
    return np.asarray(densespec.build(ORIGINAL, backend="numpy", weights=arrays)(x))


def test_the_pytorch_original_loads_what_is_written_for_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = checkpoint(tmp_path / "source.safetensors", ORIGINAL)
    convert(source, tmp_path / "original.pth", to_layout="original-torch")
    model = _original()
    model.load_state_dict(torch.load(tmp_path / "original.pth", weights_only=True), strict=True)
    expected = _expected(random_weights(ORIGINAL))
    np.testing.assert_allclose(_computed(model), expected, rtol=1e-10)


@pytest.mark.parametrize("prefix", ["", "model.", "module."], ids=lambda prefix: f"'{prefix}'")
def test_what_the_pytorch_original_saves_is_read(prefix: str, tmp_path: Path) -> None:
    """Lightning's checkpoints have ``model.`` before every key."""
    torch = pytest.importorskip("torch")
    model = _original()
    for number, array in enumerate(model.state_dict().values()):
        if array.is_floating_point():
            torch.nn.init.uniform_(array, 0.1, 1, torch.Generator().manual_seed(number))
    state = {prefix + key: array for key, array in model.state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "epoch": 3} if prefix else state, path)
    with open_weights(path) as found:
        assert (found.layout.name, found.spec) == ("original-torch", ORIGINAL)
        np.testing.assert_allclose(_expected(found.arrays()), _computed(model), rtol=1e-10)


def test_lightning_loads_a_checkpoint_that_is_written_for_the_pytorch_original(
    tmp_path: Path,
) -> None:
    lightning = pytest.importorskip("lightning")

    class Program(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width, self.model = width, _original()

    source = checkpoint(tmp_path / "source.safetensors", ORIGINAL)
    convert(source, tmp_path / "last.ckpt", to_layout="original-torch")
    program = Program.load_from_checkpoint(tmp_path / "last.ckpt", strict=True, width=3)
    assert program.width == 3
    expected = _expected(random_weights(ORIGINAL))
    np.testing.assert_allclose(_computed(program.model), expected, rtol=1e-10)
    with open_weights(tmp_path / "last.ckpt") as found:
        assert found.layout.name == "original-torch"
        assert found.notes == ("read from under 'state_dict'",)
        assert_same(found.arrays(), random_weights(ORIGINAL))


# Networks of densespec's own, in names that others have


TWINS = ("densenet169-bc", "densenet169-bc-keras", "densenet169-bc-pytorch")


ALIASES = ("densenet121-xrv",)
"""Variants that differ from others in their classes and channels alone."""


def _identified(spec: DenseNetSpec, layout: str, container: str) -> IdentifiedWeights:
    theirs = get_layout(layout)
    metadata = theirs.metadata(lower(spec), container)
    return identify(tensors_of(theirs, spec, container), metadata, container)


@pytest.mark.parametrize("variant", [name for name in variants() if name not in (*TWINS, *ALIASES)])
def test_the_state_dict_of_every_variant_is_recognised(variant: str) -> None:
    spec = get(variant).replace(classes=7, in_channels=1)
    found = _identified(spec, "densespec-torch", "torch")
    assert (found.variant, found.spec) == (variant, spec)
    program = get_layout("torchvision").differences(spec)
    assert found.layout.name == ("densespec-torch" if program else "torchvision")


@pytest.mark.parametrize("variant", TWINS)
def test_the_state_dict_of_a_variant_that_has_twins_needs_its_name(variant: str) -> None:
    with pytest.raises(WeightsError, match=f"fit {' and '.join(TWINS)}, .*: give the spec"):
        _identified(get(variant), "densespec-torch", "torch")


@pytest.mark.parametrize(
    "changes",
    [
        {"head_units": (16,)},
        {"stem_kind": "conv", "stem_kernel": 3, "stem_stride": 1, "stem_pool": None},
        {"spatial_dims": 3},
        {"compression": 1.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize(
    ("layout", "container"), [("densespec-torch", "torch"), ("densespec-keras", "keras-weights")]
)
def test_one_that_is_no_variant_has_the_rest_of_those_with_its_stem(
    layout: str, container: str, changes: dict[str, Any]
) -> None:
    spec = SPEC.replace(stem_width=64, **changes)
    found = _identified(spec, layout, container)
    assert found.layout.name == layout
    assert not spec_differences(found.spec, spec)
    assert "as named variants with such a stem have it" in found.notes[-1]


# Spellings


def _respelled(source: Path, target: Path, *changes: tuple[str, str]) -> Path:
    """The same arrays under other names, each pattern replaced in turn."""
    with open_file(source) as file:
        tensors = dict(file.tensors)
        for pattern, new in changes:
            tensors = {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}
        assert tensors.keys() != file.tensors.keys()
        write_file(target, tensors)
    return target


SPELLINGS = {
    "timm's feature extractor": (
        "torchvision",
        "net.safetensors",
        [(r"^features\.", "features_")],
    ),
    "timm's feature extractor in a segmentation model": (
        "torchvision",
        "net.safetensors",
        [(r"^features\.", "encoder.model.features_")],
    ),
    "gpleiss' first layer that saves memory": (
        "gpleiss",
        "net.safetensors",
        [
            (r"(denselayer\d+)\.norm1\.", r"\1.bn.norm_"),
            (r"(denselayer\d+)\.conv1\.", r"\1.bn.conv_"),
            (r"(denselayer\d+\.(?:norm|conv))2\.", r"\1.2."),
        ],
    ),
    "flaxvision": (
        "flax-torchvision",
        "net.msgpack",
        [(r"/features/", "/backbone/")],
    ),
    "flaxvision within a module": (
        "flax-torchvision",
        "net.msgpack",
        [(r"^(params|batch_stats)/", r"\1/densenet/"), (r"/features/", "/backbone/")],
    ),
    "keras.applications of Keras 2.0 to 2.2": (
        "keras-applications",
        "net.h5",
        [("conv1_(conv|bn)/", r"conv1/\1/"), ("predictions/", "fc1000/"), ("$", ":0")],
    ),
    "keras.applications, the second model of a session of TensorFlow 1": (
        "keras-applications",
        "net.h5",
        [
            ("conv1_(conv|bn)/", r"conv1/\1/"),
            ("predictions/", "fc1000/"),
            (r"/(?=\w+$)", "_1/"),
            ("$", ":0"),
        ],
    ),
    "keras.applications of Keras 2.12, which counts layers twice": (
        "keras-applications",
        "net.weights.h5",
        [
            (r"(conv2d|batch_normalization)_(\d+)/", r"\1_\g<2>x/"),
            *((f"_{number}x/", f"_{2 * number}/") for number in range(40, 0, -1)),
        ],
    ),
    "the Keras original, a later model of a session, within a model": (
        "original-keras",
        "net.h5",
        [
            (r"(batch_normalization|conv2d)/", r"\1_37/"),
            ("^dense/", "dense_2/"),
            ("^", "dense_net/"),
            ("$", ":0"),
        ],
    ),
    "the Keras original within a model": (
        "original-keras",
        "net.weights.h5",
        [("^", "layers/dense_net/")],
    ),
    "the Keras original of Keras 2.12, made functional": (
        "original-keras-functional",
        "net.weights.h5",
        [
            ("(dense_block|transition_layer)_2/", r"\1_4/"),
            ("(dense_block|transition_layer)_1/", r"\1_2/"),
        ],
    ),
    "the Keras original of Keras 2.14": (
        "original-keras-functional",
        "net.weights.h5",
        [
            ("/bn/vars/", "/layers/batch_normalization/vars/"),
            ("/conv/vars/", "/layers/conv2d/vars/"),
            ("/dense_layers/", "/layers/"),
            ("/conv1/layers/", "/layers/bn_relu_conv/layers/"),
            ("/conv2/layers/", "/layers/bn_relu_conv_1/layers/"),
            (r"(transition_layer(_\d)?)/conv/", r"\1/layers/bn_relu_conv/"),
        ],
    ),
}


@pytest.mark.parametrize("title", SPELLINGS)
def test_a_spelling_of_a_program_s_names_is_read(title: str, tmp_path: Path) -> None:
    layout, name, changes = SPELLINGS[title]
    if name.endswith("h5"):
        pytest.importorskip("h5py")
    spec = _spec_of(layout)
    source = checkpoint(tmp_path / "source.safetensors", spec)
    convert(source, tmp_path / name, to_layout=layout)
    path = _respelled(tmp_path / name, tmp_path / f"respelled-{name}", *changes)
    with open_weights(path) as found:
        assert found.layout.name == layout
        assert_same(found.arrays(), arrays_of(source))


@pytest.mark.parametrize("noted", [True, False], ids=["with names of layers", "without"])
def test_a_file_without_names_of_layers_is_said_to_be_taken_for_keras_applications(
    noted: bool, tmp_path: Path
) -> None:
    """As tf_keras, and Keras 2.12 to 2.15, wrote them."""
    pytest.importorskip("h5py")
    spec = _spec_of("keras-applications")
    convert(
        checkpoint(tmp_path / "source.safetensors", spec),
        tmp_path / "net.weights.h5",
        to_layout="keras-applications",
    )
    path = tmp_path / "again.weights.h5"
    with open_file(tmp_path / "net.weights.h5") as file:
        write_file(path, file.tensors, file.metadata if noted else {})
    with open_weights(path) as found:
        assert found.layout.name == "keras-applications"
        assert any("no names of layers" in note for note in found.notes) != noted


def test_monai_s_activation_is_said_to_be_assumed(tmp_path: Path) -> None:
    convert(checkpoint(tmp_path / "source.safetensors"), tmp_path / "net.pth", to_layout="monai")
    with open_weights(tmp_path / "net.pth") as found:
        told = "assumed, as no array tells: activation = 'relu' and batch_norm_epsilon = 1e-05"
        assert found.notes[0].startswith(told)


def test_two_networks_of_which_the_names_coincide_are_refused(tmp_path: Path) -> None:
    """TensorFlow 1 told them apart by a number alone."""
    pytest.importorskip("h5py")
    source = checkpoint(tmp_path / "source.safetensors", _spec_of("keras-applications"))
    convert(source, tmp_path / "one.h5", to_layout="keras-applications")
    with open_file(tmp_path / "one.h5") as file:
        second = {name.replace("/", "_1/"): tensor for name, tensor in file.tensors.items()}
        write_file(tmp_path / "two.h5", {**file.tensors, **second})
    message = refusal_of(tmp_path / "two.h5")
    assert (
        message == "conv1_conv_1/kernel is a second conv1_conv/kernel, of another network perhaps"
    )
