"""The running statistics and the loss of a training step are judged on the way forward.

Each norm's running statistics, and at last the loss, follow from what goes into them. Where one is
not what it should be, the ops between it and the one before may do something else in training; what
gives it to the last digits is kept, and the step is computed on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Node
from densespec.reference.kernels import Array, Kernel
from densespec.reference.losses import loss_and_slope
from densespec_conformance.explaining.local.alternatives.devices import Apart
from densespec_conformance.explaining.local.alternatives.gradients import Back
from densespec_conformance.explaining.local.alternatives.in_training import (
    FORWARD,
    InTraining,
    merged,
    of_devices,
    of_statistics,
)
from densespec_conformance.explaining.local.alternatives.losses import LOSSES, REPORTS
from densespec_conformance.explaining.local.step import UNFORESEEN, Lost, Step

RUNNING = ("running_mean", "running_variance")


class WayForward:
    """Judges the forward pass of a step."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._sure = 1
        """Ops may do something else from this place on: all before it show that they don't."""

    def judge(self) -> Array:
        """Find all that is wrong, and give the gradient of the loss by the logits.

        Raises:
            Lost: It is not known why a part is wrong.
        """
        for node in self._step.graph.nodes[1:]:
            self._step.passed.forward(node)
            if isinstance(node.op, ops.BatchNorm) and not node.frozen:
                self._judge_statistics(node)
        return self._judge_loss()

    def _judge_statistics(self, node: Node) -> None:
        if not self._show(node, self._step.passed.contexts[node.name].statistics):
            self._explain_statistics(node)
        if _updates(self._step.passed.instead.get(node.name)):
            self._sure = self._step.passed.place[node.name]

    def _shown(self, node: Node) -> dict[str, Array]:
        return {short: self._step.shown.weights[f"{node.name}.{short}"] for short in RUNNING}

    def _show(self, node: Node, predicted: Mapping[str, Array]) -> bool:
        """Say whether running statistics are those that the target shows."""
        shown = self._shown(node)
        return bool(predicted) and all(
            self._step.fits(
                f"running statistic {node.name}.{short}", shown[short], predicted[short]
            )
            for short in RUNNING
        )

    def _explain_statistics(self, node: Node) -> None:
        expected = dict(self._step.passed.contexts[node.name].statistics)
        for changes in self._changes(node):
            kernels = self._kernels_of(changes)
            start = min(self._step.passed.place[name] for name in kernels)
            predicted = self._foreseen(kernels, start, node)
            if predicted is not None and self._show(node, predicted):
                self._take(changes, node, expected)
                return
        self._say_of_statistics(node, node, expected, "")
        raise Lost

    def _foreseen(self, kernels: Mapping[str, Kernel], start: int, node: Node) -> Arrays | None:
        try:
            with np.errstate(all="ignore"):
                return self._step.passed.statistics(kernels, start, node)[0]
        except UNFORESEEN:
            return None

    def _take(self, changes: Mapping[str, InTraining], node: Node, expected: Arrays) -> None:
        """Go on with what ops do instead."""
        self._put(changes)
        for name, change in changes.items():
            one = self._step.graph[name]
            habits = self._step.found.habits.setdefault(type(one.op), [])
            if change not in habits:
                habits.insert(0, change)
            self._say_of_statistics(one, node, expected, f"{change.does} ({change.source})")
        start = min(self._step.passed.place[name] for name in changes)
        for one in self._step.graph.nodes[start : self._step.passed.place[node.name] + 1]:
            self._step.passed.forward(one)

    def _kernels_of(self, changes: Mapping[str, InTraining]) -> dict[str, Kernel]:
        """Return the kernels of changes, on top of what is known already of the same ops."""
        known = self._step.passed.instead
        return {name: merged(known.get(name), change.kernel) for name, change in changes.items()}

    def _put(self, changes: Mapping[str, InTraining]) -> None:
        """Have ops do something else from now on; what that contains is not said as well."""
        for name, kernel in self._kernels_of(changes).items():
            self._step.passed.instead[name] = self._step.found.instead[name] = kernel
            if kernel == changes[name].kernel:
                for key in [key for key in self._step.said if key[0] == name]:
                    self._step.found.wrong.pop(key, None)

    def _say_of_statistics(self, one: Node, node: Node, expected: Arrays, does: str) -> None:
        shown = self._shown(node)
        parts = {short: f"running statistic {node.name}.{short}" for short in RUNNING}
        off = [s for s in RUNNING if not self._step.fits(parts[s], shown[s], expected[s])]
        short = off[0] if off else RUNNING[0]
        part, arrays = parts[short], (shown[short], expected[short])
        self._step.wrong(one.name, (one.name,), type(one.op), part, *arrays, does=does)

    def _changes(self, node: Node) -> Iterator[dict[str, InTraining]]:
        """Yield what ops up to a norm may do instead, what is simplest first."""
        yield from ({node.name: one} for one in self._of_statistics(node, {}))
        before = list(self._before(self._step.passed.place[node.name]))
        yield from before
        for changes in before:
            known = self._values_before(node, changes)
            if known is not None and not self._step.is_late():
                for one in self._of_statistics(node, known):
                    yield {**changes, node.name: one}

    def _values_before(self, node: Node, changes: Mapping[str, InTraining]) -> Arrays | None:
        """Return what is computed before a node if ops before it do something else."""
        kernels = self._kernels_of(changes)
        start = min(self._step.passed.place[name] for name in kernels)
        try:
            return self._step.passed.statistics(kernels, start, node)[1]
        except UNFORESEEN:
            return None

    def _of_statistics(self, node: Node, known: Arrays) -> Iterator[InTraining]:
        """Yield what a norm may do with its running statistics, what others do first."""
        context = self._step.passed.context(node)
        (x,) = self._step.passed.inputs(node, known)
        yield from self._step.found.habits.get(ops.BatchNorm, [])
        found = of_statistics(node.op, context, x, self._shown(node))  # type: ignore[arg-type]
        yield from map(self._on_devices, found)
        yield from of_devices(self._step.run.request.replicas, self._step.recipe.batch_norm)

    def _before(self, end: int) -> Iterator[dict[str, InTraining]]:
        """Yield what ops may do instead and nothing has shown to be right: all of a kind, then
        each."""
        nodes = self._step.graph.nodes[self._sure : end]
        of_kind = {kind: [n for n in nodes if type(n.op) is kind] for kind in FORWARD}
        for kind, members in of_kind.items():
            for change in self._of_kind(kind):
                if members:
                    yield {node.name: change for node in members}
        for kind, members in of_kind.items():
            for node, change in itertools.product(members, self._of_kind(kind)):
                if len(members) > 1 and not self._step.is_late():
                    yield {node.name: change}

    def _of_kind(self, kind: type) -> list[InTraining]:
        habits, known = self._step.found.habits.get(kind, []), FORWARD[kind]
        own = known if kind is not ops.BatchNorm else map(self._on_devices, known)
        return [*habits, *(change for change in own if change not in habits)]

    def _on_devices(self, change: InTraining) -> InTraining:
        """Let a norm do something on each device by itself, where norms are computed so."""
        norms = self._step.passed.kernels[ops.BatchNorm]
        if not isinstance(norms, Apart):
            return change
        return replace(change, kernel=Apart(norms.devices, change.kernel))

    def _judge_loss(self) -> Array:
        """Judge the loss, and give its gradient by the logits."""
        loss, slope = self._step.loss(loss_and_slope)
        shown = self._step.shown.loss
        if self._step.fits("loss", shown, loss):
            return slope
        for changes in self._before(len(self._step.graph.nodes)):
            if self._logits_give(changes, shown):
                self._take_to_the_end(changes, loss)
                return self._step.loss(loss_and_slope)[1]
        for other in LOSSES:
            if other.kinds and self._step.recipe.loss not in other.kinds:
                continue
            found = self._step.try_loss(other.loss)
            if found is not None and self._step.fits("loss", shown, found[0]):
                if not self._starts_with(found[1]) and self._starts_with(slope):
                    continue
                self._say_of_loss(loss, f"{other.does} ({other.source})")
                return found[1]
        weights, count = self._step.weights, len(self._step.passed.batch.labels)
        for report in REPORTS:
            reported = report.reported(loss, weights, self._step.recipe, count)
            if self._step.fits("loss", shown, reported):
                self._say_of_loss(loss, f"{report.does} ({report.source})")
                return slope
        self._say_of_loss(loss, "")
        raise Lost

    def _starts_with(self, slope: Array) -> bool:
        """Say whether the gradients of the last weights follow from a slope."""
        node = self._step.graph.output
        own = self._step.passed.backward(node, slope)
        return not self._step.off(node, own)

    def _logits_give(self, changes: Mapping[str, InTraining], shown: float) -> bool:
        kernels = self._kernels_of(changes)
        start = min(self._step.passed.place[name] for name in kernels)
        output = self._step.graph.output
        try:
            _, known = self._step.passed.statistics(kernels, start, output)
        except UNFORESEEN:
            return False
        labels = np.asarray(self._step.passed.batch.labels)
        loss, _ = loss_and_slope(self._step.recipe, known[output.name], labels)
        return self._step.fits("loss", shown, loss)

    def _take_to_the_end(self, changes: Mapping[str, InTraining], loss: float) -> None:
        self._put(changes)
        for name, change in changes.items():
            node = self._step.graph[name]
            does = f"{change.does} ({change.source})"
            arrays = self._step.shown.loss, loss
            self._step.wrong(name, (name,), type(node.op), "loss", *arrays, does=does)
        start = min(self._step.passed.place[name] for name in changes)
        for node in self._step.graph.nodes[start:]:
            self._step.passed.forward(node)

    def _say_of_loss(self, loss: float, does: str) -> None:
        self._step.wrong("loss", ("loss",), "loss", "loss", self._step.shown.loss, loss, does=does)


def _updates(kernel: Kernel | None) -> bool:
    """Say whether a norm updates its running statistics, so that they tell of what goes into it."""
    while isinstance(kernel, Back | Apart):
        kernel = kernel.kernel
    return bool(getattr(kernel, "updates", 1))
