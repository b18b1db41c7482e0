"""Initial weights: their distributions, and that the stream of numbers never changes."""

from __future__ import annotations

import hashlib
import math
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from densespec.network.catalogue import get, variants
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from tests.strategies import named, specs, tiny, unhurried

WIDE = DenseNetSpec(blocks=(1,), growth_rate=256, stem_width=512, conv_bias=True, classes=500)
"""A network of few, large arrays."""


def _digest(array: np.ndarray) -> str:
    """Of the numbers as little-endian float32, whatever the machine."""
    return hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()[:16]


@unhurried
@given(specs())
def test_there_is_one_float32_array_for_each_weight(spec: DenseNetSpec) -> None:
    graph = lower(spec)
    arrays = initial_weights(graph)
    assert list(arrays) == [weight.name for weight in graph.weights]
    for weight in graph.weights:
        assert arrays[weight.name].shape == weight.shape
        assert arrays[weight.name].dtype == np.float32


def test_a_convolution_starts_normal_with_the_variance_of_he() -> None:
    kernel = initial_weights(lower(WIDE))["block1.layer1.conv1.kernel"].astype(float)
    assert kernel.shape == (256, 512, 3, 3)  # 1.2 million numbers
    variance = 2 / (512 * 9)
    error = 5 / math.sqrt(kernel.size)  # five standard errors
    assert abs(kernel.mean()) < error * math.sqrt(variance)
    assert kernel.var() == pytest.approx(variance, rel=error * math.sqrt(2))
    standard = kernel / math.sqrt(variance)
    assert (standard**4).mean() == pytest.approx(3, abs=error * math.sqrt(96))
    assert np.mean(np.abs(standard) < 1) == pytest.approx(0.6827, abs=error)


def test_the_variance_follows_from_the_fan_in_of_each_convolution() -> None:
    arrays = initial_weights(lower(get("densenet121")))
    for name, fan_in in [
        ("stem.conv.kernel", 3 * 7 * 7),
        ("block1.layer1.conv1.kernel", 64),
        ("block1.layer1.conv2.kernel", 128 * 3 * 3),
        ("transition1.conv.kernel", 256),
    ]:
        kernel = arrays[name].astype(float)
        error = 5 * math.sqrt(2 / kernel.size)
        assert kernel.var() == pytest.approx(2 / fan_in, rel=error), name


def test_the_classifier_starts_uniform_in_one_over_the_root_of_its_features() -> None:
    kernel = initial_weights(lower(WIDE))["classifier.kernel"].astype(float)
    assert kernel.shape == (500, 768)
    bound = 1 / math.sqrt(768)
    error = 5 / math.sqrt(kernel.size)
    assert np.abs(kernel).max() <= np.float32(bound)
    assert np.abs(kernel).max() > 0.9999 * bound
    assert abs(kernel.mean()) < error * bound
    assert kernel.var() == pytest.approx(bound**2 / 3, rel=error)


def test_everything_else_starts_at_zero_or_one() -> None:
    arrays = initial_weights(lower(WIDE))
    values = {
        "bias": 0,
        "beta": 0,
        "running_mean": 0,
        "gamma": 1,
        "running_variance": 1,
    }
    seen = set()
    for name, array in arrays.items():
        short = name.rpartition(".")[2]
        if short != "kernel":
            np.testing.assert_array_equal(array, values[short], err_msg=name)
            seen.add(short)
    assert seen == set(values)


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], name: str) -> bool:
    return np.array_equal(one[name], other[name])


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, other = initial_weights(lower(tiny()), 3), initial_weights(lower(tiny()), 3)
    assert all(_same(one, other, name) for name in one)


def test_another_seed_gives_other_kernels() -> None:
    one, other = initial_weights(lower(tiny()), 0), initial_weights(lower(tiny()), 1)
    for name in one:
        assert _same(one, other, name) == (not name.endswith(".kernel")), name


@pytest.mark.parametrize(
    "options",
    [{"include_top": False}, {"include_top": False, "pooling": "max"}],
    ids=["features", "pooled features"],
)
def test_the_body_starts_alike_without_the_classifier(options: Any) -> None:
    full = initial_weights(lower(tiny()))
    body = initial_weights(lower(tiny(), **options))
    assert set(full) - set(body) == {"classifier.kernel", "classifier.bias"}
    assert all(_same(full, body, name) for name in body)


@pytest.mark.parametrize(
    "changes",
    [{"classes": 7}, {"blocks": (2, 1, 3)}, {"dropout_rate": 0.5}, {"padding": "same"}],
    ids=["another head", "another block at the end", "dropout", "another padding"],
)
def test_arrays_of_equal_name_and_shape_start_alike_in_related_networks(changes: Any) -> None:
    one, other = initial_weights(lower(tiny())), initial_weights(lower(tiny(**changes)))
    common = [n for n in one if n in other and one[n].shape == other[n].shape]
    assert "block2.layer1.conv1.kernel" in common
    assert all(_same(one, other, name) for name in common)


def test_the_input_size_changes_no_number() -> None:
    one, other = initial_weights(lower(tiny())), initial_weights(lower(tiny(), (8, 8)))
    assert all(_same(one, other, name) for name in one)


@pytest.mark.parametrize("name", variants())
def test_no_two_arrays_of_a_variant_share_a_stream(name: str) -> None:
    names = [weight.name for weight in lower(get(name)).weights]
    assert len({zlib.crc32(name.encode()) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("seed", "name", "digest"),
    named(
        "{1} of seed {0}",
        (0, "stem.conv.kernel", "f2c51864134545df"),
        (1, "stem.conv.kernel", "583c9766091be5f4"),
        (0, "block1.layer1.conv1.kernel", "1c931109ccedb389"),
        (0, "classifier.kernel", "4361d26f020291f0"),
    ),
)
def test_the_stream_of_numbers_is_the_one_of_the_first_release(
    seed: int, name: str, digest: str
) -> None:
    """Where this fails, numpy or densespec changed how networks start, and no run repeats."""
    assert _digest(initial_weights(lower(tiny()), seed)[name]) == digest
