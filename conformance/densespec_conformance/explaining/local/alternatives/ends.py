"""What a softmax or a sigmoid may be instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import KERNELS, Array, Context
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
)


def _softmax(x: Array) -> Array:
    return KERNELS[ops.Softmax].forward(ops.Softmax(), Context(""), x)


FUNCTIONS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("it is a softmax", _softmax),
    ("it is a sigmoid", lambda x: np.exp(-np.logaddexp(0, -x))),
    ("it is a log-softmax", lambda x: np.log(_softmax(x))),
    ("it is left out", lambda x: x),
    ("it goes over the batch, not over the classes", lambda x: _softmax(x.T).T),
    ("it stands there twice", lambda x: _softmax(_softmax(x))),
)


def functions(seen: Observation) -> Iterator[Alternative]:
    """Find another function by its name."""
    for words, function in FUNCTIONS:
        yield Alternative(words, _of(function))


def _of(function: Callable[[Array], Array]) -> Forward:
    return lambda op, ctx, x: function(x)


FIND = (functions,)
