"""The gradients of a training step are judged on the way back.

The gradients of a node's arrays follow from what comes back to it. Where one is not what it should
be, it is something else by itself, or the ops between the node and those whose gradients are right
give back something else; what gives the gradients to the last digits is kept, and the step is
computed on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Node
from densespec.reference.kernels import Array, Kernel
from densespec_conformance.explaining.local.alternatives.devices import Apart
from densespec_conformance.explaining.local.alternatives.gradients import (
    CLIPPERS,
    GRADIENTS,
    Back,
    Backward,
    OwnGradient,
    Slopes,
    backward_of,
)
from densespec_conformance.explaining.local.alternatives.in_training import SUMMED, SUMMED_IN
from densespec_conformance.explaining.local.alternatives.losses import LOSSES
from densespec_conformance.explaining.local.alternatives.updates import norm
from densespec_conformance.explaining.local.step import UNFORESEEN, Lost, Step
from densespec_conformance.explaining.local.words import SHOWN, alike_in_words

FAR = 100.0
"""A number is solved for a part that is this many times further off than it may be."""

MANY_MORE = 64
"""A number is solved by this many values of an array, however near the array is to right."""

MANY = 16
"""Two causes at once are told by this many values of an array."""

DIGITS = (2, 4, 6)
"""Round numbers have this many digits, and are tried before what was solved."""


@dataclass(frozen=True)
class _OwnCause:
    """Says what the gradient of a weight is instead, and the weight decay that it may contain."""

    does: str
    scales: bool
    decay: float | None


@dataclass(frozen=True)
class _FoundBack:
    """Holds ops that give back something else, and a node's gradients that follow from it."""

    kernels: Mapping[str, Kernel]
    does: Mapping[str, str]
    gradients: Arrays
    plain: bool = True
    """Tells whether no number was solved for it."""


