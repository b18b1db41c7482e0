"""Builds graphs as functional ``keras.Model`` in Keras 3 on TensorFlow, PyTorch and JAX.

Keras chooses its engine once, when it is first imported. So importing this package does not import
Keras. The names below do, on first use:

    from densespec_keras import loss_of, optimizer_of
    model.compile(optimizer_of(recipe), loss_of(recipe), metrics=["accuracy"])

A saved ``.keras`` file loads with Keras alone, unless the network has unbiased running variance or
dropout, runs in another mode than ``layers``, or was compiled with an optimizer or a loss of
densespec's: import any name from here first, and Keras knows them all.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densespec_keras.backend import JAX as JAX
from densespec_keras.backend import TENSORFLOW as TENSORFLOW
from densespec_keras.backend import TORCH as TORCH

if TYPE_CHECKING:
    from densespec_keras.layers import BatchNormalization as BatchNormalization
    from densespec_keras.layers import Dropout as Dropout
    from densespec_keras.losses import CrossEntropy as CrossEntropy
    from densespec_keras.losses import loss_of as loss_of
    from densespec_keras.optimizers import SGD as SGD
    from densespec_keras.optimizers import Adam as Adam
    from densespec_keras.optimizers import AdamW as AdamW
    from densespec_keras.optimizers import RMSProp as RMSProp
    from densespec_keras.optimizers import optimizer_of as optimizer_of
    from densespec_keras.optimizers import schedule as schedule
    from densespec_keras.planned import Efficient as Efficient
    from densespec_keras.planned import Fast as Fast
    from densespec_keras.planned import Inference as Inference
    from densespec_keras.states import recognise as recognise
    from densespec_keras.states import restore_training_state as restore_training_state
    from densespec_keras.states import training_state as training_state

_NEEDS_KERAS = {
    "BatchNormalization": "layers",
    "Dropout": "layers",
    "CrossEntropy": "losses",
    "loss_of": "losses",
    "SGD": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "RMSProp": "optimizers",
    "optimizer_of": "optimizers",
    "schedule": "optimizers",
    "Efficient": "planned",
    "Fast": "planned",
    "Inference": "planned",
    "recognise": "states",
    "restore_training_state": "states",
    "training_state": "states",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_KERAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {
        module: importlib.import_module(f"{__name__}.{module}")
        for module in set(_NEEDS_KERAS.values())
    }
    return getattr(modules[_NEEDS_KERAS[name]], name)
