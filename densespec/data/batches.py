"""Makes batches of training: the seed decides which images they have, in which order.

The order of an epoch is the permutation of the stream ``(seed, "order", position = epoch)`` of
:mod:`densespec.data.draws`: the stable argsort of its first ``count`` numbers. Without shuffling it
is 0, 1, 2, ... For images in shards it is the order of :func:`densespec.data.draws.by_groups`, with
the same stream. Batch ``step`` of an epoch takes the next ``batch_size`` of it. The last batch
holds what is left, as in the paper's code, unless ``drop_last`` leaves it out.

The epoch and the step decide each batch, so a continued run sees what it would have seen.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from densespec import published
from densespec.backends import DataFormat
from densespec.data.augment import ImageRequest, augmentation
from densespec.data.dataset import DataError, Dataset, GroupedImages, Normalisation, Split
from densespec.data.draws import by_groups, check_seed, permutation
from densespec.data.operations import check_operations, varied
from densespec.data.operations.mixing import Pairs, mixed
from densespec.errors import shown
from densespec.network.fields import LIMIT
from densespec.network.graph import Graph
from densespec.network.ops import BatchNorm
from densespec.recipes.recipe import TrainingRecipe

GROUP = "densespec.feeds"

LabelledBatch = tuple[np.ndarray, np.ndarray]
"""Holds normalised images (batch, channels, *size) and labels.

