"""The devices that JAX has, or can have before it starts."""

from __future__ import annotations

import contextlib
from typing import Any

import jax


def devices(count: int) -> list[Any]:
    """Give the first devices, of which there shall be ``count``.

    Raises:
        ValueError: There are not so many; the message says how to have them.
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
