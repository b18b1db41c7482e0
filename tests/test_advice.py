"""Advice in errors can be followed: each row makes an error, does what it says, and it is gone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import densespec
from densespec import TrainingRecipe
from densespec.backends import get_backend
from densespec.data import Batches, Dataset, Normalisation, Split, fits
from densespec.deploy.formats import format_of
from densespec.errors import DensespecError
from densespec.network.files import read_spec, write_spec
from densespec.training import train
from densespec.weights.containers import open_file, write_file
from densespec.weights.tensors import Tensor
from tests.strategies import tiny

X = np.random.default_rng(0).random((10, 3, 6, 6), np.float32)
Y = np.arange(10) % 3
HALF = Tensor((1,), "bfloat16", lambda: np.zeros(1, ml_dtypes.bfloat16))
ONE_HOT = np.eye(3, dtype=int)[Y]
RECIPE = TrainingRecipe(epochs=1, batch_size=4)


def of(x: Any = X, y: Any = Y, **options: Any) -> Dataset:
    return Dataset.of(x, y, x, y, **options)


def batches(size: int, **options: Any) -> Batches:
    return Batches(of().train, Normalisation((0.5,) * 3, (0.5,) * 3), size, **options)


def trained(folder: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"spec": tiny(), "backend": "numpy", "data": of(), "recipe": RECIPE}
    return train(**(given | {"out": folder / "run"} | options))


Act = Callable[[Path], Any]

DATA: list[tuple[str, Act, Act]] = [
    (
        "if every image is of just one class by its meaning too, give y.argmax(1)",
        lambda _: of(y=ONE_HOT).check_loss("softmax"),
        lambda _: of(y=ONE_HOT.argmax(1)).check_loss("softmax"),
    ),
    (
        "train with loss = 'sigmoid' for several",
        lambda _: of(y=ONE_HOT).check_loss("softmax"),
        lambda _: of(y=ONE_HOT).check_loss("sigmoid"),
    ),
    ("take y.astype(int)", lambda _: Split(X, Y * 1.0), lambda _: Split(X, (Y * 1.0).astype(int))),
    (
        "take x.astype('uint8')",
        lambda _: Split(X.astype(int), Y),
        lambda _: Split(X.astype(int).astype("uint8"), Y),
    ),
    (
        "such as x / 999",
        lambda _: Split(np.full((10, 3, 2, 2), 999), Y),
        lambda _: Split(np.full((10, 3, 2, 2), 999) / 999, Y),
    ),
    (
        "give channels_last",
        lambda _: of(np.zeros((10, 3, 8, 3), np.float32)),
        lambda _: of(np.zeros((10, 3, 8, 3), np.float32), channels_last=True),
    ),
    (
        "or move them to the second axis",
        lambda _: of(np.zeros((10, 8, 8, 5), np.float32)),
        lambda _: of(np.zeros((10, 5, 8, 8), np.float32), channels_last=False),
    ),
    (
        "give both test_x and test_y, or neither",
        lambda _: Dataset.of(X, Y, X),
        lambda _: (Dataset.of(X, Y, X, Y), Dataset.of(X, Y)),
    ),
    (
        "give images to test on",
        lambda _: Dataset.of(X[:3], Y[:3]),
        lambda _: Dataset.of(X[:3], Y[:3], X, Y),
    ),
    ("number the labels from 0", lambda _: of(y=Y + 2**40), lambda _: of(y=Y)),
    (
        "or spec.replace(in_channels=3)",
        lambda _: fits(of(), tiny(in_channels=1)),
        lambda _: fits(of(), tiny(in_channels=1).replace(in_channels=3)),
    ),
    (
        "or spec.replace(classes=3)",
        lambda _: fits(of(), tiny(classes=5)),
        lambda _: fits(of(), tiny(classes=5).replace(classes=3)),
    ),
    (
        "use spec.replace(spatial_dims=2)",
        lambda _: fits(of(), tiny(spatial_dims=1)),
        lambda _: fits(of(), tiny(spatial_dims=1).replace(spatial_dims=2)),
    ),
    (
        "take a smaller batch_size, or drop_last=False",
        lambda _: batches(20, drop_last=True),
        lambda _: (batches(5, drop_last=True), batches(20, drop_last=False)),
    ),
]

TRAINING: list[tuple[str, Act, Act]] = [
    (
        "use --in-channels 3",
        lambda path: trained(path, spec=tiny(in_channels=1), weights=_saved(path, in_channels=1)),
        lambda path: trained(
            path, spec=tiny(in_channels=1), weights=_saved(path, in_channels=1), in_channels=3
        ),
    ),
    (
        "or spec.replace(in_channels=3)",
        lambda path: trained(path, spec=tiny(in_channels=1), weights=_saved(path, in_channels=1)),
        lambda path: trained(
            path,
            spec=tiny(in_channels=1).replace(in_channels=3),
            weights=_saved(path, in_channels=1),
        ),
    ),
    (
        "use --classes 3",
        lambda path: trained(path, spec=tiny(classes=5)),
        lambda path: trained(path, spec=tiny(classes=5), classes=3),
    ),
    (
        "give the backend to train on, such as 'torch.nn'",
        lambda path: trained(path, backend=None),
        lambda path: trained(path, backend="torch.nn"),
    ),
    (
        "give a spec, or weights of a file that tells it",
        lambda path: trained(path, spec=None),
        lambda path: trained(path, spec=None, weights=_saved(path)),
    ),
    (
        "trains on one device only: leave out --devices",
        lambda path: trained(path, backend="tests.training.launching:ONE_DEVICE", devices=2),
        lambda path: trained(path, backend="tests.training.launching:ONE_DEVICE"),
    ),
    (
        "go on with it by --resume",
        lambda path: (trained(path), trained(path)),
        lambda path: train(out=path / "run", resume=True, data=of()),
    ),
    (
        "or give another folder",
        lambda path: (trained(path), trained(path)),
        lambda path: trained(path, out=path / "other"),
    ),
    (
        "the run was given its data as arrays: give them again",
        lambda path: (trained(path), train(out=path / "run", resume=True)),
        lambda path: train(out=path / "run", resume=True, data=of()),
    ),
    (
        "Train into a new folder instead; --weights takes up the weights of any run",
        lambda path: (
            trained(path),
            train(out=path / "run", resume=True, data=of(), recipe=RECIPE.replace(seed=3)),
        ),
        lambda path: trained(
            path,
            out=path / "new",
            recipe=RECIPE.replace(seed=3),
            weights=path / "run" / "last.safetensors",
        ),
    ),
]


def _saved(path: Path, **changes: Any) -> Path:
    densespec.save(densespec.build(tiny(**changes), backend="numpy"), path / "net.safetensors")
    return path / "net.safetensors"


FILES: list[tuple[str, Act, Act]] = [
    (
        "a spec file ends in .toml or .json",
        lambda path: write_spec(tiny(), path / "net.yaml"),
        lambda path: (write_spec(tiny(), path / "a.toml"), read_spec(path / "a.toml")),
    ),
    (
        "or write a .safetensors file",
        lambda path: write_file(path / "a.h5", {"a/b": HALF}),
        lambda path: write_file(path / "a.safetensors", {"a": HALF}),
    ),
    (
        "name the format (--format)",
        lambda path: format_of(path / "net.unknown", None),
        lambda path: format_of(path / "net.unknown", "onnx"),
    ),
    (
        "build without mode='inference'",
        lambda path: trained(path, backend="torch.nn+inference"),
        lambda path: trained(path, backend="torch.nn"),
    ),
    (
        "Did you mean numpy?",
        lambda _: get_backend("nunpy"),
        lambda _: get_backend("numpy"),
    ),
    (
        "its suffix should be one of .safetensors",
        lambda path: write_file(path / "a.weights", {"a": Tensor.of(X)}),
        lambda path: (
            write_file(path / "a.safetensors", {"a": Tensor.of(X)}),
            open_file(path / "a.safetensors").close(),
        ),
    ),
]


TORCHVISIONS: dict[str, Any] = {
    "compression": 0.5,
    "stem_kind": "conv-norm-relu",
    "stem_width": 4,
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": 3,
    "bottleneck_width": 2,
}
"""What torchvision's names stand for."""

