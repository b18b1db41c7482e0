"""Finding the network among named arrays: under which prefix it lies, and whose names it has."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from densespec.errors import UnknownName, WeightsError
from densespec.weights.layer_arrays import COLLECTIONS
from densespec.weights.layouts import Layout, layouts
from densespec.weights.layouts.parts import Part, whole
from densespec.weights.tensors import Tensors

_AVERAGE = re.compile(r"(?:^|[._/])(?:\w+_)?(?:ema|swa|averaged?)(?:_\w+)?[./]")
"""A prefix under which programs keep averages of a network's weights."""


@dataclass(frozen=True)
class Claim:
    """What a layout takes for a network among named arrays.

    Attributes:
        layout: The layout whose names the network may have.
        prefix: What stands before its names.
        tensors: Those under the prefix, by their names in the layout.
        outside: The others, by the names that they have.
        notes: What a user should know of other networks there.
    """

    layout: Layout
    prefix: str
    tensors: Tensors
    outside: Tensors
    notes: tuple[str, ...] = ()


def under_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """Take the arrays whose names start with a prefix, without it.

    In Flax's trees, the collection that an array is in stands before the prefix, and stays.

    Raises:
        WeightsError: There is none; suggests near prefixes.
    """
    start = re.compile(
        rf"({'|'.join(COLLECTIONS)}|)(?:{re.escape(prefix)}|{re.escape(prefix.rstrip('./'))}[./])"
    )
    found = {
        match[1] + name[match.end() :]: tensor
        for name, tensor in tensors.items()
        if (match := start.match(name))
    }
    if not found:
        starts = {match[0] for name in tensors if (match := re.match(r"[^./]+[./]", name))}
        raise WeightsError(str(UnknownName("prefix", prefix, starts)))
    return found


def claims_on(tensors: Tensors, metadata: Mapping[str, str]) -> list[Claim]:
    """Find the layouts that may have the names of the one network that there is.

    Of an implementation that does one thing is thought before one that does anything.

    Returns:
        The likeliest first; none where no layout knows the names.

    Raises:
        WeightsError: There are several networks, or layouts that are equally likely.
    """
    found: dict[str, list[Claim]] = {}
    for layout in layouts().values():
        for part in layout.parts(tensors):
            claim = _claim(layout, part, tensors)
            if layout.claims(claim.tensors, metadata):
                found.setdefault(part.prefix, []).append(claim)
    if not found:
        return []
    prefix, notes = _choice({prefix: claims[0] for prefix, claims in found.items()})
    others = tuple(other for other in found if other != prefix and other.startswith(prefix))
    return [
        replace(_without(claim, others), notes=notes) for claim in _likeliest_first(found[prefix])
    ]


def claim_of(layout: Layout, tensors: Tensors) -> Claim:
    """Take a network among named arrays for one of a layout, wherever it lies.

    Raises:
        WeightsError: There are several.
    """
    parts = list(layout.parts(tensors)) or list(whole(tensors))
    claims = {part.prefix: _claim(layout, part, tensors) for part in parts}
    prefix, notes = _choice(claims)
    others = tuple(other for other in claims if other != prefix and other.startswith(prefix))
    return replace(_without(claims[prefix], others), notes=notes)


def _claim(layout: Layout, part: Part, tensors: Tensors) -> Claim:
    return Claim(
        layout,
        part.prefix,
        {new: tensors[name] for name, new in part.names.items()},
        {name: tensor for name, tensor in tensors.items() if name not in part.names},
    )


def _without(claim: Claim, prefixes: tuple[str, ...]) -> Claim:
    """A claim that leaves out what lies under further prefixes."""
    within = tuple(prefix.removeprefix(claim.prefix) for prefix in prefixes)
    if not within:
        return claim
    left_out = {
        claim.prefix + name: tensor
        for name, tensor in claim.tensors.items()
        if name.startswith(within)
    }
    return replace(
        claim,
        tensors={n: t for n, t in claim.tensors.items() if not n.startswith(within)},
        outside={**claim.outside, **left_out},
    )


def _likeliest_first(claims: list[Claim]) -> list[Claim]:
    ordered = sorted(claims, key=lambda claim: not claim.layout.implements)
    for one, other in itertools.pairwise(ordered):
        if bool(one.layout.implements) == bool(other.layout.implements):
            names = ", ".join(claim.layout.name for claim in ordered)
            raise WeightsError(f"the layout could be any of {names}: say which (--from LAYOUT)")
    return ordered


# Several networks


def _choice(claims: Mapping[str, Claim]) -> tuple[str, tuple[str, ...]]:
    """The prefix of the one of several networks that is meant, and notes of the others.

    That is the one that the others lie within, or the one that the others are averages of.
    """
    plain = [prefix for prefix in claims if not _AVERAGE.search(prefix)] or list(claims)
    outer = [prefix for prefix in plain if all(other.startswith(prefix) for other in plain)]
    chosen = outer or _twins(claims, plain)
    if not chosen:
        places = " and ".join(repr(prefix) for prefix in plain)
        raise WeightsError(
            f"it has {len(plain)} DenseNets, under {places}: choose one by its prefix "
            f"(--prefix {plain[0]})"
        )
    return chosen[0], tuple(_told(prefix) for prefix in claims if prefix != chosen[0])


def _told(prefix: str) -> str:
    what = "averaged weights are" if _AVERAGE.search(prefix) else "another DenseNet is"
    return f"{what} under {prefix!r}: choose it by its prefix (--prefix {prefix})"


def _twins(claims: Mapping[str, Claim], prefixes: list[str]) -> list[str]:
    """The prefixes if they are of one network that was saved several times; the fullest first."""
    fullest, *others = sorted(prefixes, key=lambda prefix: -len(claims[prefix].tensors))
    tensors = claims[fullest].tensors
    same = all(_same(claims[other].tensors, tensors) for other in others)
    return [fullest, *others] if same else []


def _same(some: Tensors, more: Tensors) -> bool:
    """Whether arrays are also among more of them."""
    return all(
        name in more
        and (tensor.shape, tensor.dtype) == (more[name].shape, more[name].dtype)
        and np.array_equal(tensor.read(), more[name].read(), equal_nan=True)
        for name, tensor in some.items()
    )
