"""Keeps memory for use from call to call, and the buffer of a dense block within it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from densespec.network.graph import Node

MOST_VIEWS = 10_000
"""At most this many views are kept: inputs of ever new sizes would need ever more."""


class Workspace(threading.local):
    """Keeps memory that each run of a thread uses again.

    Getting new memory costs more than computing what is written there.

    Attributes:
        reused: Whether memory is used again; if not, each piece is new.
        buffer: The features of the dense block that is being run.
    """

    def __init__(self, memory_format: torch.memory_format) -> None:
        self.reused = False
        self._channels_last = memory_format != torch.contiguous_format
        self._held: dict[str, Tensor] = {}
        self._views: dict[tuple[Any, ...], Tensor] = {}
        self.buffer: Any = None

    def tensor(self, use: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return memory of a shape (batch, channels, *spatial); what was there before is lost."""
        if not self.reused:
            return self._shaped(self._new(math.prod(shape), like), shape)
        view = self._views.get((use, shape))
        if view is None:
            flat = self._held.get(use)
            if flat is None or flat.numel() < math.prod(shape):
                flat = self._held[use] = self._new(math.prod(shape), like)
                self._views = {}
            view = self._views[use, shape] = self._shaped(flat, shape)
        return view

    def part(self, whole: Tensor, start: int, stop: int) -> Tensor:
        """Return some channels of such memory."""
        if not self.reused:
            return whole[:, start:stop]
        key = (whole.data_ptr(), whole.shape, start, stop)
        view = self._views.get(key)
        if view is None:
            if len(self._views) > MOST_VIEWS:
                self._views = {}
            view = self._views[key] = whole[:, start:stop]
        return view

    def safe(self, x: Tensor) -> Tensor:
        """Return a tensor that the next use of this memory leaves alone."""
        held = {flat.untyped_storage().data_ptr() for flat in self._held.values()}
        return x.clone() if x.untyped_storage().data_ptr() in held else x

    def _new(self, size: int, like: Tensor) -> Tensor:
        with torch.inference_mode(mode=False):
            return torch.empty(size, dtype=like.dtype, device=like.device)

    def _shaped(self, flat: Tensor, shape: tuple[int, ...]) -> Tensor:
        size, (batch, channels, *sizes) = math.prod(shape), shape
        if not self._channels_last:
            return flat[:size].view(shape)
        return flat[:size].view(batch, *sizes, channels).movedim(-1, 1)


class Buffer:
    """Holds the memory in which the features of a dense block are written side by side.

    Args:
        concats: The concatenations of the block, in order.
    """

    def __init__(self, concats: Sequence[Node], space: Workspace) -> None:
        self._first, self._channels = concats[0].name, concats[-1].channels
        self._space = space

    def appended(self, concat: Node) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the function of a concatenation: new features go behind those that are there."""
        space, count = self._space, concat.channels

        def start(old: Tensor, new: Tensor) -> Tensor:
            shape = (len(old), self._channels, *old.shape[2:])
            space.buffer = space.tensor("features", shape, old)
            space.part(space.buffer, 0, old.shape[1]).copy_(old)
            return append(old, new)

        def append(old: Tensor, new: Tensor) -> Tensor:
            space.part(space.buffer, count - new.shape[1], count).copy_(new)
            return space.part(space.buffer, 0, count)

        return start if concat.name == self._first else append
