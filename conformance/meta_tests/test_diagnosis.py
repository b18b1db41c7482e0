"""Diagnosis finds single deviations and combinations, and says what is peculiar about the rest."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from densespec.network.graph import lower
from densespec_conformance.answering.answers import handle
from densespec_conformance.asking.questions import random_weights
from densespec_conformance.asking.requests import (
    Forward,
    Inspect,
    Inspected,
    NetworkToBuild,
    ReadWeights,
    Train,
)
from densespec_conformance.cases import forward as forward_cases
from densespec_conformance.cases import parallel as parallel_cases
from densespec_conformance.cases import training as training_cases
from densespec_conformance.deviations import catalogue
from densespec_conformance.deviations.variant import Memo, Variant, run
from densespec_conformance.explaining.diagnosis import diagnose
from densespec_conformance.explaining.patterns import peculiarities
from densespec_conformance.explaining.trial import Trial
from densespec_conformance.judging.expected import Expectation, expectation

FORWARD = {row.name: row for row in forward_cases.ROWS}
TRAINING = {row.name: row for row in training_cases.ROWS}


@functools.cache
def _forward(name: str = "torchvision-stem") -> tuple[Forward, Expectation]:
    request = forward_cases.request(FORWARD[name])
    return request, expectation(request)


@functools.cache
def _training(name: str, steps: int) -> tuple[Train, Expectation]:
    whole = training_cases.request(TRAINING[name])
    request = replace(whole, batches=whole.batches[:steps])
    return request, expectation(request)


def _variant(request: Any, *ids: str) -> Variant:
    size = request.x.shape[2:] if isinstance(request, Forward) else request.network.input_size
    variant = Variant.of(request.network, size)
    for id_ in ids:
        variant = catalogue()[id_].change(variant)
    return variant


def _answer(request: Forward, *ids: str) -> dict[str, np.ndarray]:
    """What the reference answers with deviations."""
    variant = _variant(request, *ids)
    values = {c.node.name: c.value for c in run(variant, request.x, Memo(open=False))}
    return {tap: values[variant.shown.get(tap, tap)] for tap in request.taps}


COMBINATIONS = [
    ("same-padding", "eps-keras-applications"),
    ("no-final-norm", "eps-keras"),
    ("same-padding", "eps-keras", "no-transition-relu"),
    ("input-channels-reversed", "average-pool-in-stem"),
]


@pytest.mark.parametrize("ids", COMBINATIONS, ids="+".join)
def test_several_deviations_are_found_together(ids: tuple[str, ...]) -> None:
    request, expected = _forward()
    best, *_ = diagnose(request, _answer(request, *ids), expected)
    assert best.complete
    assert set(best.deviations) == set(ids)
    for id_ in ids:
        assert catalogue()[id_].phrase in best.text


@pytest.mark.parametrize("ids", COMBINATIONS[:2], ids="+".join)
def test_several_deviations_are_found_by_the_output_alone(ids: tuple[str, ...]) -> None:
    request, expected = _forward()
    answer = {"classifier": _answer(request, *ids)["classifier"]}
    best, *_ = diagnose(request, answer, expected)
    assert best.complete
    assert set(best.deviations) == set(ids)


def test_deviations_of_training_are_found_together() -> None:
    request, expected = _training("strong-weight-decay", 3)
    mutant = "meta_tests.mutants:TORCH_DECAY_WITHOUT_NESTEROV"
    pytest.importorskip("torch")
    best, *_ = diagnose(request, handle(mutant, request), expected)
    assert best.complete
    assert "momentum does not look ahead" in best.text
    assert "weight decay is decoupled from the gradient" in best.text


def test_what_can_not_be_told_apart_is_all_named() -> None:
    request, expected = _forward()
    best, *_ = diagnose(request, _answer(request, "stem-kernel-reversed"), expected)
    named = {best.deviations, *best.alike}
    assert {("stem-kernel-reversed",), ("input-channels-reversed",)} <= named
    assert "can't tell" in best.text


def test_right_answer_has_no_suspects() -> None:
    request, expected = _forward()
    assert diagnose(request, _answer(request), expected) == ()


def test_part_of_an_unknown_mixture_is_named_with_what_is_left() -> None:
    request, expected = _forward()
    answer = _answer(request, "eps-keras")
    answer = {name: answer[name] for name in ("block2.concat2", "classifier")}
    answer["classifier"] = answer["classifier"] * 1.0101
    best, *_ = diagnose(request, answer, expected)
    assert best.deviations == ("eps-keras",)
    assert not best.complete
    assert "up to classifier" in best.text
    assert best.remaining == pytest.approx(0.01, rel=0.1)


def test_mixture_of_what_is_everywhere_and_what_is_somewhere_is_named_op_by_op() -> None:
    request, expected = _forward()
    answer = _answer(request, "eps-keras")
    answer["classifier"] = answer["classifier"] * 1.0101
    best, *_ = diagnose(request, answer, expected)
    assert best.complete
    assert "norms: epsilon is 0.001, not 1e-05" in best.text
    assert "classifier: it is multiplied by 1.0101" in best.text


def test_unknown_difference_is_described_in_words() -> None:
    request, expected = _forward()
    answer = _answer(request)
    answer["classifier"] = answer["classifier"] * 1.0101
    (only,) = diagnose(request, answer, expected, seconds=2)
    assert only.deviations == ()
    assert "classifier: it is multiplied by 1.0101" in only.text


def test_search_ends_in_time() -> None:
    request, expected = _forward()
    answer = {"classifier": np.full_like(_answer(request)["classifier"], 7.0)}
    start = time.thread_time()
    suspects = diagnose(request, answer, expected, seconds=0.5)
    assert time.thread_time() - start < 5
    assert not any(suspect.complete for suspect in suspects)


@pytest.mark.parametrize("id_", ["conv-bias", "transition-bias", "no-final-norm", "no-stem-pool"])
def test_counts_tell_what_is_built_otherwise(id_: str) -> None:
    spec, size = forward_cases.SMALL, (32, 32)
    request = Inspect(NetworkToBuild(spec), size)
    graph = catalogue()[id_].change(Variant.of(request.network, size)).graph
    last = {node.stage: node for node in graph.nodes[1:]}
    count = graph.parameters
    shapes = {node.name: node.shape for node in last.values()}
    answer = Inspected(count.trainable, count.non_trainable, shapes)  # type: ignore[arg-type]
    best, *_ = diagnose(request, answer, None)
    assert (id_,) in {best.deviations, *best.alike}


def test_theta_that_is_rounded_up_is_told_by_counts() -> None:
    spec, size = forward_cases.SMALL.replace(compression=0.37, growth_rate=5), (32, 32)
    request = Inspect(NetworkToBuild(spec), size)
    graph = catalogue()["theta-ceils"].change(Variant.of(request.network, size)).graph
    answer = Inspected(graph.parameters.trainable, graph.parameters.non_trainable, {})
    best, *_ = diagnose(request, answer, None)
    assert best.deviations == ("theta-ceils",)


def test_weights_that_come_back_otherwise_are_explained() -> None:
    spec = forward_cases.SMALL.replace(conv_bias=True)
    weights = random_weights(lower(spec), "diagnosis")
    request = ReadWeights(NetworkToBuild(spec, weights=weights))
    answer = _variant(request, "mean-and-variance-swapped").weights
    best, *_ = diagnose(request, answer, None)
    assert best.deviations == ("mean-and-variance-swapped",)


def _uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda x: x * 2.5, "times 2.5", id="multiple"),
        pytest.param(lambda x: x + 0.5, "plus 0.5", id="offset"),
        pytest.param(lambda x: x * 0 + 3, "is 3 everywhere", id="constant"),
        pytest.param(lambda x: np.maximum(x, 0), "as after a ReLU", id="relu"),
        pytest.param(lambda x: x[:, [1, 0, 2, 3]], "another order: 1, 0, 2, 3", id="channels"),
        pytest.param(lambda x: x[:, :, ::-1], "flipped along spatial axis 0", id="flipped"),
        pytest.param(lambda x: x.swapaxes(2, 3), "height and width exchanged", id="turned"),
        pytest.param(lambda x: np.roll(x, 1, 2), "moved by (1, 0)", id="moved"),
        pytest.param(lambda x: x[:, :, 1:], "has shape", id="shape"),
        pytest.param(lambda x: x / 0, "infinite ones, of 768", id="not-finite"),
        pytest.param(
            lambda x: x * np.arange(1, 5)[:, None, None], "with another gamma", id="by-channel"
        ),
        pytest.param(
            lambda x: x + np.arange(4)[:, None, None], "another beta, bias or mean", id="shifts"
        ),
        pytest.param(
            lambda x: x * 2 + (np.arange(len(x)) > 0)[:, None, None, None] - x,
            "all samples but the first",
            id="samples",
        ),
        pytest.param(
            lambda x: np.pad(x[..., 1:-1, 1:-1], ((0, 0), (0, 0), (1, 1), (1, 1))),
            "at the border alone",
            id="border",
        ),
        pytest.param(
            lambda x: (2 * x**2).astype(np.float32).astype(float), "24 bits alone", id="bits"
        ),
    ],
)
def test_peculiarities_are_put_into_words(
    change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    expected = _uniform(3, 4, 8, 8)
    with np.errstate(divide="ignore"):
        remarks = peculiarities(change(expected), expected)
    assert any(words in remark for remark in remarks), remarks


def test_noise_has_no_pattern() -> None:
    expected = _uniform(3, 4, 8, 8)
    assert peculiarities(expected + 0.1 * _uniform(3, 4, 8, 8) ** 2, expected) == ()


@functools.cache
def _right_answers() -> tuple[Trial, ...]:
    """Questions that between them have everything a deviation could change, rightly answered."""
    small = NetworkToBuild(forward_cases.SMALL.replace(compression=0.33, growth_rate=5))
    count = lower(small.spec, (33, 35)).parameters
    counted = Inspect(small, (33, 35)), Inspected(count.trainable, count.non_trainable, {})
    asked: list[Any] = [forward_cases.request(FORWARD[name]) for name in SEEN_IN_INFERENCE]
    asked += [training_cases.request(TRAINING[name]) for name in SEEN_IN_TRAINING]
    asked += [parallel_cases.request(row) for row in parallel_cases.ROWS if row.tier == "quick"]
    known = [expectation(request) for request in asked]
    answered = [(request, each.values, each) for request, each in zip(asked, known, strict=True)]
    later = time.thread_time() + 600
    return tuple(Trial(*one, later) for one in [*answered, (*counted, None)])


SEEN_IN_INFERENCE = (
    *("torchvision-stem", "preactivation-stem-odd-size", "same-padding-even-size", "softmax"),
    *("dropout-is-off", "features-maximum", "keras-epsilon", "convolutions-with-bias"),
    *("transition-without-relu", "no-final-norm"),
    *("gelu", "leaky-relu", "instance-norm", "group-norm"),
)
SEEN_IN_TRAINING = ("learning-rate-drop",)
FORESEEN = [d.id for d in catalogue().values() if d.recognises is None and d.dtype is None]


@pytest.mark.parametrize("id_", FORESEEN)
def test_every_deviation_makes_a_difference_somewhere(id_: str) -> None:
    attempts = (trial.attempt((id_,)) for trial in _right_answers())
    assert any(attempt is not None and not attempt.complete for attempt in attempts)


def test_without_a_deviation_no_answer_is_wrong() -> None:
    assert all(trial.as_it_is and trial.as_it_is.complete for trial in _right_answers())
