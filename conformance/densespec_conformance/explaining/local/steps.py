"""A training step is judged part by part: running statistics, loss, then each gradient.

A step shows no values between its ops, but parts that follow from them: each norm's running
statistics, the loss, and the gradients of all weights. The step is computed from the weights that
the target itself had come to. Where a part is not what it should be, the ops between it and the
parts that are right may do something else; what gives the part to the last digits is kept, and the
step is computed on from there. So one pass finds all that is wrong.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.reference.kernels import Array, Kernel
from densespec.reference.losses import loss_and_slope
from densespec_conformance.explaining.local.alternatives.losses import LOSSES, REPORTS
from densespec_conformance.explaining.local.alternatives.training import (
    FORWARD,
    GRADIENTS,
    Back,
    Backward,
    InTraining,
    OwnGradient,
    backward_of,
    of_statistics,
)
from densespec_conformance.explaining.local.findings import WrongOp
from densespec_conformance.explaining.local.moves import Run
from densespec_conformance.explaining.local.passes import Pass
from densespec_conformance.explaining.patterns import peculiarities
from densespec_conformance.judging.compare import stats

DIGITS = (2, 4, 6)
"""The digits of round numbers, which are tried before what was solved."""

UNFORESEEN = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)
"""The errors that an alternative raises on an op for which it has no meaning."""

RUNNING = ("running_mean", "running_variance")


class Lost(Exception):
    """A part of a step is wrong, and it is not known why, so what follows can't be judged."""


@dataclass
class Found:
    """What was found in the steps so far.

    Attributes:
        wrong: What is wrong, by the place and what is done there.
        habits: What ops of a kind did instead, which others of the kind may do as well.
        instead: What ops do instead, by node, which they may do in the next step as well.
    """

    wrong: dict[tuple[str, str], WrongOp] = field(default_factory=dict)
    habits: dict[type, list[InTraining]] = field(default_factory=dict)
    instead: dict[str, Kernel] = field(default_factory=dict)

    def add(self, one: WrongOp) -> None:
        self.wrong.setdefault((one.where, one.does), one)


