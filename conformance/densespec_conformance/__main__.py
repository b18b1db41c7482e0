"""``python -m densespec_conformance TARGET...``"""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from densespec.backends import backends as installed_backends
from densespec.errors import DensespecError
from densespec.network.catalogue import variants
from densespec_conformance.asking.subject import Subject, subject_of
from densespec_conformance.case import Case
from densespec_conformance.report import WRITERS, write_reports
from densespec_conformance.report.record import Run
from densespec_conformance.report.terminal import case_table, print_report, style_of
from densespec_conformance.running.expectations import ExpectedFailure, read_expectations, unmatched
from densespec_conformance.running.last_failed import (
    FILE,
    FOLDER,
    read_last_failed,
    write_last_failed,
)
from densespec_conformance.running.plans import Choice, NothingToRun, cases_of, check_ids
from densespec_conformance.running.runner import Observer, Plan, Result, run

EPILOG = """\b
Examples:
  python -m densespec_conformance torch.nn
  python -m densespec_conformance tensorflow torch jax torch.nn numpy --html report.html
  python -m densespec_conformance my_package.backend:BACKEND -k "training and not dropout"
  python -m densespec_conformance torchvision.models:densenet121 --spec densenet121
\b
Exit status: 0 if every case is as it should be, 1 if not, 2 for unusable arguments, 130 if
interrupted. `export FOLDER` writes the cases as data instead. See docs/conformance.md.
"""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

ARGUMENTS = "densespec_conformance.arguments"
INTERRUPTED = 130
LINE = 100
"""Characters of a failure's first line that are shown while others run."""


class Suite(click.Group):
    """Commands, of which ``run`` is meant where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Suite, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Is this the same network?"""


