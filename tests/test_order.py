"""Networks of home-made names, whose arrays are taken in the order in which they are there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from densespec.errors import WeightsError
from densespec.weights.order import ORDER
from densespec.weights.tensors import Tensor
from tests.test_convert import SPEC, assert_same, random_weights
from tests.test_finding import BODY, WHOLE, Named, array, linear, read, refusal

PLAIN = SPEC.replace(stem_width=64)


def home_made(tensors: Named) -> Named:
    """The same arrays in the same order, under names that tell only which are one layer's."""
    layers: dict[str, int] = {}
    found = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        number = layers.setdefault(layer, len(layers))
        found[f"net.part{number}.{leaf}"] = tensor
    return found


def test_arrays_in_the_order_of_use_are_those_of_the_spec() -> None:
    found = read(home_made(WHOLE), layout=ORDER, spec=PLAIN)
    assert (found.layout.name, found.spec) == (ORDER, PLAIN)
    assert_same(found.arrays(), random_weights(SPEC))


def test_it_says_loudly_that_order_was_all_it_had() -> None:
    (loud,) = read(home_made(WHOLE), layout=ORDER, spec=PLAIN).assumptions
    assert loud.startswith("ONLY THE ORDER COULD TELL")
    counted = re.search(r"of (\d+) convolutions only (\d+) have a shape that no other has", loud)
    assert counted is not None
    assert 0 < int(counted[2]) < int(counted[1]) == sum(".conv" in n for n in WHOLE)


def test_without_a_spec_the_catalogue_says_what_shapes_do_not() -> None:
    found = read(home_made(BODY), layout=ORDER)
    assert found.spec.blocks == SPEC.blocks
    assert "as named variants with such a stem have it" in found.assumptions[-1]


def test_kernels_of_either_order_of_axes_are_taken() -> None:
    last: Named = {}
    for name, tensor in home_made(WHOLE).items():
        kernel = tensor.read()
        moved = np.moveaxis(kernel, (0, 1), (-1, -2)) if kernel.ndim > 1 else kernel
        last[name] = Tensor.of(np.ascontiguousarray(moved))
    found = read(last, layout=ORDER, spec=PLAIN)
    assert_same(found.arrays(), random_weights(SPEC))


def test_shapes_in_another_order_are_refused_by_the_first_that_does_not_fit() -> None:
    swapped = list(home_made(WHOLE).items())
    kernels = [n for n, (_, tensor) in enumerate(swapped) if len(tensor.shape) == 4]
    first, second = kernels[1], kernels[3]
    swapped[first], swapped[second] = swapped[second], swapped[first]
    with pytest.raises(WeightsError, match=r"has shape \(\d+, \d+, 1, 1\), but should have"):
        read(dict(swapped), layout=ORDER, spec=PLAIN)


def test_more_layers_than_the_network_has_are_counted() -> None:
    message = refusal(home_made(WHOLE), layout=ORDER, spec=PLAIN.replace(blocks=(1, 2, 2)))
    assert re.match(r"it has \d+ convolutions, but the network has \d+: .*\(--prefix\)$", message)


def test_an_array_that_a_layer_lacks_is_named() -> None:
    tensors = home_made(WHOLE)
    del tensors["net.part1.running_var"]
    message = refusal(tensors, layout=ORDER, spec=PLAIN)
    assert "the variance of net.part1 (stem.norm.running_variance) is missing" in message


def test_a_part_of_a_file_is_taken_in_order() -> None:
    others = {"decoder.conv.weight": array(4, 9, 3, 3)} | linear("decoder.fc", 2, 3)
    found = read(others | home_made(WHOLE), layout=ORDER, spec=PLAIN, prefix="net.")
    assert_same(found.arrays(), random_weights(SPEC))
