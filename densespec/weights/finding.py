"""Finds the network among named arrays: under which prefix it lies, and whose names it has."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from densespec.errors import UnknownName, WeightsError, bare, shown
from densespec.weights.layer_arrays import COLLECTIONS
from densespec.weights.layouts import Layout, layouts
from densespec.weights.layouts.parts import Part, whole
from densespec.weights.tensors import Tensors

AVERAGES = frozenset({"ema", "swa", "average", "averaged"})
"""Programs keep averages of a network's weights under prefixes with these words."""

WRAPPERS = re.compile(
    r"(?<![^./])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)[./]"
)
"""Matches what PyTorch inserts into names where a part is compiled, sharded or recomputed."""

MOST_NETWORKS = 16
"""A file may have at most this many networks of one layout."""


@dataclass(frozen=True)
class Claim:
    """Describes what a layout takes for a network among named arrays.

    Attributes:
        layout: The layout whose names the network may have.
        prefix: The text before its names.
        tensors: The arrays under the prefix, by their names in the layout.
        outside: The other arrays, by their own names.
        others: The prefixes of other networks in the same place.
    """

    layout: Layout
    prefix: str
    tensors: Tensors
    outside: Tensors
    others: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Say in sentences what a user should know of the other networks."""
        return tuple(map(_told, self.others))

    def without(self, names: Collection[str]) -> Claim:
        """Leave some of the network's arrays to what lies outside of it."""
        own = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        left = {self.prefix + name: t for name, t in self.tensors.items() if name in names}
        return replace(self, tensors=own, outside={**self.outside, **left})


def unwrapped(tensors: Tensors) -> Tensors:
    """Take what PyTorch's wrappers put into names out of them, unless two would become one."""
    names = {name: WRAPPERS.sub("", name) for name in tensors}
    if len(set(names.values())) < len(names):
        return tensors
    return {names[name]: tensor for name, tensor in tensors.items()}


def under_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """Take the arrays whose names start with a prefix, without it.

    In Flax's trees, the collection that an array is in stands before the prefix, and stays.

    Raises:
        WeightsError: There is none; suggests near prefixes.
    """
    collections = f"({'|'.join(COLLECTIONS)}|)"
    for start in (rf"{re.escape(prefix.rstrip('./'))}[./]", re.escape(prefix)):
        pattern = re.compile(collections + start)
        found = {
            match[1] + name[match.end() :]: tensor
            for name, tensor in tensors.items()
            if (match := pattern.match(name))
        }
        if found:
            return found
    starts = {match[0] for name in tensors if (match := re.match(r"[^./]+[./]", name))}
    raise WeightsError(str(UnknownName("prefix", prefix, starts)))


def claims_on(tensors: Tensors, metadata: Mapping[str, str]) -> list[Claim]:
    """Find the layouts that may have the names of the one network that there is.

    Of an implementation that does one thing is thought before one that does anything.

    Returns:
        The likeliest first; none if no layout knows the names.

    Raises:
        WeightsError: There are several networks, or layouts that are equally likely.
    """
    found: dict[str, list[Claim]] = {}
    for layout in layouts().values():
        for claim in _possible(layout, tensors):
            if layout.claims(claim.tensors, metadata):
                found.setdefault(claim.prefix, []).append(claim)
    if not found:
        return []
    prefix = _chosen({prefix: claims[0] for prefix, claims in found.items()})
    return [_alone(claim, found) for claim in _likeliest_first(found[prefix])]


def claim_of(layout: Layout, tensors: Tensors) -> Claim:
    """Take a network among named arrays for one of a layout, wherever it lies.

    Raises:
        WeightsError: There are several.
    """
    found = _possible(layout, tensors) or [_claim(layout, part, tensors) for part in whole(tensors)]
    claims = {claim.prefix: claim for claim in found}
    return _alone(claims[_chosen(claims)], claims)


def _possible(layout: Layout, tensors: Tensors) -> list[Claim]:
    parts = list(itertools.islice(layout.parts(tensors), MOST_NETWORKS + 1))
    if len(parts) > MOST_NETWORKS:
        raise WeightsError(
            f"it has more than {MOST_NETWORKS} DenseNets: choose one by its prefix (--prefix "
            f"{bare(parts[0].prefix)})"
        )
    return [_claim(layout, part, tensors) for part in parts]


def _claim(layout: Layout, part: Part, tensors: Tensors) -> Claim:
    return Claim(
        layout,
        part.prefix,
        {new: tensors[name] for name, new in part.names.items()},
        {name: tensor for name, tensor in tensors.items() if name not in part.names},
    )


def _alone(claim: Claim, prefixes: Iterable[str]) -> Claim:
    """Take the networks under further prefixes out of a claim."""
    others = tuple(prefix for prefix in prefixes if prefix != claim.prefix)
    inner = tuple(
        other.removeprefix(claim.prefix) for other in others if other.startswith(claim.prefix)
    )
    theirs = {name for name in claim.tensors if name.startswith(inner)}
    return replace(claim.without(theirs), others=others)


def _likeliest_first(claims: list[Claim]) -> list[Claim]:
    ordered = sorted(claims, key=lambda claim: not claim.layout.implements)
    for one, other in itertools.pairwise(ordered):
        if bool(one.layout.implements) == bool(other.layout.implements):
            names = ", ".join(claim.layout.name for claim in ordered)
            raise WeightsError(f"the layout could be any of {names}: say which (--from LAYOUT)")
    return ordered


# Several networks


def _chosen(claims: Mapping[str, Claim]) -> str:
    """Choose the prefix of the one network that is meant.

    The others lie within that network, or are averages of it.
    """
    plain = [prefix for prefix in claims if not _is_average(prefix)] or list(claims)
    outer = [prefix for prefix in plain if all(other.startswith(prefix) for other in plain)]
    chosen = outer or _twins(claims, plain)
    if not chosen:
        places = " and ".join(map(shown, plain))
        raise WeightsError(
            f"it has {len(plain)} DenseNets, under {places}: choose one by its prefix "
            f"(--prefix {bare(plain[0])})"
        )
    return chosen[0]


def _told(prefix: str) -> str:
    what = "averaged weights are" if _is_average(prefix) else "another DenseNet is"
    return f"{what} under {shown(prefix)}, to be chosen by --prefix {bare(prefix)}"


def _is_average(prefix: str) -> bool:
    return not AVERAGES.isdisjoint(re.split(r"[._/]", prefix.lower()))


def _twins(claims: Mapping[str, Claim], prefixes: list[str]) -> list[str]:
    """Return the prefixes, fullest first, if they are copies of one network; else nothing."""
    fullest, *others = sorted(prefixes, key=lambda prefix: -len(claims[prefix].tensors))
    tensors = claims[fullest].tensors
    same = all(_same(claims[other].tensors, tensors) for other in others)
    return [fullest, *others] if same else []


def _same(some: Tensors, more: Tensors) -> bool:
    """Say whether arrays are also among more of them."""
    return all(
        name in more
        and (tensor.shape, tensor.dtype) == (more[name].shape, more[name].dtype)
        and np.array_equal(tensor.read(), more[name].read(), equal_nan=True)
        for name, tensor in some.items()
    )
