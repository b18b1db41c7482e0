"""Computes batch norms, and the moments that they normalise with."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = Any


class Moments(NamedTuple):
    """Holds the mean and the biased variance of each channel."""

    mean: Array
    variance: Array


class NormConfig(NamedTuple):
    """Holds what a norm has besides arrays.

    Attributes:
        relu: Whether there is a ReLU behind it.
    """

    epsilon: float
    relu: bool


def axes_of(x: Array) -> tuple[int, ...]:
    """Return all axes except the one of channels."""
    return tuple(range(x.ndim - 1))


def count_of(x: Array) -> int:
    """Count the values of a channel."""
    return math.prod(x.shape[:-1])


@jax.custom_vjp
def moments(x: Array) -> Moments:
    """Compute the moments of x."""
    mean = x.mean(axes_of(x))
    return Moments(mean, jnp.square(x - mean).mean(axes_of(x)))


def _moments_forward(x: Array) -> tuple[Any, Any]:
    found = moments(x)
    return found, (x, found.mean)


def _moments_backward(kept: Any, grown: Any) -> tuple[Array]:
    x, mean = kept
    return (through_moments(x, mean, *grown),)


def through_moments(x: Array, mean: Array, dmean: Array, dvariance: Array) -> Array:
    """Compute the gradient of x by those of its moments."""
    count = count_of(x)
    return dmean / count + (x - mean) * (dvariance * (2 / count))


moments.defvjp(_moments_forward, _moments_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalised(
    config: NormConfig, x: Array, mean: Array, variance: Array, gamma: Array, beta: Array
) -> Array:
    """Normalise x by a mean and a variance, with a scale and a shift, and the ReLU behind."""
    y = (x - mean) * (gamma * lax.rsqrt(variance + config.epsilon)) + beta
    return relu(y) if config.relu else y


def relu(x: Array) -> Array:
    """Keep NaN, which XLA's maximum can turn into 0 on CPUs."""
    return jnp.where(x <= 0, 0, x)


def _normalised_forward(config: NormConfig, *args: Array) -> tuple[Array, Any]:
    return normalised(config, *args), args


def normalised_backward(config: NormConfig, kept: Any, dy: Array) -> tuple[Array, ...]:
    """Compute the gradients of what :func:`normalised` takes, which is kept, by its output's."""
    x, mean, variance, gamma, _ = kept
    y = normalised(config, *kept)
    g = jnp.where(y > 0, dy, 0) if config.relu else dy
    inverse = lax.rsqrt(variance + config.epsilon)
    dbeta = g.sum(axes_of(x))
    dscale = (g * (x - mean)).sum(axes_of(x))
    scale = gamma * inverse
    dvariance = -0.5 * dscale * scale * inverse * inverse
    return g * scale, -scale * dbeta, dvariance, dscale * inverse, dbeta


normalised.defvjp(_normalised_forward, normalised_backward)
