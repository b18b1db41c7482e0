"""Writes ``docs/status.md``: ``python -m docs.status``, with the peers installed.

Other people's networks run through the conformance suite's quick cases for one network: once held
to densespec's variant of their name, and once, where that is another network, to their own spec.
"""

from __future__ import annotations

import datetime
import itertools
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from densespec.atomic import atomic_path
from densespec.network.catalogue import get
from densespec.network.spec import DenseNetSpec
from densespec_conformance.asking.requests import Description
from densespec_conformance.asking.subject import Subject
from densespec_conformance.cases.network import network_cases
from densespec_conformance.running.runner import Ended, Observer, Plan, Result, run
from docs.peers_table import markdown
from tests.peers.networks import KERAS

PAGE = Path(__file__).with_name("status.md")
VARIANT = "densenet121"
OWN: dict[str, DenseNetSpec] = {
    "keras.applications:DenseNet121": get(VARIANT).replace(**KERAS),
    "keras_hub:DenseNetImageClassifier": get(VARIANT).replace(**KERAS, padding="same"),
}
"""Specs of networks that are not the variant whose name they have."""
TARGETS = (
    "torchvision.models:densenet121",
    "torchvision.models:densenet121(memory_efficient=True)",
    "timm:densenet121",
    "monai:DenseNet121",
    *OWN,
)


@dataclass(frozen=True)
class Row:
    """One target held to one spec."""

    subject: Subject
    held_to: str

    @property
    def plan(self) -> Plan:
        assert self.subject.spec is not None
        cases = network_cases(self.subject.spec)
        return Plan(self.subject, tuple(case for case in cases if case.tier == "quick"))


def rows() -> list[Row]:
    """Every target, held to the variant and to its own spec."""
    claimed = [
        Row(Subject(target, get(VARIANT), kind="constructor"), f"`{VARIANT}`") for target in TARGETS
    ]
    own = [
        Row(Subject(target, spec, kind="constructor"), "its own spec")
        for target, spec in OWN.items()
    ]
    return [*claimed, *own]


class _Told(Observer):
    """Says on the terminal what was done."""

    def done(self, result: Result) -> None:
        about = f"{result.status:12} {result.seconds:6.1f} s"
        print(f"{result.target:40} {about}  {result.case.id}", flush=True)


def page(ended: Ended, found: Sequence[Row]) -> str:
    """The page of a run's results."""
    results = iter(ended.results)
    of = {row: list(itertools.islice(results, len(row.plan.cases))) for row in found}
    groups = list(dict.fromkeys(result.group for some in of.values() for result in some))
    head = ("network", "held to", *groups, "what explains it")
    lines = [
        [
            f"`{row.subject.name}`",
            row.held_to,
            *(_cell([result for result in some if result.group == group]) for group in groups),
            _explanation(some),
        ]
        for row, some in of.items()
    ]
    return PAGE_TEXT.format(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=platform.machine(),
        table=markdown(head, lines),
        failures="\n".join(_failures(of)),
        environments="\n".join(_environments(ended.descriptions)),
    )


def _cell(results: Sequence[Result]) -> str:
    passed = sum(result.status == "passed" for result in results)
    refused = sum(result.status == "unsupported" for result in results)
    asked = len(results) - refused
    return f"{'**' if passed < asked else ''}{passed}/{asked}{'**' if passed < asked else ''}"


def _explanation(results: Iterable[Result]) -> str:
    """Why the cases fail that do: each explanation once, whole ones of most cases first."""
    causes = Counter(_cause(result) for result in results if not result.ok)
    ordered = sorted(causes, key=lambda cause: (not cause[0], -causes[cause], cause[1]))
    return "; ".join(text for _, text in ordered)


def _cause(result: Result) -> tuple[bool, str]:
    """The best explanation of a failure, after whether it explains all of it."""
    if result.diagnosis:
        return result.diagnosis[0].complete, _escaped(result.diagnosis[0].text)
    return False, f"nothing known, first at {result.where or result.status}"


def _failures(of: dict[Row, list[Result]]) -> list[str]:
    return [
        f"- `{row.subject.name}` held to {row.held_to}, `{result.case.id}`: "
        f"{_escaped(result.first_line)}"
        for row, some in of.items()
        for result in some
        if not result.ok
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _environments(descriptions: dict[str, Description]) -> list[str]:
    return [
        f"- `{name}`: {', '.join(f'{package} {v}' for package, v in about.versions.items())}; "
        f"{about.device}; {'; '.join(about.notes)}"
        for name, about in descriptions.items()
    ]


PAGE_TEXT = """\
# Status of other implementations

Networks of other packages, made by their own constructors, as targets of the conformance suite:
cases passed of those that could be asked, in the quick tier. Each is held to densespec's variant of
its name, which is torchvision's network; two of them are other networks, and are held to those too.
[Other implementations](peers.md) compares the same packages by their weight files.

Measured on {date}, on {machine}.

{table}

## What differs first

{failures}

## What it ran on

{environments}

The page is written by `nox -s peers -- --table`. One row of it is

```console
python -m densespec_conformance torchvision.models:densenet121 --spec densenet121
```
"""


if __name__ == "__main__":
    wanted = rows()
    done = run([row.plan for row in wanted], observer=_Told())
    text = page(done, wanted)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