class WayBack:
    """Judges the backward pass of a step."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._decays = dict.fromkeys(step.found.decays.values())

    def judge(self, slope: Array) -> None:
        """Find all that is wrong, from the gradient of the loss by the logits on.

        Raises:
            Lost: It is not known why a part is wrong.
        """
        for node in reversed(self._step.graph.nodes[1:]):
            if node.frozen:
                break
            here = slope if node is self._step.graph.output else self._step.passed.slope(node)
            own = self._step.passed.backward(node, here)
            off = self._step.off(node, own)
            if off:
                self._explain_gradients(node, own, off, here)

    def _explain_gradients(self, node: Node, own: Arrays, off: Arrays, slope: Array) -> None:
        if node is self._step.graph.output and self._explain_slope(node, own, slope):
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
        before = dict(self._step.passed.backs)
        if found is not None:
            self._step.passed.backs.update(self._step.passed.back_through(node, found.kernels))
            self._step.passed.backward(node, self._step.passed.slope(node))
        place = self._step.passed.place[node.name]
        for one in reversed(self._step.graph.nodes[1:place]):
            if one.frozen:
                break
            own = self._step.passed.backward(one, self._step.passed.slope(one))
            if own:
                fits = any(self._step.gradient_fits(one, short, g) for short, g in own.items())
                self._step.passed.backs = before
                return fits
        return True

    def _say_of_gradients(
        self, node: Node, own: Arrays, causes: Mapping[str, _OwnCause | None]
    ) -> None:
        for short, cause in causes.items():
            name = f"{node.name}.{short}"
            if cause is not None and cause.decay is not None:
                self._step.found.decays[name] = cause.decay
            self._say_of_gradient(node, short, own[short], cause.does if cause else "")

    def _say_of_gradient(self, node: Node, short: str, expected: Array, does: str) -> None:
        name = f"{node.name}.{short}"
        arrays = self._step.shown.gradients[name], expected
        self._step.wrong(name, (node.name,), "gradient", f"gradient {name}", *arrays, does=does)

    def _own_gradient(self, node: Node, short: str, gradient: Array) -> _OwnCause | None:
        """Say what the gradient of a weight is instead; None where that is not known."""
        name = f"{node.name}.{short}"
        weight, earlier = self._step.weights[name], self._step.earlier(name)
        shown = np.asarray(self._step.shown.gradients[name], np.float64)
        near = self._step.fits(f"gradient {name}", shown, gradient, FAR)
        for other in GRADIENTS:
            given = partial(other.gradient, gradient, weight, earlier)
            known = self._decays if other.is_decay else ()
            is_sure = not (near and other.unknown) or gradient.size >= MANY_MORE
            for number in _numbers(given, shown, other) if is_sure else (*known,):
                if self._step.fits(f"gradient {name}", shown, given(number)):
                    does = f"{other.does.format(f'{number:.6g}')} ({other.source})"
                    if other.is_decay:
                        self._decays[number] = None
                    return _OwnCause(does, other.scales, number if other.is_decay else None)
        return None

    def _explain_slope(self, node: Node, own: Arrays, slope: Array) -> bool:
        """Find another gradient of the loss by the logits."""
        others = [self._step.try_loss(one.loss) for one in LOSSES]
        named = [
            (f"gradients are those of another loss: {one.does} ({one.source})", found[1])
            for one, found in zip(LOSSES, others, strict=True)
            if found is not None and (not one.kinds or self._step.recipe.loss in one.kinds)
        ]
        across = sum(float((g**2).sum()) for g in own.values())
        shown = {short: self._step.shown.gradients[f"{node.name}.{short}"] for short in own}
        factor = sum(float((own[s] * shown[s]).sum()) for s in own) / (across or 1.0)
        if factor:
            named += [(self._scaled(number), number * slope) for number in _round(factor)]
        for does, other in named:
            found = self._step.passed.backward(node, other)
            if not self._step.off(node, found):
                arrays = found["kernel"], own["kernel"]
                self._step.wrong("loss", ("loss",), "loss", "loss", *arrays, does=does)
                return True
        self._step.passed.backward(node, slope)
        return False

    def _scaled(self, factor: float) -> str:
        """Say by what all gradients are multiplied, which may be clipping to a norm."""
        shown = norm({n: np.asarray(g, np.float64) for n, g in self._step.shown.gradients.items()})
        limit, length = float(f"{shown:.3g}"), shown / factor
        for margin, source in CLIPPERS.items():
            if np.isclose(factor, limit / (length + margin), rtol=1e-9, atol=0):
                return f"gradients are clipped to a norm of {limit:g}, all together ({source})"
        devices = self._step.run.request.replicas
        if devices > 1 and np.isclose(factor, devices, rtol=1e-9, atol=0):
            return f"{SUMMED} ({SUMMED_IN})"
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
            if one.kernels.keys() != other.kernels.keys() and not self._step.is_late():
                both = self._given_back(node, {**one.kernels, **other.kernels})
                if both is not None and self._mostly_fit(node, both):
                    does = {**one.does, **other.does}
                    return (_FoundBack({**one.kernels, **other.kernels}, does, both),)
        return ()

    def _backs(self, node: Node) -> Iterator[_FoundBack]:
        for other in self._step.passed.suspects(node):
            for change in backward_of(type(other.op)):
                if self._step.is_late():
                    return
                for number, kernel in self._kernels(node, other, change):
                    kernels = {other.name: kernel}
                    gradients = self._given_back(node, kernels)
                    if gradients is not None:
                        does = f"{change.does.format(f'{number:.6g}')} ({change.source})"
                        plain = not change.unknown
                        yield _FoundBack(kernels, {other.name: does}, gradients, plain)

    def _all_fit(self, node: Node, gradients: Arrays) -> bool:
        return not self._step.off(node, gradients)

    def _mostly_fit(self, node: Node, gradients: Arrays) -> bool:
        """Say whether the gradients of a node fit, or it is known what those are that don't: one
        does fit then, or they have too many values for that to be chance."""
        off = self._step.off(node, gradients)
        causes = {short: self._own_gradient(node, short, g) for short, g in off.items()}
        return all(
            cause is not None
            and (len(off) < len(gradients) or (not cause.scales and off[short].size >= MANY))
            for short, cause in causes.items()
        )

    def _kernels(self, node: Node, other: Node, change: Backward) -> Iterator[tuple[float, Kernel]]:
        """Yield the kernels by which an op does something else on the way back, with the number in
        it."""
        own = self._step.passed.kernel(other)
        if not change.unknown:
            yield 0.0, _giving_back(own, change.slopes)
            return
        if self._is_near(node):
            return
        kernels = [_giving_back(own, partial(change.slopes, number)) for number in (0.0, 1.0)]
        zero, one = (self._given_back(node, {other.name: kernel}) for kernel in kernels)
        if zero is None or one is None:
            return
        for shorts in ((*zero,), *((short,) for short in zero if len(zero) > 1)):
            number = self._number(node, shorts, zero, one)
            for each in () if number is None else _round(number):
                yield each, _giving_back(own, partial(change.slopes, each))

    def _is_near(self, node: Node) -> bool:
        """Say whether all gradients of a node are so little off that a number which is solved from
        them may just fit what rounding does."""
        own = self._step.passed.gradients(node, self._step.passed.slopes[node.name])
        shown = self._step.shown.gradients
        return all(
            self._step.fits(f"gradient {node.name}.{short}", shown[f"{node.name}.{short}"], g, FAR)
            for short, g in own.items()
        )

    def _number(self, node: Node, shorts: Iterable[str], zero: Arrays, one: Arrays) -> float | None:
        """Solve a number on which gradients depend linearly, by what they are for 0 and 1."""
        across = dot = 0.0
        for short in shorts:
            ahead = one[short] - zero[short]
            shown = self._step.shown.gradients[f"{node.name}.{short}"]
            across += float((ahead**2).sum())
            dot += float((ahead * (shown - zero[short])).sum())
        return dot / across if across else None

    def _given_back(self, node: Node, kernels: Mapping[str, Kernel]) -> Arrays | None:
        """Return the gradients of a node's arrays if other ops were computed otherwise."""
        try:
            backs = self._step.passed.back_through(node, kernels)
            return self._step.passed.gradients(node, self._step.passed.slope(node, backs))
        except UNFORESEEN:
            return None

    def _take_back(self, node: Node, alike: Sequence[_FoundBack], expected: Arrays) -> None:
        """Go on with what ops give back instead, and name all that may be."""
        found = alike[0]
        self._step.passed.instead.update(found.kernels)
        self._step.found.instead.update(found.kernels)
        self._step.passed.backs.update(self._step.passed.back_through(node, found.kernels))
        own = self._step.passed.backward(node, self._step.passed.slope(node))
        short = next(iter(own))
        part, arrays = f"gradient {node.name}.{short}", (own[short], expected[short])
        for name, does in found.does.items():
            among = dict.fromkeys((name, *(n for one in alike[1:SHOWN] for n in one.does)))
            other = dict.fromkeys((does, *(d for one in alike[1:SHOWN] for d in one.does.values())))
            kind, said = type(self._step.graph[name].op), alike_in_words(other)
            self._step.wrong(" or ".join(among), among, kind, part, *arrays, does=said)
        off = self._step.off(node, own)
        causes = {short: self._own_gradient(node, short, g) for short, g in off.items()}
        self._say_of_gradients(node, own, causes)


def _giving_back(kernel: Kernel, slopes: Slopes) -> Kernel:
    """Let an op give back something else, on each device by itself where it computes so."""
    if isinstance(kernel, Apart):
        return Apart(kernel.devices, _giving_back(kernel.kernel, slopes))
    return Back(kernel, slopes)


def _round(number: float) -> tuple[float, ...]:
    """Return round numbers near a number, and the number itself."""
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
