"""Names the parts of a DenseNet as a program does, from where they stand in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

_PLACES = re.compile(r"stem\.(norm|conv)|block(\d+)\.layer(\d+)\.(\w+)|transition(\d+)\.(\w+)")

UNIT = {"norm": "bn", "conv": "conv"}
"""Programs with units of a norm, a ReLU and a convolution name the two with arrays so."""


def by_place(
    stem: Callable[[str], str],
    layer: Callable[[int, int, str, str], str],
    transition: Callable[[int, str], str],
    others: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[str], str]:
    """Make the function that names a network's nodes by their canonical names.

    Numbers count from 1.

    Args:
        stem: the function that names the stem's ``norm`` or ``conv``.
        layer: the function that names a dense layer's, from the numbers of the block and of the
            layer in it, ``norm`` or ``conv``, and the number of that one in the layer as a text.
        transition: the function that names a transition's, from its number and ``norm`` or
            ``conv``.
        others: the names of other nodes. A node without one keeps its canonical name, such as an
            activation, which has no arrays there.
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
