"""Training through Lightning, against the reference, and from and to other backends."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec.errors import WeightsWarning
from densespec.network.graph import Graph, freeze, lower
from densespec.network.initial import initial_weights
from densespec.weights.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from tests.strategies import tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from densespec_torch.lightning import DenseNetModule, trainer_options  # noqa: E402

SPEC = DenseNetSpec(
    blocks=(2, 2), growth_rate=4, bottleneck_width=2, compression=0.5, classes=5, stem_width="2k"
)
RECIPE = TrainingRecipe(
    epochs=4,
    batch_size=4,
    learning_rate=0.05,
    milestones=(0.5, 0.75),
    label_smoothing=0.1,
    layer_rates={"block1": 0.5, "stem": 0.0},
    decay_kernels_only=True,
    dtype="float64",
)
BATCHES = 3


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", module="torch.*")
        yield


def data(seed: int = 3, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    count = BATCHES * RECIPE.batch_size
    return draw.normal(size=(count, 3, size, size)), draw.integers(0, SPEC.classes, count)


def loader(seed: int = 3, kind: Any = torch.float64) -> Any:
    x, labels = data(seed)
    pairs = TensorDataset(torch.tensor(x, dtype=kind), torch.tensor(labels))
    return DataLoader(pairs, batch_size=RECIPE.batch_size)


def trainer(folder: Path, recipe: TrainingRecipe = RECIPE, **options: Any) -> Any:
    quiet: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return lightning.Trainer(**(quiet | trainer_options(recipe) | options))


class Run:
    """The same training on another backend."""

    def __init__(self, graph: Graph, recipe: TrainingRecipe, backend: str = "numpy") -> None:
        self.engine, self.graph, self.recipe = get_backend(backend), graph, recipe
        self.model = self.engine.build(
            graph,
            initial_weights(graph, 0),
            dtype="float64",
            data_format="channels_first",
            name="net",
        )
        self.trainer = self.engine.trainer(self.model, graph, recipe)
        self.losses: list[float] = []

    def train(self, epochs: range) -> Run:
        x, labels = data()
        for epoch in epochs:
            for at in range(0, len(x), self.recipe.batch_size):
                part = slice(at, at + self.recipe.batch_size)
                result = self.trainer.step(
                    x[part], labels[part], learning_rate=self.recipe.learning_rate_at(epoch)
                )
                self.losses.append(result.loss)
        return self

    def weights(self) -> dict[str, np.ndarray]:
        return self.engine.read_weights(self.model, self.graph)


class Losses(lightning.Callback):  # type: ignore[misc]
    """Keeps the loss of every step and the learning rate of every epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())

    def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
        self.rates.append(float(trainer.callback_metrics["learning_rate"]))


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("variance", ["unbiased", "biased"])
@pytest.mark.parametrize("start", [None, "block2"], ids=["all", "frozen"])
def test_the_curve_is_the_references(variance: str, start: str | None, tmp_path: Path) -> None:
    spec = SPEC.replace(running_variance=variance)
    module = DenseNetModule(spec, RECIPE, trainable_from=start)
    graph = freeze(lower(spec), start) if start else lower(spec)
    expected, seen = Run(graph, RECIPE).train(range(4)), Losses()
    trainer(tmp_path, callbacks=[seen]).fit(module, loader())
    np.testing.assert_allclose(seen.losses, expected.losses, rtol=0, atol=1e-10)
    assert seen.rates == pytest.approx([RECIPE.learning_rate_at(epoch) for epoch in range(4)])
    assert_close(densespec.read_weights(module.model), expected.weights())
    module.to_checkpoint(tmp_path / "end.safetensors")
    state = read_checkpoint(tmp_path / "end.safetensors").training
    assert state is not None
    assert (state.step, state.trainable_from) == (4 * BATCHES, graph.trainable_from)
    assert_close(state.moments["velocity"], expected.trainer.moments()["velocity"])


@pytest.mark.parametrize("milestones", [(1, 3), (0.3, 0.4), (0.5, 0.75), (3, 9)])
def test_the_learning_rate_drops_as_the_recipe_says(
    milestones: tuple[Any, ...], tmp_path: Path
) -> None:
    recipe = TrainingRecipe(epochs=4, milestones=milestones, batch_size=4)
    seen = Losses()
    module = DenseNetModule(SPEC, recipe)
    trainer(tmp_path, recipe, callbacks=[seen]).fit(module, loader(kind=torch.float32))
    assert seen.rates == pytest.approx([recipe.learning_rate_at(epoch) for epoch in range(4)])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_of_another_backend_goes_on_in_lightning_and_back(stop: int, tmp_path: Path) -> None:
    graph = lower(SPEC)
    unbroken = Run(graph, RECIPE).train(range(4))
    first = Run(graph, RECIPE).train(range(stop - 1))
    state = TrainingState((stop - 1) * BATCHES, RECIPE, first.trainer.moments())
    write_checkpoint(tmp_path / "1.safetensors", graph, first.weights(), state)

    module, seen = DenseNetModule.from_checkpoint(tmp_path / "1.safetensors"), Losses()
    trainer(tmp_path, max_epochs=stop, callbacks=[seen]).fit(module, loader())
    module.to_checkpoint(tmp_path / "2.safetensors")
    middle = unbroken.losses[(stop - 1) * BATCHES : stop * BATCHES]
    np.testing.assert_allclose(seen.losses, middle, rtol=0, atol=1e-10)

    found, last = read_checkpoint(tmp_path / "2.safetensors"), Run(graph, RECIPE, "torch.nn")
    assert found.training is not None
    assert found.training.step == stop * BATCHES
    last.engine.write_weights(last.model, graph, found.arrays)
    last.trainer.restore(found.training.moments, step=found.training.step)
    last.train(range(stop, 4))
    assert_close(last.weights(), unbroken.weights())


