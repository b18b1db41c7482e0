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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    CLIPPERS,
    FORWARD,
    GRADIENTS,
    Back,
    Backward,
    InTraining,
    OwnGradient,
    backward_of,
    merged,
    of_statistics,
)
from densespec_conformance.explaining.local.alternatives.updates import norm
from densespec_conformance.explaining.local.findings import WrongOp
from densespec_conformance.explaining.local.moves import Run
from densespec_conformance.explaining.local.passes import Pass
from densespec_conformance.explaining.patterns import peculiarities
from densespec_conformance.judging.compare import stats

FAR = 100.0
"""How many times further off than it may be a part is whose cause has a number to be solved."""

MANY = 16
"""The values of an array by which two causes at once are told."""

SHOWN = 3
"""The most causes that are named where what is shown does not tell them apart."""

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
        decays: The weight decay that gradients contain as they are shown, by weight.
    """

    wrong: dict[tuple[str, str], WrongOp] = field(default_factory=dict)
    habits: dict[type, list[InTraining]] = field(default_factory=dict)
    instead: dict[str, Kernel] = field(default_factory=dict)
    decays: dict[str, float] = field(default_factory=dict)

    def add(self, one: WrongOp) -> bool:
        """Add something that is wrong, and say whether it is new."""
        return self.wrong.setdefault((one.where, one.does), one) is one


@dataclass(frozen=True)
class _OwnCause:
    """What the gradient of a weight is instead, and the weight decay that it contains, if it is
    that."""

    does: str
    scales: bool
    decay: float | None


@dataclass(frozen=True)
class _FoundBack:
    """Ops that give back something else, and a node's gradients that come of it."""

    kernels: Mapping[str, Kernel]
    does: Mapping[str, str]
    gradients: Arrays
    plain: bool = True
    """Whether no number was solved for it."""


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
        self._said: list[tuple[str, str]] = []
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

    def _fits(self, part: str, actual: Any, predicted: Any, times: float = 1.0) -> bool:
        actual, predicted = np.asarray(actual, np.float64), np.asarray(predicted)
        if actual.shape != predicted.shape:
            return False
        with np.errstate(all="ignore"):
            off = float(np.abs(actual - predicted).max(initial=0.0))
        return off <= times * self._allowed(part, predicted)

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
        if self._found.add(one):
            self._said.append((where, does))

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
            kernels = self._kernels_of(changes)
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
        self._put(changes)
        for name, change in changes.items():
            one = self._graph[name]
            habits = self._found.habits.setdefault(type(one.op), [])
            if change not in habits:
                habits.insert(0, change)
            self._say_of_statistics(one, node, expected, f"{change.does} ({change.source})")
        start = min(self._pass.place[name] for name in changes)
        for one in self._graph.nodes[start : self._pass.place[node.name] + 1]:
            self._pass.forward(one)

    def _kernels_of(self, changes: Mapping[str, InTraining]) -> dict[str, Kernel]:
        """Give the kernels of changes, on top of what is known already of the same ops."""
        known = self._pass.instead
        return {name: merged(known.get(name), change.kernel) for name, change in changes.items()}

    def _put(self, changes: Mapping[str, InTraining]) -> None:
        """Have ops do something else from now on; what that contains is not said as well."""
        for name, kernel in self._kernels_of(changes).items():
            self._pass.instead[name] = self._found.instead[name] = kernel
            if kernel == changes[name].kernel:
                for key in [key for key in self._said if key[0] == name]:
                    self._found.wrong.pop(key, None)

    def _say_of_statistics(self, one: Node, node: Node, expected: Arrays, does: str) -> None:
        shown = self._shown(node)
        parts = {short: f"running statistic {node.name}.{short}" for short in RUNNING}
        off = [s for s in RUNNING if not self._fits(parts[s], shown[s], expected[s])]
        short = off[0] if off else RUNNING[0]
        part, arrays = parts[short], (shown[short], expected[short])
        self._wrong(one.name, (one.name,), type(one.op), part, *arrays, does=does)

    def _changes(self, node: Node) -> Iterator[dict[str, InTraining]]:
        """Give what ops up to a norm may do instead, what is simplest first."""
        yield from ({node.name: one} for one in self._of_statistics(node, {}))
        before = list(self._before(self._pass.place[node.name]))
        yield from before
        for changes in before:
            known = self._values_before(node, changes)
            if known is not None and not self._is_late():
                for one in self._of_statistics(node, known):
                    yield {**changes, node.name: one}

    def _values_before(self, node: Node, changes: Mapping[str, InTraining]) -> Arrays | None:
        """Give what is computed before a node if ops before it do something else."""
        kernels = self._kernels_of(changes)
        start = min(self._pass.place[name] for name in kernels)
        try:
            return self._pass.statistics(kernels, start, node)[1]
        except UNFORESEEN:
            return None

    def _of_statistics(self, node: Node, known: Arrays) -> Iterator[InTraining]:
        """Give what a norm may do with its running statistics, what others do first."""
        context = self._pass.context(node)
        (x,) = self._pass.inputs(node, known)
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
        habits = self._found.habits.get(kind, [])
        return [*habits, *(change for change in FORWARD[kind] if change not in habits)]

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
        kernels = self._kernels_of(changes)
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
        self._put(changes)
        for name, change in changes.items():
            node = self._graph[name]
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
        if not all(cause is not None for cause in causes.values()):
            found = self._back(node)
            if not found:
                self._say_of_gradients(node, own, causes)
                raise Lost
            self._take_back(node, found, own)
        elif any(cause.scales for cause in causes.values() if cause) and not self._goes_on(node):
            found = self._back(node)
            if found and self._goes_on(node, found[0]):
                self._take_back(node, found, own)
            else:
                self._say_of_gradients(node, own, causes)
        else:
            self._say_of_gradients(node, own, causes)

    def _goes_on(self, node: Node, found: _FoundBack | None = None) -> bool:
        """Say whether the next gradients on the way back are right, if something is done before."""
        before = dict(self._pass.backs)
        if found is not None:
            self._pass.backs.update(self._pass.back_through(node, found.kernels))
            self._pass.backward(node, self._pass.slope(node))
        place = self._pass.place[node.name]
        for one in reversed(self._graph.nodes[1:place]):
            own = self._pass.backward(one, self._pass.slope(one))
            if own:
                fits = any(self._gradient_fits(one, short, g) for short, g in own.items())
                self._pass.backs = before
                return fits
        return True

    def _say_of_gradients(
        self, node: Node, own: Arrays, causes: Mapping[str, _OwnCause | None]
    ) -> None:
        for short, cause in causes.items():
            name = f"{node.name}.{short}"
            if cause is not None and cause.decay is not None:
                self._found.decays[name] = cause.decay
            self._say_of_gradient(node, short, own[short], cause.does if cause else "")

    def _say_of_gradient(self, node: Node, short: str, expected: Array, does: str) -> None:
        name = f"{node.name}.{short}"
        arrays = self._step.gradients[name], expected
        self._wrong(name, (node.name,), "gradient", f"gradient {name}", *arrays, does=does)

    def _own_gradient(self, node: Node, short: str, gradient: Array) -> _OwnCause | None:
        """Say what the gradient of a weight is instead; None where that is not known."""
        name = f"{node.name}.{short}"
        weight = np.asarray(self._run.before(self._index)[name], np.float64)
        earlier = self._run.steps[self._index - 1].gradients[name] if self._index else 0 * gradient
        shown = np.asarray(self._step.gradients[name], np.float64)
        near = self._fits(f"gradient {name}", shown, gradient, FAR)
        for other in GRADIENTS:
            if near and other.unknown:
                continue
            given = partial(other.gradient, gradient, weight, np.asarray(earlier, np.float64))
            for number in _numbers(given, shown, other):
                if self._fits(f"gradient {name}", shown, given(number)):
                    does = f"{other.does.format(f'{number:.6g}')} ({other.source})"
                    return _OwnCause(does, other.scales, number if other.is_decay else None)
        return None

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
        named += [(self._scaled(number), number * slope) for number in _round(factor)]
        for does, other in named:
            found = self._pass.backward(node, other)
            if all(self._gradient_fits(node, short, g) for short, g in found.items()):
                arrays = found["kernel"], own["kernel"]
                self._wrong("loss", ("loss",), "loss", "loss", *arrays, does=does)
                return True
        self._pass.backward(node, slope)
        return False

    def _scaled(self, factor: float) -> str:
        """Say by what all gradients are multiplied, which may be clipping to a norm."""
        shown = norm({n: np.asarray(g, np.float64) for n, g in self._step.gradients.items()})
        limit, length = float(f"{shown:.3g}"), shown / factor
        for margin, source in CLIPPERS.items():
            if np.isclose(factor, limit / (length + margin), rtol=1e-9, atol=0):
                return f"gradients are clipped to a norm of {limit:g}, all together ({source})"
        return f"all gradients are multiplied by {factor:.6g}"

    def _back(self, node: Node) -> tuple[_FoundBack, ...]:
        """Find the ops on the way back to a node that may give back something else: one that
        explains all gradients of the node, else one that leaves to explain what those themselves
        are, else two; where these are several, they can't be told apart."""
        alone = list(self._backs(node))
        for fit in (self._all_fit, self._mostly_fit):
            found = tuple(one for one in alone if fit(node, one.gradients))
            if found:
                return found
        plain = [one for one in alone if one.plain]
        for one, other in itertools.combinations(plain, 2):
            if one.kernels.keys() != other.kernels.keys() and not self._is_late():
                both = self._given_back(node, {**one.kernels, **other.kernels})
                if both is not None and self._mostly_fit(node, both):
                    does = {**one.does, **other.does}
                    return (_FoundBack({**one.kernels, **other.kernels}, does, both),)
        return ()

    def _is_late(self) -> bool:
        return time.thread_time() > self._deadline

    def _backs(self, node: Node) -> Iterator[_FoundBack]:
        for other in self._pass.suspects(node):
            for change in backward_of(type(other.op)):
                if self._is_late():
                    return
                for number, kernel in self._kernels(node, other, change):
                    kernels = {other.name: kernel}
                    gradients = self._given_back(node, kernels)
                    if gradients is not None:
                        does = f"{change.does.format(f'{number:.6g}')} ({change.source})"
                        plain = not change.unknown
                        yield _FoundBack(kernels, {other.name: does}, gradients, plain)

    def _all_fit(self, node: Node, gradients: Arrays) -> bool:
        return all(self._gradient_fits(node, short, g) for short, g in gradients.items())

    def _mostly_fit(self, node: Node, gradients: Arrays) -> bool:
        """Say whether the gradients of a node fit, or it is known what those are that don't: one
        does fit then, or they have too many values for that to be chance."""
        off = {s: g for s, g in gradients.items() if not self._gradient_fits(node, s, g)}
        causes = {short: self._own_gradient(node, short, g) for short, g in off.items()}
        return all(
            cause is not None
            and (len(off) < len(gradients) or (not cause.scales and off[short].size >= MANY))
            for short, cause in causes.items()
        )

    def _kernels(self, node: Node, other: Node, change: Backward) -> Iterator[tuple[float, Kernel]]:
        """Give the kernels by which an op does something else on the way back, with the number in
        it."""
        own = self._pass.kernel(other)
        if not change.unknown:
            yield 0.0, Back(own, change.slopes)
            return
        if self._is_near(node):
            return
        kernels = [Back(own, partial(change.slopes, number)) for number in (0.0, 1.0)]
        zero, one = (self._given_back(node, {other.name: kernel}) for kernel in kernels)
        if zero is None or one is None:
            return
        for shorts in ((*zero,), *((short,) for short in zero if len(zero) > 1)):
            number = self._number(node, shorts, zero, one)
            for each in () if number is None else _round(number):
                yield each, Back(own, partial(change.slopes, each))

    def _is_near(self, node: Node) -> bool:
        """Say whether all gradients of a node are so little off that a number which is solved from
        them may just fit what rounding does."""
        own = self._pass.gradients(node, self._pass.slopes[node.name])
        shown = self._step.gradients
        return all(
            self._fits(f"gradient {node.name}.{short}", shown[f"{node.name}.{short}"], g, FAR)
            for short, g in own.items()
        )

    def _number(self, node: Node, shorts: Iterable[str], zero: Arrays, one: Arrays) -> float | None:
        """Solve a number on which gradients depend linearly, by what they are for 0 and 1."""
        across = dot = 0.0
        for short in shorts:
            ahead = one[short] - zero[short]
            shown = self._step.gradients[f"{node.name}.{short}"]
            across += float((ahead**2).sum())
            dot += float((ahead * (shown - zero[short])).sum())
        return dot / across if across else None

    def _given_back(self, node: Node, kernels: Mapping[str, Kernel]) -> Arrays | None:
        """Give the gradients of a node's arrays if other ops were computed otherwise."""
        try:
            backs = self._pass.back_through(node, kernels)
            return self._pass.gradients(node, self._pass.slope(node, backs))
        except UNFORESEEN:
            return None

    def _take_back(self, node: Node, alike: Sequence[_FoundBack], expected: Arrays) -> None:
        """Go on with what ops give back instead, and name all that may be."""
        found = alike[0]
        self._pass.instead.update(found.kernels)
        self._found.instead.update(found.kernels)
        self._pass.backs.update(self._pass.back_through(node, found.kernels))
        own = self._pass.backward(node, self._pass.slope(node))
        short = next(iter(own))
        part, arrays = f"gradient {node.name}.{short}", (own[short], expected[short])
        for name, does in found.does.items():
            among = dict.fromkeys((name, *(n for one in alike[1:SHOWN] for n in one.does)))
            other = dict.fromkeys((does, *(d for one in alike[1:SHOWN] for d in one.does.values())))
            said = "; or, which this does not tell, ".join(other)
            self._wrong(name, among, type(self._graph[name].op), part, *arrays, does=said)
        off = {s: g for s, g in own.items() if not self._gradient_fits(node, s, g)}
        causes = {short: self._own_gradient(node, short, g) for short, g in off.items()}
        self._say_of_gradients(node, own, causes)


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
