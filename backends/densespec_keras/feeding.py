"""Gives batches as Keras's ``fit``, ``evaluate`` and ``predict`` take them, on any engine."""

from __future__ import annotations

from densespec.installed import require

require("as_keras_dataset", "keras", extra="tensorflow")

import keras  # noqa: E402

from densespec.backends import DataFormat  # noqa: E402
from densespec.data import Batches  # noqa: E402
from densespec.data.batches import LabelledBatch  # noqa: E402
from densespec_keras.axes import laid_out  # noqa: E402


class KerasBatches(keras.utils.PyDataset):
    """Gives the batches of a training run: see :meth:`densespec.data.Batches.as_keras_dataset`."""

    def __init__(
        self,
        batches: Batches,
        start_step: int = 0,
        *,
        data_format: DataFormat | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(workers=workers)
        self._batches, self._start_step = batches, start_step
        self._data_format: DataFormat = data_format or keras.config.image_data_format()

    @property
    def num_batches(self) -> int | None:
        """Return the number of batches; None says that they have no end."""
        return None if self._batches.shuffle else self._batches.steps_per_epoch

    def __getitem__(self, step: int) -> LabelledBatch:
        """Return images in the layout and int64 labels of a step, counted from ``start_step``."""
        x, y = self._batches[self._start_step + step]
        return laid_out(x, self._data_format), y
