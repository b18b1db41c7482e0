"""Which arrays of a file are the network: its part of the file, its head, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from densespec.errors import WeightsError
from densespec.network.graph import lower
from densespec.weights.layouts import get_layout
from densespec.weights.naming import layout_tensors
from densespec.weights.opening import IdentifiedWeights, identify
from densespec.weights.reading import ReadingOptions
from densespec.weights.tensors import Tensor
from tests.test_convert import SPEC, assert_same, random_weights

Named = dict[str, Tensor]

GRAPH = lower(SPEC, include_top=False)
FEATURES = GRAPH.output.channels


def array(*shape: int) -> Tensor:
    return Tensor.of(np.random.default_rng(len(shape)).standard_normal(shape).astype("float32"))


def linear(path: str, units: int, features: int, *, bias: bool = True) -> Named:
    found = {f"{path}.weight": array(units, features)}
    return found | ({f"{path}.bias": array(units)} if bias else {})


def norm(path: str, channels: int) -> Named:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{path}.{leaf}": array(channels) for leaf in leaves}


def state(*, seed: int = 5, top: bool = False) -> Named:
    """The state dict of torchvision's program."""
    graph = lower(SPEC, include_top=top)
    arrays = random_weights(SPEC, seed, include_top=top)
    tensors = {name: Tensor.of(a) for name, a in arrays.items()}
    return layout_tensors(get_layout("torchvision"), "torch", graph, tensors)


BODY, WHOLE = state(), state(top=True)


def under(prefix: str, tensors: Mapping[str, Tensor], within: str = "") -> Named:
    return {
        prefix + name.removeprefix(within): tensor
        for name, tensor in tensors.items()
        if name.startswith(within)
    }


def read(tensors: Named, **said: Any) -> IdentifiedWeights:
    return identify(tensors, {}, "torch", ReadingOptions(**said))


def refusal(tensors: Named, **said: Any) -> str:
    with pytest.raises(WeightsError) as refused:
        read(tensors, **said)
    return str(refused.value)


def assert_body(found: IdentifiedWeights, seed: int = 5) -> None:
    """The arrays before the head are those of the network."""
    arrays = {name: a for name, a in found.arrays().items() if name in found.graph}
    expected = random_weights(SPEC, seed, include_top=False)
    assert_same({name: found.tensors[name].read() for name in expected}, expected)
    assert arrays.keys() <= found.tensors.keys()


# Parts


NUMBERS = {
    "conv0": 0,
    "norm0": 1,
    "denseblock1": 4,
    "transition1": 5,
    "denseblock2": 6,
    "transition2": 7,
    "denseblock3": 8,
    "norm5": 9,
}


def numbered(prefix: str) -> Named:
    """The features in a Sequential that numbers them."""
    found = {}
    for name, tensor in BODY.items():
        part, _, rest = name.removeprefix("features.").partition(".")
        found[f"{prefix}{NUMBERS[part]}.{rest}"] = tensor
    return found


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(BODY, id="features"),
        pytest.param(under("encoder.", BODY), id="an encoder"),
        pytest.param(under("net.model.features_", BODY, "features."), id="timm's extractor"),
        pytest.param(under("", BODY, "features."), id="the features alone"),
        pytest.param(under("backbone.", BODY, "features."), id="the features as a backbone"),
        pytest.param(under("0.0.", BODY, "features."), id="fastai's"),
        pytest.param(numbered(""), id="numbered features"),
        pytest.param(numbered("backbone."), id="a backbone of numbered features"),
        pytest.param(under("_orig_mod.module.", BODY), id="compiled and parallel"),
    ],
)
def test_a_network_is_found_wherever_it_lies(tensors: Named) -> None:
    found = read(tensors)
    assert (found.layout.name, found.has_classifier) == ("torchvision", False)
    assert_body(found)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
@pytest.mark.parametrize("part", ["", "features.", "features.denseblock1."])
def test_what_pytorch_wraps_parts_in_is_no_part_of_their_names(part: str, wrapper: str) -> None:
    wrapped = {name.replace(part, f"{part}{wrapper}.", 1): t for name, t in WHOLE.items()}
    found = read(under("module.", wrapped))
    assert_body(found)
    assert found.has_classifier
    assert_body(read(under("net.", wrapped), prefix=f"net.{wrapper}." if not part else "net."))


