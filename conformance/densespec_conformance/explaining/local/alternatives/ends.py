"""Lists what a softmax or a sigmoid may be instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import KERNELS, Array, Context
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Observation,
    of_value,
    sigmoid,
)


def _softmax(x: Array) -> Array:
    return KERNELS[ops.Softmax].forward(ops.Softmax(), Context(""), x)


FUNCTIONS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("it is a softmax", _softmax),
    ("it is a sigmoid", sigmoid),
    ("it is a log-softmax", lambda x: np.log(_softmax(x))),
    ("it is left out", lambda x: x),
    ("it goes over the batch, not over the classes", lambda x: _softmax(x.T).T),
    ("it stands there twice", lambda x: _softmax(_softmax(x))),
)


def functions(seen: Observation) -> Iterator[Alternative]:
    """Find another function by its name."""
    for words, function in FUNCTIONS:
        yield Alternative(words, of_value(function))


FIND = (functions,)
