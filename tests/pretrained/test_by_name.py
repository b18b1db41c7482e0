"""Networks with trained weights by name, from a publisher on this machine to a fine-tuned file."""

from __future__ import annotations

import enum
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.errors import DensespecError, WeightsError, WeightsWarning
from densespec.network.initial import initial_weights
from densespec.pretrained.accompaniment import NOTHING, Accompaniment
from densespec.weights.checkpoint import read_checkpoint
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests.pretrained.publishing_server import CIFAR, KERAS, LABELS, Publisher
from tests.test_convert import SPEC, random_weights

pytest.importorskip("pooch", reason="pooch is not installed")
pytest.importorskip("filelock", reason="filelock is not installed")

pytestmark = pytest.mark.usefixtures("registry_file")


def goes_with(model: Any) -> Accompaniment:
    return model.densespec.accompaniment


def numpy_net(spec: Any, **options: Any) -> Any:
    return densespec.build(spec, backend="numpy", dtype="float32", **options)


class Weights(enum.Enum):
    """As torchvision's weights are members of an enum."""

    V1 = enum.auto()

    def __str__(self) -> str:
        return "Net.V1"


@pytest.mark.parametrize("name", ["testing:Net.V1", "Net.V1", "imagenet", Weights.V1])
def test_a_network_has_the_weights_of_a_name(name: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = numpy_net(SPEC, weights=name)
    found = densespec.read_weights(model)
    for array_name, array in random_weights(SPEC).items():
        np.testing.assert_array_equal(found[array_name], array)


def test_a_name_tells_its_network() -> None:
    assert numpy_net(None, weights="testing:Keras").densespec.graph.spec == SPEC.replace(**KERAS)
    assert numpy_net(None, weights="cifar").densespec.graph.spec == CIFAR


def test_other_classes_keep_what_is_not_of_the_head() -> None:
    model = densespec.transfer(SPEC, classes=2, backend="numpy", weights="imagenet")
    kept = goes_with(model)
    assert kept.labels is None
    assert kept.preprocessing == densespec.preprocessing(model)
    assert kept.provenance is not None
    assert kept.provenance.name == "testing:Net.V1"


def test_it_says_where_it_is_from(publisher: Publisher, contents: dict[str, bytes]) -> None:
    kept = goes_with(numpy_net(SPEC, weights="imagenet"))
    assert kept.labels == LABELS
    assert kept.provenance is not None
    assert kept.provenance.address == f"{publisher.address}/net-1.pth"
    assert kept.provenance.licence == "CC0-1.0"
    assert len(kept.provenance.digest) == len("sha256:") + 64


def test_what_goes_with_it_is_in_checkpoints_and_what_is_made_of_them(tmp_path: Path) -> None:
    model = numpy_net(SPEC, weights="imagenet")
    densespec.save(model, tmp_path / "net.safetensors")
    assert read_checkpoint(tmp_path / "net.safetensors").accompaniment == goes_with(model)
    again = numpy_net(SPEC, weights=tmp_path / "net.safetensors")
    assert goes_with(again) == goes_with(model)
    assert goes_with(numpy_net(SPEC, weights=again)) == goes_with(model)


def test_what_goes_with_it_is_in_folders_of_the_hub(tmp_path: Path) -> None:
    model = numpy_net(SPEC, weights="testing:nobody")
    densespec.save_pretrained(model, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(LABELS)}
    assert config["provenance"]["name"] == "testing:nobody"
    assert "testing:nobody" in (tmp_path / "net" / "README.md").read_text()
    again = densespec.from_pretrained(tmp_path / "net", backend="numpy")
    assert goes_with(again) == goes_with(model)
    assert goes_with(model).outputs == "sigmoid"


def test_labels_of_others_are_read_from_their_config(tmp_path: Path) -> None:
    densespec.save_pretrained(numpy_net(SPEC), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(index): name.upper() for index, name in enumerate(LABELS)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = densespec.from_pretrained(tmp_path, backend="numpy")
    assert goes_with(again).labels == tuple(name.upper() for name in LABELS)


def test_loading_into_a_model_brings_what_goes_with_the_weights() -> None:
    model = numpy_net(SPEC)
    assert goes_with(model) == NOTHING
    densespec.load_weights(model, "testing:Net.V1")
    assert goes_with(model).labels == LABELS
    densespec.load_weights(model, random_weights(SPEC))
    assert goes_with(model) == NOTHING


def test_a_network_without_trained_weights_does_not_know_its_images() -> None:
    with pytest.raises(DensespecError, match="nothing says what images need before this network"):
        densespec.preprocessing(numpy_net(SPEC))


def test_a_network_with_other_channels_has_other_images() -> None:
    assert goes_with(numpy_net(SPEC, weights="imagenet", in_channels=1)).preprocessing is None


def test_a_file_without_a_published_digest_is_warned_of() -> None:
    with pytest.warns(WeightsWarning, match="its publisher states no digest of testing:nobody"):
        numpy_net(SPEC, weights="testing:nobody")


def test_a_path_that_exists_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = initial_weights(densespec.lower(SPEC), 9)
    densespec.save(numpy_net(SPEC, weights=other), tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").rename(tmp_path / "imagenet")
    np.testing.assert_array_equal(
        densespec.read_weights(numpy_net(SPEC, weights="imagenet"))["stem.conv.kernel"],
        other["stem.conv.kernel"],
    )
    (tmp_path / "imagenet").unlink()
    (tmp_path / "imagenet").mkdir()  # a folder of images is commonly called so
    assert goes_with(numpy_net(SPEC, weights="imagenet")).labels == LABELS


def test_what_is_neither_says_which_names_are_near() -> None:
    with pytest.raises(WeightsError, match=r"no such file, and no name .* Did you mean Net\.V1"):
        numpy_net(SPEC, weights="Net.V2")


def test_names_are_taken_wherever_files_are(tmp_path: Path) -> None:
    with open_weights("testing:Net.V1") as found:
        assert (found.layout.name, found.accompaniment.labels) == ("torchvision", LABELS)
    done = convert("testing:Net.V1", tmp_path / "net.safetensors")
    assert done.source.spec == SPEC
    assert goes_with(numpy_net(None, weights=tmp_path / "net.safetensors")).labels == LABELS


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("labels", "{", "the labels in its metadata: not JSON"),
        ("labels", "[1, 2]", "but should be texts"),
        ("preprocessing", "[]", "but should be a JSON object"),
        ("preprocessing", '{"mean": [1]}', "preprocessing: "),
        ("provenance", '{"name": "x"}', "the provenance in its metadata"),
    ],
)
def test_metadata_that_say_something_else_are_refused(key: str, text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        Accompaniment.from_texts({key: text})
