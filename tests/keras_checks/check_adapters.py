"""Plain constructors of Keras models as targets of the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest

from densespec import DenseNetSpec
from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.asking.requests import About, NetworkToBuild, Unsupported
from densespec_conformance.cases.network import network_cases
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference

BIASED: dict[str, Any] = {"batch_norm_momentum": 0.01, "running_variance": "biased"}
APPLICATION = DenseNetSpec(
    blocks=(1, 1, 1, 1),
    growth_rate=32,
    bottleneck_width=4,
    compression=0.5,
    classes=5,
    stem_kind="conv-norm-relu",
    stem_width=64,
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    batch_norm_epsilon=1.001e-5,
    **BIASED,
)
SMALL = DenseNetSpec(
    blocks=(2, 1),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_kind="conv",
    stem_width=6,
    stem_kernel=3,
    stem_stride=1,
    batch_norm_epsilon=1e-3,
    **BIASED,
)
DENSENET = "keras.src.applications.densenet:DenseNet([1, 1, 1, 1], classes=5)"
OWN = "tests.adapters_keras"
TRAINING = "training/two-steps-with-a-learning-rate-drop"
QUICK = [case.id for case in network_cases(SMALL) if case.tier == "quick"]
REFERENCE = Reference()


def run_case(name: str, spec: DenseNetSpec, case_id: str) -> None:
    (case,) = (case for case in network_cases(spec) if case.id == case_id)
    case.check(LocalTarget(name, spec=spec), REFERENCE)


@pytest.mark.parametrize("case_id", QUICK)
@pytest.mark.parametrize("name", [DENSENET, f"{OWN}:nested", f"{OWN}:subclassed"])
def test_right_networks_pass_every_case(name: str, case_id: str) -> None:
    run_case(name, APPLICATION if name == DENSENET else SMALL, case_id)


@pytest.mark.parametrize(
    ("name", "spec", "note"),
    [
        (DENSENET, APPLICATION, "its arrays have the names of the layout keras-applications"),
        (f"{OWN}:nested", SMALL, "no layout knows its names"),
    ],
)
def test_engine_and_names_are_stated(name: str, spec: DenseNetSpec, note: str, engine: str) -> None:
    about = LocalTarget(name, spec=spec).ask(About(NetworkToBuild(spec)))
    assert about.notes[-2].startswith(f"Keras on {engine}")
    assert about.notes[-1].startswith(note)
    assert "keras" in about.versions


@pytest.mark.parametrize(
    ("changes", "case_id", "where"),
    [
        ({"batch_norm_epsilon": 1e-5}, "forward/float64", "stem.norm"),
        ({"padding": "same"}, "forward/float64", "stem.conv"),
        (
            {"running_variance": "unbiased"},
            TRAINING,
            "step 1, running statistic stem.norm.running_variance",
        ),
    ],
)
def test_what_keras_applications_does_otherwise_is_seen(
    changes: dict[str, Any], case_id: str, where: str
) -> None:
    with pytest.raises(Mismatch) as mismatch:
        run_case(DENSENET, APPLICATION.replace(**changes), case_id)
    assert mismatch.value.where == where


def test_model_of_one_input_size_is_asked_for_no_other() -> None:
    with pytest.raises(Unsupported, match="only takes inputs of 32x32"):
        run_case(f"{OWN}:nested(32)", SMALL, "forward/odd-input-size")


def test_softmax_within_the_last_layer_is_noticed() -> None:
    with pytest.raises(Unsupported, match="classifier_activation='softmax'"):
        run_case(f"{OWN}:nested(activation='softmax')", SMALL, TRAINING)
