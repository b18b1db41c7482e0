"""The named variants: the published figures, written out again, and looking names up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from densespec.errors import UnknownName
from densespec.network.catalogue import catalogue, get, resolve, variants
from densespec.network.files import SpecFileError, write_spec
from densespec.network.graph import Count, lower
from densespec.network.spec import DenseNetSpec
from tests.strategies import named, tiny


@dataclass(frozen=True)
class Row:
    """A published network: ``depth`` is the one in its name.

    ``published`` holds parameters as published, ``parameters`` as counted from the layers.
    """

    blocks: tuple[int, ...]
    growth_rate: int
    stem: int
    depth: int
    parameters: int
    published: int | str | None
    errors: dict[str, float] = field(default_factory=dict)


def _cifar(*errors: float | None) -> dict[str, float]:
    names = ("C10", "C10+", "C100", "C100+")
    return {name: error for name, error in zip(names, errors, strict=True) if error is not None}


IMAGENET = {
    "densenet121": Row((6, 12, 24, 16), 32, 64, 121, 7_978_856, 7_978_856, {"imagenet": 25.0}),
    "densenet161": Row((6, 12, 36, 24), 48, 96, 161, 28_681_000, 28_681_000, {"imagenet": 22.2}),
    "densenet169": Row((6, 12, 32, 32), 32, 64, 169, 14_149_480, 14_149_480, {"imagenet": 23.6}),
    "densenet201": Row((6, 12, 48, 32), 32, 64, 201, 20_013_928, 20_013_928, {"imagenet": 22.5}),
    "densenet264": Row((6, 12, 64, 48), 32, 64, 264, 33_337_704, None, {"imagenet": 22.1}),
    "densenet264-k48": Row((6, 12, 64, 48), 48, 96, 264, 72_686_632, "73M", {"imagenet": 20.4}),
}

PREACTIVATION = {
    name: Row((6, 12, 32, 32), 32, 64, 169, 14_160_238, 14_160_238)
    for name in ("densenet169-bc", "densenet169-bc-keras", "densenet169-bc-pytorch")
}

CIFAR = {
    "densenet-40-12": Row(
        (12,) * 3, 12, 16, 40, 1_019_722, "1.0M", _cifar(7.00, 5.24, 27.55, 24.42)
    ),
    "densenet-100-12": Row(
        (32,) * 3, 12, 16, 100, 6_979_642, "7.0M", _cifar(5.77, 4.10, 23.79, 20.20)
    ),
    "densenet-100-24": Row(
        (32,) * 3, 24, 16, 100, 27_249_082, "27.2M", _cifar(5.83, 3.74, 23.42, 19.25)
    ),
}

CIFAR_BC = {
    "densenet-bc-40-12": Row((6,) * 3, 12, 24, 40, 176_122, 176_122),
    "densenet-bc-40-24": Row((6,) * 3, 24, 48, 40, 690_346, 690_346),
    "densenet-bc-40-36": Row((6,) * 3, 36, 72, 40, 1_542_682, 1_542_682),
    "densenet-bc-100-12": Row(
        (16,) * 3, 12, 24, 100, 769_162, "0.8M", _cifar(5.92, 4.51, 24.15, 22.27)
    ),
    "densenet-bc-250-24": Row(
        (41,) * 3, 24, 48, 250, 15_324_406, "15.3M", _cifar(5.19, 3.62, 19.64, 17.60)
    ),
    "densenet-bc-190-40": Row(
        (31,) * 3, 40, 80, 190, 25_624_430, "25.6M", _cifar(None, 3.46, None, 17.18)
    ),
}

DEEP = {
    "densenet264d": Row((6, 12, 64, 48), 48, 96, 264, 72_736_216, 72_736_216),
    "densenetblur121d": Row((6, 12, 24, 16), 32, 64, 121, 7_998_088, 7_998_088),
}

VOLUMES = {
    "densenet121-3d": Row((6, 12, 24, 16), 32, 64, 121, 12_267_624, None),
    "densenet169-3d": Row((6, 12, 32, 32), 32, 64, 169, 20_207_720, None),
    "densenet201-3d": Row((6, 12, 48, 32), 32, 64, 201, 27_251_816, None),
    "densenet264-3d": Row((6, 12, 64, 48), 32, 64, 264, 42_934_888, None),
}

RADIOGRAPHS = {
    "densenet121-xrv": Row((6, 12, 24, 16), 32, 64, 121, 6_966_034, 6_966_034),
}

ROWS = PREACTIVATION | IMAGENET | CIFAR | CIFAR_BC | DEEP | VOLUMES | RADIOGRAPHS

UNCOUNTED = {
    "densenet264": 1,
    "densenet264-k48": 1,
    "densenet264-3d": 1,
    "densenet264d": 3,
    "densenetblur121d": 2,
}
"""Layers that the names do not count: one of what the authors called 264, two of deep stems."""

each = pytest.mark.parametrize("name", ROWS)


def test_the_catalogue_holds_these_networks() -> None:
    assert set(variants()) >= set(ROWS)
    assert variants() == tuple(catalogue())


def test_every_network_says_where_its_numbers_come_from() -> None:
    assert all(variant.source for variant in catalogue().values())


@each
def test_blocks_growth_rate_and_stem_are_those_published(name: str) -> None:
    spec, row = get(name), ROWS[name]
    assert spec.blocks == row.blocks
    assert spec.growth_rate == row.growth_rate
    assert spec.stem_channels == row.stem


@each
def test_the_depth_is_the_one_in_the_name(name: str) -> None:
    assert get(name).depth == ROWS[name].depth + UNCOUNTED.get(name, 0)


@each
def test_the_layers_add_up_to_the_parameters(name: str) -> None:
    assert lower(get(name)).parameters.trainable == ROWS[name].parameters


@each
def test_published_figures_are_on_record(name: str) -> None:
    variant, row = catalogue()[name], ROWS[name]
    assert variant.name == name
    assert variant.parameters == row.published
    assert dict(variant.errors) == row.errors
    assert variant.source


@each
def test_a_published_count_agrees_when_rounded_alike(name: str) -> None:
    published = ROWS[name].published
    count = lower(get(name)).parameters.trainable
    if isinstance(published, str):
        number = published.removesuffix("M")
        decimals = len(number.partition(".")[2])
        assert f"{count / 1e6:.{decimals}f}" == number
    else:
        assert published in (count, None)


def _fields(spec: DenseNetSpec) -> dict[str, Any]:
    own = ("blocks", "growth_rate")
    return {name: value for name, value in spec.to_dict().items() if name not in own}


DEFAULTS = _fields(DenseNetSpec(blocks=(1,), growth_rate=1))
BC = {"bottleneck_width": 4, "compression": 0.5, "stem_width": "2k"}
LARGE_STEM = {"stem_kernel": 7, "stem_stride": 2, "stem_pool": 3}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_networks_are_bc_with_the_large_stem_and_torchvision_dropout(name: str) -> None:
    own = {"stem_kind": "conv-norm-relu", "dropout_place": "layer"}
    assert _fields(get(name)) == DEFAULTS | BC | LARGE_STEM | own


@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_of_timm_have_three_convolutions_and_one_blurs(name: str) -> None:
    own = {"stem_kind": "deep", "dropout_place": "layer", "stem_stride": 2, "stem_pool": 3}
    blurs = {"stem_pool_kind": "max-blur"} if name == "densenetblur121d" else {}
    assert _fields(get(name)) == DEFAULTS | BC | own | blurs


@pytest.mark.parametrize("name", VOLUMES)
def test_networks_of_monai_are_those_for_images_in_three_dimensions(name: str) -> None:
    images = get(name.removesuffix("-3d"))
    assert get(name) == images.replace(spatial_dims=3, in_channels=1)


@pytest.mark.parametrize("name", CIFAR)
def test_plain_cifar_networks_have_a_stem_of_16_and_keep_all_channels(name: str) -> None:
    assert _fields(get(name)) == DEFAULTS | {"classes": 10}
    assert DEFAULTS["stem_width"] == 16
    assert DEFAULTS["compression"] == 1


@pytest.mark.parametrize("name", CIFAR_BC)
def test_bc_cifar_networks_add_bottlenecks_and_compression(name: str) -> None:
    assert _fields(get(name)) == DEFAULTS | BC | {"classes": 10}


def test_densenet169_bc_is_the_preactivation_network() -> None:
    own = {"stem_kind": "norm-relu-conv", "conv_bias": True, "final_norm": False}
    assert _fields(get("densenet169-bc")) == DEFAULTS | BC | LARGE_STEM | own


def _differences(name: str) -> dict[str, Any]:
    base = get("densenet169-bc").to_dict()
    return {f: v for f, v in get(name).to_dict().items() if v != base[f]}


def test_the_keras_original_differs_in_padding_and_norms_only() -> None:
    assert _differences("densenet169-bc-keras") == {
        "padding": "same",
        "batch_norm_epsilon": 1e-3,
        "batch_norm_momentum": 0.01,
        "running_variance": "biased",
    }


def test_the_pytorch_original_differs_in_dropout_only() -> None:
    assert _differences("densenet169-bc-pytorch") == {
        "dropout_rate": 0.2,
        "dropout_place": "every-conv",
    }


@pytest.mark.parametrize("name", PREACTIVATION)
def test_densenet169_bc_and_both_originals_hold_14_315_188_numbers(name: str) -> None:
    count = lower(get(name)).parameters
    assert count == Count(trainable=14_160_238, non_trainable=154_950)
    assert count.total == 14_315_188


def test_densenet169_holds_as_many_numbers_as_keras_applications_says() -> None:
    assert lower(get("densenet169")).parameters.total == 14_307_880


# Looking names up


@pytest.mark.parametrize(
    ("name", "near"),
    named(
        "{0} is near {1}",
        ("densenet12", "densenet121"),
        ("DenseNet169-bc", "densenet169-bc"),
        ("densenet-bc-100", "densenet-bc-100-12"),
    ),
)
def test_an_unknown_name_suggests_near_ones(name: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        get(name)
    message = str(caught.value)
    assert message.startswith(f"unknown variant {name!r}. Did you mean ")
    assert near in message.partition("Did you mean ")[2].rstrip("?").split(" or ")


def test_a_name_like_no_other_lists_them_all() -> None:
    with pytest.raises(UnknownName) as caught:
        get("vgg")
    assert str(caught.value) == f"unknown variant 'vgg'. Known: {', '.join(sorted(variants()))}."


def test_the_catalogue_can_not_be_changed() -> None:
    entries: Any = catalogue()
    with pytest.raises(TypeError):
        entries["mine"] = entries["densenet121"]
    with pytest.raises(TypeError):
        entries["densenet121"].errors["imagenet"] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        entries["densenet121"].parameters = 0


def test_a_spec_stands_for_itself() -> None:
    spec = tiny()
    assert resolve(spec) is spec


def test_a_text_is_a_variant() -> None:
    assert resolve("densenet121") == get("densenet121")


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_path_is_a_spec_file(tmp_path: Path, suffix: str, kind: type) -> None:
    path = tmp_path / f"net{suffix}"
    write_spec(tiny(), path)
    assert resolve(kind(path)) == tiny()


def test_a_path_object_is_a_file_even_if_its_name_is_a_variant() -> None:
    with pytest.raises(SpecFileError, match=r"densenet121: a spec file ends in \.toml or \.json"):
        resolve(Path("densenet121"))


@pytest.mark.parametrize(
    "other", [None, 121, ["densenet121"], {"blocks": [1]}, b"densenet121"], ids=repr
)
def test_anything_else_is_no_spec(other: Any) -> None:
    with pytest.raises(TypeError, match="a spec is a variant's name, a DenseNetSpec or the path"):
        resolve(other)
