"""Data sets of items by index, as torch's and Hugging Face's are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from densespec import data
from densespec.data import DataError


class Pairs:
    """As a ``torch.utils.data.Dataset``: images (3, 4, 5) and a class each."""

    classes = ("cat", "dog")

    def __init__(self, count: int = 10) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.read += 1
        return np.full((3, 4, 5), index / 10, np.float32), index % 2


class Table:
    """As a data set of Hugging Face's: columns by name, items that are tables."""

    column_names = ("image", "label")

    def __init__(self, images: list[Any], labels: list[Any], names: Any = ("cat", "dog")) -> None:
        self.columns = {"image": images, "label": labels}
        self.features = {"label": type("ClassLabel", (), {"names": names})}

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.columns[index]
        return {name: column[index] for name, column in self.columns.items()}


def test_pairs_are_read_when_they_are_needed() -> None:
    items = Pairs()
    found = data.of_items(items)
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.test), found.size) == (8, 2, None)
    assert found.normalisation.scale == 1.0
    before = items.read
    batches = data.Batches(found.train, found.normalisation, batch_size=4, size=(4, 5))
    x, y = batches[0]
    assert (x.shape, items.read - before) == ((4, 3, 4, 5), 4)
    mean, std = found.normalisation.mean[0], found.normalisation.std[0]
    indices = np.rint((x[:, 0, 0, 0] * std + mean) * 10)
    np.testing.assert_array_equal(indices % 2, y)


def test_tables_of_pictures() -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGBA", (5, 4), (index, 0, 0, 128)) for index in range(10)]
    found = data.of_items(Table(pictures, [0, 1] * 5))
    assert found.classes == ("cat", "dog")
    assert found.normalisation.scale == 255
    assert found.train.image(0).shape == (3, 4, 5)
    grey = data.of_items(Table(pictures, [0, 1] * 5), channels=1)
    assert grey.train.shape == (1, None, None)


def test_several_labels_and_volumes() -> None:
    volumes = [np.zeros((1, 2, 3, 4), np.uint8) for _ in range(10)]
    labels = [np.array([index % 2, np.nan]) for index in range(10)]
    found = data.of_items(
        list(zip(volumes, labels, strict=True)), channels=1, classes=("a", "b"), name="scans"
    )
    assert found.has_several
    assert found.train.shape == (1, None, None, None)
    assert found.train.image(0).shape == (1, 2, 3, 4)
    found.check_loss("sigmoid")


def test_intensities_that_are_no_pictures_are_measured() -> None:
    values = np.arange(20.0).reshape(10, 2) * 100 - 500
    items = [(np.tile(v[:, None, None], (1, 4, 4)), 0) for v in values]
    found = data.of_items(items, channels=2)
    seen = np.stack([found.train.image(i)[:, 0, 0] for i in range(len(found.train))])
    np.testing.assert_allclose(found.normalisation.mean, seen.mean(0))
    np.testing.assert_allclose(found.normalisation.std, seen.std(0))
    assert not found.normalisation.is_share


def test_names_are_labels_in_their_order() -> None:
    items = [(np.zeros((3, 4, 4)), name) for name in ("dog", "cat") * 5]
    found = data.of_items(items, [(np.zeros((3, 4, 4)), "bird")])
    assert found.classes == ("bird", "cat", "dog")
    assert (found.train.y.tolist(), found.test.y.tolist()) == ([2, 1] * 5, [0])