def test_a_run_that_stopped_within_an_epoch_is_refused(tmp_path: Path) -> None:
    graph, path = lower(SPEC), tmp_path / "net.safetensors"
    run = Run(graph, RECIPE)
    state = TrainingState(4, RECIPE, run.trainer.moments())
    write_checkpoint(path, graph, run.weights(), state)
    module = DenseNetModule.from_checkpoint(path)
    with pytest.raises(ValueError, match="step 4, within an epoch of 3 steps"):
        trainer(tmp_path).fit(module, loader())


def test_lightnings_checkpoints_load_again_without_pickled_code(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="val_loss", save_top_k=-1)
    module = DenseNetModule(SPEC, RECIPE, trainable_from="block2")
    options: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [keep]}
    fitted = trainer(tmp_path, **options)
    fitted.fit(module, loader(), loader(4))
    assert torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["densespec_steps"] == 6

    again = DenseNetModule.load_from_checkpoint(tmp_path / "epoch=3.ckpt", weights_only=True)
    assert (again.recipe, again.steps) == (RECIPE, 12)
    assert again.graph == module.graph
    assert_close(densespec.read_weights(again.model), densespec.read_weights(module.model))

    unbroken = densespec.read_weights(module.model)
    resumed = DenseNetModule(SPEC, RECIPE, trainable_from="block2")
    trainer(tmp_path).fit(
        resumed, loader(), ckpt_path=str(tmp_path / "epoch=1.ckpt"), weights_only=True
    )
    assert resumed.steps == 12
    assert_close(densespec.read_weights(resumed.model), unbroken)


def test_validation_test_and_prediction_see_what_the_model_computes(tmp_path: Path) -> None:
    module = DenseNetModule(SPEC, RECIPE)
    runner = trainer(tmp_path)
    x, labels = data()
    with torch.no_grad():
        logits = module.model.eval()(torch.tensor(x))
        loss = torch.nn.functional.cross_entropy(
            logits, torch.tensor(labels), label_smoothing=RECIPE.label_smoothing
        )
    share = float((logits.argmax(1).numpy() == labels).mean())
    expected = {"loss": pytest.approx(loss.item()), "accuracy": pytest.approx(share)}
    for stage, run in (("val", runner.validate), ("test", runner.test)):
        found = run(module, loader(), verbose=False)[0]
        assert found == {f"{stage}_{name}": value for name, value in expected.items()}
    torch.testing.assert_close(torch.cat(runner.predict(module, loader())), logits)


# Transfer


def test_a_head_alone_trains_and_the_rest_stays_bit_for_bit(tmp_path: Path) -> None:
    """What a 161-layer network does with a new classifier, on a small network."""
    spec = SPEC.replace(dropout_rate=0.5, stem_kind="conv-norm-relu", dropout_place="every-conv")
    recipe = RECIPE.replace(layer_rates={}, learning_rate=0.5)
    weights = initial_weights(lower(spec.replace(classes=7)), 3)
    model = densespec.transfer(
        spec, classes=5, backend="torch.nn", weights=weights, dtype="float64"
    )
    module = DenseNetModule(model, recipe)
    before = copy.deepcopy(module.model.state_dict())
    runner = trainer(tmp_path)
    runner.fit(module, loader(), loader(4))
    after = module.model.state_dict()
    changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert changed == ["classifier.weight", "classifier.bias"]
    held = [p for p, state in runner.optimizers[0].state.items() if state]
    assert {id(p) for p in held} == {id(p) for p in module.model.classifier.parameters()}
    counted = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert counted == module.graph.parameters.trainable

    x = torch.tensor(data()[0])
    module.train()
    assert torch.equal(module(x), module(x)), "a frozen dropout draws"


def test_densenet161_with_a_new_classifier_trains_only_that() -> None:
    module = DenseNetModule("densenet161", RECIPE, classes=10, trainable_from="classifier")
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trainable == ["model.classifier.weight", "model.classifier.bias"]
    assert module.model.classifier.in_features == 2208
    assert sum(len(group["params"]) for group in module._new_optimizer().param_groups) == 2


