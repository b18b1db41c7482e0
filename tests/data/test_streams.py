"""Streams of Hugging Face's datasets, from files of parquet on this disk."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec import data
from densespec.data import Batches, DataError
from densespec.data.draws import by_groups
from densespec.data.streams import items_of
from densespec.errors import PackageMissing

pytest.importorskip("pyarrow")
COLUMNS = ("image",), ("label",)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Hugging Face's package, which asks no network."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        module = pytest.importorskip("datasets")
        hub = pytest.importorskip("huggingface_hub")  # another test may have imported both
        for read_before in (module.config, hub.constants):
            patched.setattr(read_before, "HF_HUB_OFFLINE", True)
        module.disable_progress_bars()
        yield module


def png(value: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, datasets: Any, values: range, labels: Any = None, rows: int = 6) -> None:
    """Images that have their number as every pixel, which modulo 3 is the label."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "ant"])}
    )
    table = {
        "image": [{"bytes": png(value), "path": None} for value in values],
        "label": labels or [value % 3 for value in values],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(table, features=features).to_parquet(path, batch_size=rows)


@pytest.fixture(scope="module")
def folder(datasets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of 20 images, in groups of 6 rows and one of 2; and 12 images to test on."""
    root = tmp_path_factory.mktemp("set")
    for number in range(3):
        values = range(number * 20, number * 20 + 20)
        write(root / f"train-{number:05}-of-00003.parquet", datasets, values)
    write(root / "test-00000-of-00001.parquet", datasets, range(60, 72))
    return root


@pytest.fixture
def stream(datasets: Any, folder: Path) -> Any:
    return datasets.load_dataset(str(folder), streaming=True)["train"]


def numbers(split: data.Split) -> list[int]:
    return [int(split.image(index).max()) for index in range(len(split))]


def test_a_folder_is_read_by_groups_of_rows(folder: Path) -> None:
    found = data.load(f"huggingface:{folder}")
    assert found.classes == ("cat", "dog", "ant")
    assert found.train.shape == (3, None, None)
    assert numbers(found.train) == list(range(60))
    assert numbers(found.test) == list(range(60, 72))
    np.testing.assert_array_equal(found.train.y, np.arange(60) % 3)
    sizes = np.unique(found.train.x.groups, return_counts=True)[1]  # type: ignore[union-attr]
    assert sizes.tolist() == [6, 6, 6, 2] * 3


def test_labels_are_found_without_the_images(
    folder: Path, datasets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("datasets.packaged_modules.parquet.parquet")
    asked: list[Any] = []
    make = parquet.Parquet._generate_tables

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(self.config.columns)
        return make(self, *arguments, **options)

    monkeypatch.setattr(parquet.Parquet, "_generate_tables", noted)
    found = data.load(f"huggingface:{folder}")
    read = [columns for columns in asked if columns != ["label"]]
    assert len(asked) > 12
    assert len(read) == 2  # of both splits, for the first image, which tells the kind
    found.train.image(59)
    assert len([columns for columns in asked if columns != ["label"]]) == len(read) + 1


def test_a_run_goes_on_in_the_middle_of_an_epoch(folder: Path) -> None:
    def batches() -> Batches:
        found = data.load(f"huggingface:{folder}")
        return Batches(found.train, found.normalisation, batch_size=7, seed=3, size=(4, 5))

    whole = list(batches().epoch(1, workers=3))
    for (x, y), (again, labels) in zip(batches().epoch(1, 4), whole[4:], strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, labels)


def test_streams_of_any_files_and_functions(stream: Any) -> None:
    def turned(item: Any) -> Any:
        return item | {"image": item["image"].rotate(180)}

    plain = data.of_items(stream)
    assert (len(plain.train), len(plain.test), plain.classes) == (48, 12, ("cat", "dog", "ant"))
    changed = data.of_items(stream.map(turned), stream.filter(lambda item: item["label"] == 1))
    assert numbers(changed.train) == list(range(60))
    assert numbers(changed.test) == list(range(1, 60, 3))


def test_each_shard_is_read_once_an_epoch(stream: Any) -> None:
    items = items_of(stream, *COLUMNS)
    read: list[int] = []
    items._shards = [_Noted(shard, read, number) for number, shard in enumerate(items._shards)]
    found = data.of_items(items, items)
    read.clear()
    order = by_groups(3, "order", 0, found.train.x.groups)  # type: ignore[union-attr]
    for row in order:
        found.train.image(row)
    assert sorted(read) == list(range(1, 12))  # the first was kept from telling the kind


class _Noted:
    def __init__(self, shard: Any, read: list[int], number: int) -> None:
        self.shard, self.read, self.number = shard, read, number

    def items(self, columns: Any) -> Any:
        self.read.append(self.number)
        return self.shard.items(columns)


def test_streams_are_sent_to_other_processes(stream: Any) -> None:
    found = data.of_items(stream)
    again = pickle.loads(pickle.dumps(found))
    assert numbers(again.train)[:3] == numbers(found.train)[:3]


@pytest.mark.parametrize(
    "change",
    [
        lambda stream, datasets: stream.shuffle(seed=1),
        lambda stream, datasets: stream.repeat(2),
        lambda stream, datasets: stream.take(9),
        lambda stream, datasets: stream.skip(9),
        lambda stream, datasets: datasets.interleave_datasets([stream, stream]),
        lambda stream, datasets: pytest.importorskip("datasets.distributed").split_dataset_by_node(
            stream, 0, 2
        ),
    ],
    ids=["shuffled", "repeated", "taken", "skipped", "interleaved", "of a node"],
)
def test_streams_whose_shards_are_no_parts_of_them_are_refused(
    stream: Any, datasets: Any, change: Any
) -> None:
    with pytest.raises(DataError, match="its shards are not parts of it: give it whole"):
        data.of_items(change(stream, datasets))


def test_columns_of_other_names_are_told(stream: Any) -> None:
    with pytest.raises(
        DataError, match=r"the columns \['photo', 'label'\], but none of image, img"
    ):
        data.of_items(stream.rename_column("image", "photo"))


def test_labels_that_change_are_noticed(datasets: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write(path, datasets, range(20))
    found = data.load(f"huggingface:{tmp_path}")
    write(path, datasets, range(20), labels=[1] * 20)
    with pytest.raises(DataError, match="shard 1 of the stream has other labels than at first"):
        found.train.image(8)


def test_a_part_whose_labels_are_secret_is_not_tested_on(datasets: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", datasets, range(12))
    write(tmp_path / "test.parquet", datasets, range(12, 18), labels=[-1] * 6)
    write(tmp_path / "validation.parquet", datasets, range(20, 26))
    assert numbers(data.load(f"huggingface:{tmp_path}").test) == list(range(20, 26))


def test_what_is_damaged_or_no_picture_is_refused_by_its_place(
    datasets: Any, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    table = {"image": [{"bytes": b"%!PS-Adobe", "path": None}] * 9, "label": [0, 1, 2] * 3}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)
    with pytest.raises(DataError, match="the image of item 0: not a readable image of the formats"):
        data.load(f"huggingface:{tmp_path}")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="can't be read"):
        data.load(f"huggingface:{tmp_path}")


@pytest.mark.parametrize("place", ["nobody/nothing", "nobody/nothing@1:plain", os.sep + "absent"])
def test_sets_that_are_not_there_are_refused_by_name(datasets: Any, place: str) -> None:
    with pytest.raises(DataError, match=f"{place} can't be read: "):
        data.load(f"huggingface:{place}")


def test_the_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match=r"pip install 'densespec\[datasets\]'"):
        data.load(f"huggingface:{folder}")


def test_images_beside_the_table_are_fetched(datasets: Any, tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    found = data.load(f"huggingface:{tmp_path}")
    assert found.classes == ("cat", "dog")
    assert sorted(numbers(found.train) + numbers(found.test)) == list(range(10))