class StepJudge:
    """Judges one step of a run.

    Args:
        kernels: How each kind of op is computed.
        found: What was found in earlier steps, to which is added.
        deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
    """

    def __init__(
        self,
        run: Run,
        graph: Graph,
        kernels: Mapping[type, Kernel],
        index: int,
        found: Found,
        deadline: float,
    ) -> None:
        self._run, self._graph, self._index = run, graph, index
        self._found, self._deadline = found, deadline
        self._step = run.steps[index]
        self._label = f"step {index + 1}"
        batch = run.request.batches[index]
        self._pass = Pass(graph, kernels, run.before(index), batch, dict(found.instead))
        self._sure = 1
        """The place from which on ops may do something else: all before it show that they don't."""

    def judge(self) -> None:
        """Find all that is wrong in the step.

        Raises:
            Lost: It is not known why a part is wrong.
        """
        for node in self._graph.nodes[1:]:
            self._pass.forward(node)
            if isinstance(node.op, ops.BatchNorm) and not node.frozen:
                self._judge_statistics(node)
        self._judge_backward(self._judge_loss())

    # --- how far apart

    def _allowed(self, part: str, expected: Array) -> float:
        """Say how far a part may be off, in its own unit."""
        given = self._run.bounds.get(f"{self._label}, {part}", 0.0)
        largest = float(np.abs(expected).max(initial=0.0))
        return max(given, 64 * self._run.unit) * (largest or 1.0)

    def _fits(self, part: str, actual: Any, predicted: Any) -> bool:
        actual, predicted = np.asarray(actual, np.float64), np.asarray(predicted)
        if actual.shape != predicted.shape:
            return False
        with np.errstate(all="ignore"):
            off = float(np.abs(actual - predicted).max(initial=0.0))
        return off <= self._allowed(part, predicted)

    def _wrong(
        self, where: str, nodes: Iterable[str], kind: type | str, part: str, *arrays: Any, does: str
    ) -> None:
        """Add something that is wrong: what a part of the step is, and what it should be."""
        actual, expected = (np.asarray(array, np.float64) for array in arrays)
        largest = float(np.abs(expected).max(initial=0.0)) or 1.0
        one = WrongOp(
            where=where,
            among=tuple(nodes),
            kind=kind,
            error=float(np.abs(actual - expected).max(initial=0.0)) / largest,
            allowed=self._allowed(part, expected) / largest,
            actual=stats(actual),
            expected=stats(expected),
            does=does,
            exact=bool(does),
            remarks=() if does else peculiarities(actual, expected),
        )
        self._found.add(one)

    # --- forward

    def _judge_statistics(self, node: Node) -> None:
        if not self._show(node, self._pass.contexts[node.name].statistics):
            self._explain_statistics(node)
        kernel = self._pass.instead.get(node.name)
        if getattr(kernel, "updates", 1):
            self._sure = self._pass.place[node.name]

    def _shown(self, node: Node) -> dict[str, Array]:
        return {short: self._step.weights[f"{node.name}.{short}"] for short in RUNNING}

    def _show(self, node: Node, predicted: Mapping[str, Array]) -> bool:
        """Say whether running statistics are those that the target shows."""
        shown = self._shown(node)
        return bool(predicted) and all(
            self._fits(f"running statistic {node.name}.{short}", shown[short], predicted[short])
            for short in RUNNING
        )

    def _explain_statistics(self, node: Node) -> None:
        expected = dict(self._pass.contexts[node.name].statistics)
        for changes in self._changes(node):
            kernels = {name: change.kernel for name, change in changes.items()}
            start = min(self._pass.place[name] for name in kernels)
            predicted = self._foreseen(kernels, start, node)
            if predicted is not None and self._show(node, predicted):
                self._take(changes, node, expected)
                return
        self._say_of_statistics(node, node, expected, "")
        raise Lost

    def _foreseen(self, kernels: Mapping[str, Kernel], start: int, node: Node) -> Arrays | None:
        try:
            with np.errstate(all="ignore"):
                return self._pass.statistics(kernels, start, node)[0]
        except UNFORESEEN:
            return None

    def _take(self, changes: Mapping[str, InTraining], node: Node, expected: Arrays) -> None:
        """Go on with what ops do instead."""
        for name, change in changes.items():
            one = self._graph[name]
            self._pass.instead[name] = self._found.instead[name] = change.kernel
            habits = self._found.habits.setdefault(type(one.op), [])
            if change not in habits:
                habits.insert(0, change)
            self._say_of_statistics(one, node, expected, f"{change.does} ({change.source})")
        start = min(self._pass.place[name] for name in changes)
        for one in self._graph.nodes[start : self._pass.place[node.name] + 1]:
            self._pass.forward(one)

    def _say_of_statistics(self, one: Node, node: Node, expected: Arrays, does: str) -> None:
        shown = self._shown(node)
        parts = {short: f"running statistic {node.name}.{short}" for short in RUNNING}
        off = [s for s in RUNNING if not self._fits(parts[s], shown[s], expected[s])]
        short = off[0] if off else RUNNING[0]
        part, arrays = parts[short], (shown[short], expected[short])
        self._wrong(one.name, (one.name,), type(one.op), part, *arrays, does=does)

    def _changes(self, node: Node) -> Iterator[dict[str, InTraining]]:
        """Give what ops up to a norm may do instead, what is simplest first."""
        own = [{node.name: one} for one in self._of_statistics(node)]
        yield from own
        before = list(self._before(self._pass.place[node.name]))
        yield from before
        for one, other in itertools.product(before, own):
            if node.name not in one and time.thread_time() < self._deadline:
                yield {**one, **other}

    def _of_statistics(self, node: Node) -> Iterator[InTraining]:
        """Give what a norm may do with its running statistics, what others do first."""
        context = self._pass.context(node)
        (x,) = self._pass.inputs(node)
        yield from self._found.habits.get(ops.BatchNorm, [])
        yield from of_statistics(node.op, context, x, self._shown(node))  # type: ignore[arg-type]

    def _before(self, end: int) -> Iterator[dict[str, InTraining]]:
        """Give what ops may do instead that nothing has shown to be right: all of a kind, then each
        by itself."""
        nodes = self._graph.nodes[self._sure : end]
        of_kind = {kind: [n for n in nodes if type(n.op) is kind] for kind in FORWARD}
        for kind, members in of_kind.items():
            for change in self._of_kind(kind):
                if members:
                    yield {node.name: change for node in members}
        for kind, members in of_kind.items():
            for node, change in itertools.product(members, self._of_kind(kind)):
                if len(members) > 1 and time.thread_time() < self._deadline:
                    yield {node.name: change}

    def _of_kind(self, kind: type) -> list[InTraining]:
        return list(dict.fromkeys([*self._found.habits.get(kind, []), *FORWARD[kind]]))

    # --- loss

    def _judge_loss(self) -> Array:
        """Judge the loss, and give its gradient by the logits."""
        loss, slope = self._loss(loss_and_slope)
        shown = self._step.loss
        if self._fits("loss", shown, loss):
            return slope
        for changes in self._before(len(self._graph.nodes)):
            if self._logits_give(changes, shown):
                self._take_to_the_end(changes, loss)
                return self._loss(loss_and_slope)[1]
        for other in LOSSES:
            if other.kinds and self._run.recipe.loss not in other.kinds:
                continue
            found = self._try_loss(other.loss)
            if found is not None and self._fits("loss", shown, found[0]):
                if not self._starts_with(found[1]) and self._starts_with(slope):
                    continue
                self._say_of_loss(loss, f"{other.does} ({other.source})")
                return found[1]
        weights = {n: np.asarray(w, np.float64) for n, w in self._run.before(self._index).items()}
        count = len(self._pass.batch.labels)
        for report in REPORTS:
            if self._fits("loss", shown, report.reported(loss, weights, self._run.recipe, count)):
                self._say_of_loss(loss, f"{report.does} ({report.source})")
                return slope
        self._say_of_loss(loss, "")
        raise Lost

    def _loss(self, function: Callable[..., tuple[float, Array]]) -> tuple[float, Array]:
        logits = self._pass.values[self._graph.output.name]
        return function(self._run.recipe, logits, np.asarray(self._pass.batch.labels))

    def _try_loss(self, function: Callable[..., tuple[float, Array]]) -> tuple[float, Array] | None:
        try:
            return self._loss(function)
        except UNFORESEEN:
            return None

    def _starts_with(self, slope: Array) -> bool:
        """Say whether the gradients of the last weights follow from a slope."""
        node = self._graph.output
        own = self._pass.backward(node, slope)
        return all(self._gradient_fits(node, short, g) for short, g in own.items())

    def _logits_give(self, changes: Mapping[str, InTraining], shown: float) -> bool:
        kernels = {name: change.kernel for name, change in changes.items()}
        start = min(self._pass.place[name] for name in kernels)
        output = self._graph.output
        try:
            _, known = self._pass.statistics(kernels, start, output)
        except UNFORESEEN:
            return False
        labels = np.asarray(self._pass.batch.labels)
        loss, _ = loss_and_slope(self._run.recipe, known[output.name], labels)
        return self._fits("loss", shown, loss)

    def _take_to_the_end(self, changes: Mapping[str, InTraining], loss: float) -> None:
        for name, change in changes.items():
            node = self._graph[name]
            self._pass.instead[name] = self._found.instead[name] = change.kernel
            does = f"{change.does} ({change.source})"
            arrays = self._step.loss, loss
            self._wrong(name, (name,), type(node.op), "loss", *arrays, does=does)
        start = min(self._pass.place[name] for name in changes)
        for node in self._graph.nodes[start:]:
            self._pass.forward(node)

    def _say_of_loss(self, loss: float, does: str) -> None:
        self._wrong("loss", ("loss",), "loss", "loss", self._step.loss, loss, does=does)

    # --- backward

    def _judge_backward(self, slope: Array) -> None:
        for node in reversed(self._graph.nodes[1:]):
            if node.frozen:
                break
            here = slope if node is self._graph.output else self._pass.slope(node)
            own = self._pass.backward(node, here)
            off = [short for short, g in own.items() if not self._gradient_fits(node, short, g)]
            if off:
                self._explain_gradients(node, own, off, here)

    def _gradient_fits(self, node: Node, short: str, predicted: Array) -> bool:
        name = f"{node.name}.{short}"
        return self._fits(f"gradient {name}", self._step.gradients[name], predicted)

    def _explain_gradients(self, node: Node, own: Arrays, off: list[str], slope: Array) -> None:
        if node is self._graph.output and self._explain_slope(node, own, slope):
            return
        causes = {short: self._own_gradient(node, short, own[short]) for short in off}
        if all(causes.values()) and self._is_its_own(node, off, causes):
            for short, does in causes.items():
                self._say_of_gradient(node, short, own[short], does)
            return
        if not self._explain_back(node, own):
            for short in off:
                self._say_of_gradient(node, short, own[short], "")
            raise Lost

    def _is_its_own(self, node: Node, off: list[str], causes: Mapping[str, str]) -> bool:
        """Say whether what is off may be the gradients alone, not what comes back to the node."""
        factors = {does for does in causes.values() if "multiplied by" in does}
        return not (factors and len(off) > 1 and len(set(causes.values())) == 1)

    def _say_of_gradient(self, node: Node, short: str, expected: Array, does: str) -> None:
        name = f"{node.name}.{short}"
        arrays = self._step.gradients[name], expected
        self._wrong(name, (node.name,), "gradient", f"gradient {name}", *arrays, does=does)

    def _own_gradient(self, node: Node, short: str, gradient: Array) -> str:
        """Say what the gradient of a weight is instead; nothing where that is not known."""
        name = f"{node.name}.{short}"
        weight = np.asarray(self._run.before(self._index)[name], np.float64)
        earlier = self._run.steps[self._index - 1].gradients[name] if self._index else 0 * gradient
        shown = np.asarray(self._step.gradients[name], np.float64)
        for other in GRADIENTS:
            given = partial(other.gradient, gradient, weight, np.asarray(earlier, np.float64))
            for number in _numbers(given, shown, other):
                if self._fits(f"gradient {name}", shown, given(number)):
                    return f"{other.does.format(f'{number:.6g}')} ({other.source})"
        return ""

    def _explain_slope(self, node: Node, own: Arrays, slope: Array) -> bool:
        """Find another gradient of the loss by the logits."""
        others = [self._try_loss(one.loss) for one in LOSSES]
        named = [
            (f"gradients are those of another loss: {one.does} ({one.source})", found[1])
            for one, found in zip(LOSSES, others, strict=True)
            if found is not None and (not one.kinds or self._run.recipe.loss in one.kinds)
        ]
        across = sum(float((g**2).sum()) for g in own.values())
        shown = {short: self._step.gradients[f"{node.name}.{short}"] for short in own}
        factor = sum(float((own[s] * shown[s]).sum()) for s in own) / (across or 1.0)
        named += [(f"all gradients are multiplied by {f:.6g}", f * slope) for f in _round(factor)]
        for does, other in named:
            found = self._pass.backward(node, other)
            if all(self._gradient_fits(node, short, g) for short, g in found.items()):
                arrays = found["kernel"], own["kernel"]
                self._wrong("loss", ("loss",), "loss", "loss", *arrays, does=does)
                return True
        self._pass.backward(node, slope)
        return False

    def _explain_back(self, node: Node, expected: Arrays) -> bool:
        for other in self._pass.suspects(node):
            for change in backward_of(type(other.op)):
                if time.thread_time() > self._deadline:
                    return False
                for number, kernel in self._kernels(node, other, change):
                    found = self._given_back(node, other, kernel)
                    if found is not None and self._all_fit(node, found):
                        self._take_back(node, other, kernel)
                        does = f"{change.does.format(f'{number:.6g}')} ({change.source})"
                        short = next(iter(found))
                        name = f"gradient {node.name}.{short}"
                        arrays = found[short], expected[short]
                        kind = type(other.op)
                        self._wrong(other.name, (other.name,), kind, name, *arrays, does=does)
                        return True
        return False

    def _all_fit(self, node: Node, gradients: Arrays) -> bool:
        return all(self._gradient_fits(node, short, g) for short, g in gradients.items())

    def _kernels(self, node: Node, other: Node, change: Backward) -> Iterator[tuple[float, Kernel]]:
        """Give the kernels by which an op does something else on the way back, with the number in
        it."""
        own = self._pass.kernel(other)
        if not change.unknown:
            yield 0.0, Back(own, change.slopes)
            return
        kernels = [Back(own, partial(change.slopes, number)) for number in (0.0, 1.0)]
        ends = [self._given_back(node, other, kernel) for kernel in kernels]
        if ends[0] is None or ends[1] is None:
            return
        across = dot = 0.0
        for short, at_zero in ends[0].items():
            ahead = ends[1][short] - at_zero
            shown = self._step.gradients[f"{node.name}.{short}"]
            across += float((ahead**2).sum())
            dot += float((ahead * (shown - at_zero)).sum())
        for number in _round(dot / across) if across else ():
            yield number, Back(own, partial(change.slopes, number))

    def _given_back(self, node: Node, other: Node, kernel: Kernel) -> Arrays | None:
        """Give the gradients of a node's arrays if another op were computed otherwise."""
        try:
            with np.errstate(all="ignore"):
                backs = self._pass.back_through(node, other, kernel)
                return self._pass.gradients(node, self._pass.slope(node, backs))
        except UNFORESEEN:
            return None

    def _take_back(self, node: Node, other: Node, kernel: Kernel) -> None:
        self._pass.instead[other.name] = self._found.instead[other.name] = kernel
        self._pass.backs.update(self._pass.back_through(node, other, kernel))
        self._pass.backward(node, self._pass.slope(node))


def _round(number: float) -> tuple[float, ...]:
    """Give round numbers near a number, and the number itself."""
    return tuple(dict.fromkeys((*(float(f"{number:.{digits}g}") for digits in DIGITS), number)))


def _numbers(
    given: Callable[[float], Array], shown: Array, other: OwnGradient
) -> tuple[float, ...]:
    """Solve the number on which a gradient depends linearly."""
    if not other.unknown:
        return (0.0,)
    zero = given(0.0)
    ahead = given(1.0) - zero
    across = float((ahead**2).sum())
    if not across or shown.size < 2:
        return ()
    return _round(float((ahead * (shown - zero)).sum()) / across)
