"""Processes of one run: which this is, and what they have to agree on.

PyTorch's launcher ``torchrun`` starts one process for each device, on one machine or more, and all
of them run the same loop, each on its part of every batch. Every other way to train on several
devices has one process.
"""

from __future__ import annotations

import os
from typing import Any

from densespec.backends import split_mode

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Set by the launcher in each process."""
TORCH = "torch.nn"


class Alone:
    """The only process."""

    rank, size = 0, 1

    def part(self, count: int) -> slice:
        """This process's part of a batch."""
        return slice(0, count)

    def any(self, wish: bool) -> bool:
        """Whether any process wishes something."""
        return wish

    def place(self, model: Any) -> Any:
        """A model on this process's device."""
        return model


class Torch(Alone):
    """A process of ``torch.nn``: one of several where the launcher started it."""

    def __init__(self) -> None:
        from densespec_torch import distributed

        self._distributed: Any = distributed
        world = distributed.setup_from_environment()
        self.rank, self.size, self._device = world.rank, world.size, world.device

    def part(self, count: int) -> slice:
        found: slice = self._distributed.shard(count, self.rank, self.size)
        return found

    def any(self, wish: bool) -> bool:
        if self.size == 1:
            return wish
        return bool(self._distributed.total([float(wish)])[0])

    def place(self, model: Any) -> Any:
        return model.to(self._device)


def ranks_of(backend: str) -> Alone:
    """The processes of a run on a backend; joins them."""
    return Torch() if split_mode(backend)[0] == TORCH else Alone()


def launched() -> bool:
    """Whether the launcher started this process."""
    return LAUNCHED in os.environ


def processes() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if launched() else 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not launched() or os.environ.get("RANK", "0") == "0"
