"""Finds what installed packages publish as entry points: backends, layouts, export formats, ...

Each kind has an entry-point group of its own, and the project's own packages use the same groups as
everybody else's. Nothing is imported until it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from densespec.errors import BackendUnavailable, PackageMissing, UnknownName


def names(group: str) -> tuple[str, ...]:
    """List the names that installed packages publish under a group, sorted."""
    from importlib import metadata

    return tuple(sorted(entry.name for entry in metadata.entry_points(group=group)))


def load(group: str, kind: str, name: str) -> Any:
    """Load the object that a package publishes under a group and a name.

    Args:
        group: The entry-point group.
        kind: What the group is of, as messages call it, such as ``"backend"``.
        name: The name within the group.

    Raises:
        UnknownName: No package publishes it; the message suggests near names.
        PackageMissing: A package that it needs is not installed; the message says what to install.
        BackendUnavailable: Its module, or the attribute, is not there.
    """
    from importlib import metadata

    entries = list(metadata.entry_points(group=group, name=name))
    if not entries:
        raise UnknownName(kind, name, names(group))
    return loaded(kind, name, entries[0].load)


def load_all(group: str, kind: str) -> dict[str, Any]:
    """Load everything that packages publish under a group, by name, sorted.

    Args:
        group: The entry-point group.
        kind: What the group is of, as messages call it.

    Raises:
        PackageMissing, BackendUnavailable: One can't be loaded; the message says which.
    """
    from importlib import metadata

    entries = {entry.name: entry for entry in metadata.entry_points(group=group)}
    return {name: loaded(kind, name, entries[name].load) for name in sorted(entries)}


def loaded(kind: str, name: str, load: Callable[[], Any]) -> Any:
    """Return what ``load`` gives.

    Raises:
        PackageMissing: ``load`` says so.
        BackendUnavailable: ``load`` finds no such module or attribute; the message says which.
    """
    try:
        return load()
    except (BackendUnavailable, PackageMissing):
        raise
    except (ImportError, AttributeError) as error:
        raise BackendUnavailable(f"{kind} {name!r} can't be loaded: {error}") from error