def test_weights_of_a_network_with_another_head_start_a_new_one(tmp_path: Path) -> None:
    """What docs/pytorch.md does with torchvision's file of DenseNet-161, on a small network."""
    spec = tiny(stem_kernel=7, stem_stride=2, stem_pool=3, bottleneck_width=4, classes=7)
    theirs = densespec.build(spec, backend="torch.nn", seed=3)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    with pytest.warns(WeightsWarning, match="the head is new"):
        module = DenseNetModule(
            spec,
            RECIPE.replace(layer_rates={}),
            classes=10,
            trainable_from="classifier",
            weights=tmp_path / "net.pth",
        )
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trainable == ["model.classifier.weight", "model.classifier.bias"]
    assert module.model.classifier.out_features == 10
    ours, kept = module.model.features.state_dict(), theirs.features.state_dict()
    assert all(torch.equal(ours[name], kept[name].to(ours[name].dtype)) for name in kept)


# Any module


def test_any_module_that_gives_logits_trains(tmp_path: Path) -> None:
    recipe = TrainingRecipe(
        epochs=2, batch_size=4, learning_rate=0.1, layer_rates={"2": 0.0}, decay_kernels_only=True
    )
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Linear(8, 5), torch.nn.ReLU()
    )
    before = copy.deepcopy(net.state_dict())
    module = DenseNetModule(net, recipe)
    trainer(tmp_path, recipe).fit(module, loader(kind=torch.float32))
    same = {name: torch.equal(before[name], t) for name, t in net.state_dict().items()}
    assert same == {"1.weight": False, "1.bias": False, "2.weight": True, "2.bias": True}
    with pytest.raises(densespec.DensespecError, match="densespec built"):
        module.to_checkpoint(tmp_path / "net.safetensors")


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="options are for building a spec"):
        DenseNetModule(torch.nn.Linear(2, 2), RECIPE, classes=3)
    with pytest.raises(ValueError, match="give a model"):
        DenseNetModule(recipe=RECIPE)
    model = densespec.build(SPEC, backend="torch.nn")
    with pytest.raises(ValueError, match=r"dropout rate is 0.3, but the model was built with 0.0"):
        DenseNetModule(model, RECIPE.replace(dropout_rate=0.3))
    densespec.save(model, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="without a training run: give a recipe"):
        DenseNetModule.from_checkpoint(tmp_path / "net.safetensors")
    assert DenseNetModule.from_checkpoint(tmp_path / "net.safetensors", RECIPE).steps == 0


# Several processes

TWO_PROCESSES = """
import logging, os, sys, warnings
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning, numpy as np, torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from densespec_torch.lightning import DenseNetModule, trainer_options

folder = sys.argv[1]
with np.load(f"{folder}/data.npz") as found:
    pairs = TensorDataset(torch.tensor(found["x"]), torch.tensor(found["labels"]))
for start, end, sync in (
    ("per-replica", "per-replica", False),
    ("synchronised", "by-recipe", False),
    ("per-replica", "by-trainer", True),
):
    module = DenseNetModule.from_checkpoint(f"{folder}/{start}.safetensors")
    trainer = lightning.Trainer(
        **trainer_options(module.recipe, devices=2),
        accelerator="cpu", sync_batchnorm=sync, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    sampler = DistributedSampler(pairs, num_replicas=2, rank=rank, shuffle=False)
    trainer.fit(module, DataLoader(pairs, batch_size=2, sampler=sampler))
    module.to_checkpoint(f"{folder}/end-{end}.safetensors")
"""


@pytest.mark.full
def test_two_processes_do_what_the_recipe_defines(tmp_path: Path) -> None:
    graph = freeze(lower(SPEC.replace(running_variance="biased")), "block1.layer2")
    start = {name: array.astype(float) for name, array in initial_weights(graph, 0).items()}
    x, labels = data()
    # The sampler gives sample i to process i % 2, the recipe each one half of a batch.
    order = np.arange(len(x)).reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1, 4)
    expected = {}
    for kind in ("per-replica", "synchronised"):
        recipe = RECIPE.replace(epochs=2, batch_norm=kind)
        reference = get_backend("numpy").parallel_trainer(
            graph, start, recipe, replicas=2, dtype="float64"
        )
        state = TrainingState(0, recipe, reference.moments(), graph.trainable_from)
        write_checkpoint(tmp_path / f"{kind}.safetensors", graph, start, state)
        for epoch in range(2):
            for part in order:
                rate = recipe.learning_rate_at(epoch)
                reference.step(x[part], labels[part], learning_rate=rate)
        expected[kind] = reference.weights()
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    for end, kind in (
        ("per-replica", "per-replica"),
        ("by-recipe", "synchronised"),
        ("by-trainer", "synchronised"),
    ):
        found = read_checkpoint(tmp_path / f"end-{end}.safetensors")
        assert_close(found.arrays, expected[kind])


def test_the_examples_loop_and_lightning_give_the_same_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from examples import pytorch_training as example

    spec, recipe = example.SPEC.replace(blocks=(1, 1)), example.RECIPE.replace(epochs=2)
    plain = example.plain(spec, recipe).state_dict()
    quiet = {"default_root_dir": tmp_path, "logger": False, "enable_checkpointing": False}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    other = example.with_lightning(spec, recipe, **quiet).state_dict()
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=0, msg=name)
