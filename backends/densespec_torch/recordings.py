"""Records the kernels of a call once as a CUDA graph, and then launches them all together.

A small batch leaves a GPU waiting for Python, which launches hundreds of kernels one by one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

_MOST_RECORDINGS = 8
"""A recording holds the memory that its call needs, so only this many of the last used are kept."""

_WARM_UPS = 3
"""Calls before a recording, in which libraries choose kernels and allocate what they keep."""


class RecordedFunction:
    """Records a function of one tensor on a GPU the second time that it gets a shape.

    Args:
        function: The function, which computes a tensor, or a tuple of tensors, without waiting for
            the GPU. What it reads beside its argument never changes.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function, self._lock = function, threading.Lock()
        self._recordings: OrderedDict[Hashable, _Recording | None] = OrderedDict()

    def __call__(self, x: Tensor) -> Any:
        if torch.cuda.is_current_stream_capturing() or torch.is_autocast_enabled("cuda"):
            return self._function(x)
        with self._lock:
            recording = self._recording(x)
            return self._function(x) if recording is None else recording.replay(x)

    def _recording(self, x: Tensor) -> _Recording | None:
        key = _circumstances(x)
        if key not in self._recordings:
            self._recordings[key] = None
        elif self._recordings[key] is None:
            self._recordings[key] = _Recording(self._function, x)
        self._recordings.move_to_end(key)
        if len(self._recordings) > _MOST_RECORDINGS:
            self._recordings.popitem(last=False)
        return self._recordings[key]


def _circumstances(x: Tensor) -> Hashable:
    """Return what decides which kernels run, and where."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    settings = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    return (*x.shape, x.stride(), torch.cuda.current_stream(), *settings, products.allow_tf32)


class _Recording:
    """Holds one call's kernels, and the tensors that they read and write."""

    def __init__(self, function: Callable[[Tensor], Any], x: Tensor) -> None:
        with torch.inference_mode(mode=False), torch.no_grad():
            self._x = torch.empty_like(x).copy_(x)
            current = torch.cuda.current_stream()
            apart = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            apart.wait_stream(current)
            with torch.cuda.stream(apart):
                for _ in range(_WARM_UPS):
                    function(self._x)
            current.wait_stream(apart)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._y = function(self._x)

    def replay(self, x: Tensor) -> Any:
        """Compute the function of another tensor of the same shape."""
        with torch.inference_mode(mode=False), torch.no_grad():
            self._x.copy_(x)
            self._graph.replay()
            if isinstance(self._y, tuple):
                return tuple(y.clone() for y in self._y)
            return self._y.clone()
