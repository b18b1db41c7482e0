"""Batches: every image once an epoch, the same wherever a run goes on, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading

import numpy as np
import pytest

from densespec import DenseNetSpec, TrainingRecipe, lower
from densespec.backends import own_samples
from densespec.data import Batches, DataError, Normalisation, Split
from densespec.errors import UnknownName
from densespec.network.graph import freeze
from tests.data.samples import dataset
from tests.publishing import publish

Arrays = list[tuple[np.ndarray, ...]]

DATA = dataset(50, size=(8, 8))
COUNT = len(DATA.train)  # 50


def batches(**options: object) -> Batches:
    given = {"batch_size": 16, "seed": 2, "augmentation": "cifar"} | options
    return Batches(DATA.train, DATA.normalisation, **given)  # type: ignore[arg-type]


def assert_equal(
    found: list[tuple[np.ndarray, ...]], expected: list[tuple[np.ndarray, ...]]
) -> None:
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        for array, same in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, same)


def test_an_epoch_has_every_image_once_and_keeps_what_is_left() -> None:
    found = batches()
    assert len(found) == found.steps_per_epoch == 4
    rows = [found.rows(3, step) for step in range(4)]
    assert [len(part) for part in rows] == [16, 16, 16, 2]
    assert sorted(np.concatenate(rows)) == list(range(COUNT))


def test_drop_last_leaves_out_what_makes_no_whole_batch() -> None:
    assert [len(y) for _, y in batches(drop_last=True).epoch(0)] == [16, 16, 16]


def test_epochs_have_orders_of_their_own_unless_not_shuffled() -> None:
    assert not np.array_equal(batches().order(0), batches().order(1))
    assert not np.array_equal(batches().order(0), batches(seed=3).order(0))
    assert batches(shuffle=False).order(4).tolist() == list(range(COUNT))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_are_channels_first_numbers_and_labels_int64(dtype: str) -> None:
    found = batches(dtype=dtype)
    x, y = found[0]
    assert (x.shape, x.dtype.name) == ((16, *found.shape), dtype)
    assert (y.shape, y.dtype.name) == ((16,), "int64")
    np.testing.assert_array_equal(y, DATA.train.y[found.rows(0, 0)])


def test_float32_images_are_the_float64_ones_rounded() -> None:
    for augmentation in ("none", "cifar", "imagenet"):
        (x, _), (exact, _) = (
            batches(dtype=dtype, augmentation=augmentation)[5] for dtype in ("float32", "float64")
        )
        np.testing.assert_array_equal(x, exact.astype(np.float32))


@pytest.mark.parametrize("start", [0, 1, 3, 4])
@pytest.mark.parametrize("ahead", [0, 1, 9])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_epoch_goes_on_from_any_step(start: int, ahead: int, workers: int) -> None:
    whole = [batches().batch(2, step) for step in range(4)]
    rest = batches().epoch(2, start, ahead=ahead, workers=workers)
    assert_equal(list(rest), whole[start:])


def test_images_that_are_read_are_prepared_by_a_thread_a_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two threads meet, each with a batch of its own in hand."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    meeting = threading.Barrier(2, timeout=60)

    class Meeting:
        shape = (8, 1, 4, 4)

        def read(self, index: int) -> np.ndarray:
            meeting.wait()
            return np.zeros((1, 4, 4), np.uint8)

        def take(self, rows: np.ndarray) -> Meeting:
            return self

    split = Split(Meeting(), np.zeros(8, int))
    found = Batches(split, Normalisation((0,), (1,)), batch_size=2, size=(4, 4))
    assert len(list(found.epoch(0))) == 4


def test_a_stream_goes_through_epochs_from_any_step() -> None:
    expected = [batches().batch(epoch, step) for epoch, step in ((1, 3), (2, 0), (2, 1))]
    assert_equal(list(itertools.islice(batches().stream(7), 3)), expected)
    assert_equal([batches()[step] for step in (7, 8, 9)], expected)


def test_batches_of_data_in_their_order_are_one_epoch() -> None:
    test = Batches.for_test(DATA, batch_size=3)
    np.testing.assert_array_equal(np.concatenate([y for _, y in test]), DATA.test.y)


def test_a_recipe_gives_the_batch_size() -> None:
    found = Batches.for_training(DATA, TrainingRecipe(batch_size=10), seed=4, augmentation="cifar")
    assert (found.batch_size, found.seed, found.augmentation) == (10, 4, "cifar")


class Unreadable:
    shape = (4, 1, 8, 8)

    def read(self, index: int) -> np.ndarray:
        if index == 2:
            raise DataError("image 2 can't be read")
        return np.zeros((1, 8, 8), np.uint8)

    def take(self, rows: np.ndarray) -> Unreadable:
        return self


def test_an_image_that_can_not_be_read_stops_the_loop_where_it_is() -> None:
    split = Split(Unreadable(), np.zeros(4, int))
    norm = dataset(10, channels=1).normalisation
    found = Batches(split, norm, batch_size=1, shuffle=False).epoch(0)
    assert [len(next(found)[1]) for _ in range(2)] == [1, 1]
    with pytest.raises(DataError, match="image 2 can't be read"):
        next(found)


def test_a_loop_that_is_left_early_leaves_no_thread() -> None:
    def running() -> int:
        return sum(thread.name.startswith("densespec-data") for thread in threading.enumerate())

    before = running()
    epoch = batches().epoch(0)
    next(epoch)
    assert running() > before
    epoch.close()  # type: ignore[attr-defined]
    assert running() == before


@pytest.mark.parametrize("step", [-1, 4])
def test_a_step_that_an_epoch_lacks_is_an_index_error(step: int) -> None:
    with pytest.raises(IndexError, match="steps are from 0 to 3"):
        batches().batch(0, step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0, but should be at least 1"),
        ({"batch_size": 51, "drop_last": True}, "50 samples make no batch of 51"),
        ({"dtype": "float16"}, "should be float32 or float64"),
        ({"size": (8,)}, "should be 2 positive numbers"),
        ({"size": (8, 0)}, "should be 2 positive numbers"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_options_that_are_not_allowed_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(**options)


# One sample that is left


def one_left() -> Batches:
    return batches(batch_size=7)  # 50 = 7 * 7 + 1


def test_a_last_batch_of_one_is_refused_where_norms_would_see_one_value() -> None:
    deep = lower(DenseNetSpec(blocks=(1, 1, 1, 1), growth_rate=4, classes=5), (8, 8))
    with pytest.raises(DataError, match=r"last batch of 1, of which block4.*use drop_last=True"):
        one_left().check_norms(deep)


def test_a_last_batch_of_one_is_kept_where_norms_see_more() -> None:
    flat = lower(DenseNetSpec(blocks=(1, 1), growth_rate=4, classes=5), (8, 8))
    one_left().check_norms(flat)
    assert [len(y) for _, y in one_left().epoch(0)][-1] == 1
    deep = lower(DenseNetSpec(blocks=(1, 1, 1, 1), growth_rate=4, classes=5), (8, 8))
    batches(batch_size=7, drop_last=True).check_norms(deep)
    batches(batch_size=8).check_norms(deep)


def test_a_last_batch_of_one_is_kept_where_such_norms_are_frozen() -> None:
    deep = lower(DenseNetSpec(blocks=(1, 1, 1, 1), growth_rate=4, classes=5), (8, 8))
    one_left().check_norms(freeze(deep, "classifier"))
    with pytest.raises(DataError, match=r"of which final\.norm has one value"):
        one_left().check_norms(freeze(deep, "final"))


def test_a_package_can_publish_a_feed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(given: Batches, epoch: int, *, scale: float) -> np.ndarray:
        return next(given.epoch(epoch))[0] * scale

    publish(monkeypatch, "densespec.feeds", mine=feed)
    found = batches().as_dataset("mine", 3, scale=2.0)
    np.testing.assert_array_equal(found, batches().batch(3, 0)[0] * 2)


def test_an_unknown_feed_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownName, match=r"unknown feed 'kera'\. Did you mean keras\?"):
        batches().as_dataset("kera")


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.3, "rotation": 20}, {"cutmix": 1.0}])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_parts_of_batches_are_those_of_the_whole(
    changes: dict[str, float], accumulate: int
) -> None:
    """Each process prepares its own share of each part of a batch."""
    recipe = TrainingRecipe(batch_size=16, seed=2, **changes)  # type: ignore[arg-type]
    whole = Batches.for_training(DATA, recipe, augmentation="cifar")
    for step in range(4):
        x, labels = whole.batch(1, step)
        seen = []
        for rank in range(2):
            share = functools.partial(_half, rank)
            own = functools.partial(own_samples, share, accumulate=accumulate)
            places = own(len(x))
            found = dataclasses.replace(whole, part=own).batch(1, step)
            assert_equal([found], [(x[places], labels[places])])
            seen += list(places)
        assert sorted(seen) == list(range(len(x)))


def _half(rank: int, count: int) -> slice:
    return slice(0, count // 2) if rank == 0 else slice(count // 2, count)
