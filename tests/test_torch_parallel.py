"""Training on several processes in PyTorch, against the definition in the reference."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec.errors import WeightsError
from densespec.network.graph import Graph, freeze, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import Dropout
from densespec.weights.checkpoint import TrainingState, read_checkpoint, write_checkpoint

pytest.importorskip("torch", reason="PyTorch is not installed")

from densespec_torch.distributed import launcher, rank_world, shard, total

SPEC = DenseNetSpec(
    blocks=(2, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_width="2k",
    stem_kind="conv-norm-relu",
    dropout_rate=0.3,
)
RECIPE = TrainingRecipe(label_smoothing=0.1, layer_rates={"block2": 0.3}, learning_rate=0.05)
BATCH, STEPS = 5, 3  # which two processes cannot share evenly


def network(kind: str) -> tuple[Graph, TrainingRecipe]:
    """Whole and per replica, or frozen in part and synchronised with biased variance."""
    recipe = RECIPE.replace(batch_norm=kind)
    if kind == "per-replica":
        return lower(SPEC, (8, 8)), recipe
    graph = lower(SPEC.replace(running_variance="biased"), (8, 8))
    return freeze(graph, "block1.layer2"), recipe


def start_of(graph: Graph) -> dict[str, np.ndarray]:
    return {name: array.astype(float) for name, array in initial_weights(graph, 0).items()}


def batches(graph: Graph, count: int = STEPS) -> list[tuple[Any, Any, dict[str, Any]]]:
    draw = np.random.default_rng(0)
    drops = [node for node in graph.nodes if isinstance(node.op, Dropout)]
    return [
        (
            draw.normal(size=(BATCH, 3, 8, 8)),
            draw.integers(0, 5, BATCH),
            {node.name: (draw.random((BATCH, *node.shape)) > 0.3).astype(float) for node in drops},
        )
        for _ in range(count)
    ]


def trainer_of(backend: str, graph: Graph, weights: Any, recipe: TrainingRecipe) -> Any:
    return get_backend(backend).parallel_trainer(  # type: ignore[attr-defined]
        graph, weights, recipe, replicas=2, dtype="float64"
    )


def assert_close(actual: Any, expected: Any) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "accumulate"), [("per-replica", 1), ("synchronised", 1), ("per-replica", 2)]
)
def test_two_processes_do_what_the_recipe_defines(kind: str, accumulate: int) -> None:
    graph, recipe = network(kind)
    recipe = recipe.replace(accumulate=accumulate)
    first, *rest = batches(graph, STEPS + 1)
    expected = trainer_of("numpy", graph, start_of(graph), recipe)
    expected.step(*first[:2], masks=first[2], learning_rate=0.1)
    actual = trainer_of("torch.nn", graph, expected.weights(), recipe)
    try:
        actual.restore(expected.moments(), step=1)
        for index, (x, labels, masks) in enumerate(rest):
            options = {"masks": masks, "learning_rate": 0.1 / (index + 1)}
            ours, theirs = (each.step(x, labels, **options) for each in (actual, expected))
            assert ours.loss == pytest.approx(theirs.loss, abs=1e-12)
            assert_close(ours.gradients, theirs.gradients)
        assert_close(actual.moments()["velocity"], expected.moments()["velocity"])
        x = first[0]
        np.testing.assert_allclose(actual.predict(x[:1]), expected.predict(x[:1]), atol=1e-12)
        assert_close(actual.weights(), expected.weights())
        frozen = [w.name for w in graph.weights if graph[w.name.rpartition(".")[0]].frozen]
        weights, before = actual.weights(), start_of(graph)
        assert [n for n in frozen if not np.array_equal(weights[n], before[n])] == []

        with pytest.raises(ValueError, match="batch of 1 cannot be split among 2"):
            actual.step(x[:1], labels[:1], learning_rate=0.1)
        with pytest.raises(WeightsError, match="velocity of"):
            actual.restore({"velocity": {"stem.conv.kernel": np.zeros(3)}}, step=1)
        assert_close(actual.weights(), expected.weights())

        with pytest.raises(ValueError, match=r"label 9 of sample 1, .* lie in \[0, 5\)"):
            actual.step(x, np.array([0, 1, 2, 3, 9]), learning_rate=0.1)
        with pytest.raises(RuntimeError, match="has ended"):
            actual.weights()
    finally:
        actual.close()
        actual.close()


def test_a_process_that_dies_is_an_error_for_all() -> None:
    graph, recipe = network("per-replica")
    trainer = trainer_of("torch.nn", graph, start_of(graph), recipe)
    try:
        trainer._replicas[1]._process.kill()
        x, labels, masks = batches(graph)[0]
        with pytest.raises(RuntimeError):
            trainer.step(x, labels, masks=masks, learning_rate=0.1)
        assert all(replica._process.poll() is not None for replica in trainer._replicas)
    finally:
        trainer.close()


SCRIPT = """
import sys
import numpy as np
import densespec
from densespec.backends import get_backend
from densespec.network.graph import freeze, lower
from densespec.weights.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from densespec_torch import distributed

