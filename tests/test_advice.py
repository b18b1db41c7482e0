"""Advice in errors can be followed: each row makes an error, does what it says, and it is gone."""

from __future__ import annotations

import importlib.util
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
from densespec.errors import DensespecError, PackageMissing
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

ERRORS = (DensespecError, ValueError, TypeError, RuntimeError, AttributeError)
"""What mistakes raise, frameworks' own errors among them."""

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
        "Train into a new folder instead; --weights starts from the weights of any run",
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


# Frameworks


def in_torch(spec: Any = None, **options: Any) -> Any:
    return densespec.build(tiny() if spec is None else spec, backend="torch.nn", **options).eval()


def in_flax(spec: Any = None, **options: Any) -> Any:
    model = densespec.build(tiny() if spec is None else spec, backend="flax.nnx", **options)
    model.eval()
    return model


def zeros(*shape: int, dtype: str = "float32") -> Any:
    import torch

    return torch.zeros(shape, dtype=getattr(torch, dtype))


def called(model: Any, *parameters: Any) -> Any:
    """What a model of other parameters gives, which are the model's own here."""
    import torch

    state = {name: t.detach().clone() for name, t in model.state_dict().items()}
    return torch.func.functional_call(model, state, (zeros(1, 3, 32, 32),))


def compiled(model: Any) -> Any:
    import torch

    whole = torch.compile(model.train(), fullgraph=True, backend="eager")
    return whole(zeros(2, 3, 32, 32))


def lightning(model: Any, **options: Any) -> Any:
    pytest.importorskip("lightning", reason="Lightning is not installed")
    from densespec_torch.lightning import DenseNetModule

    return DenseNetModule(model, **options)


def lightning_from(path: Path, **options: Any) -> Any:
    pytest.importorskip("lightning", reason="Lightning is not installed")
    from densespec_torch.lightning import DenseNetModule

    return DenseNetModule.from_checkpoint(_saved(path), **options)


def launch(**options: Any) -> Any:
    from densespec_torch.distributed import launcher

    return launcher(nodes=2, **options)


TORCH: list[tuple[str, Act, Act]] = [
    (
        "call model.to(memory_format=torch.channels_last)",
        lambda _: in_torch(data_format="channels_last"),
        lambda _: in_torch().to(memory_format=_torch().channels_last)(zeros(1, 3, 32, 32)),
    ),
    (
        "should be a floating-point type of PyTorch, such as 'float32'",
        lambda _: in_torch(dtype="int8"),
        lambda _: in_torch(dtype="float32"),
    ),
    (
        "build it without input_shape for any size",
        lambda _: in_torch(input_shape=(3, 32, 32))(zeros(1, 3, 40, 40)),
        lambda _: in_torch()(zeros(1, 3, 40, 40)),
    ),
    (
        "densespec.in_mode(model, 'layers') turns it back",
        lambda _: in_torch(mode="inference").train(),
        lambda _: densespec.in_mode(in_torch(mode="inference"), "layers").train(),
    ),
    (
        "change the network of mode 'layers' (densespec.in_mode(model, 'layers') gives it), then",
        lambda _: in_torch(mode="inference").classifier,
        lambda _: _changed_and_optimized(in_torch(mode="inference")),
    ),
    (
        "change the network of mode 'layers' (densespec.in_mode(model, 'layers') gives it), then",
        lambda _: next(in_torch(mode="inference").parameters()).data.mul_(2),
        lambda _: _changed_and_optimized(in_torch(mode="inference")),
    ),
    (
        "(densespec.in_mode(model, 'layers') gives one whose can)",
        lambda _: called(in_torch(mode="inference")),
        lambda _: called(densespec.in_mode(in_torch(mode="inference"), "layers")),
    ),
    (
        "move one of them by .to",
        lambda _: in_torch(mode="inference")(zeros(1, 3, 32, 32, dtype="float64")),
        lambda _: (
            in_torch(mode="inference")(zeros(1, 3, 32, 32, dtype="float64").to(_torch().float32)),
            in_torch(mode="inference").to(_torch().float64)(zeros(1, 3, 32, 32, dtype="float64")),
        ),
    ),
    (
        "take one by its number",
        lambda _: in_torch().features.denseblock1[:],
        lambda _: in_torch().features.denseblock1[0],
    ),
    (
        "build the network with include_top=False and pooling",
        lambda _: in_torch().reset_classifier(5, "max"),
        lambda _: in_torch(include_top=False, pooling="max"),
    ),
    (
        "densespec.build(..., weights=model, classes=...)",
        lambda _: in_torch(include_top=False).reset_classifier(5),
        lambda _: in_torch(weights=in_torch(include_top=False), classes=5),
    ),
    (
        "this network was built with outputs: call it, and it gives them",
        lambda _: in_torch(outputs=("stem", "final")).forward_features(zeros(1, 3, 32, 32)),
        lambda _: in_torch(outputs=("stem", "final"))(zeros(1, 3, 32, 32)),
    ),
    (
        "where fullgraph=True is needed, compile a network of mode 'layers'",
        lambda _: compiled(in_torch(mode="efficient")),
        lambda _: compiled(in_torch()),
    ),
    (
        "densespec.export writes the network as ONNX or a torch.export program",
        lambda _: _torch().jit.script(in_torch(tiny(padding="same", stem_stride=2))),
        lambda path: densespec.export(
            in_torch(tiny(padding="same", stem_stride=2)), path / "net.pt2", check=False
        ),
    ),
    (
        "build it with its classifier and without classifier_activation",
        lambda _: get_backend("torch.nn").trainer(
            *_with_graph(in_torch(classifier_activation="softmax")), RECIPE
        ),
        lambda _: get_backend("torch.nn").trainer(*_with_graph(in_torch()), RECIPE),
    ),
    (
        "need the address of one of them, such as 'host:29400'",
        lambda _: launch(),
        lambda _: launch(endpoint="host:29400"),
    ),
    (
        "holds weights without a training run: give a recipe",
        lightning_from,
        lambda path: lightning_from(path, recipe=RECIPE),
    ),
    ("give a model: a spec, or a module", lambda _: lightning(None), lambda _: lightning(tiny())),
    (
        "build it of recipe.applied_to(spec)",
        lambda _: lightning(in_torch(), recipe=RECIPE.replace(dropout_rate=0.5)),
        lambda _: lightning(
            in_torch(RECIPE.replace(dropout_rate=0.5).applied_to(tiny())),
            recipe=RECIPE.replace(dropout_rate=0.5),
        ),
    ),
    (
        "Undo the change, or keep the model by its framework's own means",
        lambda path: densespec.save(_with_gelu(in_torch()), path / "net.safetensors"),
        lambda path: (
            _torch().save(_with_gelu(in_torch()), path / "net.pt"),
            densespec.save(in_torch(), path / "net.safetensors"),
        ),
    ),
]


