"""TensorFlow's checkpoints and SavedModels: by which paths they are found, and what is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from densespec import installed
from densespec.errors import PackageMissing, WeightsError
from densespec.weights.containers import open_file, other_packages
from densespec.weights.opening import open_weights
from tests.containers.samples import read_all, refusal

CASES = Path(__file__).parents[1] / "cases"
CHECKPOINT = CASES / "original_keras2_checkpoint"
SAVED_MODEL = CASES / "original_keras2_saved_model" / "net"
VARIABLES = SAVED_MODEL / "variables"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of a checkpoint's index, beside its data."""
    for path in CHECKPOINT.glob("net.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "net.index"


@pytest.mark.parametrize(
    "path",
    [
        CHECKPOINT / "net",
        CHECKPOINT / "net.index",
        CHECKPOINT / "net.data-00000-of-00001",
        CHECKPOINT,
        SAVED_MODEL,
        SAVED_MODEL / "saved_model.pb",
        VARIABLES,
        VARIABLES / "variables",
        VARIABLES / "variables.index",
    ],
    ids=lambda path: str(path.relative_to(CASES)),
)
def test_every_path_of_a_checkpoint_leads_to_its_arrays(path: Path) -> None:
    pytest.importorskip("tensorflow")
    with open_weights(path) as found:
        assert (found.container, found.layout.name) == ("tensorflow", "original-keras")
        assert found.path == path


def test_the_newest_of_several_checkpoints_in_a_folder_is_read(checkpoint: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    folder = checkpoint.parent
    newer = tensorflow.Variable(np.ones(3, "float32"), name="newer")
    tensorflow.train.Checkpoint(newer=newer).save(str(folder / "later"))
    assert list(read_all(folder)) == ["newer"]
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/../net"\n')
    assert "conv1/conv2d/kernel" in " ".join(read_all(folder))


def test_of_several_checkpoints_that_nothing_tells_apart_none_is_guessed(checkpoint: Path) -> None:
    shutil.copy(checkpoint, checkpoint.with_name("other.index"))
    assert refusal(checkpoint.parent).startswith("a folder, but should be a weight file")


def _no_magic(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-1])


def _no_data(index: Path) -> None:
    index.with_name("net.data-00000-of-00001").unlink()


def _short_data(index: Path) -> None:
    data = index.with_name("net.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-100])


def _changed_data(index: Path) -> None:
    data = index.with_name("net.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


@pytest.mark.parametrize("harm", [_no_magic, _no_data, _short_data, _changed_data])
def test_what_is_damaged_is_refused_in_a_line(
    checkpoint: Path, harm: Callable[[Path], None]
) -> None:
    pytest.importorskip("tensorflow")
    harm(checkpoint)
    assert "\n" not in refusal(checkpoint)


def test_without_variables_of_a_model_it_says_what_to_save(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.train.Checkpoint().save(str(tmp_path / "net"))
    assert "model.save_weights('net.weights.h5')" in refusal(tmp_path / "net-1.index")


def test_of_arrays_of_equal_names_those_of_a_layer_stay_together(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    leaves = ("gamma", "beta", "kernel", "kernel", "bias")
    variables = [
        tensorflow.Variable([float(n)], name=f"net/{leaf}") for n, leaf in enumerate(leaves)
    ]
    tensorflow.train.Checkpoint(layers=variables).write(str(tmp_path / "net"))
    assert {name: int(array[0]) for name, array in read_all(tmp_path / "net.index").items()} == {
        "net/0/gamma": 0,
        "net/0/beta": 1,
        "net/1/kernel": 2,
        "net/2/kernel": 3,
        "net/2/bias": 4,
    }


def test_optimizers_and_counters_are_left_aside(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    kernel = tensorflow.Variable([1.0], name="conv/kernel")
    optimizer = tensorflow.Module()
    optimizer.rate = tensorflow.Variable(0.1, name="rate")
    saved = tensorflow.train.Checkpoint(kernel=kernel, optimizer=optimizer)
    path = Path(f"{saved.save(str(tmp_path / 'net'))}.index")
    with open_file(path) as found:
        assert list(found.tensors) == ["conv/kernel"]
        assert found.metadata["skipped"] == '["rate", "save_counter"]'


def test_names_of_tensorflow_1_are_the_keys(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    prefix = str(tmp_path / "model.ckpt")
    tensorflow.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=["net/conv1/weights"],
        shape_and_slices=[""],
        tensors=[tensorflow.constant([1.0, 2.0])],
    )
    assert [array.tolist() for array in read_all(Path(prefix)).values()] == [[1.0, 2.0]]


def test_without_tensorflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "is_installed", lambda package: package != "tensorflow")
    with pytest.raises(PackageMissing, match=r"densespec\[tensorflow\]"), open_file(SAVED_MODEL):
        pass


def test_a_key_is_refused() -> None:
    with pytest.raises(WeightsError, match="only PyTorch files have keys"):
        open_file(SAVED_MODEL, key="model")


def test_another_package_may_bring_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def files(self, path: Path) -> list[Path]:
            return [path] if path.is_file() and path.read_bytes().startswith(b"MINE") else []

        def read(self, opened: object) -> None:
            opened.add("w", (2,), "uint8", lambda dtype: np.arange(2, dtype=dtype))  # type: ignore[attr-defined]

    monkeypatch.setattr(
        other_packages.published, "load_all", lambda group, kind: {"mine": Reader()}
    )
    path = tmp_path / "net.mine"
    path.write_bytes(b"MINE")
    with open_file(path) as found:
        assert (found.container, found.naming) == ("mine", "mine")
        assert found.tensors["w"].read().tolist() == [0, 1]
