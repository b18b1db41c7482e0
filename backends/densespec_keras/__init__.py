"""Keras 3 on TensorFlow, PyTorch and JAX: graphs as functional ``keras.Model``.

Keras takes its engine once, when it is first imported; so importing this package does not import
Keras. ``SGD`` and ``BatchNormalization`` do, on first use:

    from densespec_keras import SGD
    model.compile(SGD(learning_rate=0.1), loss=...)

A saved ``.keras`` file of a network with unbiased running variance needs ``BatchNormalization``
imported from here before ``keras.saving.load_model``; others load with Keras alone.
"""

from typing import TYPE_CHECKING, Any

from densespec_keras.backend import JAX as JAX
from densespec_keras.backend import TENSORFLOW as TENSORFLOW
from densespec_keras.backend import TORCH as TORCH

if TYPE_CHECKING:
    from densespec_keras.layers import BatchNormalization as BatchNormalization
    from densespec_keras.optimizers import SGD as SGD


def __getattr__(name: str) -> Any:
    if name == "BatchNormalization":
        from densespec_keras.layers import BatchNormalization

        return BatchNormalization
    if name == "SGD":
        from densespec_keras.optimizers import SGD

        return SGD
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
