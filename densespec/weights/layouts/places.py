"""What a program calls the parts of a DenseNet, from where they stand in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

_PLACES = re.compile(r"stem\.(norm|conv)|block(\d+)\.layer(\d+)\.(\w+)|transition(\d+)\.(\w+)")

UNIT = {"norm": "bn", "conv": "conv"}
"""What programs whose unit is a norm, a ReLU and a convolution call the two that have arrays."""


def by_place(
    stem: Callable[[str], str],
    layer: Callable[[int, int, str, str], str],
    transition: Callable[[int, str], str],
    others: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[str], str]:
    """Names of a network's nodes, by their canonical names. Numbers count from 1.

    Args:
        stem: gives the name of the stem's ``norm`` or ``conv``.
        layer: likewise, from the numbers of the block and of the layer in it, ``norm`` or
            ``conv``, and the number of that one in the layer as a text.
        transition: likewise, from the transition's number, and ``norm`` or ``conv``.
        others: names of other nodes; any that is not there keeps its canonical name, as
            activations do, of which such programs keep nothing.
    """

    def name_of(node: str) -> str:
        place = _PLACES.fullmatch(node)
        if node in others or not place:
            return others.get(node, node)
        in_stem, block, number, leaf, after, in_transition = place.groups()
        if (in_stem or leaf or in_transition).rstrip("12") not in UNIT:
            return node
        if in_stem:
            return stem(in_stem)
        if block:
            return layer(int(block), int(number), leaf[:-1], leaf[-1])
        return transition(int(after), in_transition)

    return name_of
