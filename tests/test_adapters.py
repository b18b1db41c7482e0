"""Plain constructors as targets of the conformance suite."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.errors import DensespecError
from densespec.network.files import to_json, write_spec
from densespec.network.graph import lower
from densespec_conformance.adapters import constructing
from densespec_conformance.answering.target import LocalTarget, TargetError
from densespec_conformance.asking.constructor import ConstructorError, parse
from densespec_conformance.asking.questions import natural_size, random_weights
from densespec_conformance.asking.requests import (
    About,
    Forward,
    NetworkToBuild,
    ReadWeights,
    Unsupported,
)
from densespec_conformance.asking.subject import input_size_of, subject_of
from densespec_conformance.cases.network import Question, network_cases
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from densespec_conformance.adapters import backend_for  # noqa: E402
from tests.adapters_torch import SPEC, Small  # noqa: E402

HERE = "tests.adapters_torch"
REFERENCE = Reference()
QUICK = [case for case in network_cases(SPEC) if case.tier == "quick"]


def target(name: str, weights: Path | None = None) -> LocalTarget:
    return LocalTarget(f"{HERE}:{name}", spec=SPEC, weights=weights)


def check(name: str, case_id: str, weights: Path | None = None) -> Outcome:
    (case,) = (case for case in network_cases(SPEC) if case.id == case_id)
    return case.check(target(name, weights), REFERENCE)


# What is typed


@pytest.mark.parametrize(
    ("text", "module", "attribute", "arguments", "keywords"),
    [
        ("torchvision.models:densenet121", "torchvision.models", "densenet121", (), {}),
        ("torchvision:densenet121", "torchvision.models", "densenet121", (), {}),
        ("timm:densenet169", "timm", "create_model", ("densenet169",), {}),
        ("timm:create_model('x')", "timm", "create_model", ("x",), {}),
        (
            "monai:DenseNet121(spatial_dims=2, in_channels=3, out_channels=-1)",
            "monai.networks.nets",
            "DenseNet121",
            (),
            {"spatial_dims": 2, "in_channels": 3, "out_channels": -1},
        ),
        (
            "keras_hub:DenseNetImageClassifier",
            "keras_hub.models",
            "DenseNetImageClassifier",
            (),
            {},
        ),
        ("a.b:C.make([1, (2.5, None)], {'k': True})", "a.b", "C.make", ([1, (2.5, None)],), {}),
    ],
)
def test_constructors_are_parsed(
    text: str, module: str, attribute: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    found = parse(text)
    assert (found.module, found.attribute) == (module, attribute)
    assert found.arguments[: len(arguments)] == arguments
    assert found.keywords == keywords


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision.models", "not of the form 'module:callable'"),
        ("a:b:c", "not of the form"),
        ("a:1b", "no name in Python"),
        ("a:b(c)", "the argument 'c' is no literal"),
        ("a:b(__import__('os'))", "no literal"),
        ("a:b(**{})", "write ** arguments out"),
        ("a:b(1)(2)", "more than one call"),
        ("a:b(1", "not of the form"),
        ("a:b((1)", "can't be read"),
        ("a:b@mxnet", "no engine 'mxnet' of Keras"),
    ],
)
def test_what_is_no_constructor_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ConstructorError) as refusal:
        parse(text)
    assert message in str(refusal.value)


def test_spec_is_given_as_a_name_a_file_or_json(tmp_path: Path) -> None:
    write_spec(SPEC, tmp_path / "net.toml")
    for spec in (to_json(SPEC), str(tmp_path / "net.toml")):
        assert subject_of("a.b:make", spec).spec == SPEC
    assert subject_of("a.b:make", "densenet169-bc").spec is not None


def test_constructor_called_as_a_variant_is_held_to_it() -> None:
    assert subject_of("keras.applications:DenseNet201") == subject_of(
        "keras.applications:DenseNet201", "densenet201"
    )
    assert subject_of("timm:densenet121") == subject_of("timm:densenet121", "densenet121")


def test_constructor_that_takes_a_network_is_exchanged_unless_it_is_given_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(constructing.COMPOSED, "json:loads", "pickle")
    assert constructing.load(parse("json:loads")) is pickle.loads
    assert constructing.load(parse("json:loads(backbone=1)")) is json.loads


def test_backend_needs_no_spec() -> None:
    assert subject_of("numpy").kind == subject_of("my.module:BACKEND").kind == "backend"
    assert subject_of("my.module:BACKEND").spec is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("timm:my_net",), "say which network this should be, with --spec"),
        (("a:b(1)",), "say which network"),
        (("torch.n",), "Did you mean torch.nn"),
        (("numpy", None, "net.pth"), "give its --spec"),
        (("a:b", "densenet1211"), "Did you mean densenet121"),
        (("a:b", "{}"), "blocks"),
    ],
)
def test_subject_that_cannot_be_understood_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(DensespecError) as refusal:
        subject_of(*arguments)
    assert message in str(refusal.value)


@pytest.mark.parametrize("text", ["48", "48x48", "3x48x48", "3X48X48"])
def test_input_size_is_read_with_and_without_channels(text: str) -> None:
    assert input_size_of(text, SPEC) == (48, 48)


@pytest.mark.parametrize("text", ["", "48x", "0", "-3", "4x48x48", "1x3x48x48", "a"])
def test_unfit_input_size_is_refused(text: str) -> None:
    with pytest.raises(DensespecError):
        input_size_of(text, SPEC)


# Networks in PyTorch


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
@pytest.mark.parametrize("name", ["Small", "Renamed", "compiled"])
def test_right_networks_pass_every_case(name: str, case: Any) -> None:
    if (name, case.id) == ("compiled", "features/last-feature-map"):
        with pytest.raises(Unsupported, match="can't be seen from outside"):
            case.check(target(name), REFERENCE)
    else:
        case.check(target(name), REFERENCE)


GROUPED = SPEC.replace(norm="group", norm_groups=1)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
@pytest.mark.parametrize("act", ["silu", "prelu"])
def test_group_norms_with_their_activations_in_them_pass_every_case(act: str, case: Any) -> None:
    spec = GROUPED.replace(activation=act)
    (asked,) = (one for one in network_cases(spec) if one.id == case.id)
    asked.check(LocalTarget(f"{HERE}:Grouped({act!r})", spec=spec), REFERENCE)


def test_constant_numbers_are_no_running_statistics() -> None:
    check("Filtered", "structure/counts-and-stages")


def _seen(name: str) -> set[str]:
    question = Question(SPEC, natural_size(SPEC))
    graph = lower(SPEC, question.size)
    network = NetworkToBuild(SPEC, question.size, weights=random_weights(graph, "seen"))
    taps = tuple(node.name for node in graph.nodes[1:])
    x = np.random.default_rng(0).standard_normal((1, 3, *question.size))
    return set(taps) - set(target(name).ask(Forward(network, x, taps)))


@pytest.mark.parametrize(
    ("name", "unseen"),
    [
        ("Small", {"stem.relu", "final.relu"}),
        ("Renamed", {"stem.norm", "final.norm", "transition1.relu", "transition1.conv"}),
    ],
)
def test_every_op_is_seen_but_those_that_nothing_with_weights_reads(
    name: str, unseen: set[str]
) -> None:
    assert _seen(name) == unseen


def test_nothing_is_seen_of_a_compiled_network_but_its_output() -> None:
    answer = {node.name for node in lower(SPEC).nodes[1:]} - _seen("compiled")
    assert answer == {"classifier"}


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Small", "the names of the layout torchvision"),
        ("Renamed", "no layout knows its names, so its arrays were told by order and shape"),
        ("compiled", "compiled: nothing is seen of it but its output"),
        ("pretrained", "made with weights=None"),
    ],
)
def test_how_a_network_was_understood_is_stated(name: str, note: str) -> None:
    notes = target(name).ask(About(NetworkToBuild(SPEC))).notes
    assert any(note in text for text in notes), notes


@pytest.mark.parametrize(
    ("name", "case_id", "where"),
    [
        ("Small(epsilon=1.001e-5)", "forward/float64", "stem.norm"),
        ("Small(epsilon=1.001e-5)", "training/two-steps-with-a-learning-rate-drop", "step 1, loss"),
        ("Small(num_classes=6)", "structure/counts-and-stages", "shape of classifier"),
        (
            "Small(recompute=True)",  # it updates the statistics of the norms once more
            "training/two-steps-with-a-learning-rate-drop",
            "step 1, running statistic block1.layer1.norm1.running_mean",
        ),
    ],
)
def test_wrong_networks_are_caught(name: str, case_id: str, where: str) -> None:
    with pytest.raises(Mismatch) as mismatch:
        check(name, case_id)
    assert mismatch.value.where == where


def test_another_network_is_told_by_its_fields() -> None:
    with pytest.raises(TargetError, match="classes is 6, but 5 in the spec"):
        check("Small(num_classes=6)", "forward/float64")


@pytest.mark.parametrize(
    ("head", "options"),
    [("softmax", {"classifier_activation": "softmax"}), ("features", {"include_top": False})],
)
def test_networks_that_end_elsewhere_are_compared_there_and_not_trained(
    head: str, options: Mapping[str, Any]
) -> None:
    name = f"Small(head='{head}')"
    assert target(name).ask(About(NetworkToBuild(SPEC))).options == options
    check(name, "forward/float64")
    with pytest.raises(Unsupported, match="no logits to train by"):
        check(name, "training/two-steps-with-a-learning-rate-drop")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "broken raised RuntimeError: no kernel image is available"),
        ("nothing", "gives a str, but should give a torch.nn.Module, a keras.Model or"),
        ("Small(head='tuple')", "gives a tuple, but should give one tensor"),
        ("always_pretrained", "wants to download from weights.example"),
        ("pretrained(weights='imagenet')", "wants to download from weights.example"),
        ("small", "has no 'small'. Did you mean Small?"),
        ("SPEC", "is of type DenseNetSpec: neither a backend nor a function"),
        ("Small(depth=3)", "unexpected keyword argument 'depth'"),
    ],
)
def test_constructors_that_make_no_network_say_why(name: str, message: str) -> None:
    with pytest.raises(TargetError) as failure:
        target(name).ask(ReadWeights(NetworkToBuild(SPEC)))
    assert message in str(failure.value)


def test_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConstructorError, match=r"no_such\.module can't be imported"):
        backend_for("no_such.module:make", SPEC)


def test_unknown_dtype_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no dtype 'float8'"):
        target("Small").ask(ReadWeights(NetworkToBuild(SPEC, dtype="float8")))


def test_nothing_is_left_of_earlier_questions() -> None:
    asked = ReadWeights(NetworkToBuild(SPEC))
    own = target("Small").ask(asked)
    check("Small", "training/two-steps-with-a-learning-rate-drop")
    again = target("Small").ask(asked)
    for name, array in own.items():
        np.testing.assert_array_equal(again[name], array)


# Weights of a file


def _trained() -> Small:
    torch.manual_seed(3)
    network = Small()
    for key, tensor in network.state_dict().items():
        if key.endswith(("running_var", "norm0.weight")):
            tensor.uniform_(0.5, 2)
    return network


def _assert_has(weights: Path, network: Small) -> None:
    found = target("Small", weights).ask(ReadWeights(NetworkToBuild(SPEC, dtype="float32")))
    state = network.state_dict()
    np.testing.assert_array_equal(
        found["stem.norm.running_variance"], state["features.norm0.running_var"]
    )
    check("Small", "forward/weights-as-built", weights)


def test_weight_file_of_the_framework_is_loaded_by_it(tmp_path: Path) -> None:
    network = _trained()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    _assert_has(tmp_path / "net.pth", network)


def test_weight_file_of_any_layout_is_loaded(tmp_path: Path) -> None:
    from densespec.weights.convert import convert

    network = _trained()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    convert(tmp_path / "net.pth", tmp_path / "net.safetensors")
    _assert_has(tmp_path / "net.safetensors", network)


def test_weight_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(Small(num_classes=7).state_dict(), tmp_path / "net.pth")
    with pytest.raises(TargetError, match=r"net\.pth does not fit"):
        target("Small", tmp_path / "net.pth").ask(ReadWeights(NetworkToBuild(SPEC)))


def test_spec_survives_json_as_a_command_line_has_it() -> None:
    text = json.dumps(SPEC.to_dict())
    assert subject_of(f"{HERE}:Small", text).spec == SPEC
