"""``DenseNetSpec``: what it accepts, what it refuses and in which words, and that it is a value."""

from __future__ import annotations

import copy
import dataclasses
import enum
import itertools
import math
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from densespec.errors import DensespecError, SpecError, UnknownName, shown
from densespec.network.files import spec_from_json, spec_from_toml, to_json, to_toml
from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from tests.strategies import named, specs, tiny, unhurried

INF, NAN = math.inf, math.nan

FIELDS = dataclasses.fields(DenseNetSpec)


class Padding(str, enum.Enum):  # noqa: UP042 - StrEnum's str() would be its value
    SAME = "same"


# Construction


def test_the_defaults_are_the_plain_densenet_of_the_paper() -> None:
    assert DenseNetSpec(blocks=(12, 12, 12), growth_rate=12).to_dict() == {
        "blocks": [12, 12, 12],
        "growth_rate": 12,
        "bottleneck_width": None,
        "compression": 1.0,
        "in_channels": 3,
        "classes": 1000,
        "spatial_dims": 2,
        "stem_kind": "conv",
        "stem_width": 16,
        "stem_kernel": 3,
        "stem_stride": 1,
        "stem_pool": None,
        "padding": "symmetric",
        "conv_bias": False,
        "batch_norm_epsilon": 1e-5,
        "batch_norm_momentum": 0.1,
        "running_variance": "unbiased",
        "transition_relu": True,
        "final_norm": True,
        "dropout_rate": 0.0,
        "dropout_place": "conv",
        "head_units": [],
    }


@pytest.mark.parametrize("missing", ["blocks", "growth_rate"])
def test_blocks_and_growth_rate_have_no_default(missing: str) -> None:
    fields = {"blocks": (1,), "growth_rate": 1}
    del fields[missing]
    with pytest.raises(TypeError, match=missing):
        DenseNetSpec(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        pytest.param("blocks", [6, 12], (6, 12), id="a list of blocks"),
        pytest.param("blocks", np.array([6, 12]), (6, 12), id="an array of blocks"),
        pytest.param("blocks", range(1, 4), (1, 2, 3), id="a range of blocks"),
        pytest.param("blocks", (np.int8(6), 1), (6, 1), id="numpy integers in blocks"),
        pytest.param("growth_rate", np.int64(7), 7, id="a numpy integer"),
        pytest.param("growth_rate", np.uint8(255), 255, id="an unsigned numpy integer"),
        pytest.param("growth_rate", np.array(7), 7, id="an integer array without axes"),
        pytest.param("growth_rate", 2**31 - 1, 2**31 - 1, id="the largest integer"),
        pytest.param("bottleneck_width", np.int16(3), 3, id="a numpy integer where none may be"),
        pytest.param("stem_width", np.int32(5), 5, id="a numpy integer where '2k' may be"),
        pytest.param("compression", 1, 1.0, id="an integer for a number"),
        pytest.param("compression", np.float32(0.5), 0.5, id="a numpy float"),
        pytest.param("compression", Fraction(1, 2), 0.5, id="a fraction"),
        pytest.param("dropout_rate", 0, 0.0, id="the bound of a half-open interval"),
        pytest.param("padding", np.str_("same"), "same", id="a numpy text"),
        pytest.param("padding", Padding.SAME, "same", id="a member of a text enumeration"),
    ],
)
def test_values_take_one_normal_form(field: str, given: object, kept: Any) -> None:
    value = getattr(tiny(**{field: given}), field)
    assert value == kept
    assert type(value) is type(kept)
    if isinstance(kept, tuple):
        assert {type(item) for item in value} == {int}


# The numbered constraints

