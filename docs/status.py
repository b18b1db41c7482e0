"""Writes ``docs/status.md``: ``python -m docs.status``, with the peers installed.

Other people's networks run through the conformance suite's quick cases for one network: once held
to densespec's variant of their name, and once, where that is another network, to their own spec.
"""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densespec.atomic import atomic_path
from densespec.network.catalogue import get
from densespec.network.spec import DenseNetSpec
from docs.peers_table import markdown
from tests.peers.networks import KERAS

PAGE = Path(__file__).with_name("status.md")
VARIANT = "densenet121"
NAMED = (
    "torchvision.models:densenet121",
    "torchvision.models:densenet121(memory_efficient=True)",
    "timm:densenet121",
    "monai:DenseNet121",
    "keras.applications:DenseNet121",
    "keras_hub:DenseNetImageClassifier",
)
"""Networks that have the variant's name, whether they are it or not."""
OWN: Mapping[str, DenseNetSpec] = {
    "keras.applications:DenseNet121": get(VARIANT).replace(**KERAS),
    "keras_hub:DenseNetImageClassifier": get(VARIANT).replace(**KERAS, padding="same"),
    "timm:densenetblur121d": get("densenetblur121d"),
    "timm:densenet121(act_layer='silu', norm_layer='groupnorm')": get(VARIANT).replace(
        activation="silu", norm="group"
    ),
    "monai:DenseNet121(act='elu', norm='instance')": get(VARIANT).replace(
        activation="elu", norm="instance", norm_affine=False
    ),
    "monai:DenseNet121(spatial_dims=1, act='prelu', norm=('group', {'num_groups': 8}))": get(
        VARIANT
    ).replace(spatial_dims=1, activation="prelu", norm="group", norm_groups=8),
}
"""Networks, and what they are."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """One target held to one spec, and what came of it, as the suite's JSON report says."""

    target: str
    held_to: str
    results: Sequence[Json]
    runs_on: Json | None


def standings() -> list[Standing]:
    """Every target, held to the variant whose name it has, or to its own spec."""
    found = _held_to(NAMED, VARIANT, f"`{VARIANT}`")
    for target, spec in OWN.items():
        found += _held_to([target], json.dumps(spec.to_dict()), "its own spec")
    return found


def _held_to(targets: Sequence[str], spec: str, held_to: str) -> list[Standing]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "densespec_conformance", *targets, "--spec", spec]
        subprocess.run([*command, "--json", str(path)], check=False)  # they need not conform
        report = json.loads(path.read_text())
    return [
        Standing(
            target["name"],
            held_to,
            [one for one in report["results"] if one["target"] == target["name"]],
            target["runs_on"],
        )
        for target in report["targets"]
    ]


def page(found: Sequence[Standing]) -> str:
    """The page of what came of every target."""
    groups = list(dict.fromkeys(_group(result) for one in found for result in one.results))
    head = ("network", "held to", *groups, "what explains it")
    lines = [
        [
            f"`{one.target}`",
            one.held_to,
            *(_cell([each for each in one.results if _group(each) == group]) for group in groups),
            _explanation(one.results),
        ]
        for one in found
    ]
    return PAGE_TEXT.format(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=platform.machine(),
        table=markdown(head, lines),
        failures="\n".join(_failures(found)),
        environments="\n".join(_environments(found)),
    )


def _group(result: Json) -> str:
    return str(result["case"].partition("/")[0])


def _cell(results: Sequence[Json]) -> str:
    passed = sum(result["status"] == "passed" for result in results)
    refused = sum(result["status"] == "unsupported" for result in results)
    asked = len(results) - refused
    return f"{'**' if passed < asked else ''}{passed}/{asked}{'**' if passed < asked else ''}"


def _explanation(results: Iterable[Json]) -> str:
    """Why the cases fail that do: each explanation once, whole ones of most cases first."""
    causes = Counter(_cause(result) for result in results if not result["ok"])
    ordered = sorted(causes, key=lambda cause: (not cause[0], -causes[cause], cause[1]))
    return "; ".join(text for _, text in ordered)


def _cause(result: Json) -> tuple[bool, str]:
    """The best explanation of a failure, after whether it explains all of it."""
    if result["diagnosis"]:
        best = result["diagnosis"][0]
        return best["complete"], _escaped(best["text"])
    return False, f"nothing known, first at {result['first_difference'] or result['status']}"


def _failures(found: Sequence[Standing]) -> list[str]:
    return [
        f"- `{one.target}` held to {one.held_to}, `{result['case']}`: "
        f"{_escaped(result['message'].splitlines()[0])}"
        for one in found
        for result in one.results
        if not result["ok"]
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _environments(found: Sequence[Standing]) -> list[str]:
    about = {one.target: one.runs_on for one in found if one.runs_on}
    return [
        f"- `{name}`: {', '.join(f'{package} {v}' for package, v in process['versions'].items())}; "
        f"{process['device']}; {'; '.join(process['notes'])}"
        for name, process in about.items()
    ]


PAGE_TEXT = """\
# Status of other implementations

Networks of other packages, made by their own constructors, as targets of the conformance suite:
cases passed of those that could be asked, in the quick tier. Networks of that name are held to
densespec's `densenet121`, which is torchvision's network; those that are other networks, by their
package's defaults or by what they are told, are held to what they are.
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
    text = page(standings())
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
