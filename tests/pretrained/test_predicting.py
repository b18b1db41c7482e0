"""Classes of images: as Python gives them, and as the commands print them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import densespec
from densespec.cli import main
from densespec.data import DataError, Dataset
from densespec.errors import DensespecError, ImageError, UnknownName, WeightsWarning
from densespec.predicting.classifier import Classifier, softmax
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.labels import label_set
from densespec.weights.containers import write_file
from densespec.weights.layouts import get_layout
from densespec.weights.naming import layout_tensors
from densespec.weights.tensors import Tensor
from tests.pretrained.publishing_server import LABELS, noisy_image
from tests.test_convert import SPEC

pytest.importorskip("pooch", reason="pooch is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

pytestmark = pytest.mark.usefixtures("registry_file")

NAME = "testing:Net.V1"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a folder of images for each of some classes."""
    for index, (name, shape) in enumerate(
        [("ant", (50, 60, 3)), ("cat", (64, 40, 3)), ("cat", (40, 40, 3)), ("eel", (33, 90, 3))]
    ):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True, exist_ok=True)
        image_module.fromarray(noisy_image(index, shape)).save(folder / f"{index}.png")
    return tmp_path / "photos"


def direct(images: list[Path]) -> np.ndarray:
    """The probabilities, by the way that a user would go."""
    model = densespec.build(None, backend="numpy", weights=NAME)
    prepare = densespec.preprocessing(model)
    return softmax(model(np.stack([prepare(path) for path in images])))