ALLOWED = {
    "S1": "a non-empty list of at most 10000 integers, each at least 1 and below 2**31",
    "S2": "an integer of at least 1 and below 2**31",
    "S3": "an integer of at least 1 and below 2**31, or none",
    "S4": "a number in (0, 1]",
    "S5": "an integer of at least 1 and below 2**31",
    "S6": "an integer of at least 1 and at most 1000000",
    "S7": "an integer of at least 1 and at most 3",
    "S8": "'conv' or 'conv-norm-relu' or 'norm-relu-conv' or 'deep'",
    "S9": "an integer of at least 1 and below 2**31, or '2k'",
    "S10": "an integer of at least 1 and at most 1000",
    "S11": "an integer of at least 1 and at most 1000",
    "S12": "an integer of at least 2 and at most 1000, or none",
    "S13": "'symmetric' or 'same'",
    "S14": "true or false",
    "S15": "a number in (0, 1]",
    "S16": "a number in (0, 1]",
    "S17": "'unbiased' or 'biased'",
    "S18": "true or false",
    "S19": "true or false",
    "S20": "a number in [0, 1)",
    "S21": "'conv' or 'every-conv' or 'layer'",
    "S25": "a list of at most 100 integers, each at least 1 and below 2**31",
    "S28": "a number in [0, 1)",
    "S29": "true or false",
    "S30": "'avg' or 'max' or 'avgmax' or 'catavgmax'",
    "S31": "'max' or 'max-blur'",
    "S32": "'avg' or 'blur'",
    "S34": "'relu' or 'leaky-relu' or 'elu' or 'silu' or 'gelu' or 'gelu-tanh' or 'relu6' or "
    "'prelu'",
    "S35": "a number in (0, 1]",
    "S36": "'batch' or 'instance' or 'group' or 'none'",
    "S37": "an integer of at least 1 and below 2**31",
    "S38": "true or false",
}
"""What each field's constraint allows, in the words of its error."""

BROKEN: dict[str, tuple[str, list[object]]] = {
    "S1": (
        "blocks",
        [
            [],
            (),
            [0],
            [6, 0],
            [6, -1],
            [6, 2**31],
            [6, True],
            [6, 12.0],
            [6, "12"],
            [[6]],
            [None],
            6,
            None,
            "612",
            b"\x06",
            bytearray(b"\x06"),
            {6: 12},
            {6, 12},
            np.array([[6, 12]]),
            np.array([6.0]),
            np.array([True]),
        ],
    ),
    "S2": (
        "growth_rate",
        [0, -1, 2**31, 12.0, True, np.True_, "12", None, [12], NAN, np.float64(12), Decimal(12)],
    ),
    "S3": ("bottleneck_width", [0, -4, 2**31, 4.0, True, False, "4", "none", [4]]),
    "S4": (
        "compression",
        [0, 0.0, -0.5, 1.0000001, 2, NAN, INF, -INF, True, np.True_, "0.5", b"1", None, [0.5], 1j],
    ),
    "S5": ("in_channels", [0, -3, 3.0, True, "3", None]),
    "S6": ("classes", [0, -1, 10.0, True, "10", None]),
    "S7": ("spatial_dims", [0, 4, -1, 2.0, True, "2", None]),
    "S8": ("stem_kind", ["", "Conv", "conv ", "norm", 0, None, True, ["conv"], b"conv"]),
    "S9": ("stem_width", [0, -16, 16.0, "16", "2K", "k", True, None, ["2k"]]),
    "S10": ("stem_kernel", [0, -3, 3.0, True, "3", None, (3, 3)]),
    "S11": ("stem_stride", [0, -1, 1.0, True, "1", None, (1, 1)]),
    "S12": ("stem_pool", [1, 0, -3, 3.0, True, False, "3", "none"]),
    "S13": ("padding", ["valid", "SAME", "", 1, None, True]),
    "S14": ("conv_bias", [0, 1, "true", "", None, np.True_]),
    "S15": ("batch_norm_epsilon", [0, -1e-5, 1.5, NAN, INF, True, "1e-5", None]),
    "S16": ("batch_norm_momentum", [0, -0.1, 1.1, NAN, INF, True, "0.1", None]),
    "S17": ("running_variance", ["n-1", "Biased", "", None, True, 0]),
    "S18": ("transition_relu", [0, 1, "false", None, np.False_]),
    "S19": ("final_norm", [0, 1, "false", None, np.False_]),
    "S20": ("dropout_rate", [1, 1.0, -0.1, NAN, INF, True, False, "0", None]),
    "S21": ("dropout_place", ["everywhere", "Conv", "", None, True, 0]),
    "S25": ("head_units", [[0], [-1], [10.0], ["10"], [True], 1024, "1024", None, {10}]),
    "S28": ("head_dropout_rate", [1, 1.0, -0.1, NAN, INF, True, False, "0", None]),
    "S29": ("classifier_bias", [0, 1, "true", "", None, np.True_]),
    "S30": ("global_pool", ["average", "Max", "fastavg", "", None, True, 0]),
    "S31": ("stem_pool_kind", ["blur", "Max", "avg", "", None, True, 0]),
    "S32": ("transition_pool_kind", ["max-blur", "Avg", "max", "", None, True, 0]),
    "S34": ("activation", ["ReLU", "swish", "leaky_relu", "", None, True, 0]),
    "S35": ("activation_slope", [0, -0.1, 1.1, NAN, INF, True, "0.1", None]),
    "S36": ("norm", ["Batch", "layer", "", None, True, 0]),
    "S37": ("norm_groups", [0, -1, 2.0, True, "2", None]),
    "S38": ("norm_affine", [0, 1, "true", None, np.True_]),
}
"""By constraint: its field, and values that break it."""

