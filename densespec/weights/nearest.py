"""Explains names that no layout knows: which layout is nearest, and what would help."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from densespec.errors import WeightsError, bare, listed, shown
from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.layouts import Layout, layouts
from densespec.weights.order import fields_in_order
from densespec.weights.tensors import Tensors

PROBE = DenseNetSpec(
    blocks=(2, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_width=8,
)
"""This network has every kind of name."""

MOST_TRIED = 20
"""A network is looked for under at most this many first parts of names."""

MOST_NAMES = 10_000
"""At most this many names are compared with those of layouts."""

LONGEST_NAME = 300
"""Such a name has at most this many characters; no layout has longer ones."""

MOST_PARTS = 16
"""At most this many last parts of such a name may be a layout's; the others stand before it."""

NEAR = 1 / 3
"""A layout is near if at least this share of its kinds of names is there."""


def no_known_layout(tensors: Tensors) -> str:
    """Say that no layout knows the names of arrays, which is nearest, and what would help."""
    said = [
        "no known layout has its names (densespec layouts lists those that are known).",
        nearest_to(tensors),
        _told_of_order(tensors),
        f"Its first arrays: {', '.join(map(bare, list(tensors)[:3])) or 'none'}",
    ]
    return " ".join(filter(None, said))


def nearest_to(tensors: Tensors) -> str:
    """Say whose names are nearest to those of arrays, and what is different; nothing if none is."""
    nearest = _nearest(tensors)
    return nearest.told() if nearest else ""


# Names


@dataclass(frozen=True)
class _Likeness:
    """Tells how far the names under a prefix are a layout's.

    Attributes:
        layouts: The layouts that have such names.
        missing: A name of each kind that the layout has, but that is not under the prefix.
        unknown: A name of each kind that is under the prefix, but that the layout does not have.
    """

    layouts: str
    prefix: str
    missing: list[str]
    unknown: list[str]

    def told(self) -> str:
        place = f" under {shown(self.prefix)}" if self.prefix else ""
        lacks = f" It lacks {listed(self.missing)}." if self.missing else ""
        knows = (
            f" Unknown to that are {listed(list(map(bare, self.unknown)))}." if self.unknown else ""
        )
        whose = f" If they are whose they seem, say so (--from {self.layouts.partition(' ')[0]})."
        return (
            f"Its names{place} are nearest to those of {self.layouts}.{lacks}{knows}"
            f"{'' if self.missing else whose}"
        )


@dataclass(frozen=True)
class _Kinds:
    """Holds one name of each kind: kinds are names without the numbers that count layers."""

    examples: Mapping[str, str]

    @classmethod
    def of(cls, names: Iterable[str]) -> _Kinds:
        examples: dict[str, str] = {}
        short = (name for name in names if len(name) <= LONGEST_NAME)
        for name in itertools.islice(short, MOST_NAMES):
            examples.setdefault(_kind(name), name)
        return cls(examples)

    @functools.cached_property
    def prefixes(self) -> dict[str, list[str]]:
        """Return what stands before each end of a name, by the kind of the end."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.examples.values():
            starts = [0, *(match.end() for match in re.finditer(r"[./]", name))]
            for start in starts[-MOST_PARTS:]:
                found[_kind(name[start:])].append(name[:start])
        return found

    def shares(self, known: Collection[str]) -> list[tuple[float, str]]:
        """Find the prefix under which most of some kinds are, with the share that is there."""
        counts = Counter(p for kind in known for p in set(self.prefixes.get(kind, ())))
        return [(count / len(known), prefix) for prefix, count in counts.most_common(1)]

    def under(self, prefix: str) -> dict[str, str]:
        """Return a name of each kind under a prefix, by the kind without the prefix."""
        inside = (name for name in self.examples.values() if name.startswith(prefix))
        return {_kind(name[len(prefix) :]): name for name in inside}


def _nearest(tensors: Tensors) -> _Likeness | None:
    there = _Kinds.of(tensors)
    found = [
        ((share, bool(layout.implements), -_length(known)), layout, prefix, known)
        for layout in layouts().values()
        for known in _known_kinds(layout)
        for share, prefix in there.shares(known)
        if share >= NEAR
    ]
    if not found:
        return None
    _, layout, prefix, known = max(found, key=lambda one: one[0])
    inside = there.under(prefix)
    alike = [other.name for _, other, where, its in found if (where, its) == (prefix, known)]
    return _Likeness(
        " or ".join(dict.fromkeys(alike)),
        prefix,
        [name for kind, name in known.items() if kind not in inside],
        [name for kind, name in inside.items() if kind not in known and not layout.ignored(name)],
    )


def _known_kinds(layout: Layout) -> Iterator[dict[str, str]]:
    """Yield a name of each kind that a layout has for a body, by kind, container by container."""
    graph = lower(PROBE.replace(**layout.implements), include_top=False)
    for container in layout.containers:
        yield {_kind(key): key for key in layout.keys(graph, container).values()}


def _length(known: Mapping[str, str]) -> int:
    """Sum up the length of all names: of two equally near layouts, the plainer names win."""
    return sum(map(len, known.values()))


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


# Order


def _told_of_order(tensors: Tensors) -> str:
    """Say which option reads arrays that make a DenseNet in the order in which they are."""
    starts = dict.fromkeys(match[0] for name in tensors if (match := re.match(r"[^./]+[./]", name)))
    for prefix in ("", *list(starts)[:MOST_TRIED]):
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            fields = fields_in_order(inside)
        except WeightsError:
            continue
        blocks = ", ".join(map(str, fields["blocks"]))
        place, option = (
            (f" under {shown(prefix)}", f"--prefix {bare(prefix)} ") if prefix else ("", "")
        )
        return (
            f"In their order, the arrays{place} are a DenseNet of blocks {blocks} and growth rate "
            f"{fields['growth_rate']}: {option}--from order --spec SPEC takes them so."
        )
    return (
        "In their order they are no DenseNet, either; if a part of them is one, say how their "
        "names start (--prefix), or under which key of a PyTorch file they are (--key)."
    )
