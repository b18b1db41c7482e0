"""Finds the devices of each engine, and the one that it computes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from densespec.backends import ComputingDevice


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
    from densespec_jax import devices

    return devices.names()


def _bracketed(name: str | None) -> str:
    return f" ({name})" if name else ""


NAMES: Mapping[str, Callable[[], list[str]]] = {
    "tensorflow": _of_tensorflow,
    "torch": _of_torch,
    "jax": _of_jax,
}
"""Gives the function that names the devices, by engine."""


class TensorFlowDevice:
    """This is TensorFlow's first GPU, or the CPU: a :class:`densespec.backends.ComputingDevice`."""

    @property
    def name(self) -> str:
        return next((name for name in _of_tensorflow() if name.startswith("GPU")), "cpu")

    def peak_memory(self) -> int | None:
        import tensorflow as tf

        if self.name == "cpu":
            return None
        peak: int = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        return peak

    def product(self, side: int) -> Callable[[], object]:
        import tensorflow as tf

        a = tf.random.normal((side, side))
        return lambda: (a @ a)[0, 0].numpy()


def _first_of_torch() -> ComputingDevice:
    from densespec_torch.devices import FirstDevice

    return FirstDevice()


def _first_of_jax() -> ComputingDevice:
    from densespec_jax.devices import FirstDevice

    return FirstDevice()


FIRST: Mapping[str, Callable[[], ComputingDevice]] = {
    "tensorflow": TensorFlowDevice,
    "torch": _first_of_torch,
    "jax": _first_of_jax,
}
"""Gives the function that finds the device on which Keras computes, by engine."""