EACH_BROKEN = [
    pytest.param(number, field, value, id=f"{number} refuses {field} = {value!r}")
    for number, (field, values) in BROKEN.items()
    for value in values
]


@pytest.mark.parametrize(("number", "field", "value"), EACH_BROKEN)
def test_a_constraint_names_field_value_rule_and_number(
    number: str, field: str, value: object
) -> None:
    with pytest.raises(SpecError) as caught:
        tiny(**{field: value})
    error = caught.value
    assert (error.constraint, error.field) == (number, field)
    assert error.value is value
    assert str(error) == f"{field} = {value!r}, but should be {ALLOWED[number]} [{number}]"


def test_every_field_has_a_constraint_that_is_broken_here() -> None:
    ours = {number: field for number, (field, _) in BROKEN.items()}
    theirs = {field.metadata["constraint"]: field.name for field in FIELDS}
    assert ours == theirs
    # the others are across fields
    numbers = (*range(1, 22), 25, *range(28, 33), *range(34, 39))
    assert list(theirs) == [f"S{n}" for n in numbers]


@pytest.mark.parametrize("kernel", [2, 4, 10])
def test_s22_wants_an_odd_stem_kernel_where_padding_is_symmetric(kernel: int) -> None:
    with pytest.raises(SpecError) as caught:
        tiny(stem_kernel=kernel, padding="symmetric")
    assert str(caught.value) == (
        f"stem_kernel = {kernel}, but should be odd where padding is 'symmetric' [S22]"
    )
    assert tiny(stem_kernel=kernel, padding="same").stem_kernel == kernel


def test_s23_wants_a_transition_to_keep_something() -> None:
    fields = {"blocks": (1, 1), "growth_rate": 2, "stem_width": 2}  # 4 feature maps
    assert tiny(**fields, compression=0.25).compression == 0.25
    with pytest.raises(SpecError) as caught:
        tiny(**fields, compression=0.24)
    assert str(caught.value) == (
        "compression = 0.24, but should be large enough to keep at least 1 of 4 feature maps [S23]"
    )


def test_s23_does_not_hold_where_there_is_no_transition() -> None:
    assert tiny(blocks=(1,), compression=1e-9).compression == 1e-9


def test_s23_counts_the_stem_by_the_2k_rule() -> None:
    fields = {"blocks": (1, 1), "growth_rate": 1, "stem_width": "2k"}  # 3 feature maps
    assert tiny(**fields, compression=0.34).compression == 0.34
    with pytest.raises(SpecError, match=r"at least 1 of 3 feature maps \[S23\]"):
        tiny(**fields, compression=0.33)


