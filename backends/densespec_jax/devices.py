"""Finds the devices that JAX has, or can have before it starts, and the one to time on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax


def devices(count: int) -> list[Any]:
    """Return the first ``count`` devices.

    Raises:
        ValueError: There are fewer devices; the message says how to get them.
    """
    with contextlib.suppress(RuntimeError):  # it has started, with the devices that it has
        jax.config.update("jax_num_cpu_devices", count)  # type: ignore[no-untyped-call]
    found = jax.devices()
    if len(found) < count:
        raise ValueError(
            f"{count} devices wanted, but JAX has started with {len(found)}: for so many on the "
            f"CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={count} before Python "
            "starts, or ask for them before anything runs on JAX"
        )
    return found[:count]


def names() -> list[str]:
    """Name the devices, such as ``gpu:0 (NVIDIA H100)``."""
    return [f"{one.platform}:{one.id} ({one.device_kind})" for one in jax.devices()]


class FirstDevice:
    """This is JAX's first device; see :class:`densespec.backends.ComputingDevice`."""

    @property
    def name(self) -> str:
        return "cpu" if jax.devices()[0].platform == "cpu" else names()[0]

    def peak_memory(self) -> int | None:
        told = jax.devices()[0].memory_stats() or {}
        peak: int | None = told.get("peak_bytes_in_use")
        return peak

    def product(self, side: int) -> Callable[[], object]:
        a = jax.random.normal(jax.random.key(0), (side, side))
        return lambda: (a @ a).block_until_ready()
