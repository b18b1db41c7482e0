"""The devices that each engine finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def _of_tensorflow() -> list[str]:
    import tensorflow as tf

    found = tf.config.list_physical_devices()
    details = map(tf.config.experimental.get_device_details, found)
    return [
        f"{one.name.removeprefix('/physical_device:')}{_bracketed(detail.get('device_name'))}"
        for one, detail in zip(found, details, strict=True)
    ]


def _of_torch() -> list[str]:
    from densespec_torch import devices

    return devices.names()


def _of_jax() -> list[str]:
    import jax

    return [f"{one.platform}:{one.id}{_bracketed(one.device_kind)}" for one in jax.devices()]


def _bracketed(name: str | None) -> str:
    return f" ({name})" if name else ""


NAMES: Mapping[str, Callable[[], list[str]]] = {
    "tensorflow": _of_tensorflow,
    "torch": _of_torch,
    "jax": _of_jax,
}
"""What names the devices, by engine."""
