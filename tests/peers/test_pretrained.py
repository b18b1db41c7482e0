"""The registry of trained weights against what the publishers' installed packages say.

Where one of these fails, a package says something else than it did, and a row has to follow.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.network.graph import lower
from densespec.pretrained.labels import label_set
from densespec.pretrained.preprocessing import IMAGENET, Preprocessing
from densespec.pretrained.registry import registry
from densespec.pretrained.row import PretrainedWeights
from tests.peers.networks import import_torchvision


def rows_of(publisher: str) -> dict[str, PretrainedWeights]:
    return {row.key: row for row in registry().values() if row.publisher == publisher}


def source_of(package: str, *parts: str) -> str:
    """The text of a file of a package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent.joinpath(*parts).read_text(encoding="utf-8")


# Addresses, digests, sizes and errors


def test_torchvision_says_what_its_rows_say() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    models = import_torchvision().models
    theirs = {
        str(member): member.value
        for depth in (121, 161, 169, 201)
        for member in getattr(models, f"DenseNet{depth}_Weights")
    }
    rows = rows_of("torchvision")
    assert rows.keys() == theirs.keys()
    for key, row in rows.items():
        meta, transforms = theirs[key].meta, theirs[key].transforms()
        accuracy = meta["_metrics"]["ImageNet-1K"]
        assert row.address == theirs[key].url
        assert row.digest is not None
        assert re.search(rf"-{row.digest.digits}\.pth$", theirs[key].url)
        assert row.megabytes == meta["_file_size"]
        errors = {"top1": 100 - accuracy["acc@1"], "top5": 100 - accuracy["acc@5"]}
        assert row.errors == pytest.approx(errors)
        assert row.labels == tuple(meta["categories"])
        assert lower(row.spec).parameters.trainable == meta["num_params"]
        assert row.preprocessing == Preprocessing(
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            size=tuple(transforms.crop_size * 2),
            interpolation=transforms.interpolation.value,
            crop=transforms.crop_size[0] / transforms.resize_size[0],
        )


def test_keras_says_what_its_rows_say() -> None:
    text = source_of("keras", "src", "applications", "densenet.py")
    (base,) = re.findall(r'BASE_WEIGHTS_PATH = \(\s*"([^"]+)"', text)
    theirs = dict(re.findall(r'"(densenet\d+\w+\.h5)",\s+\w+,[^)]+?file_hash="(\w+)"', text))
    rows = rows_of("keras-applications")
    assert {row.file: row.digest and row.digest.digits for row in rows.values()} == theirs
    for key, row in rows.items():
        assert row.address == base + row.file
        assert row.classifier == ("notop" not in row.file) == ("notop" not in key)
        assert f'f"{{BASE_WEIGHTS_PATH}}{row.file}"' in text or f'"{row.file}"' in text


def test_timm_says_what_its_rows_say() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    from timm.models import densenet

    theirs: dict[str, Mapping[str, Any]] = {
        f"{name}.{tag}": config.to_dict()
        for name, default in densenet.default_cfgs.items()
        for tag, config in default.cfgs.items()
        if config.hf_hub_id
    }
    rows = rows_of("timm")
    assert rows.keys() == theirs.keys()
    for key, row in rows.items():
        config = theirs[key]
        assert row.repository == f"{config['hf_hub_id']}{key}"
        assert config["license"].lower() == row.licence.lower()
        assert row.preprocessing == Preprocessing(
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            size=tuple(config["input_size"][1:]),
            interpolation=config["interpolation"],
            crop=config["crop_pct"],
        )


def test_segmentation_models_says_what_its_rows_say() -> None:
    text = source_of("segmentation_models_pytorch", "encoders", "densenet.py")
    theirs = dict(re.findall(r'"repo_id": "([^"]+)",\s+"revision": "(\w+)"', text))
    rows = rows_of("segmentation-models-pytorch").values()
    assert {row.repository: row.revision for row in rows} == theirs


def test_pytorchcv_says_what_its_rows_say() -> None:
    text = source_of("pytorchcv", "models", "common", "model_metainfos.csv")
    of_cifar = re.compile(r"densenet\d+_k\d+(_bc)?_(cifar10|cifar100|svhn)")
    theirs = {
        entry["model_name"]: entry
        for entry in csv.DictReader(text.splitlines())
        if of_cifar.fullmatch(entry["model_name"]) and entry["error_value"] != "NA"
    }
    rows = rows_of("pytorchcv")
    assert rows.keys() == theirs.keys()
    repository = "https://github.com/osmr/imgclsmob/releases/download"
    for key, row in rows.items():
        entry = theirs[key]
        file = f"{key}-{entry['error_value']}-{entry['checksum'][:8]}.pth"
        assert (row.file, str(row.digest)) == (file, f"sha1:{entry['checksum']}")
        assert row.address == f"{repository}/{entry['repo_release_tag']}/{file}.zip"
        assert row.errors == {"top1": int(entry["error_value"]) / 100}
        assert lower(row.spec).parameters.trainable == int(entry["net_weights"])


