"""New runs and resumed ones: what is in their folder, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.backends import StepResult
from densespec.data import DataError, Dataset, dropout_masks
from densespec.errors import WeightsError, WeightsWarning
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.backend import NumpyTrainer
from densespec.reference.losses import cross_entropy
from densespec.reference.model import ReferenceModel
from densespec.training import TrainingError, plan_of, read_run
from tests.strategies import named
from tests.training.stopping import StopsAt
from tests.training.support import (
    RECIPE,
    SIZE,
    SPEC,
    STEPS,
    Notes,
    arrays,
    assert_same_end,
    data,
    last,
    log,
    resumed,
    run,
    timeless,
)

# What a run does


def test_a_run_is_the_reference_stepped_over_the_batches_of_the_data(tmp_path: Path) -> None:
    run(tmp_path)
    graph = lower(SPEC, SIZE)
    model = ReferenceModel(graph, initial_weights(graph, RECIPE.seed))
    plan = plan_of(SPEC, out=tmp_path / "x", recipe=RECIPE, data=data(tmp_path), backend="numpy")
    losses = []
    for step in range(RECIPE.epochs * STEPS):
        x, labels = plan.training[step]
        masks = dropout_masks(graph, RECIPE.seed, step, len(x))
        rate = RECIPE.learning_rate_at(step // STEPS)
        done = model.train_step(x, labels, RECIPE, learning_rate=rate, masks=masks)
        losses.append(done.loss)
    assert [line["loss"] for line in log(tmp_path) if line["kind"] == "step"] == losses
    for name, array in model.weights.items():
        np.testing.assert_array_equal(last(tmp_path).arrays[name], array, err_msg=name)


def test_the_log_has_a_line_for_every_step_and_every_epoch(tmp_path: Path) -> None:
    run(tmp_path)
    kinds = [(line["kind"], line["epoch"], line["step"]) for line in log(tmp_path)]
    expected: list[Any] = []
    for epoch in (1, 2, 3):
        steps = range((epoch - 1) * STEPS + 1, epoch * STEPS + 1)
        expected += [("step", epoch, step) for step in steps]
        expected.append(("epoch", epoch, epoch * STEPS))
    assert kinds == expected
    rates = [line["learning_rate"] for line in log(tmp_path) if line["kind"] == "epoch"]
    assert rates == [0.05, 0.025, 0.0125]


def test_an_epoch_s_loss_is_the_mean_over_its_samples(tmp_path: Path) -> None:
    run(tmp_path)
    lines = log(tmp_path)
    losses = [line["loss"] for line in lines[:STEPS]]
    assert lines[STEPS]["loss"] == pytest.approx(np.average(losses, weights=[8, 8, 8, 4]))


def test_validation_is_of_the_weights_in_inference_mode(tmp_path: Path) -> None:
    run(tmp_path)
    test = arrays()
    dataset = densespec.data.load(data(tmp_path))
    path = tmp_path / "run" / "last.safetensors"
    model = densespec.build(weights=path, key="average", backend="numpy", dtype="float64")
    logits = model(dataset.normalisation.apply(test["x_test"], np.dtype("float64")))
    right = float((logits.argmax(1) == test["y_test"]).mean())
    loss, _ = cross_entropy(logits, test["y_test"])
    assert log(tmp_path)[-1]["validation_accuracy"] == right
    assert log(tmp_path)[-1]["validation_loss"] == pytest.approx(loss, rel=1e-12)


def test_best_is_the_checkpoint_of_the_best_epoch(tmp_path: Path) -> None:
    done = run(tmp_path, epochs=8, keep=8)
    assert done.best is not None
    assert done.best_epoch is not None
    best = max(log(tmp_path), key=lambda line: line.get("validation_accuracy") or 0)
    assert done.best_epoch == best
    kept = tmp_path / "run" / f"epoch-{best['epoch']:04}.safetensors"
    assert done.best.read_bytes() == kept.read_bytes()


def test_only_the_checkpoints_asked_for_are_kept(tmp_path: Path) -> None:
    run(tmp_path, epochs=5, keep=2)
    kept = sorted(path.name for path in (tmp_path / "run").glob("epoch-*"))
    assert kept == ["epoch-0004.safetensors", "epoch-0005.safetensors"]


def test_without_validation_there_is_neither_accuracy_nor_a_best_checkpoint(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, validate=False)
    assert done.finished
    assert (done.accuracy, done.best) == (None, None)


def test_fewer_lines_of_the_log_change_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    run(tmp_path)
    run(tmp_path / "few", data=data(tmp_path), log_every=3, progress=StopsAt(STEPS + 1))
    resumed(tmp_path / "few")
    steps = [line["step"] for line in log(tmp_path / "few") if line["kind"] == "step"]
    assert steps == [3, 4, 5, 6, 8, 9, 12]  # ends of epochs and the stop have a line as well
    ends = [[x for x in timeless(f) if x["kind"] == "epoch"] for f in (tmp_path, tmp_path / "few")]
    assert ends[0] == ends[1]


def test_dropout_of_the_framework_is_drawn_without_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    original = NumpyTrainer.step

    def step(self: NumpyTrainer, x: np.ndarray, y: np.ndarray, **options: Any) -> StepResult:
        given.append(options["masks"])
        return original(self, x, y, **options)

    monkeypatch.setattr(NumpyTrainer, "step", step)
    run(tmp_path, dropout="framework", epochs=1)
    assert given == [None] * STEPS
    assert read_run(tmp_path / "run").dropout == "framework"


def test_a_checkpoint_of_a_run_is_a_weight_file_like_any_other(tmp_path: Path) -> None:
    done = run(tmp_path)
    with pytest.warns(WeightsWarning, match="lie beside them: --key average reads those"):
        model = densespec.build(weights=done.checkpoint, backend="numpy")
    assert model.densespec.graph.spec == SPEC


def test_averages_are_asked_for_by_their_key_where_there_are_any(tmp_path: Path) -> None:
    done = run(tmp_path, recipe=RECIPE.replace(average=None, average_warmup=0))
    with pytest.raises(WeightsError, match="no averages of its arrays, and so no key 'average'"):
        densespec.build(weights=done.checkpoint, key="average", backend="numpy")


def test_channels_and_classes_of_a_named_network_are_those_of_the_data(tmp_path: Path) -> None:
    plan = plan_of(
        "densenet-40-12",
        out=tmp_path / "run",
        recipe=RECIPE,
        data=data(tmp_path),
        backend="numpy",
    )
    assert (plan.run.spec.classes, plan.run.spec.in_channels) == (3, 1)
    assert [note.partition(" ")[0] for note in plan.notes] == ["classes", "in_channels"]
    assert not (tmp_path / "run").exists()


# Resuming


def test_a_finished_run_takes_more_epochs(tmp_path: Path) -> None:
    (tmp_path / "at-once").mkdir()
    run(tmp_path, epochs=2)
    resumed(tmp_path, epochs=3)
    run(tmp_path / "at-once", data=data(tmp_path), epochs=3)
    assert_same_end(tmp_path, tmp_path / "at-once")
    assert read_run(tmp_path / "run").recipe.epochs == 3


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    notes = Notes()
    assert resumed(tmp_path, progress=notes).finished
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert notes.texts == ["all 3 epochs are done: more of them take the run further"]


def test_drops_that_move_with_more_epochs_are_told(tmp_path: Path) -> None:
    run(tmp_path, recipe=RECIPE.replace(milestones=(0.5, 0.75), epochs=4))
    notes = Notes()
    resumed(tmp_path, epochs=8, progress=notes)
    assert any("drops after epochs 4 and 6, not after epochs 2 and 3" in x for x in notes.texts)


def test_the_folder_may_move(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole", data=data(tmp_path))
    run(tmp_path, progress=StopsAt(STEPS + 1))
    (tmp_path / "there").mkdir()
    (tmp_path / "run").rename(tmp_path / "there" / "run")
    resumed(tmp_path / "there")
    assert_same_end(tmp_path / "there", tmp_path / "whole")


def test_arrays_are_given_again(tmp_path: Path) -> None:
    given = arrays()
    dataset = Dataset.of(
        given["x_train"], given["y_train"], given["x_test"], given["y_test"], classes=3
    )
    run(tmp_path, data=dataset, progress=StopsAt(2))
    with pytest.raises(TrainingError, match="arrays: give them again"):
        resumed(tmp_path)
    assert resumed(tmp_path, data=dataset).finished


@pytest.mark.parametrize(
    ("options", "message"),
    named(
        "{0}",
        ({"spec": SPEC.replace(growth_rate=3)}, "growth_rate is 2 there, but 3 here"),
        ({"recipe": RECIPE.replace(batch_size=4)}, "batch_size is 8 there, but 4 here"),
        (
            {"recipe": RECIPE.replace(momentum=0.5, nesterov=False)},
            "momentum is 0.9 there, but 0.5 here; nesterov is True there, but False here",
        ),
        ({"trainable_from": "block2"}, "trainable_from is None there, but 'block2' here"),
        ({"dropout": "framework"}, "dropout is 'exact' there, but 'framework' here"),
        ({"size": (12, 12)}, "size is (6, 6) there, but (12, 12) here"),
        ({"weights": {}}, "weights are given, but the run has its own"),
        ({"epochs": 1}, "8 steps of the run are done, but 1 epochs have 4: give more epochs"),
    ),
)
def test_a_run_does_not_go_on_as_another(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run(tmp_path, epochs=2)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=re.escape(message)):
        resumed(tmp_path, **({"epochs": 3} | options))
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    (tmp_path / "other").mkdir()
    with pytest.raises(TrainingError, match=r"trained on other data than .*fingerprint"):
        resumed(tmp_path, data=data(tmp_path / "other", seed=2))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    run(tmp_path, epochs=1)
    run(tmp_path / "other", data=data(tmp_path), epochs=1, recipe=RECIPE.replace(seed=5))
    (tmp_path / "other" / "run" / "last.safetensors").replace(tmp_path / "run" / "last.safetensors")
    with pytest.raises(TrainingError, match=r"not of the run that run\.toml describes: seed is 5"):
        resumed(tmp_path)


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    path = tmp_path / "run" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(densespec.DensespecError, match=re.escape(str(path))):
        resumed(tmp_path)


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_a_bit_that_is_flipped_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """In weights, momentum and metadata alike."""
    run(tmp_path, epochs=1)
    path = tmp_path / "run" / "last.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    positions = [start, (start + len(content)) // 2, len(content) - 1]
    positions.append(content.index(rb"\"step\": 4") + len(rb"\"step\": "))
    for position in positions:
        path.write_bytes(_flipped(content, position))
        with pytest.raises(densespec.DensespecError, match=rf"{re.escape(str(path))}: .*damaged"):
            resumed(tmp_path, epochs=2)


def test_what_damages_one_checkpoint_spares_the_others(tmp_path: Path) -> None:
    run(tmp_path, epochs=2, keep=2)
    names = ("last", "best", "epoch-0001", "epoch-0002")
    paths = [tmp_path / "run" / f"{name}.safetensors" for name in names]
    assert len({path.stat().st_ino for path in paths}) == len(names)


def test_a_run_goes_on_from_its_best_checkpoint_put_in_the_place_of_the_last(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, epochs=6)
    whole = timeless(tmp_path)
    assert done.best is not None
    assert done.best_epoch is not None
    assert done.best_epoch["epoch"] < 6
    shutil.copyfile(done.best, done.checkpoint)
    resumed(tmp_path)
    assert timeless(tmp_path) == whole


@pytest.mark.parametrize(
    "text", ["", "format = 2", "format = 1\nspec = 3", "not toml at all [", "format = 1"]
)
def test_a_damaged_run_file_is_an_error(tmp_path: Path, text: str) -> None:
    run(tmp_path, epochs=1)
    (tmp_path / "run" / "run.toml").write_text(text)
    with pytest.raises(TrainingError, match=r"run\.toml does not describe a run"):
        resumed(tmp_path)


def test_a_run_file_without_a_backend_is_an_error(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    path = tmp_path / "run" / "run.toml"
    path.write_text(path.read_text().partition("[[backend]]")[0])
    with pytest.raises(TrainingError, match="names no backend"):
        resumed(tmp_path)


def test_a_run_file_chooses_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that it names is imported only where the user names it too."""
    run(tmp_path, epochs=1)
    (tmp_path / "named_by_a_file.py").write_text(
        "from densespec.reference.backend import BACKEND as BACKEND\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "run" / "run.toml"
    path.write_text(path.read_text().replace('"numpy"', '"named_by_a_file:BACKEND"'))
    with pytest.raises(TrainingError, match=r"'named_by_a_file:BACKEND', .* as --backend"):
        resumed(tmp_path, epochs=2)
    assert "named_by_a_file" not in sys.modules
    assert resumed(tmp_path, epochs=2, backend="named_by_a_file:BACKEND").finished


# What can't start


@pytest.mark.parametrize(
    ("options", "error", "message"),
    named(
        "{0}",
        ({"backend": None}, TrainingError, "give the backend"),
        ({"spec": None}, TrainingError, "give a spec"),
        ({"recipe": None}, TrainingError, "give the recipe"),
        ({"dropout": "none"}, TrainingError, "dropout = 'none'"),
        ({"devices": 0}, TrainingError, "devices = 0"),
        ({"devices": 3, "recipe": RECIPE.replace(batch_size=2)}, TrainingError, "can't be split"),
        ({"spec": SPEC.replace(classes=4)}, DataError, "3 classes, .* tells 4 apart"),
        ({"spec": SPEC.replace(in_channels=3)}, DataError, "1 channels, .* takes 3"),
        ({"spec": SPEC.replace(spatial_dims=3)}, DataError, "2 dimensions"),
        ({"size": (1, 1)}, densespec.DensespecError, "nothing is left of it"),
        ({"trainable_from": "block7"}, densespec.DensespecError, "unknown part .* 'block7'"),
        ({"cache_features": True}, TrainingError, "can't be cached: augmentation is 'cifar'"),
    ),
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_labels_out_of_range_are_an_error(tmp_path: Path) -> None:
    given = arrays()
    given["y_train"][4] = -1
    np.savez(tmp_path / "data.npz", **given)
    with pytest.raises(DataError, match="label 4 is -1"):
        run(tmp_path)


def test_a_folder_with_a_run_is_not_trained_into_anew(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="holds a run already"):
        run(tmp_path)


def test_weights_of_a_user_are_not_replaced(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    (tmp_path / "run" / "run.toml").unlink()
    with pytest.raises(TrainingError, match="is there already"):
        run(tmp_path)


# Curves


def test_the_curve_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from densespec.training import loop

    monkeypatch.setattr(loop, "can_draw", lambda: True)
    run(tmp_path, epochs=2, metrics=("top5",))
    for name in ("curve.png", "confusion.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


def test_a_table_says_which_classes_are_taken_for_which(tmp_path: Path) -> None:
    run(tmp_path)
    head, *rows = csv.reader((tmp_path / "run" / "confusion.csv").read_text().splitlines())
    assert head == ["class", "0", "1", "2"]
    assert [name for name, *_ in rows] == ["0", "1", "2"]
    counts = np.array([row for _, *row in rows], int)
    np.testing.assert_array_equal(counts.sum(1), [3, 3, 3])
    assert counts.trace() / 9 == log(tmp_path)[-1]["validation_accuracy"]


def test_parts_need_a_sample_for_each_device(tmp_path: Path) -> None:
    for accumulate, devices, into in (
        (3, 2, "accumulate = 3 parts on 2 devices: choose a batch_size of at least 6"),
        (5, 1, "accumulate = 5 parts: choose a batch_size of at least 5"),
        (1, 5, "5 devices: choose a batch_size of at least 5"),
    ):
        recipe = RECIPE.replace(accumulate=accumulate)
        with pytest.raises(TrainingError, match=rf"has 4 images, .* split among {into}"):
            run(tmp_path, recipe=recipe, devices=devices)
    with pytest.raises(TrainingError, match=r"a batch has 8 images, .* 4 parts on 3 devices"):
        run(tmp_path, recipe=RECIPE.replace(accumulate=4), devices=3)
    assert not (tmp_path / "run").exists()


def test_every_line_of_the_log_is_json(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["backend"] == "numpy"


def test_the_run_file_gives_the_run_back(tmp_path: Path) -> None:
    recipe = TrainingRecipe(
        epochs=1, batch_size=8, layer_rates={"block1": 0.5}, learning_rate=0.01, dtype="float64"
    )
    run(tmp_path, recipe=recipe, keep=3, log_every=2)
    found = read_run(tmp_path / "run")
    assert (found.spec, found.recipe, found.size) == (SPEC, recipe, SIZE)
    assert (found.keep, found.log_every, found.dropout) == (3, 2, "exact")
