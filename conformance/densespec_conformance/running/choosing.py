"""The cases that a target has to meet are chosen here, and those that are wanted now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from densespec.backends import split_mode
from densespec.errors import UnknownName
from densespec.installed import is_installed, require
from densespec_conformance.asking.constructor import parse
from densespec_conformance.asking.subject import Subject, SubjectError, input_size_of
from densespec_conformance.case import Case
from densespec_conformance.cases import all_cases
from densespec_conformance.cases.exported import exported_cases
from densespec_conformance.cases.int8 import int8_cases
from densespec_conformance.cases.network import network_cases
from densespec_conformance.running.sources import found, surely_lacks


@dataclass(frozen=True)
class Assignment:
    """Holds a target, and what is asked of it.

    Attributes:
        cases: Every case that it has to meet, in both tiers.
        wanted: The cases that are wanted now, cheap ones first.
    """

    subject: Subject
    cases: tuple[Case, ...]
    wanted: tuple[Case, ...]


def assigned(
    subject: Subject,
    *,
    size: str | None = None,
    data: str | None = None,
    tier: str = "quick",
    ids: Collection[str] = (),
) -> Assignment:
    """Work out what is asked of a subject.

    Args:
        size: The input size, as :func:`input_size_of` reads it, for a subject with a spec.
        data: The images that a file in int8 is asked about, as :func:`densespec.data.load` takes
            them.
        tier: ``quick``, or ``full`` for all cases.
        ids: The only cases that are wanted, whatever their tier; empty for no such limit.

    Raises:
        SubjectError: Its package or its attribute is not there, there is a size, but no spec
            that it is for, or a file in int8 has no images or another target has some.
        DataError: There are no such images.
        PackageMissing: What the suite itself needs is not installed.
    """
    _check_module(subject)
    cases = _int8_cases_of(subject, size, data) if subject.int8 else _cases_of(subject, size, data)
    wanted = [case for case in cases if case.id in ids or (not ids and tier in ("full", case.tier))]
    return Assignment(subject, cases, tuple(sorted(wanted, key=lambda case: (case.cost, case.id))))


def _check_module(subject: Subject) -> None:
    """Refuse what is surely not there; importing is for the target's process."""
    module, attribute = _place(subject)
    package = module.partition(".")[0]
    if not attribute or not module:
        return
    if not is_installed(package) and found(package) is None:
        raise SubjectError(
            f"{subject.name}: there is no package {package!r}, neither installed nor in this folder"
        )
    if surely_lacks(module, attribute):
        raise SubjectError(f"{subject.name}: module {module!r} has no attribute {attribute!r}")


def _place(subject: Subject) -> tuple[str, str]:
    """Return the module and the attribute that a target names; empty for one that names none."""
    if subject.kind == "constructor":
        constructor = parse(subject.name)
        return constructor.module, constructor.attribute.partition(".")[0]
    module, _, attribute = split_mode(subject.name)[0].partition(":")
    return module, attribute


def _int8_cases_of(subject: Subject, size: str | None, data: str | None) -> tuple[Case, ...]:
    assert subject.spec is not None
    assert subject.weights is not None
    if data is None:
        raise SubjectError(
            f"{subject.name} computes in int8, so it is judged by images like those in use: say "
            "which, as for --calibrate of densespec export (--data)"
        )
    if size is not None:
        raise SubjectError(
            f"{subject.name} computes in int8: images have the size that its weights say, so there "
            "is no input size to choose"
        )
    return int8_cases(subject.spec, subject.weights, data)


def _cases_of(subject: Subject, size: str | None, data: str | None) -> tuple[Case, ...]:
    require("the conformance suite", "hypothesis", extra="conformance")
    if data is not None:
        raise SubjectError(f"{subject.name}: only files in int8 are asked about images (--data)")
    if subject.spec is not None:
        cases_of = exported_cases if subject.kind == "exported file" else network_cases
        return cases_of(subject.spec, None if size is None else input_size_of(size, subject.spec))
    if size is not None:
        raise SubjectError(f"{subject.name}: an input size belongs to one network: give its --spec")
    return all_cases(split_mode(subject.name)[1])


def check_ids(ids: Collection[str], assignments: Collection[Assignment]) -> None:
    """Check that each id is of a case that some target has to meet.

    Raises:
        UnknownName: One is not; the message suggests near ones.
    """
    known = {case.id for one in assignments for case in one.cases}
    for one in ids:
        if one not in known:
            raise UnknownName("case", one, known)
