"""Defines what an export format is, and finds one by its name.

A format is published under the entry-point group ``densespec.formats``, by anyone: a package that
brings a backend can bring the formats of its framework. Each format has a module of its own, which
is imported to learn its suffix. So such a module imports its framework only in the functions that
write or run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densespec import published
from densespec.deploy.network import ExportedProgram, ExportOptions, Runner, smallest_size
from densespec.errors import DensespecError, PackageMissing
from densespec.installed import require
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph

GROUP = "densespec.formats"

Loader = Callable[[], Runner]
"""Reads back what was written, and returns a function that runs it."""

Writer = Callable[[Graph, Arrays, Path, ExportOptions], Loader]
"""It writes a network with its canonical arrays to a path: a file, or a folder that is empty.

The loader that it returns is called while the file is still at this path."""


@dataclass(frozen=True)
class Int8Writer:
    """Writes files of a format in int8.

    Attributes:
        write: The function that writes a float32 file again in int8. It takes the file, the new
            path, and inputs of the file, from which it takes the ranges of values.
        wrote: The function that tells whether a file computes in int8, whoever wrote it.
        package: The package that it needs.
        extra: The extra of densespec that installs it.
    """

    write: Callable[[Path, Path, Iterable[np.ndarray]], None]
    wrote: Callable[[Path], bool]
    package: str
    extra: str


@dataclass(frozen=True)
class ExportFormat:
    """Describes a format that networks are exported to.

    Attributes:
        name: The name that users type, under which it is also published.
        about: Its name in messages.
        suffixes: The suffixes that its paths have; ``""`` stands for a path without a suffix.
        write: The function that writes a network.
        packages: The packages that ``write`` needs.
        runtime: The package that runs a file to check it.
        extra: The extra of densespec that installs all of them.
        dtypes: The dtypes in which it can be written.
        layout: The order of axes of inputs and feature maps.
        has_opsets: Whether users choose a version of its set of operations, as ONNX has them.
        least_size: The function that returns the least size of an input that a file for any size
            takes.
        takes_images: Whether a file can hold the preprocessing, and then take images.
        marker: A file that every folder of this format has, so that an older export is recognised;
            None for a format that is a file.
        beside: The suffixes of the further files that it writes; they have the name of the first
            file.
        load: The function that reads any file of the format; None if a file alone can't be run.
        int8: The writer of int8 files; None if there is none.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    write: Writer
    packages: tuple[str, ...]
    runtime: str
    extra: str
    dtypes: tuple[str, ...] = ("float32",)
    layout: str = "channels first"
    has_opsets: bool = False
    least_size: Callable[[Graph], int] = smallest_size
    takes_images: bool = False
    marker: str | None = None
    beside: tuple[str, ...] = ()
    load: Callable[[Path], ExportedProgram] | None = None
    int8: Int8Writer | None = None

    def require_packages(self) -> None:
        """Check that it can be written here.

        Raises:
            PackageMissing: A package is missing; the message says what to install.
        """
        for package in self.packages:
            require(self.about, package, extra=self.extra)

    def is_int8(self, path: Path) -> bool:
        """Tell whether a file of the format computes in int8."""
        return self.int8 is not None and self.int8.wrote(path)

    def missing_runtime(self) -> str | None:
        """Say what to install so that a file can be checked; None if it can be."""
        try:
            require("the check", self.runtime, extra=self.extra)
        except PackageMissing as missing:
            return str(missing)
        return None


def formats() -> Mapping[str, ExportFormat]:
    """Find every format that installed packages offer, by name; frameworks may be absent."""
    return published.load_all(GROUP, "format")


def get_format(name: str) -> ExportFormat:
    """Find a format by its name.

    Raises:
        UnknownName: No package offers it; the message suggests near names.
    """
    found: ExportFormat = published.load(GROUP, "format", name)
    return found


def format_of(path: Path, name: str | None) -> ExportFormat:
    """Find the format by its name, or else by a path's suffix.

    Raises:
        UnknownName: There is no format of the name.
        DensespecError: The suffix belongs to no format, or to several; the message lists them.
    """
    if name is not None:
        return get_format(name)
    known = formats().values()
    suffixes = (path.suffix, "") if path.is_dir() else (path.suffix,)
    for suffix in suffixes:
        fitting = [each for each in known if suffix in each.suffixes]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = " or ".join(each.name for each in fitting)
            raise DensespecError(f"{path} may be {names}: name the format (--format)")
    listed = ", ".join(f"{suffix or 'none'} ({f.name})" for f in known for suffix in f.suffixes)
    raise DensespecError(
        f"{path}: no format is known by the suffix {path.suffix!r}. Known: {listed}; or name the "
        "format (--format)"
    )
