"""Batches as what frameworks train from. Each gives the very same numbers as ``Batches``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from densespec.backends import DataFormat
    from densespec.data.batches import Batch, Batches


class TorchBatches:
    """A map-style dataset of PyTorch whose items are the batches of an epoch, channels first.

    The epoch is in shared memory, so that workers which outlive an epoch are told of it.
    """

    def __init__(self, batches: Batches, epoch: int) -> None:
        import torch

        self._batches = batches
        self._epoch = torch.tensor(epoch)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._batches.steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Any, Any]:
        """Images and labels as tensors.

        Raises:
            IndexError: the epoch has no such step.
        """
        import torch

        x, y = self._batches.batch(int(self._epoch), step)
        return torch.from_numpy(x), torch.from_numpy(y)


def tf_dataset(batches: Batches, epochs: Sequence[int], data_format: DataFormat) -> Any:
    """A ``tf.data.Dataset`` of the batches of some epochs, one after another."""
    import tensorflow as tf

    def generate() -> Iterator[Batch]:
        for epoch in epochs:
            for x, y in batches.epoch(epoch):
                yield laid_out(x, data_format), y

    channels, *sizes = batches.shape
    image = (*sizes, channels) if data_format == "channels_last" else (channels, *sizes)
    signature = (
        tf.TensorSpec((None, *image), batches.dtype),
        tf.TensorSpec((None,), "int64"),
    )
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    count = len(epochs) * batches.steps_per_epoch
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


def keras_dataset(
    batches: Batches, start_step: int, data_format: DataFormat | None, workers: int
) -> Any:
    """A ``keras.utils.PyDataset``: see :meth:`Batches.as_keras_dataset`."""
    import keras

    layout = data_format or keras.config.image_data_format()

    class KerasBatches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__(workers=workers)

        @property
        def num_batches(self) -> int | None:
            """None says that it has no end."""
            return None if batches.shuffle else batches.steps_per_epoch

        def __getitem__(self, step: int) -> Batch:
            x, y = batches[start_step + step]
            return laid_out(x, layout), y

    return KerasBatches()


def laid_out(x: np.ndarray, data_format: DataFormat) -> np.ndarray:
    """Images (batch, channels, *size) in a layout."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if data_format == "channels_last" else x
