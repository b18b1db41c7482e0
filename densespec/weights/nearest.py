"""What to say of arrays whose names no layout knows: whose are nearest, and what would help."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from densespec.errors import WeightsError, listed
from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.evidence import body_fields
from densespec.weights.layer_arrays import layers_of
from densespec.weights.layouts import Axes, Layout, layouts
from densespec.weights.order import evidence_of
from densespec.weights.tensors import Tensors

PROBE = DenseNetSpec(
    blocks=(2, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_width=8,
)
"""A network that has every kind of name."""

MOST_TRIED = 20
"""The most first parts of names under which a network is looked for."""

NEAR = 1 / 3
"""The least share of a layout's kinds of names that makes it near."""


def no_known_layout(tensors: Tensors) -> str:
    """Say that no layout knows the names of arrays, which is nearest, and what would help."""
    first = ", ".join(list(tensors)[:3]) or "none"
    said = ["no layout knows its names (densespec layouts lists those that there are)"]
    if nearest := _nearest(tensors):
        said.append(nearest.told())
    said.append(_told_of_order(tensors))
    return ". ".join([*filter(None, said), f"Its first arrays: {first}"])


# Names


@dataclass(frozen=True)
class _Likeness:
    """How far the names under a prefix are a layout's.

    Attributes:
        known: A name of each kind that the layout has, by the kind.
        there: A name of each kind that is under the prefix, by the kind.
    """

    layout: Layout
    prefix: str
    known: dict[str, str]
    there: dict[str, str]

    @property
    def share(self) -> float:
        return len(self.known.keys() & self.there.keys()) / len(self.known)

    def told(self) -> str:
        missing = [name for kind, name in self.known.items() if kind not in self.there]
        more = [name for kind, name in self.there.items() if kind not in self.known]
        place = f" under {self.prefix!r}" if self.prefix else ""
        unknown = f", and does not know {listed(more)}" if more else ""
        return (
            f"The nearest is {self.layout.name},{place} which would have {listed(missing)}{unknown}"
        )


def _nearest(tensors: Tensors) -> _Likeness | None:
    examples: dict[str, str] = {}
    for name in tensors:
        examples.setdefault(_kind(name), name)
    found = [
        likeness
        for layout in layouts().values()
        for container in layout.containers
        for likeness in _likenesses(layout, container, examples.values())
    ]
    best = max(found, key=lambda likeness: likeness.share, default=None)
    return best if best and best.share >= NEAR else None


def _likenesses(layout: Layout, container: str, names: Iterable[str]) -> Iterator[_Likeness]:
    graph = lower(PROBE.replace(**layout.implements), include_top=False)
    known = {_kind(key): key for key in layout.keys(graph, container).values()}
    there: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        for prefix, rest in _splits(name):
            there[prefix][_kind(rest)] = name
    for prefix, kinds in there.items():
        if not known.keys().isdisjoint(kinds):
            yield _Likeness(layout, prefix, known, kinds)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """A name as prefixes, from none on, each with what follows it."""
    for start in (0, *(match.end() for match in re.finditer(r"[./]", name))):
        yield name[:start], name[start:]


def _kind(name: str) -> str:
    """A name without its numbers, which count layers."""
    return re.sub(r"\d+", "#", name)


# Order


def _told_of_order(tensors: Tensors) -> str:
    """Which option reads arrays that are a DenseNet in the order in which they are there."""
    starts = dict.fromkeys(match[0] for name in tensors if (match := re.match(r"[^./]+[./]", name)))
    for prefix in ("", *list(starts)[:MOST_TRIED]):
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if fields := _in_order(inside):
            blocks = ", ".join(map(str, fields["blocks"]))
            option = f"--prefix {prefix} " if prefix else ""
            return (
                f"In their order, the shapes{f' under {prefix!r}' if prefix else ''} are those of "
                f"a DenseNet of blocks {blocks} and growth rate {fields['growth_rate']}: "
                f"{option}--from order --spec SPEC takes them so"
            )
    return ""


def _in_order(tensors: Tensors) -> dict[str, Any]:
    """What the shapes say of a body in the order of the arrays; nothing where they are none."""
    axes: tuple[Axes, ...] = ("out_in_window", "window_in_out")
    for order in axes:
        try:
            return body_fields(evidence_of(layers_of(tensors, order)))
        except WeightsError:
            continue
    return {}
