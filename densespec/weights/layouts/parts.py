"""Finds where among named arrays a network lies, whatever stands before and beside its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from densespec.errors import WeightsError


@dataclass(frozen=True)
class Part:
    """Describes one network among named arrays.

    Attributes:
        prefix: The text before the names of the network, such as ``model.``.
        names: The layout's name of each array under the prefix, by the array's own name.
    """

    prefix: str
    names: Mapping[str, str]


Parts = Callable[[Iterable[str]], Iterator[Part]]
"""Finds the networks that have a layout's names among the names of arrays."""


def whole(names: Iterable[str]) -> Iterator[Part]:
    """Take all arrays for one network, under the names that they have."""
    yield Part("", {name: name for name in names})


def under(stem: str, root: str = "", first: str = "", body: str = "") -> Parts:
    """Find networks by the name that the stem's kernel has in a bare one.

    What stands before it is the prefix. The body's names may lack what the layout has before them,
    where a program keeps the body alone.

    Args:
        stem: The name of the stem's kernel.
        root: What the layout has before the names of the body, such as ``features.``.
        first: What stands, behind the root, before the names of the first dense layer. A body
            without its root is known by it.
        body: A pattern of the first parts of the names in the body, behind the root.
    """
    inner = re.escape(stem.removeprefix(root))
    rooted = rf"{re.escape(root[:-1])}[._]" if root else ""
    stems = re.compile(rf"((?:.*?\.)??)({rooted}{'|' if root else ''}){inner}")
    in_body = re.compile(rf"(?:{body})[._].*")

    def of(names: Iterable[str]) -> Iterator[Part]:
        names = list(names)
        bodies = {name.partition(first)[0] for name in names if first in name} if first else set()
        for match in filter(None, map(stems.fullmatch, names)):
            prefix, start = match[1], match[1] + match[2]
            if match[2] or not root:
                inside = (name for name in names if name.startswith(prefix))
                yield part(prefix, start, root, inside)
            elif prefix in bodies:
                inside = (name for name in names if name.startswith(prefix))
                bare = (name for name in inside if in_body.fullmatch(name.removeprefix(prefix)))
                yield part(prefix, start, root, inside if prefix else bare)

    return of


def part(prefix: str, start: str, root: str, inside: Iterable[str]) -> Part:
    """Rename what is under a prefix: what starts the names of the body becomes the root."""
    names = {}
    for name in inside:
        rest = name.removeprefix(start)
        names[name] = root + rest if name.startswith(start) else name.removeprefix(prefix)
    if len(set(names.values())) < len(names):
        raise WeightsError(f"several arrays under {prefix!r} have the same name")
    return Part(prefix, names)