def test_torchxrayvision_says_what_its_rows_say() -> None:
    text = source_of("torchxrayvision", "models.py")
    entries = re.findall(r"model_urls\['(\w+)'\] = \{(.*?)\n\}", text, re.DOTALL)
    rows = rows_of("torchxrayvision")
    assert {f"densenet121-res224-{name}" for name, _ in entries} == rows.keys()
    for name, entry in entries:
        row = rows[f"densenet121-res224-{name}"]
        assert f"'{row.address}'" in entry
        assert row.labels is not None
        assert f'"labels": {list(row.labels)}' in entry
        assert row.preprocessing is not None
        assert f'"input_resolution": {row.preprocessing.size[0]}' in entry


def test_the_ids_of_imagenet_are_those_of_wordnet() -> None:
    text = source_of("timm", "data", "_info", "imagenet_synsets.txt")
    assert label_set("imagenet").identifiers == tuple(text.split())


# Preprocessing


@pytest.fixture(
    scope="module", params=["flower.jpg", "china.jpg", "grace_hopper.jpg", "upright", "small"]
)
def picture(request: pytest.FixtureRequest) -> Any:
    """Photographs that scikit-learn and matplotlib bring along, lying, standing and small."""
    image = pytest.importorskip("PIL.Image")
    if request.param == "grace_hopper.jpg":
        matplotlib = pytest.importorskip("matplotlib")
        return image.open(Path(matplotlib.get_data_path()) / "sample_data" / request.param)
    sklearn = pytest.importorskip("sklearn")
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    if request.param == "upright":
        return image.open(folder / "china.jpg").transpose(image.Transpose.ROTATE_90)
    if request.param == "small":
        return image.open(folder / "flower.jpg").crop((100, 100, 181, 203))
    return image.open(folder / request.param)


@pytest.mark.parametrize("depth", [121, 161])
def test_images_are_prepared_as_torchvision_does_it(picture: Any, depth: int) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    models = import_torchvision().models
    theirs = models.get_weight(f"DenseNet{depth}_Weights.IMAGENET1K_V1").transforms()
    ours = rows_of("torchvision")[f"DenseNet{depth}_Weights.IMAGENET1K_V1"].preprocessing
    assert ours is not None
    np.testing.assert_array_equal(ours(picture), theirs(picture).numpy())


@pytest.mark.parametrize("key", ["densenet121.ra_in1k", "densenet201.tv_in1k"])
def test_images_are_prepared_as_timm_does_it(picture: Any, key: str) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(key).to_dict()
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config))
    ours = rows_of("timm")[key].preprocessing
    assert ours is not None
    np.testing.assert_array_equal(ours(picture), theirs(picture).numpy())


@pytest.mark.parametrize("size", [(224, 320), (320, 224)])
def test_images_of_other_forms_are_prepared_as_timm_does_it(
    picture: Any, size: tuple[int, int]
) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    from timm.data import create_transform

    theirs = create_transform(input_size=(3, *size), interpolation="bicubic", crop_pct=0.9)
    ours = Preprocessing(
        mean=IMAGENET.mean, std=IMAGENET.std, size=size, interpolation="bicubic", crop=0.9
    )
    np.testing.assert_array_equal(ours(picture), theirs(picture).numpy())


def test_images_are_prepared_as_keras_does_it(picture: Any, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    path = tmp_path / "picture.png"
    picture.save(path)
    loaded = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(224, 224)))
    theirs = keras.applications.densenet.preprocess_input(loaded, data_format="channels_last")
    ours = rows_of("keras-applications")["DenseNet121"].preprocessing
    assert ours is not None
    np.testing.assert_array_equal(ours(path, data_format="channels_last"), theirs)


def test_pixels_are_scaled_as_torchxrayvision_does_it() -> None:
    """Its source is compared: the package itself needs others that are not here."""
    text = source_of("torchxrayvision", "utils.py")
    assert "(2 * (img.astype(np.float32) / maxval) - 1.0) * 1024" in text
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    theirs = (2 * (pixels.astype(np.float32) / 255) - 1.0) * 1024
    row = rows_of("torchxrayvision")["densenet121-res224-all"].preprocessing
    assert row is not None
    ours = Preprocessing(mean=row.mean, std=row.std, size=(16, 16))
    np.testing.assert_allclose(ours(pixels)[0], theirs, atol=2e-4)
