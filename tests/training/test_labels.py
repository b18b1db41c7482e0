"""Runs on images of several labels or numbers, and what networks are judged by."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from densespec.building import build, save
from densespec.cli import main
from densespec.data import DataError, Dataset
from densespec.errors import DensespecError
from densespec.installed import is_installed
from densespec.network.files import write_spec
from densespec.predicting import predict
from densespec.recipes.presets import write_recipe
from densespec.recipes.recipe import TrainingRecipe
from densespec.training import TrainingError
from densespec.training.metrics import METRICS, Judgement
from tests.training.support import RECIPE, SPEC, environment, last, log, resumed, run

SEVERAL = RECIPE.replace(loss="sigmoid", batch_norm="synchronised")


def several(seed: int = 1, *, unknown: bool = True) -> Dataset:
    """Images whose halves tell two of three labels, the third of which is one or the other."""
    draw = np.random.default_rng(seed)
    first, second = draw.random((2, 40)) < 0.5
    y = np.stack([first, second, first | second], 1).astype(float)
    x = draw.normal(0, 0.3, (40, 1, 6, 6))
    x[:, :, :3] += first[:, None, None, None]
    x[:, :, 3:] += second[:, None, None, None]
    if unknown:
        y[::7, 0], y[1::9, 1] = np.nan, -1
    x = x.astype(np.float32)
    return Dataset.of(x[:28], y[:28], x[28:], y[28:], classes=("top", "bottom", "any"))


@pytest.mark.parametrize("backend", ["numpy", "torch.nn"])
def test_several_labels_are_learnt_and_a_run_goes_on(tmp_path: Path, backend: str) -> None:
    """Half on numpy and half on the backend."""
    if not is_installed(backend.partition(".")[0]):
        pytest.skip(f"{backend} is not installed")
    recipe = SEVERAL.replace(
        epochs=3, optimizer="adamw", learning_rate=0.01, schedule="cosine", rate_per="step"
    )
    run(tmp_path, data=several(), recipe=recipe, metrics=["auc", "f1"])
    done = resumed(tmp_path, epochs=6, data=several(), backend=backend)
    epochs = [line for line in log(tmp_path) if line["kind"] == "epoch"]
    assert {"auc", "f1", "auc:top"} <= epochs[-1]["metrics"].keys()
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    assert epochs[-1]["accuracy"] is None
    assert done.judged_by == "loss"
    assert done.best is not None


def test_a_run_on_several_labels_leaves_a_network_that_tells_several(tmp_path: Path) -> None:
    """Each label of an image has a probability of its own."""
    done = run(tmp_path, data=several(), recipe=SEVERAL.replace(epochs=1))
    model = build(weights=done.checkpoint, backend="numpy")
    image = np.zeros((6, 6), np.uint8)
    (found,) = predict(model, [image])
    prepared = model.densespec.accompaniment.preprocessing.batch([image])
    expected = 1 / (1 + np.exp(-model(prepared)[0]))
    told = {guess.label: guess.probability for guess in found.guesses}
    np.testing.assert_allclose([told[name] for name in ("top", "bottom", "any")], expected)


def test_a_run_on_numbers_leaves_a_network_that_tells_no_classes(tmp_path: Path) -> None:
    recipe = SEVERAL.replace(epochs=1, loss="squared", label_smoothing=0.0)
    done = run(tmp_path, data=several(unknown=False), recipe=recipe)
    model = build(weights=done.checkpoint, backend="numpy")
    assert model.densespec.accompaniment.outputs == "linear"
    with pytest.raises(DensespecError, match=r"give numbers .* so it tells no classes"):
        predict(model, [np.zeros((6, 6), np.uint8)])
    save(model, tmp_path / "again.safetensors")
    again = build(weights=tmp_path / "again.safetensors", backend="numpy")
    assert again.densespec.accompaniment.outputs == "linear"


@pytest.mark.parametrize(
    "backend",
    [
        "torch.nn",
        *(pytest.param(b, marks=pytest.mark.full) for b in ("tensorflow", "torch", "jax")),
    ],
)
def test_backends_take_the_same_steps_on_several_labels(tmp_path: Path, backend: str) -> None:
    """In a process of its own, since Keras has one engine in each."""
    if not is_installed(backend.partition(".")[0]):
        pytest.skip(f"{backend} is not installed")
    recipe = SEVERAL.replace(optimizer="adamw", learning_rate=1e-3, clip_norm=0.5)
    given, file = several(), tmp_path / "labels.npz"
    parts = {"x_train": given.train.x, "y_train": given.train.y}
    np.savez(file, **parts, x_test=given.test.x, y_test=given.test.y)
    write_spec(SPEC, tmp_path / "net.toml")
    write_recipe(recipe, tmp_path / "recipe.toml")
    run(tmp_path, data=f"arrays:{file}", recipe=recipe)
    said = ["train", "net.toml", "--data", f"arrays:{file}", "--recipe", "recipe.toml"]
    subprocess.run(
        [sys.executable, "-m", "densespec", *said, "--backend", backend, "--out", "other/run"],
        cwd=tmp_path,
        env=environment(),
        check=True,
    )
    expected = last(tmp_path).arrays
    for name, array in last(tmp_path / "other").arrays.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-8, err_msg=name)


def test_numbers_are_learnt(tmp_path: Path) -> None:
    recipe = RECIPE.replace(loss="squared", label_smoothing=0.0, epochs=5, augmentation="none")
    run(tmp_path, data=several(unknown=False), recipe=recipe, metrics=["error"], best="error")
    epochs = [line for line in log(tmp_path) if line["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]
    assert epochs[-1]["metrics"].keys() == {"error", "error:top", "error:bottom", "error:any"}
    assert epochs[-1]["validation_accuracy"] is None


def test_a_run_stops_where_nothing_becomes_better(tmp_path: Path) -> None:
    recipe = RECIPE.replace(epochs=9, learning_rate=1e-9)
    done = run(tmp_path, recipe=recipe, patience=2, best="loss")
    assert done.finished
    assert done.best_epoch is not None
    last_epoch = done.epochs[-1]["epoch"]
    assert last_epoch == done.best_epoch["epoch"] + 2 < 9
    assert resumed(tmp_path).epochs[-1]["epoch"] == last_epoch


def test_the_log_is_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run(tmp_path, tensorboard=True, recipe=RECIPE.replace(epochs=1))
    written = [*(tmp_path / "run" / "tensorboard").iterdir()]
    assert sum(b"epoch/validation_loss" in path.read_bytes() for path in written) == 1


def test_a_run_whose_log_knows_no_metrics_goes_on(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    path = tmp_path / "run" / "log.jsonl"
    path.write_text(path.read_text().replace('"metrics": {}, ', ""))
    assert '"metrics"' not in path.read_text()
    done = resumed(tmp_path, epochs=2)
    assert [line["metrics"] for line in done.epochs] == [{}, {}]


def test_the_command_takes_metrics(tmp_path: Path) -> None:
    said = ["train", "densenet-40-12", "--backend", "numpy", "--out", str(tmp_path / "x")]
    more = ["--metric", "auc", "--metric", "top5", "--best", "auc", "--dry-run", "--json"]
    result = CliRunner().invoke(main, [*said, *more])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["classes"] == 10


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("softmax", {"metrics": ["error"]}, "'error' is of outputs of loss = 'squared'"),
        ("sigmoid", {"metrics": ["top5"]}, "'top5' is of outputs of loss = 'softmax'"),
        ("softmax", {"best": "auc"}, "best = 'auc', but the run has loss, accuracy: name it"),
        ("softmax", {"metrics": ["roc"]}, "metrics = .* any of 'top5', 'auc'"),
        ("softmax", {"metrics": ["auc", "auc"]}, "each at most once"),
    ],
)
def test_what_outputs_can_t_be_judged_by_is_refused(
    tmp_path: Path, loss: Any, options: Any, message: str
) -> None:
    given = {} if loss == "softmax" else {"data": several()}
    recipe = RECIPE.replace(loss=loss)
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, recipe=recipe, **given | options)


@pytest.mark.parametrize(
    ("y", "loss", "message"),
    [
        ([[0, 1, 1]] * 10, "softmax", r"an image has 3 labels, .* loss = 'sigmoid' for several"),
        ([[0, 1, 0]] * 10, "softmax", r"just one class by its meaning too, give y\.argmax\(1\)"),
        ([0, 1] * 5, "sigmoid", r"an image has one label, but loss = 'sigmoid'"),
        ([[0, 2, 0]] * 10, "sigmoid", r"label 1 of image 0 is 2, but .* lie in \[0, 1\]"),
    ],
)
def test_labels_that_a_loss_does_not_take_are_refused(y: Any, loss: str, message: str) -> None:
    found = Dataset.of(np.zeros((10, 1, 6, 6), np.float32), np.array(y))
    with pytest.raises(DataError, match=message):
        found.check_loss(loss)


def test_several_labels_are_never_made_one() -> None:
    x = np.zeros((10, 1, 6, 6), np.float32)
    with pytest.raises(DataError) as caught:
        Dataset.of(x, np.array([[0, 1, 1]] * 10)).check_loss("softmax")
    assert "argmax" not in str(caught.value)
    with pytest.raises(DataError, match="label 1 of image 0 of y is infinite"):
        Dataset.of(x, np.array([[0, np.inf]] * 10))
    with pytest.raises(DataError, match="an image has 2 labels, but there are 3 classes"):
        Dataset.of(x, np.zeros((10, 2)), classes=3)


def test_the_example_trains_on_pairs_of_digits(tmp_path: Path) -> None:
    module = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "two_labels.py"))
    recipe = module["RECIPE"].replace(epochs=1, warmup_epochs=0, batch_size=8)
    done = module["train"]("numpy", tmp_path, recipe, train=24, test=40)
    assert done.finished
    assert 0 < done.epochs[-1]["metrics"]["auc"] <= 1
    found = module["dataset"](train=40, test=30)
    assert np.isnan(found.train.y).any()
    assert set(np.nansum(found.test.y, 1)) == {1, 2}


# Metrics


def _judged(recipe: TrainingRecipe, names: list[str], logits: Any, labels: Any) -> Judgement:
    judged = Judgement(recipe, names, ("a", "b", "c"))
    for half in (slice(None, 2), slice(2, None)):
        judged.add(np.array(logits, float)[half], np.array(labels)[half])
    return judged


def test_metrics_by_hand() -> None:
    recipe = TrainingRecipe(loss="sigmoid")
    logits = [[2, 1, 0], [1, 1, 0], [-1, 1, 0], [-2, 1, 0]]
    labels = [[1, 1, np.nan], [0, 1, -1], [1, 1, np.nan], [0, 1, -1]]
    judged = _judged(recipe, ["auc", "f1"], logits, labels)
    assert judged.accuracy == 6 / 8
    assert judged.figures() == {"auc": 0.75, "auc:a": 0.75, "f1": 0.5, "f1:a": 0.5}


def test_metrics_of_one_label_by_hand() -> None:
    logits = [[3, 0, 0], [0, 3, 0], [0, 0, 3], [0, 3, 0]]
    judged = _judged(TrainingRecipe(), ["f1", "top5", "auc"], logits, [0, 1, 2, 0])
    found = judged.figures()
    assert judged.accuracy == 0.75
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert (found["top5"], found["auc:c"]) == (1.0, 1.0)


def test_errors_by_hand() -> None:
    recipe = TrainingRecipe(loss="squared")
    logits = [[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 5]]
    labels = [[1, np.nan, 0], [0, np.nan, 0], [1, np.nan, 0], [0, np.nan, 1]]
    judged = _judged(recipe, ["error"], logits, labels)
    assert judged.figures() == {"error": 1.5, "error:a": 2.0, "error:c": 1.0}
    assert judged.accuracy is None


def test_metrics_of_outputs_that_are_not_finite_are_left_out() -> None:
    logits = [[np.nan, 0, 0], [0, 3, 0], [0, 0, 3], [0, 3, 0]]
    judged = _judged(TrainingRecipe(), ["auc"], logits, [0, 1, 2, 0])
    assert (judged.loss, judged.figures()) == (None, {})


def test_every_metric_is_of_some_loss() -> None:
    assert all(metric.losses and metric.sign in (1, -1) for metric in METRICS.values())
    assert SPEC.classes == 3
