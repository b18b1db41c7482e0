"""One case is run on one target: it is asked, its answer is compared, and a failure explained."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from densespec.network.graph import lower
from densespec_conformance.answering.target import Target, TargetError
from densespec_conformance.asking.requests import Answer, Forward, Request, Train, Unsupported
from densespec_conformance.case import Case
from densespec_conformance.explaining.diagnosis import SECONDS, Suspect, diagnose
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.expectations import ExpectedFailure
from densespec_conformance.running.result import Result


class Conversation:
    """Asks a target the questions of one case; the last question and its answer are kept.

    After a crash, or once the time is used up, every further question of the case fails in the same
    way. So a case that asks again and again, as random ones do, then ends.
    """

    request: Request | None = None
    answer: Answer | None = None

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self._target = target
        self._ended: TargetError | None = None

    def ask(self, request: Request) -> Any:
        if self._ended is not None:
            raise self._ended
        self.request, self.answer = request, None
        try:
            self.answer = self._target.ask(request)
        except TargetError as failure:
            self._ended = None if failure.status == "error" else failure
            raise
        return self.answer


def run_case(case: Case, target: Target, reference: Reference, *, diagnosis: bool = True) -> Result:
    """Run one case on one target; whatever the target does is a result, never an error.

    Args:
        diagnosis: Whether to look for what would explain a difference.
    """
    start = time.perf_counter()
    conversation = Conversation(target)
    result = _checked(case, conversation, reference)
    result = replace(result, seconds=time.perf_counter() - start)
    if not diagnosis or result.status != "failed":
        return result
    return _diagnosed(result, conversation, reference)


def _checked(case: Case, conversation: Conversation, reference: Reference) -> Result:
    result = Result(conversation.name, case, "passed")
    try:
        return replace(result, outcome=case.check(conversation, reference))
    except Mismatch as mismatch:
        return replace(
            result,
            status="failed",
            message=str(mismatch),
            where=mismatch.where,
            comparisons=mismatch.comparisons,
        )
    except Unsupported as refusal:
        return replace(result, status="unsupported", message=str(refusal))
    except TargetError as failure:
        message = f"{failure}\n{_asked(conversation.request)}".rstrip()
        return replace(result, status=failure.status, message=message)
    except Exception as error:
        return replace(result, status="error", message=_not_checked(error))


def _not_checked(error: Exception) -> str:
    """Say that a case could not make sense of an answer, such as arrays of another kind."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the answer could not be checked: {type(error).__name__}: {error} "
        f"({Path(where.filename).name}, line {where.lineno})"
    )


def _asked(request: Request | None) -> str:
    """Say what a target was asked when it failed, so that it can be asked again."""
    if request is None:
        return ""
    network = request.network
    size = "x".join(map(str, network.input_size)) if network.input_size else "any size"
    options = f" with {dict(network.options)}" if network.options else ""
    stated = {
        one.name: value
        for one in fields(network.spec)
        if (value := getattr(network.spec, one.name)) != one.default
    }
    spec = json.dumps(stated)
    return f"asked to {type(request).__name__} in {network.dtype} at {size}{options}: {spec}"


def _diagnosed(result: Result, conversation: Conversation, reference: Reference) -> Result:
    """Add explanations to a result; what goes wrong in finding them must not cost the result."""
    request, answer = conversation.request, conversation.answer
    if request is None or answer is None:
        return result
    try:
        compared = isinstance(request, Forward | Train)
        expected = reference.known(request) if compared else None
        seconds = max(SECONDS, result.seconds)  # large networks take longer to try things on
        before = _in_inference(request, conversation, reference, seconds)
        if before and before[0].is_local:
            return replace(result, diagnosis=(_seen_in_inference(before[0]),))
        likely = before[0].deviations if before and before[0].complete else ()
        found = diagnose(request, answer, expected, seconds=seconds, likely=likely)
        return replace(result, diagnosis=found)
    except Exception as error:
        note = f"(the diagnosis failed: {type(error).__name__}: {error})"
        return replace(result, message=f"{result.message}\n{note}")


def _in_inference(
    request: Request, conversation: Conversation, reference: Reference, seconds: float
) -> tuple[Suspect, ...]:
    """Say what is wrong with the ops of a network that trains wrongly, before any training: what
    differs in inference differs in training, and is told there op by op."""
    if not isinstance(request, Train):
        return ()
    size = request.batches[0].x.shape[2:]
    graph = lower(request.network.spec, size, **dict(request.network.options))  # type: ignore[arg-type]
    taps = tuple(node.name for node in graph.nodes[1:])
    asked = Forward(request.network, request.batches[0].x, taps)
    try:
        answer = conversation.ask(asked)
    except (TargetError, Unsupported):
        return ()
    return diagnose(asked, answer, reference.known(asked), seconds=seconds)


def _seen_in_inference(suspect: Suspect) -> Suspect:
    return replace(suspect, text=f"in inference already, {suspect.text}", complete=False)


def settled(result: Result, known: ExpectedFailure | None) -> Result:
    """Turn a result into what it is where a failure is expected: a pass is then a failure."""
    if known is None or result.status == "unsupported":
        return result
    if result.status == "passed":
        message = f"passes, but is expected to fail: {known.reason}"
        return replace(result, status="xpassed", message=message, expected=known.reason)
    if known.covers(result.status, result.where):
        return replace(result, status="xfailed", expected=known.reason)
    note = f"(expected to fail, but otherwise: {known.reason})"
    return replace(result, message=f"{result.message}\n{note}", expected=known.reason)
