"""Holds a batch, and its parts on several devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

AXIS = "device"
"""The axis of devices in a mesh has this name."""


class Batch(NamedTuple):
    """Holds what a step trains on.

    Attributes:
        x: Images (n, *spatial, channels) or (n, channels, *spatial), as the network takes them.
        labels: Integers (n,).
        masks: By dropout, (n, channels, *spatial); None where dropouts draw.
    """

    x: Any
    labels: Any
    masks: dict[str, Any] | None = None


def by_device(mesh: Any, compute: Callable[[Any, Batch], Any], batch: Batch) -> Any:
    """Compute a function of the number of a device and of its part of a batch, for every device.

    Parts are consecutive, the first ones larger by a sample where a batch does not divide. Then all
    devices compute all parts: that is the last batch of an epoch, if any.

    Returns:
        What the function gives, with one more axis in front, over the devices.
    """
    size = mesh.shape[AXIS]
    share, larger = divmod(len(batch.labels), size)
    if larger == 0:
        return _at_once(mesh, compute, batch)
    cut, numbers = larger * (share + 1), jnp.arange(size)
    first, rest = (_cut(batch, part) for part in (slice(cut), slice(cut, None)))
    given = (
        (numbers[:larger], _stacked(first, share + 1)),
        (numbers[larger:], _stacked(rest, share)),
    )
    done = [jax.lax.map(lambda one: compute(*one), parts) for parts in given]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *done)


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """Split a batch into consecutive parts, the first ones larger where it does not divide."""
    if count == 1:
        return [batch]
    share, larger = divmod(len(batch.labels), count)
    starts = [index * share + min(index, larger) for index in range(count + 1)]
    return [_cut(batch, slice(*ends)) for ends in itertools.pairwise(starts)]


def _at_once(mesh: Any, compute: Callable[[Any, Batch], Any], batch: Batch) -> Any:
    def of_device(part: Batch) -> Any:
        found = compute(jax.lax.axis_index(AXIS), part)
        return jax.tree.map(lambda array: array[None], found)

    split = PartitionSpec(AXIS)  # type: ignore[no-untyped-call]
    mapped = jax.shard_map(
        of_device, mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False
    )
    return mapped(batch)


def _cut(batch: Batch, part: slice) -> Batch:
    return jax.tree.map(lambda array: array[part], batch)


def _stacked(batch: Batch, each: int) -> Batch:
    """Return an axis of parts to a batch of several parts of the same size."""
    return jax.tree.map(lambda array: array.reshape(-1, each, *array.shape[1:]), batch)