def test_s23_holds_for_every_transition() -> None:
    # 32 + 1 feature maps, of which 3 stay; then 3 + 1, of which none would.
    fields = {"growth_rate": 1, "stem_width": 32, "compression": 0.1}
    assert tiny(**fields, blocks=(1, 1)).compression == 0.1
    with pytest.raises(SpecError, match=r"at least 1 of 4 feature maps \[S23\]"):
        tiny(**fields, blocks=(1, 1, 1))


def test_s33_wants_two_feature_maps_of_a_deep_stem() -> None:
    assert tiny(stem_kind="deep", stem_width=2).stem_channels == 2
    with pytest.raises(SpecError) as caught:
        tiny(stem_kind="deep", stem_width=1)
    assert str(caught.value) == "stem_width = 1, but should be at least 2 in a deep stem [S33]"


def test_files_state_a_later_field_only_where_it_is_not_its_default() -> None:
    later = {field.name for field in FIELDS if field.metadata["silent"]}
    assert later == {name for name in OTHER if int(_number(name)) > 27}
    assert not later & tiny().to_dict().keys()
    for name in later:
        spec = tiny().replace(**{name: OTHER[name]})
        assert spec.to_dict()[name] == OTHER[name]
        assert DenseNetSpec.from_dict(spec.to_dict()) == spec


def _number(name: str) -> str:
    (number,) = (f.metadata["constraint"] for f in FIELDS if f.name == name)
    return str(number).removeprefix("S")


def test_s39_wants_groups_that_divide_the_channels_of_every_norm() -> None:
    spec = tiny(norm="group", norm_groups=3, stem_width=3, growth_rate=3)
    assert lower(spec).parameters.total
    with pytest.raises(SpecError) as caught:
        lower(spec.replace(growth_rate=2))
    assert str(caught.value) == (
        "norm_groups = 3, but should be a divisor of 5, the channels that block1.layer2.norm1 "
        "normalises [S39]"
    )


@pytest.mark.parametrize("changes", [{"norm": "instance"}, {"norm": "group", "norm_groups": 6}])
def test_s24_wants_a_norm_of_a_sample_to_have_several_values(changes: dict[str, Any]) -> None:
    spec = tiny(blocks=(1,), stem_width=4, growth_rate=2, stem_kind="norm-relu-conv", **changes)
    spec = spec.replace(in_channels=6, stem_width=6, growth_rate=6)
    with pytest.raises(SpecError, match=r"larger: stem.norm would normalise single values \[S24\]"):
        lower(spec, (1, 1))
    assert lower(spec, (1, 2)).parameters.total


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        ("S1", {"blocks": (1,) * 10_001}),
        ("S1", {"blocks": itertools.count(1)}),
        ("S6", {"classes": 2**31 - 1}),
        ("S10", {"stem_kernel": 2**20 + 1}),
        ("S11", {"stem_stride": 2**31 - 1}),
        ("S12", {"stem_pool": 2**31 - 1}),
        ("S25", {"head_units": (1,) * 101}),
        ("S26", {"blocks": (1_000_000,)}),
        ("S26", {"blocks": (2**31 - 1,) * 4}),
    ],
)
def test_what_would_take_forever_is_refused_at_once(number: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        tiny(**changes)
    assert caught.value.constraint == number


@pytest.mark.parametrize(
    "changes",
    [
        {"growth_rate": 2**30},
        {"bottleneck_width": 2**31 - 1},
        {"in_channels": 2**31 - 1},
        {"stem_width": 2**31 - 1},
        {"stem_kernel": 999, "spatial_dims": 3},
        {"head_units": (2**31 - 1,)},
        {"blocks": (9999, 1), "growth_rate": 2**10},
    ],
    ids=str,
)
def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(
    changes: dict[str, Any],
) -> None:
    spec = tiny(**changes)
    with pytest.raises(SpecError, match=r"values of all arrays = .*\[S27\]"):
        lower(spec)


def test_the_deepest_network_is_lowered_and_counted() -> None:
    graph = lower(tiny(blocks=(10_000,), growth_rate=1), (10**9, 10**9))
    assert graph.spec.depth == 10_002
    assert graph.multiply_adds


@pytest.mark.parametrize(
    "size",
    [(8,), (8, 8, 8), (0, 8), (8, -1), (8.0, 8), (True, 8), ("8", 8), 8, "88"],
    ids=repr,
)
def test_s24_wants_one_positive_size_for_each_dimension(size: Any) -> None:
    with pytest.raises(SpecError) as caught:
        lower(tiny(), size)
    expected = f"input size = {size!r}, but should be 2 positive sizes, or None for any [S24]"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(10**5000, "<int>", id="more digits than Python prints"),
        pytest.param("x" * 1000, "'" + "x" * 199 + "...", id="a long text"),
        pytest.param([1, 2], "[1, 2]", id="anything ordinary"),
    ],
)
def test_an_error_shows_any_value(value: object, text: str) -> None:
    assert shown(value) == text
    with pytest.raises(SpecError) as caught:
        tiny(stem_kind=value)
    assert str(caught.value).startswith(f"stem_kind = {text}, but should be 'conv' or")


