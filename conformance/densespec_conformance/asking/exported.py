"""Recognises exported files as targets that are typed by their paths."""

from __future__ import annotations

from pathlib import Path

from densespec.deploy.formats import ExportFormat, format_of, formats
from densespec.errors import DensespecError
from densespec.installed import require
from densespec.network.spec import DenseNetSpec
from densespec.weights.opening import open_weights


class ExportedFileError(DensespecError):
    """An exported file can't be a target; the message says why, and what to do."""


def is_exported(target: str) -> bool:
    """Tell whether a target is the path of an exported file or folder, by its suffix or marker."""
    path = Path(target)
    if path.is_dir():
        return any(each.marker and (path / each.marker).exists() for each in formats().values())
    return any(path.suffix in each.suffixes for each in formats().values() if path.suffix)


def exported_format(target: str) -> ExportFormat:
    """Find the format of a file that can be run here.

    Raises:
        ExportedFileError: There is no such file, or none of its format can be run.
        PackageMissing: The package that runs it is not installed.
    """
    path = Path(target)
    if not path.exists():
        raise ExportedFileError(f"{target}: there is no such file")
    found = format_of(path, None)
    if found.load is None:
        raise ExportedFileError(
            f"{target}: {found.about} can't be run from its file alone; other formats can"
        )
    require(found.about, found.runtime, extra=found.extra)
    return found


def is_int8(target: str) -> bool:
    """Tell whether an exported file computes in int8."""
    return format_of(Path(target), None).is_int8(Path(target))


def spec_of_export(target: str, weights: str | None, given: DenseNetSpec | None) -> DenseNetSpec:
    """Return the network that a file is held to: that of the weights that it was exported from.

    Args:
        weights: The path of those weights.
        given: The spec that was typed; None takes the one of the weights.

    Raises:
        ExportedFileError: No weights are given.
        DensespecError: They can't be read, or do not tell their network.
    """
    if weights is None:
        raise ExportedFileError(
            f"{target}: an exported file does not tell which weights it should have: give those "
            "that it was exported from, with --weights"
        )
    if given is not None:
        return given
    with open_weights(weights) as found:
        return found.graph.spec
