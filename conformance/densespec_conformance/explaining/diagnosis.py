"""Says in words what may be wrong with an answer: wrong ops, and known deviations.

If the target shows what goes into its ops, each op is judged by itself. So all wrong ops are found
at once, with what each does instead (:mod:`densespec_conformance.explaining.local`).

Common deviations have names. Those that concern the wrong ops are tried on the reference with the
same question. Those that move the first difference further on are kept, and others are tried on
top, so that several at once are found. If none explains the answer, the diagnosis says what is
peculiar about the first difference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from densespec_conformance.asking.requests import Answer, Request
from densespec_conformance.deviations import catalogue
from densespec_conformance.explaining.local.findings import LocalFindings, WrongOp
from densespec_conformance.explaining.local.words import sentence, sentence_of_training
from densespec_conformance.explaining.patterns import peculiarities
from densespec_conformance.explaining.trial import FAMILIES, Attempt, Trial
from densespec_conformance.judging.expected import Expectation

SECONDS = 15.0
"""A diagnosis may take this many seconds of computing."""

AT_ONCE = 4
"""At most this many deviations are combined."""

KEPT = 8
"""This many combinations are built upon."""

SHOWN = 5
"""At most this many suspects are named."""

TERMS = ("loss", "parts", "optimizer", "learning rate", "averages")
"""These parts of a training step are no ops of the network."""

Ids = tuple[str, ...]


@dataclass(frozen=True)
class Suspect:
    """Describes deviations that would explain an answer, wholly or in part.

    Attributes:
        deviations: The ids of deviations, all of which are needed; empty if no known one helps.
        text: A sentence for people.
        remaining: The relative error of the first part that differs still; for a complete match,
            the largest.
        complete: Whether the whole answer is explained.
        alike: The ids of deviations that explain the same answer as well.
        ops: The ops that are wrong by themselves, if each was judged so.
        nodes: In that case, the names of all ops in the order of the network.
        is_local: Whether they are a few ops of many, and everything about them is known.
    """

    deviations: tuple[str, ...]
    text: str
    remaining: float
    complete: bool
    alike: tuple[tuple[str, ...], ...] = ()
    ops: tuple[WrongOp, ...] = ()
    nodes: tuple[str, ...] = ()
    is_local: bool = False


def diagnose(
    request: Request,
    answer: Answer,
    expected: Expectation | None,
    *,
    seconds: float = SECONDS,
    likely: Ids = (),
) -> tuple[Suspect, ...]:
    """Find explanations of an answer that is not the reference's, the best first.

    Args:
        answer: The target's answer, of which parts may be missing.
        expected: What the reference answers to a ``Forward`` or ``Train``, with bounds.
        seconds: The time of computing after which the search stops; on a busy machine it takes
            longer, and finds the same.
        likely: Deviations that explain another answer of the same network, to be tried first.
    """
    if type(request) not in FAMILIES:
        return ()
    trial = Trial(request, answer, expected, time.thread_time() + seconds)
    if trial.as_it_is is None or trial.as_it_is.complete:
        return ()
    again = trial.attempt(likely) if likely else None
    if again is not None and again.complete:
        return _complete({likely: again}, None)
    training = trial.by_parts(likely)
    if training is not None and training.complete:
        return (_of_training(training, likely),)
    local = trial.by_ops()
    candidates = trial.candidates()
    if local is not None:
        changed = {one.id: trial.changed_by(one) for one in candidates}
        if local.complete and not local.has_name(changed.values()):
            return (replace(_of_ops(local), is_local=True),)
        candidates = tuple(
            one
            for one in candidates
            if changed[one.id] & local.names
            and (one.dtype is None or local.leaves_room_for(one.dtype))
        )
    found = _search(trial, trial.as_it_is, [deviation.id for deviation in candidates])
    complete = {ids: attempt for ids, attempt in found.items() if attempt.complete}
    if complete:
        return _complete(complete, local)
    if local is not None:
        return (_of_ops(local),)
    if training is not None:
        return (_of_training(training, likely),)
    return _partial(trial, trial.as_it_is, found)


def _of_ops(local: LocalFindings) -> Suspect:
    text = sentence(local.wrong, local.graph)
    if local.complete:
        text += "; if the reference does likewise, it matches"
    worst = max(one.error for one in local.wrong)
    return Suspect((), text, worst, local.complete, ops=local.wrong, nodes=local.nodes)


def _of_training(found: LocalFindings, likely: Ids) -> Suspect:
    text = sentence_of_training(found)
    if likely:
        text = f"{phrase(likely)}; {text}"
    if found.complete:
        text += "; if the reference does likewise, it matches"
    worst = max(one.error for one in found.wrong)
    nodes = (*found.nodes, *TERMS)
    return Suspect(likely, text, worst, found.complete, ops=found.wrong, nodes=nodes)


def _search(trial: Trial, start: Attempt, candidates: Sequence[str]) -> dict[Ids, Attempt]:
    """Find the best attempts with the fewest deviations, by the deviations that they make."""
    order = {id_: index for index, id_ in enumerate(candidates)}
    kept: dict[Ids, Attempt] = {(): start}
    best: dict[Ids, Attempt] = {}
    tried: set[frozenset[str]] = set()
    for _ in range(AT_ONCE):
        found: dict[Ids, Attempt] = {}
        for ids, before in kept.items():
            for candidate in candidates:
                together = frozenset({*ids, candidate})
                if candidate in ids or together in tried:
                    continue
                tried.add(together)
                attempt = trial.attempt((*ids, candidate))
                if attempt is not None and _does_something(attempt, before):
                    found[(*ids, candidate)] = attempt
        complete = {ids: attempt for ids, attempt in found.items() if attempt.complete}
        if complete:
            return dict(sorted(complete.items(), key=lambda item: _order(item[0], order)))
        furthest = max((attempt.agreeing for attempt in best.values()), default=start.agreeing)
        further = {i: a for i, a in found.items() if a.agreeing > furthest}
        best |= further
        ranked = sorted(found.items(), key=lambda item: item[1].rank, reverse=True)
        kept = dict(ranked[:KEPT])
        if not kept:
            break
    return best


def _does_something(attempt: Attempt, before: Attempt) -> bool:
    return (attempt.agreeing, attempt.error) != (before.agreeing, before.error)


def _order(ids: Ids, order: Mapping[str, int]) -> tuple[bool, Sequence[int]]:
    """Put deviations that are foreseen to the last digit before those of precision."""
    rounds = any(catalogue()[each].dtype for each in ids)
    return rounds, sorted(order[each] for each in ids)


def _complete(found: Mapping[Ids, Attempt], local: LocalFindings | None) -> tuple[Suspect, ...]:
    exact = [ids for ids in found if not any(catalogue()[each].dtype for each in ids)]
    names = exact or list(found)
    suspects = []
    for ids in names[:SHOWN]:
        alike = tuple(other for other in names if other != ids)
        text = f"matches the reference if {phrase(ids)}"
        if alike:
            others = "; or if ".join(phrase(other) for other in alike[: SHOWN - 1])
            text += f", or (this question can't tell) if {others}"
        suspect = Suspect(ids, text, found[ids].error, True, alike)
        if local is not None:
            suspect = replace(suspect, ops=local.wrong, nodes=local.nodes)
        suspects.append(suspect)
    return tuple(suspects)


def _partial(trial: Trial, start: Attempt, found: Mapping[Ids, Attempt]) -> tuple[Suspect, ...]:
    ranked = sorted(found.items(), key=lambda item: (item[1].rank, -len(item[0])), reverse=True)
    suspects = [
        Suspect(
            deviations=ids,
            text=(
                f"agrees with the reference further, up to {attempt.where}, if {phrase(ids)}; "
                f"something else is different there"
            ),
            remaining=attempt.error,
            complete=False,
        )
        for ids, attempt in ranked[: SHOWN - 1]
    ]
    seen = trial.observed.get(start.where)
    if seen is not None and start.predicted is not None:
        remarks = peculiarities(seen, start.predicted)
        if remarks:
            text = f"no known deviation explains it; {start.where} {'; '.join(remarks)}"
            text = f"{start.where} {'; '.join(remarks)}" if suspects else text
            suspects.append(Suspect((), text, start.error, False))
    return tuple(suspects)


def phrase(ids: Sequence[str]) -> str:
    """Put deviations in words, with where each is met."""
    phrases = [f"{catalogue()[i].phrase} ({catalogue()[i].source})" for i in ids]
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