def test_an_error_shows_a_list_too_deep_to_print() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "<list>"


@pytest.mark.parametrize(
    "error",
    [
        SpecError("S4", "compression", 2, "a number in (0, 1]"),
        UnknownName("variant", "densenet12", ["densenet121", "densenet161"]),
    ],
    ids=["SpecError", "UnknownName"],
)
def test_errors_cross_process_borders(error: DensespecError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


# A value: equal, hashable, frozen, replaceable, copyable


def test_equal_fields_make_equal_specs_with_equal_hashes() -> None:
    one = tiny(blocks=[6, 12], growth_rate=32, compression=1)
    two = tiny(blocks=(np.int64(6), 12), growth_rate=np.int64(32), compression=1.0)
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1


OTHER: dict[str, Any] = {
    "blocks": (1, 2),
    "growth_rate": 5,
    "bottleneck_width": 4,
    "compression": 0.5,
    "in_channels": 1,
    "classes": 7,
    "spatial_dims": 3,
    "stem_kind": "norm-relu-conv",
    "stem_width": "2k",
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": 3,
    "padding": "same",
    "conv_bias": True,
    "batch_norm_epsilon": 1e-3,
    "batch_norm_momentum": 0.01,
    "running_variance": "biased",
    "transition_relu": False,
    "final_norm": False,
    "dropout_rate": 0.2,
    "dropout_place": "layer",
    "head_units": (7, 5),
    "head_dropout_rate": 0.25,
    "classifier_bias": False,
    "global_pool": "catavgmax",
    "stem_pool_kind": "max-blur",
    "transition_pool_kind": "blur",
    "activation": "elu",
    "activation_slope": 0.2,
    "norm": "instance",
    "norm_groups": 2,
    "norm_affine": False,
}
"""Another value of each field than that of ``tiny()``."""


@pytest.mark.parametrize("field", [field.name for field in FIELDS])
def test_replace_changes_one_field_and_no_other(field: str) -> None:
    before = tiny()
    after = before.replace(**{field: OTHER[field]})
    assert after != before
    assert after.to_dict() == before.to_dict() | {
        field: list(OTHER[field]) if isinstance(OTHER[field], tuple) else OTHER[field]
    }
    assert before == tiny()


def test_replace_checks_the_new_value() -> None:
    with pytest.raises(SpecError, match=r"classes = 0, but should be .* \[S6\]"):
        tiny().replace(classes=0)


def test_replace_checks_fields_against_each_other() -> None:
    spec = tiny(stem_kernel=4, padding="same")
    with pytest.raises(SpecError, match=r"stem_kernel = 4, but should be odd .* \[S22\]"):
        spec.replace(padding="symmetric")


def test_replace_suggests_near_names_for_an_unknown_field() -> None:
    with pytest.raises(UnknownName) as caught:
        tiny().replace(growth_rat=3)
    assert str(caught.value) == (
        "unknown field of DenseNetSpec 'growth_rat'. Did you mean growth_rate or "
        "dropout_rate or head_dropout_rate?"
    )


def test_replace_lists_the_fields_where_no_name_is_near() -> None:
    with pytest.raises(UnknownName, match=r"'zzz'\. Known: activation, .*, transition_relu"):
        tiny().replace(zzz=3)


@pytest.mark.parametrize("field", [field.name for field in FIELDS])
def test_fields_can_not_be_set(field: str) -> None:
    spec = tiny()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, field, OTHER[field])
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(spec, field)
    assert spec == tiny()


