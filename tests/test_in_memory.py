"""Weights that are in memory: state dicts, trees, and models of densespec's own and of others."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.errors import WeightsError, WeightsWarning
from densespec.network.graph import lower
from densespec.weights.layouts import get_layout
from densespec.weights.naming import layout_tensors
from densespec.weights.tensors import Tensor
from tests.strategies import tiny
from tests.test_convert import SPEC, Arrays, assert_same, random_weights


def state(layout: str = "torchvision", container: str = "torch") -> Arrays:
    tensors = {name: Tensor.of(array) for name, array in random_weights(SPEC).items()}
    named = layout_tensors(get_layout(layout), container, lower(SPEC), tensors)
    return {name: tensor.read() for name, tensor in named.items()}


def nested(arrays: Arrays) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = array
    return tree


def built(weights: Any, **options: Any) -> Any:
    return densespec.build(backend="numpy", weights=weights, **options)


def assert_read(weights: Any, **options: Any) -> None:
    assert_same(
        densespec.read_weights(built(weights, dtype="float32", **options)), random_weights(SPEC)
    )


class Module:
    """What PyTorch's modules can be asked."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def state_dict(self) -> Arrays:
        return self.arrays


class Variable:
    """What Keras's variables are."""

    def __init__(self, path: str, value: np.ndarray) -> None:
        self.path, self.value = path, value
        self.shape, self.dtype = value.shape, value.dtype.name


class Model:
    """What Keras's models can be asked, of a class without a config."""

    def __init__(self, arrays: Arrays) -> None:
        self.weights = [Variable(path, value) for path, value in arrays.items()]

    def to_json(self) -> str:
        raise NotImplementedError


KERAS = state("keras-applications", "keras-legacy")

GIVEN = {
    "a state dict": state(),
    "a state dict of parallel training": {f"module.{n}": a for n, a in state().items()},
    "a checkpoint": {"epoch": 3, "state_dict": state(), "optimizer": {"lr": 0.1}},
    "a module": Module(state()),
    "a tree of Flax's": nested(state("flax-torchvision", "msgpack")),
    "a flat tree": state("flax-torchvision", "msgpack"),
    "variables of Keras's by path": KERAS,
    "a model of Keras's": Model(KERAS),
    "arrays by Keras 3's numbers": state("keras-applications", "keras-weights"),
}


@pytest.mark.parametrize("title", GIVEN)
def test_what_is_in_memory_is_recognised_as_files_are(title: str) -> None:
    assert_read(GIVEN[title])


def test_a_key_chooses_among_state_dicts() -> None:
    other = {name: array + 1 for name, array in state().items()}
    both = {"state_dict": other, "state_dict_ema": state()}
    assert_read(both, key="state_dict_ema")
    with pytest.raises(WeightsError, match=r"no table under the key 'ema', but \['state_dict'"):
        built(both, key="ema")


def test_what_is_said_of_files_may_be_said_of_arrays() -> None:
    assert_read({f"encoder.{n}": a for n, a in state().items()}, prefix="encoder.")
    with pytest.warns(WeightsWarning, match="is summed for 1"):
        assert built(state(), in_channels=1).graph.spec.in_channels == 1


def test_what_is_taken_for_granted_is_warned_of() -> None:
    told = "what was given as weights: assumed, as no array tells: activation = 'relu'"
    with pytest.warns(WeightsWarning, match=told):
        built(state("monai"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(state())


def test_a_model_of_densespec_s_own_is_taken_with_its_spec() -> None:
    spec = tiny(stem_kind="norm-relu-conv", padding="same", batch_norm_epsilon=1e-3, classes=4)
    model = densespec.build(spec, backend="numpy", seed=3)
    again = built(model)
    assert again.graph.spec == spec
    assert_same(densespec.read_weights(again), densespec.read_weights(model))


@pytest.mark.parametrize("mode", ["layers", "inference"])
def test_one_of_pytorch_is_taken_in_any_mode(mode: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    model = densespec.build(tiny(), backend="torch.nn", seed=3, mode=mode)
    expected = densespec.read_weights(densespec.build(tiny(), backend="numpy", seed=3))
    actual = densespec.read_weights(built(model))
    np.testing.assert_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_of_pytorch_of_any_type_are_read(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = {
        name: torch.nn.Parameter(torch.from_numpy(array).to(getattr(torch, dtype)))
        if array.dtype == np.float32
        else torch.from_numpy(array)
        for name, array in state().items()
    }
    found = densespec.read_weights(built(tensors))
    for name, array in random_weights(SPEC).items():
        rounded = torch.from_numpy(array).to(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(found[name], rounded, err_msg=name)


@pytest.mark.parametrize(
    "weights", [3, object(), SimpleNamespace(weights=[])], ids=lambda w: type(w).__name__
)
def test_what_has_no_weights_is_refused_by_its_type(weights: Any) -> None:
    with pytest.raises(WeightsError, match=f"weights are a {type(weights).__name__}, but should"):
        built(weights)


def test_two_variables_of_one_name_are_refused() -> None:
    model = Model(KERAS)
    model.weights += model.weights[:1]
    with pytest.raises(WeightsError, match="two of the model's variables are called 'conv1_conv/"):
        built(model)


def test_what_says_how_to_read_needs_something_to_read() -> None:
    with pytest.raises(WeightsError, match="prefix: say how to read weights, but none were"):
        densespec.build(tiny(), backend="numpy", prefix="encoder.")
    with pytest.raises(WeightsError, match="arrays by canonical name need none"):
        built(random_weights(SPEC), key="state_dict")
    assert densespec.build(tiny(), backend="numpy", in_channels=1).graph.spec.in_channels == 1