world = distributed.setup_from_environment()
assert world == distributed.setup_from_environment()
folder = sys.argv[1]
for kind in ("per-replica", "synchronised"):
    found = read_checkpoint(f"{folder}/{kind}.safetensors")
    state = found.training
    model = densespec.build(
        found.spec, backend="torch.nn", weights=found.arrays, dtype="float64",
        trainable_from=state.trainable_from, input_shape=(3, 8, 8),
    )
    graph = model.densespec.graph
    trainer = get_backend("torch.nn").trainer(model.to(world.device), graph, state.recipe)
    trainer.restore(state.moments, step=state.step)
    with np.load(f"{folder}/{kind}.npz") as given:
        data = dict(given)
    for step in range(int(data["steps"])):
        part = trainer.shard(len(data[f"labels{step}"]))
        masks = {n.name: data[f"{n.name}{step}"][part]
                 for n in graph.nodes if f"{n.name}{step}" in data}
        result = trainer.step(data[f"x{step}"][part], data[f"labels{step}"][part],
                              masks=masks, learning_rate=0.1, gradients=False)
    weights = trainer.weights()
    predicted = distributed.total([trainer.predict(data["x0"])[0, 0]])
    if world.rank == 0:
        state = TrainingState(step, state.recipe, trainer.moments(), state.trainable_from)
        write_checkpoint(f"{folder}/{kind}-end.safetensors", graph, weights, state)
        results = dict(loss=result.loss, correct=result.correct, predicted=predicted)
        np.savez(f"{folder}/{kind}-end.npz", size=world.size, **results)
distributed.leave()
"""


def test_processes_of_torchrun_train_each_on_its_part(tmp_path: Path) -> None:
    expected: dict[str, Any] = {}
    for kind in ("per-replica", "synchronised"):
        graph, recipe = network(kind)
        reference = trainer_of("numpy", graph, start_of(graph), recipe)
        state = TrainingState(0, recipe, reference.moments(), graph.trainable_from)
        write_checkpoint(tmp_path / f"{kind}.safetensors", graph, reference.weights(), state)
        given: dict[str, Any] = {"steps": STEPS}
        for step, (x, labels, masks) in enumerate(batches(graph)):
            given |= {f"x{step}": x, f"labels{step}": labels}
            given |= {f"{name}{step}": mask for name, mask in masks.items()}
            loss = reference.step(x, labels, masks=masks, learning_rate=0.1).loss
        np.savez(tmp_path / f"{kind}.npz", **given)
        expected[kind] = reference, loss, reference.predict(given["x0"])[0, 0]
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [*launcher(devices=2), str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    for kind, (reference, loss, logit) in expected.items():
        found = read_checkpoint(tmp_path / f"{kind}-end.safetensors")
        assert_close(found.arrays, reference.weights())
        assert found.training is not None
        assert_close(found.training.moments["velocity"], reference.moments()["velocity"])
        with np.load(tmp_path / f"{kind}-end.npz") as results:
            assert results["size"] == 2
            assert float(results["loss"]) == pytest.approx(loss, abs=1e-12)
            assert 0 <= int(results["correct"]) <= BATCH
            assert float(results["predicted"][0]) == pytest.approx(2 * logit, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_are_those_of_array_split(size: int) -> None:
    for count in range(20):
        whole = np.arange(count)
        for rank, part in enumerate(np.array_split(whole, size)):
            np.testing.assert_array_equal(whole[shard(count, rank, size)], part)


def test_a_process_alone_is_the_first_of_one() -> None:
    assert rank_world() == (0, 1)
    assert total([1, 2.5]) == [1.0, 2.5]


def test_the_launcher_wants_an_address_for_several_machines() -> None:
    assert "--standalone" in launcher(devices=4)
    command = launcher(devices=4, nodes=2, endpoint="first:29400")
    assert {"--nproc-per-node=4", "--nnodes=2", "--rdzv-endpoint=first:29400"} <= set(command)
    with pytest.raises(ValueError, match="2 machines need the address of one of them"):
        launcher(devices=4, nodes=2)
