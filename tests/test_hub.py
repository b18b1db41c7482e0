"""Folders as the Hub keeps them: written, read, and moved through a Hub that is none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors

import densespec
from densespec import get
from densespec.building import read_weights
from densespec.errors import (
    DensespecError,
    PackageMissing,
    SpecError,
    WeightsError,
    WeightsWarning,
)
from densespec.hub import (
    IMAGENET,
    Preprocessing,
    from_pretrained,
    preprocessing_of,
    push_to_hub,
    save_pretrained,
)
from densespec.weights.convert import convert
from tests.strategies import tiny
from tests.test_convert import SPEC, checkpoint, random_weights

BICUBIC = Preprocessing(
    mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=(64, 48), interpolation="bicubic", crop=0.875
)


def built(spec: Any = SPEC, **options: Any) -> Any:
    weights = random_weights(spec, **options)
    return densespec.build(spec, backend="numpy", weights=weights, **options)


def assert_holds(model: Any, weights: dict[str, np.ndarray]) -> None:
    """A model has these weights, whatever type it keeps them in."""
    found = densespec.read_weights(model)
    assert list(found) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network saved with its preprocessing."""
    save_pretrained(built(), tmp_path / "net", preprocessing=BICUBIC)
    return tmp_path / "net"


class Hub(ModuleType):
    """What is asked of huggingface_hub, which keeps repositories in a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.calls = root, []

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("snapshot_download", repo_id, options))
        if not (self.root / repo_id).is_dir():
            raise RuntimeError(f"404: no repository {repo_id}\nand much more")
        target = self.root / "cache"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for pattern in options["allow_patterns"]:
            for path in (self.root / repo_id).glob(pattern):
                shutil.copy(path, target / path.name)
        return str(target)

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("create_repo", repo_id, options))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: Any) -> None:
        self.calls.append(("upload_folder", repo_id, options))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


# Saving


def test_a_folder_has_weights_config_and_card(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "library_name": "densespec",
        "spec": json.loads(json.dumps({"format": 1} | SPEC.to_dict())),
        "classifier": True,
        "preprocessing": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "size": [64, 48],
            "interpolation": "bicubic",
            "crop": 0.875,
            "resize": "shorter",
        },
    }


def test_the_preprocessing_travels_in_the_weight_file_too(folder: Path, tmp_path: Path) -> None:
    with safetensors.safe_open(folder / "model.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["preprocessing"])["size"] == [64, 48]
    alone = tmp_path / "alone.safetensors"
    (folder / "model.safetensors").rename(alone)
    assert preprocessing_of(alone) == BICUBIC


def test_without_preprocessing_nothing_is_said_of_it(tmp_path: Path) -> None:
    save_pretrained(built(), tmp_path)
    assert preprocessing_of(tmp_path) is None
    assert "preprocessing" not in json.loads((tmp_path / "config.json").read_text())
    assert "Images" not in (tmp_path / "README.md").read_text()


def test_the_card_says_what_the_network_is(tmp_path: Path) -> None:
    spec = get("densenet-40-12").replace(padding="same")
    save_pretrained(built(spec), tmp_path, preprocessing=BICUBIC)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: densespec\ntags:\n- densenet\n")
    assert "# densenet-40-12\n" in card
    assert "blocks 12, 12, 12 and growth rate 12, 10 classes." in card
    assert "It differs from densespec's densenet-40-12 in `padding = 'same'`." in card
    assert "resized (bicubic) so that a centre crop of 64x48 keeps 0.875 of each side" in card


def test_saving_again_replaces_all_but_the_card(folder: Path) -> None:
    (folder / "README.md").write_text("my own words")
    save_pretrained(built(tiny()), folder)
    assert (folder / "README.md").read_text() == "my own words"
    assert preprocessing_of(folder) is None
    model = from_pretrained(folder, backend="numpy")
    assert model.densespec.graph.spec == tiny()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5,), "std": (0.5,)}, "of 1 channels and 2 sizes, but the network takes 3 ch"),
        ({"size": (64,)}, "of 3 channels and 1 sizes, but the network takes 3 channels and 2 si"),
    ],
    ids=["of other channels", "of other dimensions"],
)
def test_preprocessing_that_does_not_fit_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    wrong = Preprocessing(**{"mean": (0, 0, 0), "std": (1, 1, 1), "size": (8, 8)} | changes)
    with pytest.raises(WeightsError, match=message):
        save_pretrained(built(), tmp_path / "net", preprocessing=wrong)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mean", 0.5, "a list of numbers"),
        ("mean", ["a", 0, 0], "numbers"),
        ("mean", [float("nan"), 0, 0], "numbers"),
        ("std", [1, 0, 1], "as many numbers above 0 as mean has"),
        ("std", [1, 1], "as many numbers above 0 as mean has"),
        ("size", [64.0, 64], "whole numbers above 0"),
        ("size", [], "a list of numbers"),
        ("interpolation", "cubic", "nearest or bilinear or bicubic or lanczos"),
        ("crop", 0, r"a number in \(0, 1\]"),
    ],
)
def test_preprocessing_out_of_place_is_refused_by_name(
    field: str, value: Any, expected: str
) -> None:
    fields: dict[str, Any] = {"mean": [0, 0, 0], "std": [1, 1, 1], "size": [64, 64]}
    with pytest.raises(WeightsError, match=rf"^preprocessing: {field} = .*should be {expected}"):
        Preprocessing(**fields | {field: value})


def test_only_models_of_densespec_are_saved(tmp_path: Path) -> None:
    with pytest.raises(DensespecError, match="was not built by densespec"):
        save_pretrained(object(), tmp_path / "net")


# Loading from here


def test_a_saved_network_comes_back(folder: Path) -> None:
    model = from_pretrained(folder, backend="numpy")
    assert model.densespec.graph.spec == SPEC
    assert_holds(model, random_weights(SPEC))
    assert preprocessing_of(folder) == BICUBIC


def test_options_of_build_are_passed_on(folder: Path) -> None:
    model = from_pretrained(
        str(folder), backend="numpy", include_top=False, pooling="avg", input_shape=(3, 64, 64)
    )
    assert model(np.zeros((2, 3, 64, 64))).shape == (2, 88)


def test_a_network_without_a_classifier_comes_back_without(tmp_path: Path) -> None:
    save_pretrained(built(include_top=False), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["classifier"] is False
    model = from_pretrained(tmp_path, backend="numpy")
    assert_holds(model, random_weights(SPEC, include_top=False))


def test_classes_that_the_file_has_not_start_a_new_head(folder: Path) -> None:
    with pytest.warns(WeightsWarning, match="the head is new"):
        model = from_pretrained(folder, backend="numpy", classes=7)
    assert model.weights["classifier.kernel"].shape == (7, 88)


def test_a_file_of_torchvisions_layout_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    convert(checkpoint(tmp_path / "ours.safetensors"), path, to_layout="torchvision")
    model = from_pretrained(path, backend="numpy")
    assert_holds(model, random_weights(SPEC))


def test_a_folder_with_a_pth_file_is_loaded(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    (tmp_path / "net").mkdir()
    convert(checkpoint(tmp_path / "ours.safetensors"), tmp_path / "net" / "densenet.pth")
    model = from_pretrained(tmp_path / "net", backend="torch.nn")
    assert_holds(model, random_weights(SPEC))


def test_a_folder_of_timm_is_loaded_with_its_preprocessing(tmp_path: Path) -> None:
    spec = get("densenet121").replace(classes=10)
    (tmp_path / "net").mkdir()
    path = tmp_path / "net" / "model.safetensors"
    convert(checkpoint(tmp_path / "ours.safetensors", spec), path, to_layout="timm")
    (tmp_path / "net" / "pytorch_model.bin").write_bytes(b"the same again")
    config = {
        "architecture": "densenet121",
        "num_classes": 10,
        "pretrained_cfg": {
            "input_size": [3, 288, 288],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "classifier": "classifier",
        },
    }
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    assert from_pretrained(tmp_path / "net", backend="numpy").densespec.graph.spec == spec
    assert preprocessing_of(tmp_path / "net") == Preprocessing(
        mean=IMAGENET.mean, std=IMAGENET.std, size=(288, 288), interpolation="bicubic", crop=0.95
    )


def test_a_config_states_the_spec_of_weights_that_do_not(folder: Path) -> None:
    convert(folder / "model.safetensors", folder / "net.msgpack")
    (folder / "model.safetensors").unlink()
    model = from_pretrained(folder, backend="numpy")
    assert model.densespec.graph.spec == SPEC


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "its text is no JSON"),
        ("[]", r"should be a JSON object, but is \[\]"),
        ('{"spec": {"format": 1, "blocks": []}}', "spec: "),
    ],
    ids=["not JSON", "no object", "no spec"],
)
def test_a_config_that_is_none_is_named(config: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=rf"config\.json: {message}"):
        from_pretrained(folder, backend="numpy")


def test_preprocessing_in_a_config_that_is_none_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"preprocessing": {"mean": [1], "stdev": [1]}}')
    with pytest.raises(WeightsError, match=r"config\.json: preprocessing: .*stdev"):
        preprocessing_of(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weight file in it"):
        from_pretrained(tmp_path, backend="numpy")


def test_a_folder_of_several_weights_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        checkpoint(tmp_path / name)
    with pytest.raises(WeightsError, match=r"2 weight files in it, such as a\.safetensors, b\.sa"):
        from_pretrained(tmp_path, backend="numpy")


# Through the Hub


def test_a_pushed_network_comes_back(hub: Hub) -> None:
    url = push_to_hub(built(), "me/net", preprocessing=BICUBIC, token="secret", private=True)
    assert url == "https://hub.example/me/net"
    (created, uploaded) = hub.calls
    assert created == (
        "create_repo",
        "me/net",
        {"token": "secret", "private": True, "exist_ok": True},
    )
    assert uploaded[2]["token"] == "secret"
    assert 'from_pretrained("me/net", ' in (hub.root / "me/net/README.md").read_text()
    model = from_pretrained("me/net", backend="numpy", revision="v1", token="other")
    assert_holds(model, random_weights(SPEC))
    _, _, options = hub.calls[-1]
    assert (options["revision"], options["token"]) == ("v1", "other")
    assert preprocessing_of("me/net") == BICUBIC


def test_safetensors_are_taken_without_downloading_the_rest(hub: Hub) -> None:
    push_to_hub(built(), "me/net")
    (hub.root / "me/net/pytorch_model.bin").write_bytes(b"the same again")
    from_pretrained("me/net", backend="numpy")
    downloads = [call for call in hub.calls if call[0] == "snapshot_download"]
    assert [call[2]["allow_patterns"] for call in downloads] == [["config.json", "*.safetensors"]]


def test_other_weight_files_are_downloaded_where_there_are_no_safetensors(
    hub: Hub, tmp_path: Path
) -> None:
    (hub.root / "me/net").mkdir(parents=True)
    convert(
        checkpoint(tmp_path / "ours.safetensors", get("densenet-40-12")),
        hub.root / "me/net/net.msgpack",
    )
    model = from_pretrained("me/net", backend="numpy")
    assert model.densespec.graph.spec == get("densenet-40-12")


def test_a_repository_that_there_is_not_is_refused_in_one_line(hub: Hub) -> None:
    with pytest.raises(WeightsError) as refusal:
        from_pretrained("me/nothing", backend="numpy")
    assert str(refusal.value) == (
        "me/nothing: no such file or folder, and from the Hub: 404: no repository me/nothing"
    )


@pytest.mark.parametrize("path", ["nowhere", "./a/b", "/no/such/path", "a/b/c", "../b", "a/b\n"])
def test_what_is_neither_a_path_nor_an_id_never_reaches_the_hub(
    path: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(WeightsError, match="no such file or folder, and no id of the Hub"):
        from_pretrained(path, backend="numpy")
    assert hub.calls == []


def test_a_folder_that_is_here_is_never_looked_up(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(built(), Path("me/net"))
    from_pretrained("me/net", backend="numpy")
    assert hub.calls == []


def test_without_huggingface_hub_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PackageMissing, match=r"me/net is no path here.*densespec\[hub\]"):
        from_pretrained("me/net", backend="numpy")
    with pytest.raises(PackageMissing, match=r"uploaded.*pip install 'densespec\[hub\]'"):
        push_to_hub(built(tiny()), "me/net")


def test_importing_the_module_imports_neither_the_hub_nor_a_framework() -> None:
    code = "import sys, densespec.hub; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"huggingface_hub", "torch", "keras", "jax", "h5py"} & set(done.stdout.split()) == set()


def test_errors_of_build_pass_through(folder: Path) -> None:
    with pytest.raises(SpecError):
        from_pretrained(folder, backend="numpy", input_shape=(3,))


# What comes from outside


@pytest.mark.parametrize(
    "given",
    ["n" * 5000, f"user/{'n' * 5000}", "user/name\0", "/dev/null", ""],
    ids=["a long name", "a long id", "a null", "a device", "nothing"],
)
def test_what_is_no_path_and_no_id_is_refused_in_a_short_line(
    given: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as caught:
        from_pretrained(given, backend="numpy")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("given", ["n" * 5000, "user/" + "n" * 5000, "a\0b", "\x1b[31m/x"])
def test_what_the_hub_says_of_a_name_is_cut_and_escaped(given: str, hub: Hub) -> None:
    def refuse(repo_id: str, **_options: Any) -> str:
        raise ValueError(f"no such name: {repo_id}")

    hub.create_repo = refuse  # type: ignore[method-assign]
    with pytest.raises(WeightsError, match="can't be uploaded to the Hub: no such name") as caught:
        push_to_hub(built(), given)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "config",
    [
        b"\xff\xfe{}",
        b'{"preprocessing": {"mean": 1, "std": 1, "size": 1}}',
        b'{"preprocessing": {"mean": [1' + b"0" * 400 + b'], "std": [1], "size": [1]}}',
        b'{"pretrained_cfg": {"mean": 1, "std": [1], "input_size": [3, 8, 8]}}',
        b'{"pretrained_cfg": {"mean": [1], "std": [1], "input_size": 8}}',
        b'{"pretrained_cfg": {"mean": [1], "std": [1], "input_size": {}}}',
        b'{"preprocessing": {"self": 1}}',
    ],
)
def test_a_config_of_anything_is_refused_by_name(config: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(config)
    with pytest.raises(WeightsError, match=r"config\.json: "):
        preprocessing_of(folder)


def test_a_name_that_no_folder_has_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"a\\x00b: can't be made a folder: .*embedded null"):
        save_pretrained(built(), "a\0b")


def test_a_network_is_not_saved_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WeightsError, match=r"file.*: can't be made a folder"):
            save_pretrained(built(), path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_card_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(WeightsError, match=r"config\.json: can't be written: "):
        save_pretrained(built(), folder)


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(hub, "create_repo", offline)
    with pytest.raises(WeightsError, match=r"^'user/net': can't be uploaded .*: no route to host$"):
        push_to_hub(built(), "user/net")


def test_a_config_that_would_make_gigabytes_of_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"a": [' + "{}," * 1_000_001 + "{}]}")
    with pytest.raises(WeightsError, match=r"its text has \d+ parts, but should have at most"):
        densespec.from_pretrained(tmp_path, backend="numpy")


# Timm's folders


PLAIN = get("densenet121").replace(
    blocks=(1, 2, 1), growth_rate=4, stem_width="2k", in_channels=1, classes=3
)


@pytest.mark.parametrize(
    "options", [{}, {"include_top": False}, {"include_top": False, "pooling": "max"}], ids=str
)
def test_a_folder_of_timms_comes_back_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    model = built(PLAIN, **options)
    save_pretrained(model, tmp_path, format="timm")
    again = from_pretrained(tmp_path, backend="numpy")
    assert again.densespec.graph.nodes == model.densespec.graph.nodes
    arrays = read_weights(again)
    for name, array in read_weights(model).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_folder_of_timms_says_what_timm_has_to_know(tmp_path: Path) -> None:
    grey = Preprocessing(mean=(0.5,), std=(0.25,), size=(64, 48), crop=0.9)
    labels = ["cat", "dog", "ant"]
    save_pretrained(built(PLAIN), tmp_path, preprocessing=grey, format="timm", labels=labels)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("densenet121", 3)
    assert config["label_names"] == labels
    stated = config["pretrained_cfg"]
    assert (stated["input_size"], stated["crop_pct"]) == ([1, 64, 48], 0.9)
    assert preprocessing_of(tmp_path) == grey
    assert "timm.create_model(" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stem_width": 16}, "stem_width is 16, but should be twice the growth rate"),
        ({"bottleneck_width": None}, "bottleneck_width is None, but should be a number"),
        ({"padding": "same"}, "padding is 'same' here, but 'symmetric' in timm's"),
        ({"compression": 1.0}, "compression is 1.0 here, but 0.5 in timm's"),
        ({"spatial_dims": 1}, "spatial_dims is 1 here, but 2 in timm's"),
        ({"head_units": (8,)}, "head_units is (8,) here, but () in timm's"),
        ({"batch_norm_epsilon": 0.1}, "batch_norm_epsilon is 0.1 here, but 1e-05 in timm's"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_timms_architecture_cannot_be_is_refused_by_its_fields(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(WeightsError) as refusal:
        save_pretrained(built(PLAIN.replace(**changes)), tmp_path, format="timm")
    assert said in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"format": "timm", "labels": ["cat"]}, "1 labels, but the network has 3 classes"),
        ({"labels": ["cat"]}, "1 labels, but the network has 3 classes"),
        ({"format": "tim"}, "unknown format 'tim'. Did you mean timm?"),
    ],
)
def test_labels_and_formats_that_do_not_fit_are_refused(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(WeightsError, match=re.escape(said)):
        save_pretrained(built(PLAIN), tmp_path, **arguments)


@pytest.mark.parametrize("kind", ["densespec", "timm"])
def test_labels_are_kept_in_either_format(tmp_path: Path, kind: Any) -> None:
    names = ("ant", "bee", "cat")
    save_pretrained(built(PLAIN), tmp_path, format=kind, labels=names)
    again = from_pretrained(tmp_path, backend="numpy")
    assert again.densespec.accompaniment.labels == names


def test_what_timm_does_otherwise_without_a_trace_in_float32_is_warned_of(tmp_path: Path) -> None:
    keras = PLAIN.replace(batch_norm_epsilon=1.001e-5, running_variance="biased")
    with pytest.warns(WeightsWarning) as caught:
        save_pretrained(built(keras), tmp_path, format="timm")
    said = " ".join(str(warning.message) for warning in caught)
    assert "only training differs: running_variance" in said
    assert "below float32's own rounding" in said
