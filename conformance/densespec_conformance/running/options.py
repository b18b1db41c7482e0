"""The options of the suite are listed here, once for pytest and for the suite's own command."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class SuiteOption:
    """Describes one option of pytest's command line and configuration, and of the suite's command.

    It is ``--densespec-NAME``, ``densespec_NAME`` and ``--NAME`` there.

    Attributes:
        metavar: The word for the value in help texts; empty for a switch.
        many: Whether it can be given several times.
        path: Whether it is relative to the configuration file if it stands in one.
        short: Another name that the suite's own command has for it.
    """

    name: str
    about: str
    metavar: str = ""
    many: bool = False
    path: bool = False
    short: str = ""

    @property
    def flag(self) -> str:
        """Return its name on pytest's command line."""
        return f"--densespec-{self.name}"

    @property
    def key(self) -> str:
        """Return its name in pytest's configuration, and where pytest keeps its value."""
        return self.flag[2:].replace("-", "_")


JOBS = min(2, os.cpu_count() or 1)

OPTIONS = (
    SuiteOption(
        "target", "Backend or constructor to compare with the reference.", "TARGET", many=True
    ),
    SuiteOption(
        "spec",
        "The network that each target is held to: a variant's name, a spec file, or JSON.",
        "SPEC",
    ),
    SuiteOption("weights", "Weights of the targets.", "FILE", path=True),
    SuiteOption("input", "Input size for the spec, such as 3x64x96.", "CxHxW"),
    SuiteOption(
        "data",
        "Images for files in int8, as for --calibrate of densespec export.",
        "DATA",
    ),
    SuiteOption(
        "tier",
        "quick or full; full takes minutes more, most of them for random networks.  "
        "[default: quick]",
        "TIER",
    ),
    SuiteOption("case", "Only this case; repeatable.", "ID", many=True),
    SuiteOption(
        "expect", "TOML file of expected failures; repeatable.", "FILE", many=True, path=True
    ),
    SuiteOption("xfail", "Case that is to fail; repeatable.", "ID", many=True),
    SuiteOption(
        "timeout",
        "Seconds that a target's answers to one case may take.  [default: 300, or ten times what "
        "the case usually takes]",
        "SECONDS",
    ),
    SuiteOption(
        "jobs",
        f"Processes at a time; a single target gets all of them.  [default: {JOBS}]",
        "N",
        short="-n",
    ),
    SuiteOption("json", "Write everything there, as JSON.", "FILE", path=True),
    SuiteOption("html", "Write a page there, for reading.", "FILE", path=True),
    SuiteOption("no-diagnosis", "Don't look for what would explain a failure."),
)
