"""Runs with a frozen part: where they start, and the cache of its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.errors import WeightsError, WeightsWarning
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.reference.backend import NumpyBackend
from densespec.training import plan_of
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import write_file
from densespec.weights.layouts import get_layout
from densespec.weights.naming import layout_tensors
from densespec.weights.tensors import Tensor
from tests.training.stopping import StopsAt
from tests.training.support import RECIPE, SPEC, STEPS, data, last, log, resumed, run, timeless

PLAIN = RECIPE.replace(augmentation="none")
CACHED = 1e-10


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Weights of another network of the same backbone, with running statistics of its own."""
    graph = lower(SPEC.replace(classes=7))
    draw = np.random.default_rng(3)
    arrays = {
        name: array + draw.uniform(0, 0.2, array.shape).astype(np.float32)
        for name, array in initial_weights(graph, 9).items()
    }
    path = tmp_path / "trained.safetensors"
    write_checkpoint(path, graph, arrays)
    return path


def test_a_new_head_is_put_on_weights_whose_own_does_not_fit(tmp_path: Path, trained: Path) -> None:
    with pytest.warns(WeightsWarning, match="the head is new"):
        plan = plan_of(
            out=tmp_path / "run",
            spec=SPEC,
            recipe=PLAIN,
            data=data(tmp_path),
            backend="numpy",
            weights=trained,
            head_units=(5,),
            trainable_from="head",
        )
    assert plan.start is not None
    assert plan.run.trainable_from == "head1"
    arrays, _ = plan.start
    fresh = initial_weights(plan.graph, PLAIN.seed)
    for name, array in arrays.items():
        new = name.startswith(("head", "classifier"))
        np.testing.assert_array_equal(array, fresh[name] if new else _read(trained)[name])


def two_networks(path: Path) -> Path:
    """Write two networks with torchvision's names, as pairs of networks are saved."""
    tensors = {}
    for prefix, seed in (("student.", 1), ("teacher.", 2)):
        graph = lower(SPEC)
        arrays = {name: Tensor.of(array) for name, array in initial_weights(graph, seed).items()}
        named = layout_tensors(get_layout("densespec-torch"), "safetensors", graph, arrays)
        tensors |= {prefix + name: tensor for name, tensor in named.items()}
    write_file(path, tensors)
    return path


def test_a_run_starts_from_the_network_of_a_file_that_is_chosen(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "out": tmp_path / "run",
        "recipe": PLAIN,
        "data": data(tmp_path),
        "backend": "numpy",
        "weights": two_networks(tmp_path / "two.safetensors"),
    }
    with pytest.raises(WeightsError, match="choose one by its prefix"):
        plan_of(SPEC, **said)
    for spec in (SPEC, None):
        plan = plan_of(spec, **said, prefix="teacher.", layout="densespec-torch")
        assert plan.start is not None
        wanted = initial_weights(lower(SPEC), 2)
        assert all(np.array_equal(array, wanted[name]) for name, array in plan.start[0].items())


def test_how_weights_are_read_is_said_of_weights_alone(tmp_path: Path) -> None:
    said: dict[str, Any] = {"out": tmp_path / "run", "data": data(tmp_path), "backend": "numpy"}
    with pytest.raises(WeightsError, match="prefix: say how to read weights, but none"):
        plan_of(SPEC, recipe=PLAIN, prefix="teacher.", **said)
    run(tmp_path, recipe=PLAIN, progress=StopsAt(STEPS))
    with pytest.raises(WeightsError, match="key: say how to read weights, but none"):
        resumed(tmp_path, key="ema")


def _read(path: Path) -> dict[str, np.ndarray]:
    from densespec.weights.checkpoint import read_checkpoint

    return read_checkpoint(path).arrays


def test_what_is_frozen_keeps_every_bit(tmp_path: Path, trained: Path) -> None:
    run(tmp_path, weights=trained, trainable_from="block2")
    frozen = [w.name for w in plan_graph(tmp_path).weights if not w.name.startswith(PARTS)]
    assert len(frozen) > 10
    for name in frozen:
        np.testing.assert_array_equal(last(tmp_path).arrays[name], _read(trained)[name])


PARTS = ("block2", "final", "classifier")


def plan_graph(folder: Path) -> Any:
    return lower(last(folder).spec)


@pytest.mark.parametrize(
    ("part", "units"), [("head", (5,)), ("head", ()), ("block2", ()), ("final", (4, 3))]
)
def test_a_head_trained_on_cached_features_is_the_one_trained_behind_the_network(
    tmp_path: Path, trained: Path, part: str, units: tuple[int, ...]
) -> None:
    for name, cache in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        run(
            tmp_path / name,
            data=data(tmp_path),
            recipe=PLAIN,
            weights=trained,
            trainable_from=part,
            head_units=units,
            cache_features=cache,
        )
    assert (tmp_path / "with" / "run" / "features.safetensors").exists()
    ours, theirs = last(tmp_path / "with"), last(tmp_path / "without")
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in theirs.arrays.items():
        np.testing.assert_allclose(ours.arrays[name], array, rtol=0, atol=CACHED, err_msg=name)
    np.testing.assert_allclose(
        [line["loss"] for line in log(tmp_path / "with")],
        [line["loss"] for line in log(tmp_path / "without")],
        rtol=CACHED,
    )


def test_cached_features_are_computed_once(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = NumpyBackend.forward

    def forward(self: NumpyBackend, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return original(self, *arguments, **options)

    monkeypatch.setattr(NumpyBackend, "forward", forward)
    options = {"recipe": PLAIN, "weights": trained, "trainable_from": "head"}
    run(tmp_path, progress=StopsAt(STEPS + 1), **options)
    assert len(calls) == STEPS + 2  # of the test images there are two batches
    resumed(tmp_path)
    assert len(calls) == STEPS + 2
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole", data=data(tmp_path), **options)
    assert timeless(tmp_path) == timeless(tmp_path / "whole")


def test_a_damaged_cache_is_made_anew(tmp_path: Path, trained: Path) -> None:
    run(tmp_path, recipe=PLAIN, weights=trained, trainable_from="head", progress=StopsAt(STEPS + 1))
    cache = tmp_path / "run" / "features.safetensors"
    whole = cache.read_bytes()
    cache.write_bytes(whole[: len(whole) // 2])
    assert resumed(tmp_path).finished
    assert cache.read_bytes() == whole


def test_features_of_augmented_images_are_not_cached_and_the_reason_is_told(
    tmp_path: Path,
) -> None:
    plan = plan_of(
        out=tmp_path / "run",
        spec=SPEC,
        recipe=RECIPE,
        data=data(tmp_path),
        backend="numpy",
        trainable_from="head",
    )
    assert not plan.caches
    assert any("not cached: augmentation is 'cifar'" in note for note in plan.notes)


@pytest.mark.parametrize("named", [True, False])
def test_weights_for_other_channels_are_fitted_to_those_of_the_data(
    tmp_path: Path, named: bool
) -> None:
    spec = SPEC.replace(in_channels=3)
    write_checkpoint(tmp_path / "rgb.safetensors", lower(spec), initial_weights(lower(spec), 9))
    said: dict[str, Any] = {} if named else {"spec": spec, "in_channels": 1}
    with pytest.warns(WeightsWarning, match="is summed for 1"):
        plan = plan_of(
            **{"spec": None} | said,
            out=tmp_path / "run",
            recipe=PLAIN,
            data=data(tmp_path),
            backend="numpy",
            weights=tmp_path / "rgb.safetensors",
        )
    assert plan.run.spec.in_channels == 1
    assert named == any("in_channels = 1 as in" in note for note in plan.notes)