def test_every_layer_may_be_wrapped() -> None:
    wrapped = {
        re.sub(r"(denselayer\d+)\.", r"\1._checkpoint_wrapped_module.", name): tensor
        for name, tensor in WHOLE.items()
    }
    assert_body(read(wrapped))


def test_counts_of_tools_that_measure_modules_are_nobody_s_weights() -> None:
    counts = {f"{name.rpartition('.')[0]}.total_ops": array(1) for name in WHOLE}
    found = read({**WHOLE, **counts, "total_params": array(1)})
    assert_body(found)
    assert found.has_classifier
    assert not found.notes


def test_a_classifier_that_is_a_convolution_is_left_out() -> None:
    head = {"classifier.weight": array(5, FEATURES, 1, 1), "classifier.bias": array(5)}
    found = read({**BODY, **head})
    assert_body(found)
    assert not found.has_classifier
    assert "left out, as no part of the network: classifier (2 arrays)" in found.notes


def test_a_linear_layer_with_further_arrays_is_no_classifier_that_is_known() -> None:
    adapters = {"classifier.lora_A": array(2, FEATURES), "classifier.lora_B": array(5, 2)}
    found = read({**WHOLE, **adapters})
    assert_body(found)
    assert not found.has_classifier
    assert (
        "further arrays may change what its linear layers do: classifier.lora_A" in found.headless
    )


def test_a_decoder_beside_it_is_left_out_with_a_note() -> None:
    decoder = {"decoder.conv.weight": array(4, FEATURES, 3, 3), **norm("decoder.norm", 4)}
    found = read(under("encoder.", BODY) | decoder)
    assert found.notes == ("left out, as no part of the network: decoder (5 arrays)",)
    assert_body(found)


@pytest.mark.parametrize("prefix", ["encoder.", "encoder", "encoder.features.", "encoder.features"])
def test_a_prefix_chooses_a_part(prefix: str) -> None:
    decoder = {"decoder.conv.weight": array(4, FEATURES, 3, 3)}
    found = read(under("encoder.", BODY) | decoder, prefix=prefix)
    assert found.notes == ()
    assert_body(found)


def test_a_prefix_that_nothing_has_is_refused_with_near_ones() -> None:
    assert refusal(under("encoder.", BODY), prefix="enkoder.") == (
        "unknown prefix 'enkoder.'. Did you mean encoder.?"
    )


def test_a_prefix_stands_behind_the_collection_in_a_tree() -> None:
    layout = get_layout("flax")
    arrays = {n: Tensor.of(a) for n, a in random_weights(SPEC).items()}
    tree = layout_tensors(layout, "msgpack", lower(SPEC), arrays)
    within = {re.sub("^(params|batch_stats)/", r"\1/net/", name): t for name, t in tree.items()}
    found = identify(within, {}, "msgpack", ReadingOptions(prefix="net", spec=SPEC))
    assert_same(found.arrays(), random_weights(SPEC))


TWO = under("first.", WHOLE) | under("second.", state(seed=6, top=True))


def test_of_several_networks_one_has_to_be_chosen() -> None:
    assert refusal(TWO) == (
        "it has 2 DenseNets, under 'first.' and 'second.': choose one by its prefix "
        "(--prefix first.)"
    )
    assert_body(read(TWO, prefix="second."), seed=6)


def test_a_network_that_was_saved_twice_is_one() -> None:
    found = read(under("copy.", BODY, "features.") | under("model.", WHOLE))
    assert found.has_classifier
    assert found.notes == ("another DenseNet is under 'copy.', to be chosen by --prefix copy.",)


def test_the_network_that_has_another_within_it_is_meant() -> None:
    found = read(WHOLE | under("teacher.", state(seed=6, top=True)))
    assert_body(found)
    assert found.notes == (
        "another DenseNet is under 'teacher.', to be chosen by --prefix teacher.",
    )


@pytest.mark.parametrize("prefix", ["model_ema.", "ema.module.", "swa_model.", "averaged."])
def test_averages_beside_a_network_are_mentioned(prefix: str) -> None:
    both = under("model.", WHOLE) | under(prefix, state(seed=6, top=True))
    found = read(both)
    assert_body(found)
    assert found.notes == (
        f"averaged weights are under {prefix!r}, to be chosen by --prefix {prefix}",
    )
    assert_body(read(both, prefix=prefix), seed=6)


