"""Tries deviations on the reference, and measures how far it then agrees with an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from densespec_conformance.asking.requests import (
    Answer,
    Forward,
    Inspect,
    Inspected,
    ReadWeights,
    Request,
    Train,
)
from densespec_conformance.deviations import catalogue, families
from densespec_conformance.deviations.deviation import Deviation
from densespec_conformance.deviations.variant import Memo, Variant, changed_nodes, run, train
from densespec_conformance.explaining.local.findings import LocalFindings
from densespec_conformance.explaining.local.judge import LocalJudge
from densespec_conformance.explaining.local.moves import Run
from densespec_conformance.explaining.local.training import judge_training
from densespec_conformance.explaining.patterns import narrowest
from densespec_conformance.judging.expected import Expectation
from densespec_conformance.judging.measure import parts_of_steps
from densespec_conformance.judging.rounding import ARITHMETIC, arithmetic_of
from densespec_conformance.judging.tolerance import Bounds, forward_bounds, training_bounds

Parts = Mapping[str, np.ndarray]

FAMILIES: Mapping[type, tuple[str, ...]] = {
    Forward: ("spec", "op", "weights", "dropout", "precision"),
    Train: ("spec", "distribution", "op", "weights"),
    ReadWeights: ("weights", "init"),
    Inspect: ("spec", "op"),
}
"""Gives the families of deviations that can show in an answer, by what was asked.

Fewer bits show in inference already, so nothing in a training step is taken for them that is not
seen there.
"""

ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Gives the relative rounding of a single operation."""

UNFORESEEN = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)
"""A deviation raises one of these errors on a network for which it has no meaning."""


