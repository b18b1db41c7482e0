"""Understands what a user types as a target: a backend, a constructor or a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densespec.backends import backends, split_mode, with_mode
from densespec.errors import DensespecError, UnknownName
from densespec.network.catalogue import resolve, variants
from densespec.network.files import spec_from_json
from densespec.network.spec import DenseNetSpec
from densespec_conformance.asking.constructor import Constructor, is_short, parse
from densespec_conformance.asking.exported import (
    exported_format,
    is_exported,
    is_int8,
    spec_of_export,
)

SubjectKind = Literal["backend", "constructor", "exported file"]


class SubjectError(DensespecError, ValueError):
    """A target, or the network that it has to be, can't be understood."""


@dataclass(frozen=True)
class Subject:
    """Describes what is under test.

    Attributes:
        name: The target as it was typed.
        spec: The network that it has to be; None stands for a backend, which builds any.
        weights: The file whose weights it has; None stands for those that it is built with.
        kind: The kind of target. ``module:attribute`` with a spec is a constructor until its
            process has imported it: it may turn out to be a backend, and answers the same.
        int8: Whether it is an exported file that computes in int8.
    """

    name: str
    spec: DenseNetSpec | None = None
    weights: str | None = None
    kind: SubjectKind = "backend"
    int8: bool = False


def subject_of(target: str, spec: str | None = None, weights: str | None = None) -> Subject:
    """Make the subject of what a user typed. Nothing of the target's is imported.

    Args:
        target: A backend's name, ``module:BACKEND``, or a constructor such as
            ``torchvision.models:densenet121``, ``timm:densenet169``,
            ``monai.networks.nets:DenseNet121(spatial_dims=2, in_channels=3, out_channels=10)``, or
            the path of an exported file, such as ``net.onnx``.
        spec: A variant's name, the path of a spec file, or a spec as JSON; None stands for any
            network, or for the variant of the constructor's own name, or for the network of an
            exported file's weights.
        weights: The path of a weight file.

    Raises:
        SubjectError, UnknownName, SpecError, SpecFileError: Something can't be understood; the
            message says what.
        ExportedFileError, PackageMissing: An exported file can't be run here.
    """
    given = None if spec is None else _spec(spec)
    known = split_mode(target)[0] in backends()
    if not known and is_exported(target):
        exported_format(target)
        held_to = spec_of_export(target, weights, given)
        return Subject(target, held_to, weights, "exported file", is_int8(target))
    if ":" not in target:
        if not known:
            raise UnknownName("backend", target, backends())
        with_mode(target, None)  # raises if it has a mode that does not exist
        return _checked(Subject(target, given, weights))
    constructor = parse(target)
    given = given or _named(constructor)
    is_constructor = given is not None or constructor.has_arguments or is_short(target)
    return _checked(Subject(target, given, weights, "constructor" if is_constructor else "backend"))


def _checked(subject: Subject) -> Subject:
    if subject.spec is None and subject.kind == "constructor":
        raise SubjectError(
            f"{subject.name}: say which network this should be, with --spec: a variant's name "
            "(see `densespec list`), a spec file, or a spec as JSON"
        )
    if subject.spec is None and subject.weights is not None:
        raise SubjectError(f"{subject.name}: weights belong to one network: give its --spec too")
    return subject


def _spec(text: str) -> DenseNetSpec:
    return spec_from_json(text) if text.lstrip().startswith("{") else resolve(text)


def _named(constructor: Constructor) -> DenseNetSpec | None:
    """Return the variant that a constructor is called after, such as ``DenseNet201``."""
    name = constructor.network.lower()
    return resolve(name) if name in variants() else None


def input_size_of(text: str, spec: DenseNetSpec) -> tuple[int, ...]:
    """Read a spatial size as it is typed: ``64``, ``64x96``, or with the channels first,
    ``3x64x96``.

    Raises:
        SubjectError: It is of another form, or does not fit the spec.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise SubjectError(f"input size {text!r} is not of the form 64, 64x96 or 3x64x96")
    sizes = tuple(map(int, parts))
    if len(sizes) == 1:
        return sizes * spec.spatial_dims
    if len(sizes) == spec.spatial_dims + 1:
        if sizes[0] != spec.in_channels:
            raise SubjectError(
                f"input size {text!r} has {sizes[0]} channels, but the network reads "
                f"{spec.in_channels}"
            )
        sizes = sizes[1:]
    if len(sizes) != spec.spatial_dims:
        raise SubjectError(
            f"input size {text!r} has {len(sizes)} sizes, but the network has "
            f"{spec.spatial_dims} spatial dimensions"
        )
    return sizes