Labels are int64 (batch,), or float64 (batch, classes) if an image has several labels, or shares of
several.
"""

DTYPES = ("float32", "float64")

MOST_WORKERS = 8
"""By default at most this many threads prepare batches: more of them wait for each other."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Gives the batches of a split, epoch after epoch.

    Attributes:
        split: The images and their labels.
        normalisation: The normalisation that turns pixels into numbers.
        batch_size: The number of samples in a batch.
        seed: The seed of the order and of the augmentation.
        augmentation: ``"none"``, ``"cifar"`` or ``"imagenet"``; see :mod:`densespec.data.augment`.
        shuffle: Whether each epoch has an order of its own.
        size: The size to which images are brought; None for the size that they have.
        dtype: The type of the images, ``"float32"`` or ``"float64"``.
        drop_last: Whether an incomplete batch at the end of an epoch is left out.
        recipe: The recipe whose operations are done to images besides the augmentation; None for
            none. See :mod:`densespec.data.operations`.
        classes: The number of classes, if labels will be mixed.
        part: The function that takes the number of samples in a batch and returns the places of
            those to prepare, if each of several processes prepares its own; None for all.

    Raises:
        DataError, SeedError, UnknownName: A value is not allowed; the message says which values
            are.
    """

    split: Split
    normalisation: Normalisation
    batch_size: int = 64
    seed: int = 0
    augmentation: str = "none"
    shuffle: bool = True
    size: tuple[int, ...] | None = None
    dtype: str = "float32"
    drop_last: bool = False
    recipe: TrainingRecipe | None = None
    classes: int | None = None
    part: Callable[[int], np.ndarray] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "size", self._size())
        if self.batch_size < 1:
            raise DataError(f"batch_size = {self.batch_size}, but should be at least 1")
        if self.dtype not in DTYPES:
            raise DataError(f"dtype = {shown(self.dtype)}, but should be {' or '.join(DTYPES)}")
        if not self.steps_per_epoch:
            raise DataError(
                f"{len(self.split)} samples make no batch of {self.batch_size}: take a smaller "
                "batch_size, or drop_last=False"
            )
        dims = len(self.split.shape) - 1
        augmentation(self.augmentation, dims)
        if self.recipe is not None:
            check_operations(self.recipe, dims)
            if self.recipe.mixes and self.classes is None and self.split.y.ndim == 1:
                raise DataError("labels are mixed by classes: say how many there are")

    def _size(self) -> tuple[int, ...]:
        own = self.split.shape[1:]
        sizes = own if self.size is None else tuple(self.size)
        if len(sizes) != len(own) or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise DataError(
                f"size = {shown(self.size)}, but should be {len(own)} positive numbers; None is "
                f"for images that have one size, and these have {own}"
            )
        known = tuple(size for size in sizes if size is not None)
        if math.prod(known) >= LIMIT:
            raise DataError(f"size = {known}, but an image should have fewer than 2**31 pixels")
        return known

    @classmethod
    def for_training(cls, dataset: Dataset, recipe: TrainingRecipe, **options: Any) -> Self:
        """Make the batches that a recipe trains on; ``options`` are further attributes."""
        stated = {
            "batch_size": recipe.batch_size,
            "seed": recipe.seed,
            "augmentation": recipe.augmentation,
            "recipe": recipe,
            "classes": len(dataset.classes),
        }
        return cls(dataset.train, dataset.normalisation, **(stated | options))

    @classmethod
    def for_test(cls, dataset: Dataset, **options: Any) -> Self:
        """Make batches of what to test on, in its order; ``options`` are further attributes."""
        return cls(dataset.test, dataset.normalisation, shuffle=False, **options)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches of an epoch."""
        count = len(self.split)
        return count // self.batch_size if self.drop_last else math.ceil(count / self.batch_size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one image, (channels, *size)."""
        channels = self.split.shape[0]
        assert channels is not None, "channels are always known"
        assert self.size is not None, "it has been filled in"
        return (channels, *self.size)

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices within the split, in the order of an epoch."""
        if not self.shuffle:
            return np.arange(len(self.split))
        if isinstance(self.split.x, GroupedImages):
            return _order_by_groups(self.split, self.seed, epoch)
        return permutation(self.seed, "order", epoch, len(self.split))

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """Return the indices within the split of a batch.

        Raises:
            IndexError: The epoch has no such step.
        """
        if epoch < 0 or not 0 <= step < self.steps_per_epoch:
            raise IndexError(
                f"epoch {epoch} has no step {step}; steps are from 0 to {self.steps_per_epoch - 1}"
            )
        return self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def batch(self, epoch: int, step: int) -> LabelledBatch:
        """Return a batch, or its part, whatever came before it.

        Raises:
            IndexError: The epoch has no such step.
            DataError: An image can't be read.
        """
        rows = self.rows(epoch, step)
        if self.part is None:
            return self._prepared_rows(rows, epoch, step)
        own = self.part(len(rows))
        if self.recipe is None or not self.recipe.mixes:
            return self._prepared_rows(rows[own], epoch, step)
        before = (own - 1) % len(rows)
        needed = np.union1d(own, before)
        pairs = np.searchsorted(needed, own), np.searchsorted(needed, before)
        return self._prepared_rows(rows[needed], epoch, step, pairs)

    def _prepared_rows(
        self, rows: np.ndarray, epoch: int, step: int, pairs: Pairs | None = None
    ) -> LabelledBatch:
        """Prepare images of a batch; of those that are mixed, the pairs of them."""
        prepare = augmentation(self.augmentation, len(self.shape) - 1)
        assert self.size is not None, "it has been filled in"
        request = ImageRequest(
            self.split, rows, self.seed, epoch, self.size, self.normalisation, np.dtype(self.dtype)
        )
        x, labels = prepare(request), self.split.y[rows]
        if self.recipe is None:
            return x, labels
        recipe = self.recipe.replace(seed=self.seed)
        x = varied(x, rows, recipe, self.normalisation, epoch=epoch)
        at, classes = epoch * self.steps_per_epoch + step, self.classes or labels.shape[-1]
        return mixed(x, labels, recipe, classes=classes, step=at, pairs=pairs)

    def __getitem__(self, step: int) -> LabelledBatch:
        """Return a batch by its step in the whole training run, counted from 0 over all epochs."""
        return self.batch(*divmod(step, self.steps_per_epoch))

    def epoch(
        self,
        epoch: int,
        start_step: int = 0,
        *,
        ahead: int | None = None,
        workers: int | None = None,
    ) -> Iterator[LabelledBatch]:
        """Yield the batches of an epoch from a step on, prepared in the background.

        Args:
            ahead: How many batches may be ready before they are asked for; None for two a
                worker. With 0 there are none, and no thread.
            workers: How many threads prepare them; None for one, or of images that are read when
                they are needed as many as there are processors, at most 8. They change no batch and
                no order.
        """
        first = epoch * self.steps_per_epoch
        steps = range(first + start_step, first + self.steps_per_epoch)
        return self._prepared(iter(steps), ahead, workers)

    def stream(
        self, start_step: int = 0, *, ahead: int | None = None, workers: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield batches without end, epoch after epoch, from a step of the whole run on."""
        return self._prepared(itertools.count(start_step), ahead, workers)

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yield the batches of the first epoch: those of all epochs, if data are not shuffled."""
        return self.epoch(0)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def _prepared(
        self, steps: Iterator[int], ahead: int | None, workers: int | None
    ) -> Iterator[LabelledBatch]:
        workers = self._workers() if workers is None else workers
        ahead = 2 * workers if ahead is None else ahead
        if ahead < 1:
            yield from map(self.__getitem__, steps)
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="densespec-data")
        waiting: deque[Future[LabelledBatch]] = deque()
        try:
            for step in itertools.islice(steps, ahead):
                waiting.append(pool.submit(self.__getitem__, step))
            while waiting:
                ready = waiting.popleft().result()
                for step in itertools.islice(steps, 1):
                    waiting.append(pool.submit(self.__getitem__, step))
                yield ready
        finally:
            pool.shutdown(cancel_futures=True)

    def _workers(self) -> int:
        if isinstance(self.split.x, np.ndarray):
            return 1
        return min(MOST_WORKERS, os.cpu_count() or 1)

    def check_norms(self, graph: Graph, devices: int = 1) -> None:
        """Check that no batch leaves a batch norm a single value to take a variance of.

        Frozen norms take none.

        The unbiased variance of one value is not defined, and PyTorch refuses to train on it.

        Args:
            graph: The network at the size of these images.
            devices: Among how many each batch is split.

        Raises:
            DataError: The last batch would; the message says what to do.
        """
        left = len(self.split) % self.batch_size
        smallest = self.batch_size if self.drop_last or not left else left
        smallest //= self._parts(devices)
        for node in graph.nodes_of(BatchNorm):
            if smallest == 1 and not node.frozen and set(node.shape[1:]) == {1}:
                raise DataError(
                    f"{len(self.split)} samples leave a last batch of 1, of which {node.name} has "
                    "one value in each channel, and one value has no variance: use drop_last=True "
                    "or another batch_size"
                )

    def _parts(self, devices: int) -> int:
        """Return the number of parts of a batch, if each part is normalised by itself."""
        if self.recipe is None:
            return 1
        alone = self.recipe.batch_norm == "per-replica"
        return self.recipe.accumulate * (devices if alone else 1)

    def as_dataset(self, framework: str, *arguments: Any, **options: Any) -> Any:
        """Return these batches in the form that a framework trains from, with the same numbers.

        What makes that form is published under the entry-point group ``densespec.feeds`` by the
        package that knows the framework, so any package can offer one. It is called with these
        batches, and then with ``arguments`` and ``options``.

        Args:
            framework: The name of the feed, such as ``"torch"``, ``"keras"`` or ``"tf"``.

        Raises:
            UnknownName: No package offers such a feed; the message suggests near names.
            PackageMissing: The framework is not installed; the message says what to install.
        """
        return published.load(GROUP, "feed", framework)(self, *arguments, **options)

    def as_torch_dataset(self, epoch: int = 0) -> Any:
        """Return a dataset for ``torch.utils.data.DataLoader(..., batch_size=None)``.

        Its items are the whole batches of an epoch, so the loader must not batch them again. Call
        its ``set_epoch`` before each epoch, as with PyTorch's distributed sampler.
        """
        return self.as_dataset("torch", epoch)

    def as_tf_dataset(
        self, epochs: Sequence[int] = (0,), *, data_format: DataFormat = "channels_last"
    ) -> Any:
        """Return a ``tf.data.Dataset`` of the batches of some epochs, such as ``range(40)``."""
        return self.as_dataset("tf", epochs, data_format=data_format)

    def as_keras_dataset(
        self, start_step: int = 0, *, data_format: DataFormat | None = None, workers: int = 1
    ) -> Any:
        """Return a ``keras.utils.PyDataset`` for ``fit``, ``evaluate`` and ``predict``.

        ``fit`` shuffles the batches of a dataset that ends. So one of shuffled data has no end:
        give ``fit`` ``steps_per_epoch=batches.steps_per_epoch``, and it goes on where the last
        epoch stopped. One of data in their own order is one epoch.

        Args:
            start_step: The step of the whole training run to go on from.
            data_format: The layout of the images; None for Keras's ``image_data_format``.
            workers: How many threads prepare batches.
        """
        return self.as_dataset("keras", start_step, data_format=data_format, workers=workers)


@functools.lru_cache(maxsize=4)
def _order_by_groups(split: Split, seed: int, epoch: int) -> np.ndarray:
    assert isinstance(split.x, GroupedImages), "only their order is asked for"
    return by_groups(seed, "order", epoch, split.x.groups)
