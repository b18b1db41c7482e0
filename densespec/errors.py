"""Defines every error that densespec raises on purpose, so that callers catch them by meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 200
"""An error message shows at most this many characters of a value."""
SHOWN = 5
"""An error message names at most this many problems."""


MOST_NAMES = 40
"""An error message lists at most this many names where no name is near."""


class DensespecError(Exception):
    """Base class of all errors that densespec raises on purpose."""


def shown(value: object) -> str:
    """Return ``repr(value)``, cut short, for an error message. It never raises an error."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, thousands of nested lists
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def bare(name: str) -> str:
    """Show somebody else's name without quotes, escaped where a terminal should not print it."""
    text = repr(name)[1:-1]
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def listed(problems: Sequence[str]) -> str:
    """Join problems for an error message: it names the first ones and counts the rest."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def in_words(
    differences: Mapping[str, tuple[object, object]], first: str = "there", second: str = "here"
) -> list[str]:
    """Say in what two things differ, such as ``padding is 'same' there, but 'symmetric' here``.

    Args:
        differences: The value that each of the two has, by the name of what differs.
        first, second: Where the first and the second value are.
    """
    return [
        f"{name} is {one!r} {first}, but {other!r} {second}"
        for name, (one, other) in differences.items()
    ]


class SpecError(DensespecError, ValueError):
    """A spec, or an input size for one, breaks a numbered constraint.

    Attributes:
        constraint: number of the broken constraint, such as ``"S5"``; see ``docs/spec.md``. Empty
            where constraints have no numbers.
        field: the offending field.
        value: what it was.
    """

    def __init__(self, constraint: str, field: str, value: object, expected: str) -> None:
        number = f" [{constraint}]" if constraint else ""
        super().__init__(f"{field} = {shown(value)}, but should be {expected}{number}")
        self.constraint, self.field, self.value = constraint, field, value
        self._expected = expected

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders by pickle, which calls the class with its arguments."""
        return type(self), (self.constraint, self.field, self.value, self._expected)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


class UnknownName(DensespecError, LookupError):
    """A name is not in a list of names; the message suggests near ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        import difflib

        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {_some(known)}."
        super().__init__(f"unknown {kind} {shown(name)}. {hint}")
        self._arguments = (kind, name, known)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class PackageMissing(DensespecError, ImportError):
    """A package that something needs is not installed.

    Attributes:
        package: the name under which it is imported.
        extra: the extra of densespec that installs it.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed: "
            f"pip install 'densespec[{extra}]'"
        )
        self._what, self.package, self.extra = what, package, extra

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._what, self.package, self.extra)


class BackendUnavailable(DensespecError, ImportError):
    """A backend, or something that it brings along, can't be loaded."""


class Untrainable(DensespecError, ValueError):
    """Training was asked of a model that is prepared for inference."""

    def __init__(self, backend: str) -> None:
        super().__init__(
            f"backend {backend!r} is prepared for inference and can't be trained: build without "
            "mode='inference', or turn a model back by densespec.in_mode(model, 'layers')"
        )
        self._backend = backend

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._backend,)


class ModelChanged(DensespecError):
    """A built model was changed into something that no spec says.

    Attributes:
        part: The name of the module or layer, such as ``features.pool0``.
        actual: What it is.
        expected: What the spec says.
        why: The reason why no spec can say it, if it needs one.
    """

    def __init__(self, part: str, actual: str, expected: str, why: str = "") -> None:
        because = f" ({why})" if why else ""
        super().__init__(
            f"{part} is {actual}, but the spec says {expected}: no spec can say what this model "
            f"computes now{because}. Undo the change, or keep the model by its framework's own "
            "means"
        )
        self.part, self.actual, self.expected, self.why = part, actual, expected, why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.part, self.actual, self.expected, self.why)


class EngineConflict(DensespecError, RuntimeError):
    """Keras already runs on another engine in this process."""


class WeightsError(DensespecError, ValueError):
    """Weights do not fit the network: names, shapes or the file itself."""


class ImageError(DensespecError, ValueError):
    """An image can't be read, or has another form than it should have."""


class WeightsWarning(UserWarning):
    """The weights do not state something, so densespec assumed it; the message says what."""