def _torch() -> Any:
    import torch

    return torch


def _with_graph(model: Any) -> tuple[Any, Any]:
    return model, model.densespec.graph


def _changed_and_optimized(model: Any) -> Any:
    plain = densespec.in_mode(model, "layers")
    with _torch().no_grad():
        plain.classifier.weight.mul_(2)
    return densespec.optimize(plain)


def _with_gelu(model: Any) -> Any:
    model.relu = _torch().nn.GELU()
    return model


FLAX: list[tuple[str, Act, Act]] = [
    (
        "build it with another input_shape or data_format, or without input_shape for any size",
        lambda _: in_flax(input_shape=(32, 32, 3))(np.zeros((1, 40, 40, 3), np.float32)),
        lambda _: (
            in_flax(input_shape=(40, 40, 3))(np.zeros((1, 40, 40, 3), np.float32)),
            in_flax()(np.zeros((1, 40, 40, 3), np.float32)),
            in_flax(input_shape=(3, 40, 40), data_format="channels_first")(
                np.zeros((1, 3, 40, 40), np.float32)
            ),
        ),
    ),
    (
        "should be one of float",
        lambda _: in_flax(dtype="int8"),
        lambda _: (in_flax(dtype="float32"), in_flax(dtype="mixed_bfloat16")),
    ),
    (
        "should be 'channels_first' or 'channels_last'",
        lambda _: in_flax(data_format="channels"),
        lambda _: (in_flax(data_format="channels_first"), in_flax(data_format="channels_last")),
    ),
    (
        "build without mode='inference'",
        lambda path: trained(path, backend="flax.nnx+inference"),
        lambda path: trained(path, backend="flax.nnx"),
    ),
    (
        "train on larger batches or inputs",
        lambda _: _one_value(1),
        lambda _: _one_value(2),
    ),
]


def _one_value(batch: int) -> Any:
    """A training call whose last map has one position."""
    model = in_flax(tiny(blocks=(1, 1), compression=0.5, running_variance="unbiased"))
    model.train()
    return model(np.ones((batch, 2, 2, 3), np.float32))


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


ROWS = [
    *((row, ()) for row in (*DATA, *TRAINING, *FILES, *WEIGHTS)),
    *((row, needs("torch")) for row in TORCH),
    *((row, needs("flax")) for row in FLAX),
]


@pytest.mark.parametrize(
    ("advice", "mistake", "followed"),
    [pytest.param(*row, id=row[0][:60], marks=marks) for row, marks in ROWS],
)
def test_advice_can_be_followed(tmp_path: Path, advice: str, mistake: Act, followed: Act) -> None:
    try:
        with pytest.raises(ERRORS) as refusal:
            mistake(tmp_path)
        said = str(refusal.value)
        if isinstance(refusal.value, PackageMissing) and advice not in said:
            raise refusal.value
        assert advice in said
        followed(tmp_path)
    except PackageMissing as missing:
        pytest.skip(str(missing))


def test_labels_of_several_classes_are_not_made_labels_of_one() -> None:
    several = np.array([[1, 1, 0]] * 10)
    for labels in (several, several / 2):
        with pytest.raises(DensespecError, match="takes one: train with loss = 'sigmoid'") as error:
            of(y=labels).check_loss("softmax")
        assert "argmax" not in str(error.value)
