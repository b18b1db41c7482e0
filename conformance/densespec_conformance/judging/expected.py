"""Computes what the reference answers, and how far an answer may be from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from densespec.network.arrays import Arrays
from densespec_conformance.answering.answers import handle
from densespec_conformance.asking.requests import Answer, Forward, Request, Train
from densespec_conformance.judging.rounding import rounded
from densespec_conformance.judging.tolerance import Bounds, forward_bounds, training_bounds


@dataclass(frozen=True)
class Expectation:
    """Holds what the float64 reference answers, and how far an answer may be from it."""

    values: Answer
    bounds: Bounds


def expectation(request: Request) -> Expectation:
    """Compute in float64 what a request's answer should be, with bounds for the dtype that it asks
    for.

    Weights and inputs are rounded to that dtype first.

    Raises:
        TypeError: The answer to such a request has no rounding to allow for.
    """
    dtype, exact = request.network.dtype, _in_float64(request)
    values = handle("numpy", exact)
    match exact:
        case Forward():
            assert isinstance(values, dict)
            return Expectation(values, forward_bounds(exact, values, dtype))
        case Train():
            assert isinstance(values, list)
            return Expectation(values, training_bounds(exact, values, dtype))
    raise TypeError(f"a {type(request).__name__} has no rounding to allow for")


def exact_values(request: Forward) -> Arrays:
    """Compute in float64 what a request's answer is, where no bound is asked for."""
    values = handle("numpy", _in_float64(request))
    assert isinstance(values, dict)
    return values


def given_in(dtype: str, request: Forward) -> Forward:
    """Ask the same of a network of another dtype, with weights and inputs rounded to it."""
    network = request.network
    weights = None if network.weights is None else _rounded(network.weights, dtype)
    network = replace(network, dtype=dtype, weights=weights)
    return replace(request, network=network, x=rounded(request.x, dtype))


def _in_float64(request: Request) -> Request:
    return replace(request, network=replace(request.network, dtype="float64"))


def _rounded(arrays: Mapping[str, np.ndarray], dtype: str) -> Arrays:
    return {name: rounded(array, dtype) for name, array in arrays.items()}


class Reference:
    """This is the numpy reference for every target; it computes each request once.

    Several targets may ask at a time: those that ask the same wait for the first of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Once] = {}

    def known(self, request: Request) -> Expectation:
        """Return what an equal request's answer should be; one that was expected is not computed
        again."""
        with self._lock:
            earlier = [once for once in self._known.values() if once.is_of(request)]
        return earlier[0].of(lambda: request) if earlier else expectation(request)

    def expect(self, key: str, request: Callable[[], Request]) -> Expectation:
        """Return what a request's answer should be; it is made when ``key`` is asked for the first
        time."""
        with self._lock:
            once = self._known.setdefault(key, _Once())
        return once.of(request)


class _Once:
    """Computes an expectation when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._request: Request | None = None
        self._found: Expectation | None = None

    def of(self, request: Callable[[], Request]) -> Expectation:
        with self._lock:
            if self._found is None:
                self._request = request()
                self._found = expectation(self._request)
            return self._found

    def is_of(self, request: Request) -> bool:
        return self._found is not None and _equal(self._request, request)


def _equal(a: Any, b: Any) -> bool:
    """Compare requests, arrays within them by their values."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if is_dataclass(a):
        return all(_equal(getattr(a, one.name), getattr(b, one.name)) for one in fields(a))
    return bool(a == b)