class Part:
    """As ``torch.utils.data.Subset``."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


def test_parts_of_a_set_keep_its_classes_and_labels() -> None:
    whole = Pairs()
    found = data.of_items(Part(whole, [0, 2, 4, 6, 8, 1]), Part(whole, [3, 5]))
    assert found.classes == ("cat", "dog")
    assert (found.train.y.tolist(), found.test.y.tolist()) == ([0] * 5 + [1], [1, 1])
    whole.targets = [index % 2 for index in range(10)]  # type: ignore[attr-defined]
    before = whole.read
    data.of_items(Part(whole, [0, 2, 1]), Part(whole, [3, 5]))
    assert whole.read - before <= 6  # first images, and none for labels


def test_what_has_a_length_and_no_index_is_kept() -> None:
    pairs = Pairs()
    sized = type(
        "Sized", (), {"__len__": lambda _: 10, "__iter__": lambda _: (pairs[i] for i in range(10))}
    )
    found = data.of_items(sized())
    assert len(found.train) == 8
    assert pairs.read == 10
    found.train.image(3)
    assert pairs.read == 10


def test_data_sets_of_torch() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

    x = np.random.default_rng(1).random((10, 3, 4, 5), np.float32)
    pairs = TensorDataset(torch.tensor(x), torch.arange(10) % 2)
    for items in (pairs, Subset(pairs, range(10)), ConcatDataset([pairs])):
        found = data.of_items(items)
        assert sorted([*found.train.y, *found.test.y]) == [0] * 5 + [1] * 5
        seen = [part.image(i) for part in (found.train, found.test) for i in range(len(part))]
        np.testing.assert_array_equal(sorted(map(bytes, seen)), sorted(map(bytes, x)))
    with pytest.raises(DataError, match=r"seems to be a batch|label of item"):
        data.of_items(DataLoader(pairs, batch_size=5))
    grown = TensorDataset(torch.tensor(x, requires_grad=True), torch.arange(10) % 2)
    with pytest.raises(DataError, match=r"the image of item 0: .*detach"):
        data.of_items(grown)


def test_data_sets_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGB", (5, 4), (index, 0, 0)) for index in range(10)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    items = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1] * 5}, features=datasets.Features(features)
    )
    for form in (None, "numpy"):
        found = data.of_items(items.with_format(form))
        assert (found.classes, found.train.image(0).shape) == (("cat", "dog"), (3, 4, 5))
        for index, label in enumerate(found.train.y):
            assert found.train.image(index)[0, 0, 0] % 2 == label
    with pytest.raises(DataError, match="have the parts train: give one of them"):
        data.of_items(datasets.DatasetDict(train=items))
    found, streamed = data.of_items(items), data.of_items(items.to_iterable_dataset())
    np.testing.assert_array_equal(streamed.train.y, found.train.y)
    for index in range(len(found.train)):
        np.testing.assert_array_equal(streamed.train.image(index), found.train.image(index))


def test_data_sets_of_tensorflow() -> None:
    """In a process of its own, as every use of TensorFlow in tests."""
    pytest.importorskip("tensorflow")
    code = """
import numpy as np, pytest, tensorflow as tf
from densespec import data
x = np.random.default_rng(1).random((10, 4, 5, 3)).astype("float32")
items = tf.data.Dataset.from_tensor_slices((x, np.arange(10) % 2))
found = data.of_items(items)
seen = [part.image(i) for part in (found.train, found.test) for i in range(len(part))]
assert sorted(map(bytes, seen)) == sorted(map(bytes, np.ascontiguousarray(np.moveaxis(x, -1, 1))))
for stream in (items.repeat(), items.filter(lambda image, label: True)):
    with pytest.raises(data.DataError, match="have no known length"):
        data.of_items(stream)
with pytest.raises(data.DataError, match="seems to be a batch"):
    data.of_items(items.batch(5))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_part_to_test_on_is_taken_as_it_is() -> None:
    found = data.of_items(Pairs(6), Pairs(3), classes=("x", "y"))
    assert (len(found.train), len(found.test), found.classes) == (6, 3, ("x", "y"))


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (iter([1]), {}, "have no known length, and no shards: such a str"),
        ({"train": [1], "test": [2]}, {}, "have the parts train, test: give one of them"),
        (type("Sized", (), {"__len__": lambda _: 3})(), {}, "neither by index nor one by one"),
        (
            [(np.zeros((3, 4, 4)), [0]), (np.zeros((3, 4, 4)), [0, 1])],
            {},
            "label of item 1 has sha",
        ),
        ([(np.zeros((5, 3, 4, 4)), np.zeros(5, int))] * 9, {}, "seems to be a batch: give items"),
        ([(np.zeros((3, 4, 4)), 0.5)] * 9, {}, "y has shape .9,. and type float64"),
        ([(np.zeros((3, 4, 4)), "x")] * 9, {"classes": "ab"}, "label of item 0 is 'x', but classe"),
        ([], {}, "there are no items"),
        ([3], {}, "item 0 is of type int, but should be .image, label."),
        ([{"photo": 1, "label": 1}], {}, "item 0 has photo, label, but none of image, img"),
        ([(np.zeros((3, 4, 4), int), 0)], {}, "item 0: it is of type int64, but should be uint8"),
        ([(np.zeros((3, 4, 4)), 0)] * 9, {"channels": 1}, "has shape .3, 4, 4., but should have 1"),
        ([(np.full((3, 4, 4), np.nan), 0)] * 9, {}, "image of item 0: it has a value that is not"),
        ([(np.zeros(4), 0)], {}, "but should have"),
    ],
)
def test_items_that_are_no_images_and_labels_are_refused(
    items: Any, options: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data.of_items(items, **options).train.image(0)
