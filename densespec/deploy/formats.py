"""The formats a network can be exported to, and who writes each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from densespec.deploy.network import Options, Runner
from densespec.errors import DensespecError, UnknownName
from densespec.installed import require
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph

Loader = Callable[[], Runner]


class Exporter(Protocol):
    """What writes one format."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, options: Options) -> Loader:
        """Write a network to a path.

        Args:
            path: a file, or a folder that is there and empty.

        Returns:
            What reads the file back and runs it, to be called while it is at this path.
        """
        ...


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffixes: of its files; none where it is a folder.
        exporter: module and attribute of its :class:`Exporter`.
        packages: without which it can't be written.
        runtime: package that runs it, for the check.
        extra: of densespec that has all of them.
        dtypes: that it is offered in.
        layout: of inputs and feature maps.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    exporter: str
    packages: tuple[str, ...]
    runtime: str
    extra: str
    dtypes: tuple[str, ...] = ("float32",)
    layout: str = "channels first"

    @property
    def is_folder(self) -> bool:
        return not self.suffixes

    def load(self) -> Exporter:
        """Its exporter; imports the framework.

        Raises:
            PackageMissing: a package is missing; says what to install.
        """
        for package in self.packages:
            require(self.about, package, extra=self.extra)
        module, _, attribute = self.exporter.partition(":")
        exporter: Exporter = getattr(importlib.import_module(module), attribute)
        return exporter

    def missing_runtime(self) -> str | None:
        """What to install so that a file can be checked; None where it can."""
        if importlib.util.find_spec(self.runtime) is not None:
            return None
        return f"{self.runtime} is not installed: pip install 'densespec[{self.extra}]'"


FORMATS: Mapping[str, Format] = {
    kind.name: kind
    for kind in (
        Format(
            name="onnx",
            about="ONNX",
            suffixes=(".onnx",),
            exporter="densespec.deploy.onnx:FORMAT",
            packages=("onnx",),
            runtime="onnxruntime",
            extra="onnx",
            dtypes=("float32", "float16"),
        ),
        Format(
            name="torch-export",
            about="torch.export",
            suffixes=(".pt2",),
            exporter="densespec_torch.exporting:FORMAT",
            packages=("torch",),
            runtime="torch",
            extra="torch",
        ),
        Format(
            name="saved-model",
            about="TensorFlow SavedModel",
            suffixes=(),
            exporter="densespec_keras.exporting:SAVED_MODEL",
            packages=("keras", "tensorflow"),
            runtime="tensorflow",
            extra="tensorflow",
            layout="channels last",
        ),
        Format(
            name="jax-export",
            about="StableHLO, serialized by jax.export",
            suffixes=(".stablehlo",),
            exporter="densespec_keras.exporting:JAX_EXPORT",
            packages=("keras", "jax"),
            runtime="jax",
            extra="jax",
            layout="channels last",
        ),
        Format(
            name="mlir",
            about="StableHLO text",
            suffixes=(".mlir",),
            exporter="densespec_keras.exporting:MLIR",
            packages=("keras", "jax"),
            runtime="jax",
            extra="jax",
            layout="channels last",
        ),
    )
}


def format_of(path: Path, name: str | None) -> Format:
    """The format of a name, or else of a path's suffix; a folder is a SavedModel.

    Raises:
        UnknownName: no format of the name.
        DensespecError: the suffix is no format's, or another's.
    """
    if name is not None:
        if name not in FORMATS:
            raise UnknownName("format", name, FORMATS)
        return FORMATS[name]
    if path.suffix == "" or path.is_dir():
        return FORMATS["saved-model"]
    for found in FORMATS.values():
        if path.suffix in found.suffixes:
            return found
    known = ", ".join(f"{suffix} ({f.name})" for f in FORMATS.values() for suffix in f.suffixes)
    raise DensespecError(
        f"{path}: no format is known by the suffix {path.suffix!r}. Known: {known}, and a name "
        "without a suffix for a folder (saved-model); or name the format (--format)"
    )