def test_the_likeliest_classes_come_first(photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    found = densespec.predict(NAME, photos, top=3, batch_size=3)
    assert [prediction.image for prediction in found] == files
    for prediction, row in zip(found, direct(files), strict=True):
        order = np.argsort(-row)[:3]
        assert [guess.index for guess in prediction.guesses] == list(order)
        assert [guess.label for guess in prediction.guesses] == [LABELS[i] for i in order]
        for guess in prediction.guesses:
            assert guess.probability == pytest.approx(row[guess.index], rel=1e-5)


@pytest.mark.parametrize("backend", ["torch.nn", "torch.nn+inference"])
def test_every_backend_says_the_same(photos: Path, backend: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    for ours, other in zip(
        densespec.predict(NAME, photos),
        densespec.predict(NAME, photos, backend=backend),
        strict=True,
    ):
        for guess, same in zip(ours.guesses, other.guesses, strict=True):
            assert guess.label == same.label
            assert guess.probability == pytest.approx(same.probability, rel=1e-4)


def test_images_are_paths_arrays_or_pillows(photos: Path) -> None:
    path = photos / "ant" / "0.png"
    picture = image_module.open(path)
    forms: list[Any] = [path, str(path), np.asarray(picture), picture]
    found = [guesses.guesses for guesses in densespec.predict(NAME, forms)]
    assert found == [found[0]] * 4
    (one,) = densespec.predict(NAME, np.asarray(picture))
    assert [guess.index for guess in one.guesses] == [guess.index for guess in found[0]]


def test_a_network_may_tell_several_classes_at_once(photos: Path) -> None:
    (found, *_) = densespec.predict("testing:nobody", photos)
    total = sum(guess.probability for guess in found.guesses)
    assert total != pytest.approx(1)
    with pytest.raises(DataError, match="tells several classes at once"):
        densespec.evaluate("testing:nobody", f"folder:{photos}")


def test_outputs_without_a_name_are_not_told() -> None:
    model = densespec.build(None, backend="numpy", weights=NAME)
    origin = model.densespec
    named = Accompaniment(
        preprocessing=origin.accompaniment.preprocessing, labels=("ant", "", "", "dog", "")
    )
    model.densespec = type(origin)(**{**vars(origin), "accompaniment": named})
    (found,) = densespec.predict(model, noisy_image())
    assert {guess.label for guess in found.guesses} == {"ant", "dog"}


def test_classes_of_imagenet_have_their_wordnet_ids() -> None:
    spec = SPEC.replace(classes=1000)
    origin = densespec.build(spec, backend="numpy").densespec
    names = label_set("imagenet").names
    known = type(origin)(**{**vars(origin), "accompaniment": Accompaniment(labels=names)})
    built = Classifier(None, known, None)  # type: ignore[arg-type]
    assert built.identifiers[1] == "n01443537"


def test_a_network_that_does_not_know_its_images_says_so() -> None:
    model = densespec.build(SPEC, backend="numpy")
    with pytest.raises(DensespecError, match="nothing says what images need before this network"):
        densespec.predict(model, noisy_image())
    headless = densespec.build(None, backend="numpy", weights=NAME, include_top=False)
    with pytest.raises(DensespecError, match="has no classifier"):
        densespec.predict(headless, noisy_image())


def test_the_network_of_a_file_is_chosen_by_its_prefix(photos: Path, tmp_path: Path) -> None:
    model = densespec.build(None, backend="numpy", weights=NAME)
    graph, both = model.densespec.graph, dict[str, Tensor]()
    for prefix, factor in (("one.", 2), ("two.", 1)):
        arrays = densespec.read_weights(model).items()
        tensors = {name: Tensor.of(array * factor) for name, array in arrays}
        named = layout_tensors(get_layout("densespec-torch"), "safetensors", graph, tensors)
        both |= {prefix + name: tensor for name, tensor in named.items()}
    write_file(tmp_path / "both.safetensors", both)
    prepare = densespec.preprocessing(model)
    found = densespec.predict(
        str(tmp_path / "both.safetensors"), photos, preprocessing=prepare, prefix="two."
    )
    expected = densespec.predict(model, photos)
    assert [each.guesses[0].index for each in found] == [e.guesses[0].index for e in expected]
    with pytest.raises(DensespecError, match="prefix: say how to read weights, but the m"):
        densespec.predict(model, photos, prefix="two.")


def test_an_image_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png: not a readable image of the formats"):
        densespec.predict(NAME, tmp_path)
    with pytest.raises(ImageError, match=r"gone\.png: .*No such file"):
        densespec.predict(NAME, tmp_path / "gone.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: no image files in it"):
        densespec.predict(NAME, tmp_path / "empty")


# Evaluation


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such pipes")
def test_a_pipe_that_is_named_like_an_image_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"x\.png: not a readable image .*: a pipe"):
        densespec.predict(NAME, tmp_path / "x.png")


def test_an_evaluation_counts_what_is_right(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    photos.rename(tmp_path / "all" / "train")
    (tmp_path / "all" / "val").symlink_to(tmp_path / "all" / "train")
    done = densespec.evaluate(NAME, f"folder:{tmp_path / 'all'}", batch_size=3)
    classes = ("ant", "cat", "eel")
    labels = np.array([0, 1, 1, 2])
    rows = direct(sorted((tmp_path / "all" / "train").rglob("*.png")))
    right = np.array([LABELS.index(name) for name in classes])[labels]
    likeliest = rows.argmax(1)
    assert (done.classes, done.count) == (classes, 4)
    assert done.loss == pytest.approx(float(-np.log(rows[np.arange(4), right]).mean()), rel=1e-5)
    assert done.top1 == (likeliest == right).mean()
    assert done.top5 == 1
    assert done.confusion.sum() == 4
    for row, index in zip(labels, likeliest, strict=True):
        column = classes.index(LABELS[index]) if LABELS[index] in classes else 3
        assert done.confusion[row, column] > 0


def arrays(classes: tuple[str, ...], dtype: str = "uint8") -> Dataset:
    x = noisy_image(shape=(6, 3, 32, 32))
    y = np.arange(6) % len(classes)
    pixels = x if dtype == "uint8" else (x / 255).astype(dtype)
    return Dataset.of(pixels, y, pixels, y, classes=classes, name="arrays")


def test_classes_of_other_names_are_taken_in_order_with_a_warning() -> None:
    numbers = tuple("01234")
    with pytest.warns(WeightsWarning, match="no class of the network is called '0'"):
        numbered = densespec.evaluate(NAME, arrays(numbers))
    named = densespec.evaluate(NAME, arrays(LABELS))
    assert numbered.loss == named.loss


def test_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="tells 5 classes apart, but none is called 'fox'"):
        densespec.evaluate(NAME, arrays(("ant", "fox")))


def test_any_part_of_the_data_is_looked_at() -> None:
    data = arrays(LABELS)
    parts = {part: densespec.evaluate(NAME, data, part=part) for part in ("train", "test", "all")}
    assert [done.count for done in parts.values()] == [6, 6, 12]
    assert parts["all"].loss == pytest.approx(parts["train"].loss)
    with pytest.raises(UnknownName, match="unknown part of data 'tests'"):
        densespec.evaluate(NAME, data, part="tests")


def test_images_that_are_no_bytes_are_prepared_as_the_data_say() -> None:
    done = densespec.evaluate(NAME, arrays(LABELS, "float32"))
    assert done.count == 6


# Commands


def invoke(*arguments: object) -> Any:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done


def test_the_command_prints_a_table_or_json(photos: Path) -> None:
    shown = invoke("predict", NAME, photos, "--top", 2).stdout
    assert str(photos / "ant" / "0.png") in shown
    records = json.loads(invoke("predict", NAME, photos, "--top", 2, "--json").stdout)
    assert [len(record["guesses"]) for record in records] == [2] * 4
    for record in records:
        for guess in record["guesses"]:
            assert guess["label"] in shown


def test_the_command_writes_a_contact_sheet(photos: Path, tmp_path: Path) -> None:
    invoke("predict", NAME, photos, "--sheet", tmp_path / "sheet.png")
    with image_module.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 200
        assert len(sheet.getcolors(1 << 24)) > 100


def test_the_command_prepares_images_as_others_need_it(photos: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.safetensors"
    densespec.save(densespec.build(SPEC, backend="numpy"), net)
    refused = CliRunner().invoke(main, ["predict", str(net), str(photos)])
    assert refused.exit_code == 1
    assert "--prepare-as NAME" in refused.stderr
    invoke("predict", net, photos, "--prepare-as", NAME)


def test_the_command_evaluates(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for name in ("ant", "eel"):  # a class needs some images to have one to test on
        for index in range(8):
            image_module.fromarray(noisy_image(index)).save(photos / name / f"more-{index}.png")
    figure = tmp_path / "confusion.png"
    shown = invoke("evaluate", NAME, "--data", f"folder:{photos}", "--figure", figure).stdout
    assert "top-1 " in shown
    assert image_module.open(figure).width > 300
    record = json.loads(invoke("evaluate", NAME, "--data", f"folder:{photos}", "--json").stdout)
    assert record["classes"] == ["ant", "cat", "eel"]
    assert sum(map(sum, record["confusion"])) == record["count"]


def test_the_command_lists_and_fetches_weights() -> None:
    listed = {record["name"]: record for record in json.loads(invoke("weights", "--json").stdout)}
    assert listed[NAME]["here"] is False
    place = invoke("weights", "fetch", NAME).stdout.strip()
    assert Path(place).is_file()
    shown = invoke("weights").stdout
    (line,) = (line for line in shown.splitlines() if line.startswith(NAME))
    assert "yes" in line
    assert "25.00" in line
    assert "torchvision:" not in invoke("weights", "--network", "densenet-bc-100-12").stdout


def test_the_command_suggests_near_names() -> None:
    refused = CliRunner().invoke(main, ["weights", "fetch", "testing:Net.V2"])
    assert refused.exit_code == 1
    assert f"Did you mean {NAME}" in refused.stderr
