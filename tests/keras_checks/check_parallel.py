"""Two devices, on engines that have such a thing: the step of the reference in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec.network.graph import Graph, freeze, lower
from densespec.network.initial import initial_weights
from densespec.recipes.moments import initial_moments
from densespec.reference.model import ReferenceModel

REPLICAS = 2
MODES = ("synchronised", "per-replica")
SPEC = DenseNetSpec(blocks=(2, 1), growth_rate=3, classes=4, dropout_rate=0.25)
RECIPE = TrainingRecipe(
    batch_norm="synchronised", label_smoothing=0.1, layer_rates=(("block2", 0.5),)
)
SPECS = {"unbiased": SPEC, "biased": SPEC.replace(running_variance="biased", dropout_rate=0.0)}


def parallel_trainer(engine: str, graph: Graph, recipe: TrainingRecipe, replicas: int) -> Any:
    weights = initial_weights(graph)
    backend: Any = get_backend(engine)
    return backend.parallel_trainer(graph, weights, recipe, replicas=replicas, dtype="float64")


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-9, atol=1e-10, err_msg=name)


def test_the_engine_without_says_where_to_go(engine: str) -> None:
    if engine == "torch":
        with pytest.raises(ValueError, match=r"backend='torch\.nn'"):
            parallel_trainer(engine, lower(SPEC, (8, 8)), RECIPE, REPLICAS)


@pytest.mark.parametrize(
    ("variance", "mode", "accumulate"),
    [
        *((*case, 1) for case in itertools.product(SPECS, MODES)),
        *(("unbiased", mode, 3) for mode in MODES),
    ],
)
def test_two_devices_take_the_step_of_the_reference(
    variance: str, mode: str, accumulate: int, engine: str, images: Any
) -> None:
    """Batches of 8 and 7: the second does not divide."""
    recipe = RECIPE.replace(batch_norm=mode, accumulate=accumulate)
    graph = freeze(lower(SPECS[variance], (8, 8)), "block1.layer2")
    if engine == "torch":
        return
    if engine == "jax" and mode == "per-replica":
        with pytest.raises(ValueError, match="set batch_norm = 'synchronised' in the recipe"):
            parallel_trainer(engine, graph, recipe, REPLICAS)
        return
    trainer = parallel_trainer(engine, graph, recipe, REPLICAS)
    arbiter = ReferenceModel(graph, initial_weights(graph))
    zeros = initial_moments(graph, recipe, arbiter.weights, "float64")["velocity"]
    momentum = {name: array + 0.01 for name, array in zeros.items()}
    trainer.restore({"velocity": momentum}, step=1)
    arbiter.moments, arbiter.steps = {"velocity": dict(momentum)}, 1
    random = np.random.default_rng(3)
    for count, rate, gradients in ((8, 0.1, True), (7, 0.1, True), (7, 0.01, False)):
        x, labels = images(count, 8, 8).astype("float64"), np.arange(count) % 4
        masks = {
            node.name: random.integers(0, 2, (count, *node.shape))
            for node in graph.nodes
            if "dropout" in node.name
        }
        batch: dict[str, Any] = {"learning_rate": rate, "masks": masks}
        right = arbiter.run(x, taps=["classifier"], training=True, masks=masks)["classifier"]
        expected = arbiter.train_step(x, labels, recipe, replicas=REPLICAS, **batch)
        actual = trainer.step(x, labels, gradients=gradients, **batch)
        assert actual.loss == pytest.approx(expected.loss, rel=1e-10)
        assert_close(actual.gradients, expected.gradients if gradients else {})
        if mode == "synchronised" and accumulate == 1:
            assert actual.correct == int((right.argmax(1) == labels).sum())
    assert_close(trainer.weights(), arbiter.weights)
    assert_close(trainer.moments()["velocity"], arbiter.moments["velocity"])
    x = images(3, 8, 8).astype("float64")
    np.testing.assert_allclose(trainer.predict(x), arbiter(x), rtol=1e-9)
    trainer.close()


def test_too_few_devices_are_refused_with_what_to_do(engine: str) -> None:
    ways = {
        "tensorflow": r"call tf\.config\.set_logical_device_configuration first",
        "jax": "set XLA_FLAGS=--xla_force_host_platform_device_count=64",
        "torch": "trains on one device",
    }
    with pytest.raises(ValueError, match=ways[engine]):
        parallel_trainer(engine, lower(SPEC, (8, 8)), RECIPE, 64)


def test_a_batch_smaller_than_the_devices_is_refused_or_whole(engine: str, images: Any) -> None:
    if engine != "tensorflow":
        return
    trainer = parallel_trainer(engine, lower(SPEC, (8, 8)), RECIPE, REPLICAS)
    with pytest.raises(ValueError, match="1 samples can't be split among 2 devices"):
        trainer.step(images(1, 8, 8).astype("float64"), np.array([0]), learning_rate=0.1)