def test_more_networks_than_a_file_may_have_are_refused_soon() -> None:
    many: Named = {}
    for number in range(20):
        many |= under(f"net{number}.", {"features.conv0.weight": array(4, 3, 7, 7)})
    assert refusal(many) == (
        "it has more than 16 DenseNets: choose one by its prefix (--prefix net0.)"
    )


# Heads


@pytest.mark.parametrize(
    "name",
    ["fc", "last_linear", "classifier", "classifier.1", "classifier.fc", "predictions", "head.out"],
)
@pytest.mark.parametrize("bias", [True, False], ids=["with a bias", "without one"])
def test_a_linear_layer_that_reads_the_features_is_the_classifier(name: str, bias: bool) -> None:
    head = linear(name, 7, FEATURES, bias=bias)
    found = read(BODY | head)
    assert (found.spec.classes, found.spec.head_units) == (7, ())
    arrays = found.arrays()
    np.testing.assert_array_equal(arrays["classifier.kernel"], head[f"{name}.weight"].read())
    assert found.notes == ()
    assert found.spec.classifier_bias is bias
    if bias:
        np.testing.assert_array_equal(arrays["classifier.bias"], head[f"{name}.bias"].read())
    else:
        assert "classifier.bias" not in arrays
        zeros = found.with_classifier_bias().arrays()["classifier.bias"]
        np.testing.assert_array_equal(zeros, np.zeros(7, "float32"))


def test_a_head_outside_of_the_network_s_prefix_is_found() -> None:
    found = read(under("model.backbone.", BODY) | linear("model.head.fc", 7, FEATURES))
    assert found.spec.classes == 7


HIDDEN = linear("head.0", 9, FEATURES) | linear("head.3", 7, 9)


@pytest.mark.parametrize(
    "head",
    [HIDDEN, linear("a", 7, 9) | linear("z", 9, FEATURES)],
    ids=["in the order of use", "in alphabetical order"],
)
def test_between_two_linear_layers_a_relu_is_assumed(head: Named) -> None:
    found = read(BODY | head)
    assert (found.spec.head_units, found.spec.classes) == ((9,), 7)
    (assumption,) = found.assumptions
    assert assumption.startswith("a ReLU is assumed between ")
    assert "(--head-activation none)" in assumption


def test_who_says_that_it_is_a_relu_is_told_nothing() -> None:
    found = read(BODY | HIDDEN, head_activation="relu")
    assert (found.spec.head_units, found.notes) == ((9,), ())


