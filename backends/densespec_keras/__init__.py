"""Keras 3 on TensorFlow, PyTorch and JAX: graphs as functional ``keras.Model``.

Keras takes its engine once, when it is first imported; so importing this package does not import
Keras. ``SGD`` and ``BatchNormalization`` do, on first use:

    from densespec_keras import SGD
    model.compile(SGD(learning_rate=0.1), loss=...)

A saved ``.keras`` file loads with Keras alone, unless the network has unbiased running variance or
was compiled with ``SGD``: import either name from here first, and Keras knows both.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densespec_keras.backend import JAX as JAX
from densespec_keras.backend import TENSORFLOW as TENSORFLOW
from densespec_keras.backend import TORCH as TORCH

if TYPE_CHECKING:
    from densespec_keras.layers import BatchNormalization as BatchNormalization
    from densespec_keras.optimizers import SGD as SGD

_NEEDS_KERAS = {"BatchNormalization": "layers", "SGD": "optimizers"}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_KERAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {
        module: importlib.import_module(f"{__name__}.{module}") for module in _NEEDS_KERAS.values()
    }
    return getattr(modules[_NEEDS_KERAS[name]], name)
