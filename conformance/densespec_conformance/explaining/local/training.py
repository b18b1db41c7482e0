"""A training run is judged by its parts: each step's passes, then how each weight moves.

A step shows no values between its ops, but parts that follow from them: each norm's running
statistics, the loss, the gradients of all weights, then moments and weights. Each is judged by what
the target itself had come to, so one pass finds all that is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from densespec.network.graph import Graph
from densespec.network.ops import BatchNorm
from densespec.recipes.moments import moving
from densespec.reference.kernels import Kernel
from densespec_conformance.asking.requests import Train
from densespec_conformance.explaining.local.alternatives.devices import Apart
from densespec_conformance.explaining.local.averages import WrongAverage, wrong_averages
from densespec_conformance.explaining.local.findings import LocalFindings, WrongOp
from densespec_conformance.explaining.local.moves import Difference, Run
from densespec_conformance.explaining.local.parts import Parted
from densespec_conformance.explaining.local.step import Found, Lost, Step
from densespec_conformance.explaining.local.updates import WrongMove, wrong_moves
from densespec_conformance.explaining.local.way_back import WayBack
from densespec_conformance.explaining.local.way_forward import WayForward
from densespec_conformance.explaining.local.words import weights_in_words
from densespec_conformance.judging.compare import stats

RATE, OPTIMIZER, AVERAGES, PARTS = "learning rate", "optimizer", "averages", "parts"


def judge_training(
    run: Run, graph: Graph, kernels: Mapping[type, Kernel], deadline: float
) -> LocalFindings | None:
    """Find everything in which a run differs, with what is done instead; None where nothing does.

    Args:
        graph, kernels: The network that is trained, and how its ops are computed.
        deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
    """
    run, found = run.finite, Found()
    kernels = _on_devices(run.request, kernels)
    by_parts = run.recipe.accumulate > 1
    judge = _judge_parts if by_parts else _judge_steps
    judged = judge(run, graph, kernels, found, deadline)
    names = [weight.name for weight in graph.weights if weight.trainable]
    moves = [_as_wrong(one, names) for one in _moves(run, found.decays, deadline)]
    averages = [_as_wrong_average(one, graph) for one in wrong_averages(run, deadline)]
    wrong = (*found.wrong.values(), *moves, *averages)
    return LocalFindings(graph, wrong, judged) if wrong else None


def _judge_steps(
    run: Run, graph: Graph, kernels: Mapping[type, Kernel], found: Found, deadline: float
) -> bool:
    """Judge each op of each step, and say whether all were judged."""
    for index in range(len(run.steps)):
        try:
            step = Step(run, graph, kernels, index, found, deadline)
            WayBack(step).judge(WayForward(step).judge())
        except Lost:
            return False
        if time.thread_time() > deadline:
            break
    return True


def _judge_parts(
    run: Run, graph: Graph, kernels: Mapping[type, Kernel], found: Found, deadline: float
) -> bool:
    """Judge what is made of the parts of each batch, and say whether that is known."""
    wrong = Parted(run, graph, kernels).wrong(deadline)
    if wrong is not None:
        found.add(_wrong(PARTS, (PARTS,), PARTS, wrong.difference, wrong.does))
    return wrong is None or bool(wrong.does)


def _on_devices(request: Train, kernels: Mapping[type, Kernel]) -> Mapping[type, Kernel]:
    """Return the kernels of a step on several devices; all but norms compute as on one."""
    if request.replicas == 1 or request.recipe.batch_norm != "per-replica":
        return kernels
    return {**kernels, BatchNorm: Apart(request.replicas, kernels[BatchNorm])}


def _moves(run: Run, decays: Mapping[str, float], deadline: float) -> list[WrongMove]:
    """Judge how weights move, by gradients with or without the decay that they are shown with,
    whichever leaves less to say."""
    if not run.steps:
        return []
    runs = [run, run.without_decay(decays)] if decays else [run]
    return min((wrong_moves(one, deadline) for one in runs), key=_complexity)


def _complexity(moves: Sequence[WrongMove]) -> tuple[bool, int]:
    return not all(one.does for one in moves), len(moves)


def _as_wrong(move: WrongMove, names: Sequence[str]) -> WrongOp:
    where = RATE if move.of_rate else f"{OPTIMIZER} of {weights_in_words(move.names, names)}"
    among = (RATE,) if move.of_rate else (OPTIMIZER, *move.names)
    kind = RATE if move.of_rate else OPTIMIZER
    return _wrong(where, among, kind, move.difference, move.does)


def _as_wrong_average(one: WrongAverage, graph: Graph) -> WrongOp:
    names = [weight.name for weight in moving(graph)]
    where = f"{AVERAGES} of {weights_in_words(one.names, names, 'arrays')}"
    return _wrong(where, (AVERAGES, *one.names), AVERAGES, one.difference, one.does)


def _wrong(
    where: str, among: tuple[str, ...], kind: str, difference: Difference, does: str
) -> WrongOp:
    actual, expected = difference.actual, difference.predicted
    scale = float(np.abs(expected).max()) or 1.0
    return WrongOp(
        where=where,
        among=among,
        kind=kind,
        error=float(np.abs(actual - expected).max()) / scale,
        allowed=float(difference.allowed.max()) / scale,
        actual=stats(actual),
        expected=stats(expected),
        does=does,
        exact=bool(does),
        remarks=() if does else (f"{difference.part} differs first",),
    )
