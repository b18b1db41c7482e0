"""Gives batches as a ``tf.data.Dataset``, without Keras."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from densespec.installed import require

require("as_tf_dataset", "tensorflow", extra="tensorflow")

import tensorflow as tf  # noqa: E402

from densespec.backends import DataFormat  # noqa: E402
from densespec.data import Batches  # noqa: E402
from densespec.data.batches import LabelledBatch  # noqa: E402
from densespec_keras.axes import laid_out  # noqa: E402


def tf_dataset(
    batches: Batches, epochs: Sequence[int] = (0,), *, data_format: DataFormat = "channels_last"
) -> tf.data.Dataset:
    """Return the batches of some epochs, one after another: see :meth:`Batches.as_tf_dataset`."""

    def generate() -> Iterator[LabelledBatch]:
        for epoch in epochs:
            for x, y in batches.epoch(epoch):
                yield laid_out(x, data_format), y

    channels, *sizes = batches.shape
    image = (*sizes, channels) if data_format == "channels_last" else (channels, *sizes)
    signature = (
        tf.TensorSpec((None, *image), batches.dtype),
        tf.TensorSpec((None, *batches.split.y.shape[1:]), batches.split.y.dtype),
    )
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    count = len(epochs) * batches.steps_per_epoch
    return dataset.apply(tf.data.experimental.assert_cardinality(count))