@unhurried
@given(specs())
def test_a_copy_is_equal_whatever_made_it(spec: DenseNetSpec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert copy.deepcopy(spec) == spec
    assert spec.replace() == spec
    assert eval(repr(spec), {"DenseNetSpec": DenseNetSpec}) == spec


@unhurried
@given(specs())
def test_a_spec_survives_the_trip_through_a_dict(spec: DenseNetSpec) -> None:
    assert DenseNetSpec.from_dict(spec.to_dict()) == spec


@unhurried
@given(specs())
def test_a_spec_survives_the_trip_through_json(spec: DenseNetSpec) -> None:
    assert spec_from_json(to_json(spec)) == spec


@unhurried
@given(specs())
def test_a_spec_survives_the_trip_through_toml(spec: DenseNetSpec) -> None:
    assert spec_from_toml(to_toml(spec)) == spec


@pytest.mark.parametrize(
    ("missing", "number"), [("blocks", "S1"), ("growth_rate", "S2")], ids=["blocks", "growth_rate"]
)
def test_a_dict_without_a_required_field_says_what_to_give(missing: str, number: str) -> None:
    fields = {"blocks": [1], "growth_rate": 1}
    del fields[missing]
    with pytest.raises(SpecError) as caught:
        DenseNetSpec.from_dict(fields)
    assert str(caught.value) == (
        f"{missing} = None, but should be given: {ALLOWED[number]} [{number}]"
    )


def test_a_dict_with_an_unknown_field_suggests_near_names() -> None:
    with pytest.raises(UnknownName, match=r"'Classes'\. Did you mean classes or"):
        DenseNetSpec.from_dict({"blocks": [1], "growth_rate": 1, "Classes": 3})


def test_the_dict_is_a_copy() -> None:
    spec = tiny()
    spec.to_dict()["blocks"].append(7)
    assert spec == tiny()


# What follows from the fields


def test_the_2k_rule_doubles_the_growth_rate() -> None:
    assert tiny(growth_rate=24, stem_width="2k").stem_channels == 48
    assert tiny(growth_rate=24, stem_width=16).stem_channels == 16


@pytest.mark.parametrize(
    ("compression", "channels", "kept"),
    named(
        "{0} of {1} is {2}",
        (0.5, 256, 128),
        (0.5, 5, 2),
        (0.3, 10, 3),
        (0.7, 10, 7),
        (0.34, 3, 1),
        (1.0, 7, 7),
    ),
)
def test_a_transition_keeps_the_floor(compression: float, channels: int, kept: int) -> None:
    assert tiny(compression=compression).compressed(channels) == kept


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "depth"),
    named(
        "blocks of {0} with bottleneck {1} make {2}",
        ((12, 12, 12), None, 40),
        ((16, 16, 16), 4, 100),
        ((6, 12, 24, 16), 4, 121),
        ((1,), None, 3),
        ((1,), 1, 4),
    ),
)
def test_depth_counts_convolutions_and_the_classifier(
    blocks: tuple[int, ...], bottleneck: int | None, depth: int
) -> None:
    assert tiny(blocks=blocks, bottleneck_width=bottleneck).depth == depth
