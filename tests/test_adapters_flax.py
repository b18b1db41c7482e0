"""Modules of ``flax.nnx`` that others wrote, as targets of the conformance suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax.nnx", reason="Flax is not installed")

from densespec.network.graph import lower
from densespec_conformance.answering.target import LocalTarget, TargetError
from densespec_conformance.asking.questions import natural_size, random_weights
from densespec_conformance.asking.requests import (
    About,
    Forward,
    NetworkToBuild,
    ReadWeights,
    Unsupported,
)
from densespec_conformance.cases.network import network_cases
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference
from tests.adapters_flax import SPEC

HERE = "tests.adapters_flax"
REFERENCE = Reference()
QUICK = [case for case in network_cases(SPEC) if case.tier == "quick"]
TRAINED = "training/two-steps-with-a-learning-rate-drop"
SHOWN = ("forward/float64", TRAINED)
"""These cases show in part what the others repeat at length."""


def target(name: str, weights: Path | None = None) -> LocalTarget:
    return LocalTarget(f"{HERE}:{name}", spec=SPEC, weights=weights)


def check(name: str, case_id: str) -> Any:
    (case,) = (case for case in QUICK if case.id == case_id)
    return case.check(target(name), REFERENCE)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=() if case.id in SHOWN else pytest.mark.full)
        for case in QUICK
    ],
)
def test_a_right_network_passes_every_case(case: Any) -> None:
    case.check(target("plain"), REFERENCE)


@pytest.mark.parametrize(
    ("name", "case_id", "where"),
    [
        ("plain(epsilon=1e-3)", "forward/float64", "stem.norm"),
        ("plain(momentum=0.01)", TRAINED, "step 1, running statistic stem.norm.running_mean"),
    ],
)
def test_wrong_networks_are_caught(name: str, case_id: str, where: str) -> None:
    with pytest.raises(Mismatch) as mismatch:
        check(name, case_id)
    assert mismatch.value.where == where


def _seen(name: str) -> set[str]:
    size = natural_size(SPEC)
    graph = lower(SPEC, size)
    network = NetworkToBuild(SPEC, size, weights=random_weights(graph, "seen"))
    x = np.random.default_rng(0).standard_normal((1, 3, *size))
    taps = tuple(node.name for node in graph.nodes[1:])
    return set(taps) - set(target(name).ask(Forward(network, x, taps)))


def test_every_op_is_seen_but_those_that_nothing_with_weights_reads() -> None:
    assert _seen("plain") == {"stem.relu", "final.relu"}


def test_nothing_is_seen_of_a_compiled_network_but_its_output() -> None:
    assert {node.name for node in lower(SPEC).nodes[1:]} - _seen("Compiled") == {"classifier"}
    check("Compiled", TRAINED)


def test_how_a_network_was_understood_is_stated() -> None:
    notes = target("plain").ask(About(NetworkToBuild(SPEC))).notes
    assert "no layout knows its names, so its arrays were told by order and shape" in notes


def test_nothing_is_left_of_earlier_questions() -> None:
    asked = ReadWeights(NetworkToBuild(SPEC))
    own = target("plain").ask(asked)
    check("plain", TRAINED)
    again = target("plain").ask(asked)
    for name, array in own.items():
        np.testing.assert_array_equal(again[name], array)


def test_several_values_are_refused() -> None:
    with pytest.raises(TargetError, match="gives a tuple, but should give one array"):
        target("Several").ask(ReadWeights(NetworkToBuild(SPEC)))


def test_unknown_dtype_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no dtype 'float8'"):
        target("plain").ask(ReadWeights(NetworkToBuild(SPEC, dtype="float8")))


def test_a_weight_file_of_any_layout_is_loaded(tmp_path: Path) -> None:
    from densespec.weights.checkpoint import write_checkpoint

    graph = lower(SPEC)
    arrays = random_weights(graph, "file")
    write_checkpoint(tmp_path / "net.safetensors", graph, arrays)
    found = target("plain", tmp_path / "net.safetensors").ask(ReadWeights(NetworkToBuild(SPEC)))
    for name, array in arrays.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)
