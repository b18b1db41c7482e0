"""Lists where the padding of a convolution or a pool may lie instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densespec.network import ops
from densespec_conformance.explaining.local.alternatives.alternative import Observation


def pads_of(seen: Observation) -> ops.Pads | None:
    """Return the padding of an op; None where it depends on a size that is not shown."""
    op, size = seen.op, _size(seen)
    padding: ops.Padding = getattr(op, "padding", ((0, 0),) * len(op.window))
    if size is not None:
        padding = ops.resolve_padding(padding, size, op.window, op.stride)
    return None if padding == "same" else padding


def other_pads(pads: ops.Pads, seen: Observation) -> Iterator[tuple[str, Any]]:
    """Yield other paddings, which may be equal to the op's own, after the words for them."""
    op, size = seen.op, _size(seen)
    if size is not None:
        same = ops.resolve_padding("same", size, op.window, op.stride)
        yield "the padding is 'same', not what the spec says", same
    yield "all padding comes first", tuple((a + b, 0) for a, b in pads)
    yield "all padding comes last", tuple((0, a + b) for a, b in pads)
    yield "the padding is centred", tuple((width // 2, width // 2) for width in op.window)
    yield "there is no padding", tuple((0, 0) for _ in pads)
    one_less = tuple((max(a - 1, 0), max(b - 1, 0)) for a, b in pads)
    yield "there is one place less of padding on each side", one_less
    yield "there is one place more of padding on each side", tuple((a + 1, b + 1) for a, b in pads)


def _size(seen: Observation) -> tuple[int, ...] | None:
    return None if seen.inputs is None else seen.inputs[0].shape[2:]
