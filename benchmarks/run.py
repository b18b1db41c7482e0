"""Times densespec against each framework's own DenseNets, as ratios of medians in one run.

    python benchmarks/run.py                    # quick: about half an hour on 2 cores
    python benchmarks/run.py --tier full        # more rounds, torch.compile, Keras's memory
    python benchmarks/run.py --tier gpu         # on a GPU
    python benchmarks/run.py -k "torch.nn"      # some groups alone
    python benchmarks/run.py -k deployed --docs # the table of docs/deploy.md

The sides of a group take turns, so that a machine whose speed drifts slows all of them. Each group
runs in a process of its own, and where memory or a first step is measured, each side does. Writes
a table, a figure and all figures to ``out/benchmarks``.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import GROUPS, Group, Row, Tier
from timing import Figures, in_own_process

from densespec.atomic import atomic_path
from densespec.timing.machine import gemm_speed, processor


@dataclass(frozen=True)
class Ratio:
    """One row with its figures: medians, and the side of theirs that is best."""

    group: Group
    row: Row
    ours: float
    theirs: float

    @property
    def value(self) -> float:
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        return self.row.at_most is None or self.value <= self.row.at_most

    @property
    def system(self) -> str:
        """What it runs in: the group's name before the work's."""
        return self.group.name.partition(" densenet")[0]

    def cells(self) -> tuple[str, ...]:
        goal = "" if self.row.at_most is None else f"{self.row.at_most:.2f}"
        figures = (f"{_short(value)} {self.group.unit}" for value in (self.ours, self.theirs))
        what = (self.system, self.row.work, self.row.against)
        return (*what, *figures, f"{self.value:.2f}", goal)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


FIGURES, TABLE, PLOT = "figures.json", "table.md", "ratios.png"
DOCS = Path(__file__).parents[1] / "docs"
HEADERS = ("in", "work", "against", "ours", "theirs", "ratio", "goal")


def ratios(group: Group, figures: Figures) -> list[Ratio]:
    """The rows with their figures; a side that could not be measured leaves its rows out."""
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return [
        Ratio(group, row, medians[row.ours], min(medians[name] for name in row.theirs))
        for row in group.rows
        if medians.keys() >= {row.ours, *row.theirs}
    ]


def machine() -> str:
    """The processor, the number of cores, the GPUs and the day."""
    parts = (processor(), f"{os.cpu_count()} cores", *_gpus(), time.strftime("%Y-%m-%d"))
    return ", ".join(parts)


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()


def markdown(found: list[Ratio], gemm: Sequence[float]) -> str:
    """The table, as it stands in the documentation."""
    lines = [f"| {' | '.join(HEADERS)} |", "| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for ratio in found:
        *left, value, goal = ratio.cells()
        value = f"**{value}**" if ratio.met else value
        lines.append(f"| {' | '.join((*left, value, goal))} |")
    told = f"Medians of {machine()}, of which numpy's float32 product of matrices makes"
    return "\n".join([*lines, "", f"{told} {speeds(gemm)}; 224x224, float32 unless said."])


def speeds(gemm: Sequence[float]) -> str:
    """The speed of each run that the figures are of, which other work on the machine changes."""
    least, most = (f"{bound(gemm):.0f}" for bound in (min, max))
    return f"{least if least == most else f'{least} to {most}'} GFLOP/s"


def plot(found: list[Ratio], path: Path) -> None:
    """Bars of the ratios, with what each is meant to be at most."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.32 * len(found) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{r.system}: {r.row.work} / {r.row.against} ({r.group.unit})" for r in found]
    colours = ["tab:green" if ratio.met else "tab:orange" for ratio in found]
    axes.barh(range(len(found)), [ratio.value for ratio in found], color=colours)
    for index, ratio in enumerate(found):
        if ratio.row.at_most is not None:
            axes.plot([ratio.row.at_most] * 2, [index - 0.4, index + 0.4], color="black")
    axes.set_yticks(range(len(found)), names, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.5, linestyle=":")
    axes.invert_yaxis()
    axes.set_xlabel("ratio; below 1 densespec needs less; the goal is a black line")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _chosen(tier: Tier, keyword: str) -> list[Group]:
    groups = [g for g in GROUPS if tier in g.rounds and keyword.lower() in g.name.lower()]
    if not groups:
        names = "\n  ".join(group.name for group in GROUPS)
        raise click.UsageError(f"no group of this tier has {keyword!r} in its name:\n  {names}")
    return groups


class MachineRecord:
    """The figures of this machine and day, group by group; those of earlier runs are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._groups, self.gemm = folder, dict[str, Figures](), [gemm_speed()]
        path = folder / FIGURES
        if path.exists():
            record = json.loads(path.read_text())
            if record["machine"] == machine():
                self._groups, self.gemm = record["groups"], [*record["gemm"], *self.gemm]

    def add(self, group: Group, figures: Figures) -> None:
        """Keep a group's figures, and write all: a run that is stopped was not in vain."""
        self._groups[group.name] = figures
        self._folder.mkdir(parents=True, exist_ok=True)
        record = {"machine": machine(), "gemm": self.gemm, "groups": self._groups}
        _write(self._folder / FIGURES, json.dumps(record, indent=2) + "\n")
        _write(self._folder / TABLE, markdown(self.ratios(), self.gemm) + "\n")
        plot(self.ratios(), self._folder / PLOT)

    def ratios(self) -> list[Ratio]:
        known = [group for group in GROUPS if group.name in self._groups]
        return [ratio for group in known for ratio in ratios(group, self._groups[group.name])]


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_docs(found: list[Ratio], gemm: Sequence[float]) -> None:
    """Put tables into the pages that show them, and the figure of the first one."""
    start, end = "<!-- measured: table -->\n", "<!-- end: table -->\n"
    for name in dict.fromkeys(ratio.group.page for ratio in found):
        shown, page = [ratio for ratio in found if ratio.group.page == name], DOCS / name
        before, _, rest = page.read_text(encoding="utf-8").partition(start)
        _write(page, f"{before}{start}\n{markdown(shown, gemm)}\n\n{end}{rest.partition(end)[2]}")
        if name == "speed.md":
            plot(shown, DOCS / "images" / "benchmarks.png")


@click.command()
@click.option(
    "--tier", type=click.Choice(["quick", "full", "gpu"]), default="quick", show_default=True
)
@click.option("-k", "keyword", default="", help="Groups whose name has this in it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/benchmarks"),
    show_default=True,
    help="Figures of earlier runs of the same day stay there, unless they are taken again.",
)
@click.option("--docs", is_flag=True, help="Put tables and the figure into the documentation.")
def main(tier: Tier, keyword: str, out: Path, docs: bool) -> None:
    """Time densespec against torchvision, keras.applications, plain nnx, OpenVINO and exports."""
    console = Console(width=None if Console().is_terminal else 160)
    record, failed = MachineRecord(out), list[str]()
    for group in track(_chosen(tier, keyword), "measuring", console=console):
        arguments = {**group.arguments, "rounds": group.rounds[tier]}
        try:
            record.add(group, in_own_process(group.function, arguments))
        except RuntimeError as error:
            failed.append(f"{group.name}: {error}")
    table = Table(*HEADERS, title=f"{machine()}, {speeds(record.gemm)} in float32")
    for ratio in record.ratios():
        table.add_row(*ratio.cells(), style=None if ratio.met else "yellow")
    console.print(table)
    console.print(f"Written to {out}: {TABLE}, {PLOT}, {FIGURES}")
    if docs:
        _write_docs(record.ratios(), record.gemm)
    if failed:
        raise click.ClickException("not measured:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