def _complete_target(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = (*installed_backends(), *main.commands)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _complete_spec(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = [CompletionItem(name) for name in variants() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _report_option(kind: str, about: str) -> Callable[[Decorated], Decorated]:
    return click.option(
        f"--{kind}",
        f"{kind}_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=about,
    )


_tier_option = click.option(
    "--tier",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="Full takes minutes more, most of them for random networks.",
)
_expression_option = click.option(
    "-k", "expression", default="", metavar="WORDS", help='Which ids: "training and not dropout".'
)
_case_option = click.option(
    "--case", "ids", multiple=True, metavar="ID", help="Only this case; repeatable."
)


@main.command("run", epilog=EPILOG)
@click.argument("targets", nargs=-1, shell_complete=_complete_target)
@click.option(
    "--spec",
    shell_complete=_complete_spec,
    help="The network that each target is held to: a variant's name, a spec file, or JSON.",
)
@click.option(
    "--weights", type=click.Path(dir_okay=False), metavar="FILE", help="Weights of the targets."
)
@click.option("--input", "size", metavar="CxHxW", help="Input size for --spec, such as 3x64x96.")
@_tier_option
@_expression_option
@_case_option
@click.option("--last-failed", "--lf", is_flag=True, help="Only the cases that failed last.")
@click.option("--exitfirst", "-x", "exit_first", is_flag=True, help="Stop at the first failure.")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and stop.")
@click.option(
    "--expect",
    "expect_paths",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="TOML file of expected failures; repeatable.",
)
@click.option("--xfail", multiple=True, metavar="ID", help="Case that is to fail; repeatable.")
@_report_option("json", "Write everything there, as JSON.")
@_report_option("junit", "Write a report there for continuous integration.")
@_report_option("html", "Write a page there, for reading.")
@click.option("--durations", type=click.IntRange(0), default=0, help="List the slowest cases.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help="Seconds that a target's answers to one case may take.  [default: 300, or ten times "
    "what the case usually takes]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=min(2, os.cpu_count() or 1),
    show_default=True,
    help="Processes at a time; a target that is alone has them all.",
)
@click.option("--no-diagnosis", is_flag=True, help="Don't look for what would explain a failure.")
@click.pass_context
def run_command(ctx: click.Context, /, **options: Any) -> None:
    """Compare TARGETS with the float64 reference.

    A target is a backend: its name, if an installed package offers it, or module:attribute. Or it
    is what makes one network, such as torchvision.models:densenet121, with the --spec to hold it
    to. Each runs in a process of its own.
    """
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(FOLDER / "hypothesis"))
    try:
        code = _run(options, ctx.meta[ARGUMENTS])
    except DensespecError as error:
        raise click.UsageError(str(error)) from error
    ctx.exit(code)


@main.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--spec", shell_complete=_complete_spec, help="Export the cases of one network.")
@click.option("--input", "size", metavar="CxHxW", help="Input size for --spec.")
@_tier_option
@_expression_option
@_case_option
def export_command(
    folder: Path, spec: str | None, size: str | None, tier: str, expression: str, ids: tuple[str]
) -> None:
    """Write the cases into FOLDER as data: JSON and safetensors.

    For implementations that Python can't reach: docs/export.md says how to read them. An earlier
    export in FOLDER is replaced.

    \b
    Examples:
      python -m densespec_conformance export cases
      python -m densespec_conformance export cases -k forward --spec densenet121 --input 3x64x64
    """
    from densespec_conformance.export import export_cases

    try:
        subject = Subject("numpy") if spec is None else subject_of("numpy", spec)
        known = cases_of(subject, size)
        check_ids(ids, {case.id for case in known})
        cases = Choice(tier, expression, ids).of(known)
        if not cases:
            raise NothingToRun(f"no {tier} case has {expression!r} in its id; see --list")
        with click.progressbar(cases, label="exporting", file=sys.stderr) as bar:
            done = export_cases(folder, cases, lambda case: bar.update(1))
    except DensespecError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"wrote {done.questions} questions into {folder} ({done.bytes / 1e6:.0f} MB)")
    for id_ in done.left_out:
        click.echo(f"left out {id_}: too large", err=True)


def _run(options: dict[str, Any], arguments: Sequence[str]) -> int:
    console = Console(width=None if Console().is_terminal else 120)
    names = options["targets"]
    choice = Choice(options["tier"], options["expression"], options["ids"])
    if options["list_cases"] and not names:
        console.print(case_table(choice.of(cases_of(Subject("")))))
        return 0
    if not names:
        known = ", ".join(installed_backends())
        raise NothingToRun(f"no target given, so there is nothing to check. Known: {known}")
    subjects = [_subject(name, options) for name in dict.fromkeys(names)]
    cases = {subject.name: cases_of(subject, options["size"]) for subject in subjects}
    check_ids(choice.ids, {case.id for own in cases.values() for case in own})
    plans = _plans(subjects, cases, choice, options["last_failed"], console)
    if options["list_cases"]:
        wanted = dict.fromkeys(case for plan in plans for case in plan.cases)
        console.print(case_table(list(wanted)))
        return 0
    reports = _report_paths(options)
    known_failures, warnings = _expectations(options, cases)
    start = time.perf_counter()
    with Watch(plans, console) as watch:
        ended = run(
            plans,
            timeout=options["timeout"],
            jobs=options["jobs"],
            diagnosis=not options["no_diagnosis"],
            known=known_failures,
            exit_first=options["exit_first"],
            observer=watch,
        )
    done = Run(
        subjects=tuple(plan.subject for plan in plans),
        results=ended.results,
        tier=choice.tier,
        command=shlex.join(["python", "-m", "densespec_conformance", *arguments]),
        options=_common_options(options),
        seconds=time.perf_counter() - start,
        interrupted=ended.interrupted,
        warnings=(*warnings, *_remember(ended.results)),
        descriptions=ended.descriptions,
    )
    write_reports(done, reports)
    print_report(done, console, durations=options["durations"])
    for path in reports.values():
        click.echo(f"wrote {path}", err=True)
    return INTERRUPTED if done.interrupted else 0 if done.ok else 1


def _subject(name: str, options: dict[str, Any]) -> Subject:
    return subject_of(name, options["spec"], options["weights"])


def _plans(
    subjects: Sequence[Subject],
    cases: dict[str, tuple[Case, ...]],
    choice: Choice,
    last_failed: bool,
    console: Console,
) -> list[Plan]:
    """What is to run, target by target; those with nothing to run are said and left out."""
    plans = [Plan(subject, choice.of(cases[subject.name])) for subject in subjects]
    if not any(plan.cases for plan in plans):
        raise NothingToRun(f"no {choice.tier} case has {choice.expression!r} in its id; see --list")
    if last_failed:
        failed = read_last_failed(Path.cwd())
        narrowed = [_only(plan, failed.get(plan.subject.name, set())) for plan in plans]
        if any(plan.cases for plan in narrowed):
            plans = narrowed
        else:
            console.print(f"{FILE} knows of no failures among these, so all cases run", style="dim")
    for plan in plans:
        if not plan.cases:
            console.print(Text(f"{plan.subject.name}: nothing to run", style="dim"))
    return [plan for plan in plans if plan.cases]


def _only(plan: Plan, ids: set[str]) -> Plan:
    return Plan(plan.subject, tuple(case for case in plan.cases if case.id in ids))


def _report_paths(options: dict[str, Any]) -> dict[str, Path]:
    """Where reports go, refused before the time of a run is spent."""
    paths = {kind: options[f"{kind}_path"] for kind in WRITERS}
    given = {kind: path for kind, path in paths.items() if path is not None}
    for path in given.values():
        if not path.absolute().parent.is_dir():
            raise NothingToRun(f"no folder {path.parent} to write {path.name} into")
    return given


def _expectations(
    options: dict[str, Any], cases: dict[str, tuple[Case, ...]]
) -> tuple[tuple[ExpectedFailure, ...], tuple[str, ...]]:
    """Expected failures, and a warning of each that is about no case."""
    typed = tuple(ExpectedFailure(one, "given as --xfail") for one in options["xfail"])
    read = tuple(one for path in options["expect_paths"] for one in read_expectations(path))
    ids = {name: [case.id for case in own] for name, own in cases.items()}
    return typed + read, unmatched(typed + read, ids)


def _common_options(options: dict[str, Any]) -> tuple[str, ...]:
    """What says of every target which network it is."""
    given = {"--spec": options["spec"], "--weights": options["weights"], "--input": options["size"]}
    return tuple(word for name, value in given.items() if value for word in (name, value))


def _remember(results: Sequence[Result]) -> tuple[str, ...]:
    """Keep what failed for ``--last-failed``; gives a warning where it can't be kept."""
    ran = [(result.target, result.case.id, result.ok) for result in results]
    try:
        write_last_failed(Path.cwd(), ran)
    except OSError as error:
        return (f"{FILE}: {error.strerror or error}, so --last-failed will not know of this run",)
    return ()


class Watch(Observer):
    """Shows a run as it goes on: a bar for each target, and failures as they come."""

    def __init__(self, plans: Sequence[Plan], console: Console) -> None:
        self._console, self._lock = console, threading.Lock()
        self._width = max(len(plan.subject.name) for plan in plans)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[case]}", style="dim", markup=False),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks = {
            plan.subject.name: self._progress.add_task(
                plan.subject.name, total=len(plan.cases), start=False, case=""
            )
            for plan in plans
        }

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begun(self, subject: Subject, case: Case) -> None:
        with self._lock:
            task = self._tasks[subject.name]
            self._progress.start_task(task)
            self._progress.update(task, case=case.id)

    def done(self, result: Result) -> None:
        with self._lock:
            task = self._tasks[result.target]
            self._progress.advance(task)
            if self._progress.finished or self._progress.tasks[task].finished:
                self._progress.update(task, case="")
            if not self._console.is_terminal or not result.ok:
                self._say(result)

    def _say(self, result: Result) -> None:
        line = Text(f"{result.target:{self._width}} ")
        line.append(f"{result.status:8}", style=style_of(result.status))
        line.append(f" {result.seconds:6.1f} s  {result.case.id}")
        if not result.ok:
            line.append(f"  {textwrap.shorten(result.first_line, LINE)}", style="dim")
        elif result.outcome and result.outcome.allowed:
            call = result.outcome
            line.append(f"  {call.where}: {call.error:.1e} of {call.allowed:.1e}", style="dim")
        self._console.print(line, soft_wrap=not self._console.is_terminal)


if __name__ == "__main__":
    main(prog_name="python -m densespec_conformance")