@dataclass(frozen=True)
class Attempt:
    """Tells how far a variant of the reference agrees with an answer.

    Attributes:
        agreeing: The number of parts of the answer that agree, before the first that does not.
        where: The first part that does not agree; empty if all parts do.
        error: The relative error of that part, or the largest error if all parts agree.
        predicted: The values that the variant computes there.
    """

    agreeing: int
    where: str
    error: float
    predicted: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        return not self.where and self.agreeing > 0

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Return the rank of the attempt: better attempts have larger ranks."""
        return self.complete, self.agreeing, -self.error


@dataclass
class Trial:
    """Holds a question, the answer to it, and what the reference says.

    Attributes:
        deadline: The time of the clock ``time.thread_time`` after which attempts are given up.
    """

    request: Request
    answer: Answer
    expected: Expectation | None
    deadline: float
    base: Variant = field(init=False)
    observed: Parts = field(init=False)
    _tiers: dict[str, Bounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._memo = Memo()
        self._steps = self.answer if isinstance(self.answer, list) else []
        self._x = np.asarray(getattr(self.request, "x", 0), np.float64)
        self.observed = _observed(self.answer)
        self.base = Variant.of(self._network(), _size(self.request))
        self._smallest = min(self._bounds.relative.values(), default=0.0) if self._bounds else 0.0
        self._magnitudes = {
            name: float(np.abs(array).max(initial=0.0))
            for name, array in _observed(self.expected.values if self.expected else {}).items()
        }
        self.as_it_is = self.attempt(())
        self._memo.open = False

    def candidates(self) -> tuple[Deviation, ...]:
        """Return the deviations that can show in such an answer and change this network."""
        drawn = isinstance(self.request, ReadWeights) and self.request.network.weights is None
        return tuple(
            deviation
            for family in FAMILIES[type(self.request)]
            for deviation in families()[family]
            if deviation.recognises is None or drawn
        )

    def by_ops(self) -> LocalFindings | None:
        """Judge every op by itself, where the target shows enough of them and any is wrong."""
        if not isinstance(self.request, Forward):
            return None
        judge = LocalJudge(
            *(self.base.graph, self.base.weights, self._x, self.observed),
            arithmetic=arithmetic_of(self.request.network.dtype),
            deadline=self.deadline,
        )
        return judge.findings() if judge.sees_enough else None

    def by_parts(self, ids: Iterable[str] = ()) -> LocalFindings | None:
        """Judge each part of a training run by itself, of the network with some deviations.

        The result is None where all parts are right, or the target's answer lacks some.
        """
        if not isinstance(self.request, Train) or self.expected is None:
            return None
        variant = self.base
        for each in ids:
            variant = catalogue()[each].change(variant)
        unit = ARITHMETIC[arithmetic_of(self.request.network.dtype)].of_kept
        bounds, sizes = self.expected.bounds.relative, self._magnitudes
        run = Run(self.request, variant.weights, self._steps, unit, bounds, sizes)
        if not run.is_whole(variant.graph):
            return None
        with np.errstate(all="ignore"):
            return judge_training(run, variant.graph, variant.kernels, self.deadline)

    def changed_by(self, deviation: Deviation) -> set[str]:
        """Name the nodes that a deviation computes otherwise; all, where only precision differs."""
        before = self.base
        try:
            after = deviation.change(before)
        except UNFORESEEN:
            return set()
        if deviation.dtype:
            return {node.name for node in before.graph.nodes}
        return changed_nodes(before, after)

    def attempt(self, ids: Iterable[str]) -> Attempt | None:
        """Apply deviations to the reference and compare, until a part differs.

        The result is None where they can't be applied to this network, or time is up.
        """
        deviations = [catalogue()[each] for each in ids]
        try:
            variant = self.base
            for deviation in deviations:
                variant = deviation.change(variant)
            dtypes = [d.dtype for d in deviations if d.dtype]
            recognisers = [d.recognises for d in deviations if d.recognises]
            if recognisers:
                return self._recognised(recognisers)
            return self._compared(variant, self._tier(dtypes))
        except UNFORESEEN:
            return None
        except _TimeIsUp:
            return None

    @property
    def _bounds(self) -> Bounds | None:
        return self.expected.bounds if self.expected else None

    def _network(self) -> Any:
        return self.request.network

    def _compared(self, variant: Variant, tier: _Tier | None) -> Attempt:
        agreeing, worst = 0, 0.0
        for name, predicted in self._predicted(variant):
            if name not in self.observed:
                continue
            actual = self.observed[name]
            error, allowed = self._error(name, actual, predicted)
            if error > allowed and tier is not None:
                allowed = tier.of(name, error, actual)
            if not error <= allowed:
                return Attempt(agreeing, name, error, predicted)
            agreeing, worst = agreeing + 1, max(worst, error)
        return Attempt(agreeing, "", worst)

    def _error(self, name: str, actual: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
        """Return the difference and what is allowed of it, relative to the larger magnitude."""
        finite = np.isfinite(predicted)
        if actual.shape != predicted.shape or not np.array_equal(np.isfinite(actual), finite):
            return float("inf"), 0.0
        actual, predicted = actual[finite], predicted[finite]
        if not actual.size:
            return 0.0, 0.0
        known = self._magnitudes.get(name, 0.0)
        own = float(np.abs(predicted).max())
        scale = max(known, own) or 1.0
        bounds = self._bounds
        relative = bounds.relative.get(name, self._smallest) if bounds else 0.0
        allowed = max(relative * known, self._smallest * own)
        return float(np.abs(actual - predicted).max()) / scale, allowed / scale

    def _predicted(self, variant: Variant) -> Iterator[tuple[str, np.ndarray]]:
        match self.request:
            case Forward(taps=taps):
                values: dict[str, np.ndarray] = {}
                nodes = run(variant, self._x, self._memo)
                for tap in taps:
                    seen = variant.shown.get(tap, tap)
                    while seen not in values:
                        self._check_time()
                        computed = next(nodes, None)
                        if computed is None:
                            raise LookupError(f"no {tap} in this variant")
                        values[computed.node.name] = computed.value
                    yield tap, values[seen]
            case Train() as request:
                for part in train(variant, request, self._memo, self._steps):
                    self._check_time()
                    yield part
            case ReadWeights(network=network):
                for name, array in variant.weights.items():
                    yield name, array.astype(network.dtype).astype(np.float64)
            case Inspect():
                yield from _inspected(variant)

    def _check_time(self) -> None:
        if time.thread_time() > self.deadline:
            raise _TimeIsUp

    def _tier(self, dtypes: list[str]) -> _Tier | None:
        if not dtypes:
            return None
        (dtype,) = dtypes
        if self.expected is None or ROUNDING[dtype] <= ROUNDING.get(self._network().dtype, 0.0):
            raise ValueError("not less exact than what was asked for")
        return _Tier(dtype, partial(self._tier_bounds, dtype))

    def _tier_bounds(self, dtype: str) -> Bounds:
        if dtype not in self._tiers:
            assert self.expected is not None
            exact = replace(self.request, network=replace(self._network(), dtype="float64"))
            match exact, self.expected.values:
                case Forward() as request, dict() as values:
                    self._tiers[dtype] = forward_bounds(request, values, dtype)
                case Train() as request, list() as steps:
                    self._tiers[dtype] = training_bounds(request, steps, dtype)
        return self._tiers[dtype]

    def _recognised(self, recognisers: list[Any]) -> Attempt | None:
        related = any(
            abs(np.corrcoef(array.ravel(), self.base.weights[name].ravel())[0, 1]) > 0.5
            for name, array in self.observed.items()
            if name.endswith("conv.kernel") and array.size > 1
        )
        if not related and all(each(self.observed, self.base.graph) for each in recognisers):
            return Attempt(len(self.observed), "", 0.0)
        return None


class _TimeIsUp(Exception):
    pass


@dataclass
class _Tier:
    """Holds the bounds of another dtype, which hold if the first values that differ look like its
    own."""

    dtype: str
    bounds: Callable[[], Bounds]
    fits: bool = False

    def of(self, name: str, error: float, actual: np.ndarray) -> float:
        """Say what is allowed of a part that is off by an error."""
        if not self.fits and not self._could_be(error, actual):
            return 0.0
        self.fits = True
        return self.bounds().of(name)

    def _could_be(self, error: float, actual: np.ndarray) -> bool:
        unit, bits = ROUNDING[self.dtype], narrowest(actual)
        if self.dtype == "tf32":
            return unit / 64 <= error <= 32 * unit and bits == "float32"
        if self.dtype == "float32" and bits is None:  # kept in more bits afterwards
            return unit / 32 <= error <= 4096 * unit
        return bits == self.dtype


def _size(request: Request) -> tuple[int, ...] | None:
    match request:
        case Forward(x=x):
            return tuple(x.shape[2:])
        case Train(batches=batches):
            return tuple(batches[0].x.shape[2:])
        case Inspect(sample_size=size):
            return size
    return None


def _observed(answer: Any) -> Parts:
    """Return the parts of an answer by name, in float64."""
    match answer:
        case list():
            parts = parts_of_steps(answer)
        case Inspected():
            parts = {
                "trainable parameters": np.array(answer.trainable),
                "running statistics": np.array(answer.non_trainable),
                **{f"shape of {n}": np.array(shape) for n, shape in answer.shapes.items()},
            }
        case _:
            parts = dict(answer)
    return {name: np.asarray(array, np.float64) for name, array in parts.items()}


def _inspected(variant: Variant) -> Iterator[tuple[str, np.ndarray]]:
    count = variant.graph.parameters
    counted = variant.trainable_statistics
    yield "trainable parameters", np.array(count.total if counted else count.trainable, float)
    yield "running statistics", np.array(0 if counted else count.non_trainable, float)
    for node in variant.graph.nodes:
        yield f"shape of {node.name}", np.array(node.shape, float)
