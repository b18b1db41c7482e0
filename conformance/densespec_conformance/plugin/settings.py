"""The options of the suite are understood and checked here, once, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from densespec.errors import DensespecError
from densespec_conformance.asking.subject import subject_of
from densespec_conformance.report import WRITERS
from densespec_conformance.running.choosing import Assignment, assigned, check_ids
from densespec_conformance.running.expectations import ExpectedFailure, read_expectations
from densespec_conformance.running.options import JOBS, OPTIONS, SuiteOption


class OptionError(DensespecError, ValueError):
    """An option has a value that can't be used."""


def add_options(parser: pytest.Parser) -> None:
    """Tell pytest of the options."""
    group = parser.getgroup("densespec", "DenseNet conformance")
    for one in OPTIONS:
        if not one.metavar:
            group.addoption(one.flag, action="store_true", help=one.about)
            parser.addini(one.key, one.about, type="bool")
        elif one.many:
            group.addoption(
                one.flag, metavar=one.metavar, action="append", default=[], help=one.about
            )
            parser.addini(one.key, one.about, type="args")
        else:
            group.addoption(one.flag, metavar=one.metavar, help=one.about)
            parser.addini(one.key, one.about, type="string")


@dataclass(frozen=True)
class Settings:
    """Holds what the options mean.

    Attributes:
        network: The words of the command line that say for every target which network it is.
        timeout: The seconds that the answers to a case may take; None for a limit by its cost.
        jobs: The number of processes at a time.
        reports: The paths of reports by format.
    """

    assignments: tuple[Assignment, ...]
    network: tuple[str, ...]
    known: tuple[ExpectedFailure, ...]
    tier: str
    timeout: float | None
    jobs: int
    diagnosis: bool
    reports: Mapping[str, Path]


def settings_of(config: pytest.Config) -> Settings:
    """Read the options from the command line, or else from the configuration.

    Raises:
        DensespecError: One can't be used; the message says what to change.
    """
    given = {one.name: _value(config, one) for one in OPTIONS}
    if not given["target"]:
        raise OptionError(
            "densespec_conformance.plugin has no target: give --densespec-target, or set "
            "densespec_target in pytest's configuration"
        )
    return Settings(
        assignments=_assignments(given),
        network=tuple(
            word
            for name in ("spec", "weights", "input", "data")
            if given[name]
            for word in (f"--{name}", given[name])
        ),
        known=_known(given),
        tier=_tier(given["tier"]),
        timeout=_seconds(given["timeout"]),
        jobs=_jobs(given["jobs"]),
        diagnosis=not given["no-diagnosis"],
        reports={kind: _writable(given[kind]) for kind in WRITERS if given[kind]},
    )


def _value(config: pytest.Config, one: SuiteOption) -> Any:
    given = config.getoption(one.key)
    if given:
        return given
    stated = config.getini(one.key)
    if one.path and config.inipath is not None and stated:
        folder = config.inipath.parent
        return [str(folder / path) for path in stated] if one.many else str(folder / stated)
    return stated


def _assignments(given: Mapping[str, Any]) -> tuple[Assignment, ...]:
    tier, ids = _tier(given["tier"]), given["case"]
    found = tuple(
        assigned(
            subject_of(name, given["spec"] or None, given["weights"] or None),
            size=given["input"] or None,
            data=given["data"] or None,
            tier=tier,
            ids=ids,
        )
        for name in dict.fromkeys(given["target"])
    )
    check_ids(ids, found)
    return found


def _known(given: Mapping[str, Any]) -> tuple[ExpectedFailure, ...]:
    typed = [ExpectedFailure(one, "given as --xfail") for one in given["xfail"]]
    read = [one for path in given["expect"] for one in read_expectations(Path(path))]
    return (*typed, *read)


def _tier(text: str) -> str:
    if text and text not in ("quick", "full"):
        raise OptionError(f"tier = {text!r}, but should be quick or full")
    return text or "quick"


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text or 1)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise OptionError(f"timeout = {text!r}, but should be seconds, above 0")
    return seconds if text else None


def _jobs(text: str) -> int:
    if text and not (text.isdecimal() and int(text)):
        raise OptionError(f"jobs = {text!r}, but should be a number of processes, from 1 on")
    return int(text or JOBS)


def _writable(text: str) -> Path:
    """Check where a report is to go, before the time of a run is spent."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise OptionError(f"no folder {path.parent} to write {path.name} into")
    return path
