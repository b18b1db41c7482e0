"""``python -m densespec_conformance BACKEND...``"""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from densespec.backends import backends as installed_backends
from densespec.errors import UnknownName
from densespec_conformance.case import Case
from densespec_conformance.cases import all_cases
from densespec_conformance.report import print_report, write_json
from densespec_conformance.runner import Result, run

EPILOG = """\b
Examples:
  python -m densespec_conformance torch.nn
  python -m densespec_conformance tensorflow torch jax torch.nn numpy --json report.json
  python -m densespec_conformance my_package.backend:BACKEND -k training
\b
Exit status: 0 if every case passed on every backend, 1 if not, 2 for unusable arguments.
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("backends", nargs=-1)
@click.option(
    "--tier",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="Full adds many more random networks.",
)
@click.option("-k", "keyword", default="", help="Only cases whose id contains this.")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and stop.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a report there.")
@click.option(
    "--timeout", type=float, default=300.0, show_default=True, help="Seconds for one question."
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=min(2, os.cpu_count() or 1),
    show_default=True,
    help="Backends run at a time.",
)
def main(
    backends: tuple[str, ...],
    tier: str,
    keyword: str,
    list_cases: bool,
    json_path: Path | None,
    timeout: float,
    jobs: int,
) -> None:
    """Compare BACKENDS with the float64 reference.

    A backend is a name that an installed package offers (see `densespec backends`), or
    module:attribute of one that is not published. Each runs in a process of its own.
    """
    console = Console(width=None if Console().is_terminal else 120)
    if importlib.util.find_spec("hypothesis") is None:
        raise click.UsageError(
            "the suite needs the package hypothesis: pip install 'densespec[conformance]'"
        )
    cases = [case for case in all_cases() if tier == "full" or case.tier == "quick"]
    cases = [case for case in cases if keyword in case.id]
    if not cases:
        raise click.UsageError(f"no {tier} case has {keyword!r} in its id; see --list")
    if list_cases:
        for case in cases:
            click.echo(f"{case.id}: {case.claim}")
        return
    _check_backends(backends)
    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise click.UsageError(f"no folder {json_path.parent} to write {json_path.name} into")
    results = _run_with_progress(console, backends, cases, timeout, jobs)
    if json_path is not None:
        write_json(results, tier, json_path)
    print_report(results, console)
    passed = sum(result.status == "passed" for result in results)
    click.echo(f"{passed} passed, {len(results) - passed} failed")
    raise SystemExit(0 if passed == len(results) else 1)


def _check_backends(names: tuple[str, ...]) -> None:
    if not names:
        known = ", ".join(installed_backends())
        raise click.UsageError(f"no backend given, so there is nothing to check. Known: {known}")
    for name in names:
        if ":" not in name and name not in installed_backends():
            raise click.UsageError(str(UnknownName("backend", name, installed_backends())))


def _run_with_progress(
    console: Console, backends: tuple[str, ...], cases: list[Case], timeout: float, jobs: int
) -> list[Result]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}", style="dim"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {
            name: progress.add_task(name, total=len(cases), start=False, last="")
            for name in backends
        }
        lock = threading.Lock()

        def done(result: Result) -> None:
            with lock:
                task = tasks[result.backend]
                progress.start_task(task)
                progress.update(task, advance=1, last=result.case.id)
                if not console.is_terminal:
                    line = f"{result.backend:12} {result.status:8} {result.seconds:6.1f} s"
                    click.echo(f"{line}  {result.case.id}")

        return run(backends, cases, timeout=timeout, jobs=jobs, done=done)


if __name__ == "__main__":
    main()
