"""Gives batches as PyTorch's ``DataLoader`` takes them, with the very numbers of ``Batches``."""

from __future__ import annotations

import torch
from torch import Tensor

from densespec.data import Batches


class TorchBatches:
    """This is a map-style dataset of PyTorch whose items are an epoch's batches, channels first.

    The epoch is in shared memory, so that workers which outlive an epoch are told of it.
    """

    def __init__(self, batches: Batches, epoch: int = 0) -> None:
        self._batches = batches
        self._epoch = torch.tensor(epoch)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Give the batches of another epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._batches.steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (batch, channels, *size) and labels: int64 (batch,), or float64
        (batch, classes).

        Raises:
            IndexError: The epoch has no such step.
        """
        x, y = self._batches.batch(int(self._epoch), step)
        return torch.from_numpy(x), torch.from_numpy(y)
