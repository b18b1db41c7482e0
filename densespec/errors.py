"""Every error densespec raises on purpose, so that callers can catch them by meaning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DensespecError(Exception):
    """Base of all errors densespec raises on purpose."""


class SpecError(DensespecError, ValueError):
    """A spec, or an input size for one, breaks a numbered constraint.

    Attributes:
        constraint: number of the broken constraint, such as ``"S5"``; see ``docs/spec.md``.
        field: the offending field.
        value: what it was.
    """

    def __init__(self, constraint: str, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} = {value!r}, but should be {expected} [{constraint}]")
        self.constraint, self.field, self.value = constraint, field, value


class UnknownName(DensespecError, LookupError):
    """A name that is not in a list of names; the message suggests near ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        super().__init__(f"unknown {kind} {name!r}. {hint}")


class BackendUnavailable(DensespecError, ImportError):
    """A backend's framework is not installed."""


class EngineConflict(DensespecError, RuntimeError):
    """Keras already runs on another engine in this process."""


class WeightsError(DensespecError, ValueError):
    """Weights do not fit the network: names, shapes or the file itself."""
