"""Recognises coarser arithmetic than was asked for, as what an op does instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.network.graph import Node
from densespec.reference.kernels import Array, Context
from densespec_conformance.explaining.local.alternatives.alternative import own
from densespec_conformance.explaining.local.findings import WrongOp
from densespec_conformance.explaining.local.spans import Network, Span
from densespec_conformance.explaining.patterns import narrowest
from densespec_conformance.judging.rounding import ARITHMETIC

COARSER = ("float32", "tf32", "float16", "bfloat16")
"""An op may round by one of these instead, from the finest on."""

SUMS = (ops.Conv, ops.Dense)
"""TF32 rounds the factors of these ops."""


def looks_like(arithmetic: str, span: Span, actual: Array, error: float) -> bool:
    """Say whether values have the bits of an arithmetic, or are off by as much as it rounds."""
    bits, unit = narrowest(actual), ARITHMETIC[arithmetic].unit
    if arithmetic == "tf32":
        return any(map(_sums, span.nodes)) and bits == "float32"
    if arithmetic == "float32" and bits is None:  # kept in more bits afterwards
        return unit / 32 <= error <= 4096 * unit
    return bits == arithmetic


def by_tf32(network: Network, span: Span, wrong: WrongOp) -> bool:
    """Say whether factors of so few bits explain most of the difference, not its size alone."""
    left = min(
        network.difference(span, {node.name: forward for node in span.nodes if _sums(node)})
        for forward in (_of_nearest_factors, _of_cut_factors)
    )
    return left <= max(wrong.allowed, wrong.error / 4)


def _sums(node: Node) -> bool:
    return isinstance(node.op, SUMS)


def _of_nearest_factors(op: Any, ctx: Context, x: Array) -> Array:
    return _with_factors(np.rint, op, ctx, x)


def _of_cut_factors(op: Any, ctx: Context, x: Array) -> Array:
    return _with_factors(np.trunc, op, ctx, x)


def _with_factors(shorten: Callable[[Array], Array], op: Any, ctx: Context, x: Array) -> Array:
    """Compute an op whose input and kernel have TF32's 11 significant bits."""

    def shortened(array: Array) -> Array:
        mantissa, exponent = np.frexp(array)
        return np.ldexp(shorten(np.ldexp(mantissa, 11)), exponent - 11)

    weights = {**ctx.weights, "kernel": shortened(ctx.weights["kernel"])}
    return own(op, replace(ctx, weights=weights), shortened(x))