def test_two_linear_layers_with_nothing_between_are_one() -> None:
    found = read(BODY | HIDDEN, head_activation="none")
    assert (found.spec.head_units, found.spec.classes) == ((), 7)
    first, second = (HIDDEN[f"head.{n}.weight"].read().astype("float64") for n in (0, 3))
    x = np.random.default_rng(0).standard_normal(FEATURES)
    expected = second @ (first @ x + HIDDEN["head.0.bias"].read()) + HIDDEN["head.3.bias"].read()
    arrays = found.arrays()
    actual = arrays["classifier.kernel"].astype("float64") @ x + arrays["classifier.bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert arrays["classifier.kernel"].dtype == np.float32
    assert found.notes == (
        "head.0 and head.3 are one linear layer, as nothing stands between them",
    )


UNTOLD: dict[str, tuple[Named, str]] = {
    "a norm before the classifier": (
        norm("bottleneck", FEATURES) | linear("classifier", 7, FEATURES),
        "other layers may stand within it: bottleneck (a norm)",
    ),
    "a norm in the head": (
        linear("head.0", 9, FEATURES) | norm("head.1", 9) | linear("head.2", 7, 9),
        "other layers may stand within it: head.1 (a norm)",
    ),
    "an activation with an array": (
        linear("head.0", 9, FEATURES) | {"head.1.weight": array(1)} | linear("head.2", 7, 9),
        "other layers may stand within it: head.1 (arrays of its own)",
    ),
    "attention": (
        {"attention.weight": array(1, FEATURES, 1, 1)} | linear("fc", 7, FEATURES),
        "other layers may stand within it: attention (a convolution)",
    ),
    "a recurrent layer": (
        {"lstm.weight_ih_l0": array(4 * FEATURES, FEATURES)} | linear("fc", 7, FEATURES),
        "other layers may stand within it: lstm (arrays of its own)",
    ),
    "more layers than any head has": (
        {name: t for n in range(101) for name, t in linear(f"l{n}", FEATURES, FEATURES).items()},
        "it has 101 linear layers, more than any head",
    ),
    "several tasks": (
        linear("age", 1, FEATURES) | linear("sex", 2, FEATURES),
        f"its linear layers are no chain that starts at {FEATURES} features: age (1, {FEATURES}); "
        f"sex (2, {FEATURES}); those that are no part of its head are left out by their names "
        "(--without sex)",
    ),
    "features that are pooled thrice": (
        linear("head.1", 7, 3 * FEATURES),
        f"its linear layers are no chain that starts at {FEATURES} features: head.1 "
        f"(7, {3 * FEATURES})",
    ),
}


def test_twice_as_many_features_are_means_and_maxima() -> None:
    found = read(BODY | linear("head.1", 7, 2 * FEATURES))
    assert found.spec.global_pool == "catavgmax"
    assert "their means and then their maxima are assumed" in found.notes[0]
    assert_body(found)


@pytest.mark.parametrize("title", UNTOLD)
def test_a_head_that_shapes_do_not_tell_is_left_out_with_the_reason(title: str) -> None:
    head, reason = UNTOLD[title]
    found = read(BODY | head)
    assert not found.has_classifier
    assert f"the head is left out: {reason}" in found.notes
    assert_body(found)


def test_a_head_of_the_layout_s_own_names_that_does_not_fit_is_refused() -> None:
    assert refusal(BODY | linear("classifier", 7, 5)) == (
        f"classifier.weight reads 5 features, but what comes before it gives {FEATURES}"
    )
    assert refusal(BODY | {"classifier.bias": array(7)}) == (
        "its arrays do not fit the network: classifier.weight is missing"
    )


# What is beside the network


@pytest.mark.parametrize(
    "name",
    [
        "op_threshs",
        "criterion.pos_weight",
        "criterion.weight",
        "n_averaged",
        "val_acc.confmat",
        "normalize.mean",
    ],
)
def test_what_is_beside_the_network_is_noted(name: str) -> None:
    found = read(WHOLE | {name: array(5)})
    assert found.notes == (f"left out, as no part of the network: {name}",)
    assert found.has_classifier
    assert set(found.extra) >= {name}


def test_names_that_no_terminal_should_print_are_escaped_and_cut() -> None:
    (note,) = read(WHOLE | {"\x1b[2J" + "x" * 999: array(5)}).notes
    assert note.startswith("left out, as no part of the network: \\x1b[2Jxxx")
    assert note.endswith("xxx...")
    assert len(note) < 300


def test_what_is_within_the_network_is_refused() -> None:
    name = "features.denseblock1.denselayer1.se.fc.weight"
    assert f"{name} is unexpected" in refusal(WHOLE | {name: array(2, 4)})


# Refusals


def test_the_nearest_names_are_named_with_what_is_different() -> None:
    renamed = {name.replace("conv0", "stem"): tensor for name, tensor in WHOLE.items()}
    message = refusal(under("net.", renamed))
    assert message.startswith("no known layout has its names")
    assert "Its names under 'net.' are nearest to those of" in message
    assert "torchvision" in message
    assert "It lacks features.conv0.weight." in message
    assert "Unknown to that are net.features.stem.weight" in message
    assert "a DenseNet of blocks 1, 2, 1 and growth rate 32: --from order --spec SPEC" in message


def test_a_part_that_is_a_network_in_its_order_is_named() -> None:
    def home_made(name: str) -> str:
        return "encoder." + name.replace("features.", "").replace("denselayer", "unit")

    others = {"decoder.weight": array(9, 5, 3, 3)}
    message = refusal(others | {home_made(name): tensor for name, tensor in BODY.items()})
    assert "--prefix encoder. --from order --spec SPEC takes them so" in message


@pytest.mark.parametrize(
    "tensors", [{}, {"conv1.weight": array(4, 3, 7, 7), "fc.weight": array(3, 4)}], ids=len
)
def test_arrays_of_no_densenet_are_refused_with_what_may_help(tensors: Named) -> None:
    message = refusal(tensors)
    assert message.startswith("no known layout has its names")
    for option in ("--prefix", "--key"):
        assert option in message


def test_names_without_dense_layers_are_compared_with_the_layout_s() -> None:
    renamed = {name.replace("denselayer", "unit"): tensor for name, tensor in WHOLE.items()}
    message = refusal(renamed)
    assert message.startswith("no dense layer after the stem convolution features.conv0.weight. ")
    assert "are nearest to those of" in message