GREY = tiny(in_channels=1, **TORCHVISIONS)


def _named(path: Path, *prefixes: str, without: str = "nothing") -> Path:
    """A file of one or more networks of torchvision's names, which differ."""
    source, target = path / "named.safetensors", path / "under.safetensors"
    densespec.convert(_saved(path, **TORCHVISIONS), source, to_layout="torchvision")
    with open_file(source) as file:
        arrays = {name: tensor.read() for name, tensor in file.tensors.items()}
    tensors = {
        prefix + name: Tensor.of(array + number)
        for number, prefix in enumerate(prefixes)
        for name, array in arrays.items()
        if without not in name
    }
    write_file(target, tensors)
    return target


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with open_file(_named(path, "")) as file:
        return {name: tensor.read() for name, tensor in file.tensors.items()}


def _two(path: Path) -> Path:
    folder = path / "two"
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        densespec.save(densespec.build(tiny(), backend="numpy"), folder / f"{name}.safetensors")
    return folder


def numpys(spec: Any = None, **options: Any) -> Any:
    return densespec.build(spec, backend="numpy", **options)


WEIGHTS: list[tuple[str, Act, Act]] = [
    (
        "choose one by its prefix (--prefix one.)",
        lambda path: numpys(weights=_named(path, "one.", "two.")),
        lambda path: numpys(weights=_named(path, "one.", "two."), prefix="one."),
    ),
    (
        "Did you mean one.",
        lambda path: numpys(weights=_named(path, "one.", "two."), prefix="onee."),
        lambda path: numpys(weights=_named(path, "one.", "two."), prefix="one."),
    ),
    (
        "build the network without one (include_top=False",
        lambda path: numpys(tiny(**TORCHVISIONS), weights=_named(path, "", without="class")),
        lambda path: numpys(
            tiny(**TORCHVISIONS), weights=_named(path, "", without="class"), include_top=False
        ),
    ),
    (
        "or with a new one (densespec.transfer)",
        lambda path: numpys(tiny(**TORCHVISIONS), weights=_named(path, "", without="class")),
        lambda path: densespec.transfer(
            classes=3, backend="numpy", weights=_named(path, "", without="class")
        ),
    ),
    (
        "in_channels=1 fits them",
        lambda path: numpys(GREY, weights=_named(path, "")),
        lambda path: numpys(GREY, weights=_named(path, ""), in_channels=1),
    ),
    (
        "what was given as weights holds weights of another network",
        lambda path: numpys(GREY, weights=_arrays(path)),
        lambda path: numpys(GREY, weights=_arrays(path), in_channels=1),
    ),
    (
        "in_channels=1 fits them",
        lambda path: densespec.load_weights(numpys(GREY), _arrays(path)),
        lambda path: densespec.load_weights(numpys(GREY), _arrays(path), in_channels=1),
    ),
    (
        "give a spec, or a weight file that tells it",
        lambda path: numpys(),
        lambda path: (numpys(tiny()), numpys(weights=_saved(path))),
    ),
    (
        "`densespec weights` lists what is known",
        lambda path: numpys(tiny(), weights="imagenet"),
        lambda path: numpys(tiny(), weights=_saved(path)),
    ),
    (
        "such as a.safetensors, b.safetensors: give one",
        lambda path: densespec.from_pretrained(_two(path), backend="numpy"),
        lambda path: densespec.from_pretrained(_two(path) / "a.safetensors", backend="numpy"),
    ),
    (
        "give the weight file in it: a.safetensors or b.safetensors",
        lambda path: open_file(_two(path)),
        lambda path: open_file(_two(path) / "a.safetensors").close(),
    ),
    (
        "allow differences (--allow-different)",
        lambda path: densespec.convert(_saved(path), path / "a.pth"),
        lambda path: densespec.convert(_saved(path), path / "a.pth", allow_different=True),
    ),
    (
        "say which initial weights you want by a seed",
        lambda path: densespec.export(tiny(), path / "a.onnx"),
        lambda path: densespec.export(tiny(), path / "a.onnx", seed=0, check=False),
    ),
    (
        "say which initial weights you want by a seed",
        lambda path: densespec.export("densenet-40-12", path / "a.onnx"),
        lambda path: densespec.export("densenet-40-12", path / "a.onnx", seed=0, check=False),
    ),
]


@pytest.mark.parametrize(
    ("advice", "mistake", "followed"),
    [pytest.param(*row, id=row[0][:60]) for row in (*DATA, *TRAINING, *FILES, *WEIGHTS)],
)
def test_advice_can_be_followed(tmp_path: Path, advice: str, mistake: Act, followed: Act) -> None:
    with pytest.raises((DensespecError, ValueError), match=re.escape(advice)):
        mistake(tmp_path)
    followed(tmp_path)


def test_labels_of_several_classes_are_not_made_labels_of_one() -> None:
    several = np.array([[1, 1, 0]] * 10)
    for labels in (several, several / 2):
        with pytest.raises(DensespecError, match="takes one: train with loss = 'sigmoid'") as error:
            of(y=labels).check_loss("softmax")
        assert "argmax" not in str(error.value)
