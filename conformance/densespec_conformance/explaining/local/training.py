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
from densespec.reference.kernels import Kernel
from densespec_conformance.asking.requests import Train
from densespec_conformance.explaining.local.alternatives.devices import Apart
from densespec_conformance.explaining.local.findings import LocalFindings, WrongOp
from densespec_conformance.explaining.local.moves import Run
from densespec_conformance.explaining.local.step import Found, Lost, Step
from densespec_conformance.explaining.local.updates import WrongMove, wrong_moves
from densespec_conformance.explaining.local.way_back import WayBack
from densespec_conformance.explaining.local.way_forward import WayForward
from densespec_conformance.explaining.local.words import weights_in_words
from densespec_conformance.judging.compare import stats

RATE, OPTIMIZER = "learning rate", "optimizer"


def judge_training(
    run: Run, graph: Graph, kernels: Mapping[type, Kernel], deadline: float
) -> LocalFindings | None:
    """Find everything in which a run differs, with what is done instead; None where nothing does.

    Args:
        graph, kernels: The network that is trained, and how its ops are computed.
        deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
    """
    run, found, judged = run.finite, Found(), True
    kernels = _on_devices(run.request, kernels)
    for index in range(len(run.steps)):
        try:
            step = Step(run, graph, kernels, index, found, deadline)
            WayBack(step).judge(WayForward(step).judge())
        except Lost:
            judged = False
        if not judged or time.thread_time() > deadline:
            break
    names = [weight.name for weight in graph.weights if weight.trainable]
    moves = [_as_wrong(one, names) for one in _moves(run, found.decays, deadline)]
    wrong = (*found.wrong.values(), *moves)
    return LocalFindings(graph, wrong, judged) if wrong else None


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
    actual, expected = move.difference.actual, move.difference.predicted
    scale = float(np.abs(expected).max()) or 1.0
    return WrongOp(
        where=where,
        among=(RATE,) if move.of_rate else (OPTIMIZER, *move.names),
        kind=RATE if move.of_rate else OPTIMIZER,
        error=float(np.abs(actual - expected).max()) / scale,
        allowed=float(move.difference.allowed.max()) / scale,
        actual=stats(actual),
        expected=stats(expected),
        does=move.does,
        exact=bool(move.does),
        remarks=() if move.does else (f"{move.difference.part} differs first",),
    )
