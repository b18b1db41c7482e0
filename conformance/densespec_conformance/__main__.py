"""``python -m densespec_conformance TARGET...``: pytest on the suite's cases alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem
from rich.console import Console

from densespec.backends import backends as installed_backends
from densespec.errors import DensespecError
from densespec.installed import require
from densespec.network.catalogue import variants
from densespec_conformance.running.options import OPTIONS

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

Command = TypeVar("Command", bound=Callable[..., Any])

INTERRUPTED = 130
WORDS = "densespec_conformance.words"


class Suite(click.Group):
    """Commands, of which ``run`` is meant where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = tuple(args)
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            for package in ("pytest", "hypothesis", "jinja2"):
                require("the conformance suite", package, extra="conformance")
            return super().invoke(ctx)
        except DensespecError as error:
            raise click.UsageError(str(error), ctx) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


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


def _suite_options(*names: str) -> Callable[[Command], Command]:
    """Options of the suite, as its command has them; all but the targets if none is named."""

    def add(command: Command) -> Command:
        for one in reversed(OPTIONS):
            if one.name in names or (not names and one.name != "target"):
                option = click.option(
                    f"--{one.name}",
                    one.key,
                    metavar=one.metavar or None,
                    is_flag=not one.metavar,
                    multiple=one.many,
                    help=one.about,
                    shell_complete=_complete_spec if one.name == "spec" else None,
                )
                command = option(command)
        return command

    return add


_expression_option = click.option(
    "-k",
    "expression",
    default="",
    metavar="EXPRESSION",
    help='Which cases, as pytest chooses: "training and not dropout".',
)


@main.command("run", epilog=EPILOG)
@click.argument("targets", nargs=-1, shell_complete=_complete_target)
@_suite_options()
@_expression_option
@click.option("--last-failed", "--lf", is_flag=True, help="Only the cases that failed last.")
@click.option("--exitfirst", "-x", is_flag=True, help="Stop at the first failure.")
@click.option(
    "--junitxml", "--junit", metavar="FILE", help="Write pytest's report for CI systems there."
)
@click.option("--durations", type=click.IntRange(0), default=0, help="List the slowest cases.")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and stop.")
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    targets: tuple[str, ...],
    expression: str,
    last_failed: bool,
    exitfirst: bool,
    junitxml: str | None,
    durations: int,
    list_cases: bool,
    **options: Any,
) -> None:
    """Compare TARGETS with the float64 reference.

    A target is a backend: its name, if an installed package offers it, or module:attribute. Or it
    is what makes one network, such as torchvision.models:densenet121, with the --spec to hold it
    to. Each runs in a process of its own.
    """
    from densespec_conformance.plugin.alone import chosen_cases, run_cases
    from densespec_conformance.report.terminal import case_table

    if not targets and not list_cases:
        known = ", ".join(installed_backends())
        raise click.UsageError(f"no target given, so there is nothing to check. Known: {known}")
    words = _words(targets or ("numpy",), expression, options)
    words += ["--last-failed"] * last_failed + ["--exitfirst"] * exitfirst
    words += [f"--junitxml={junitxml}"] if junitxml else []
    console = Console(width=None if Console().is_terminal else 120)
    if list_cases:
        console.print(case_table(chosen_cases(words)))
    else:
        command = shlex.join(["python", "-m", "densespec_conformance", *ctx.meta[WORDS]])
        ctx.exit(run_cases(words, command, console, durations=durations))


@main.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@_suite_options("spec", "input", "tier", "case")
@_expression_option
def export_command(folder: Path, expression: str, **options: Any) -> None:
    """Write the cases into FOLDER as data: JSON and safetensors.

    For implementations that Python can't reach: docs/export.md says how to read them. An earlier
    export in FOLDER is replaced.

    \b
    Examples:
      python -m densespec_conformance export cases
      python -m densespec_conformance export cases -k forward --spec densenet121 --input 3x64x64
    """
    from densespec_conformance.export import export_cases
    from densespec_conformance.plugin.alone import chosen_cases

    cases = chosen_cases(_words(("numpy",), expression, options))
    with click.progressbar(cases, label="exporting", file=sys.stderr) as bar:
        done = export_cases(folder, cases, lambda case: bar.update(1))
    click.echo(f"wrote {done.questions} questions into {folder} ({done.bytes / 1e6:.0f} MB)")
    for id_ in done.left_out:
        click.echo(f"left out {id_}: too large", err=True)


def _words(targets: Sequence[str], expression: str, options: dict[str, Any]) -> list[str]:
    """Targets and options in the words of pytest's command line."""
    words = [f"--densespec-target={name}" for name in targets]
    for one in OPTIONS:
        value = options.get(one.key)
        if value and not one.metavar:
            words.append(one.flag)
        elif value:
            words += [f"{one.flag}={each}" for each in (value if one.many else (value,))]
    return [*words, "-k", expression] if expression else words


if __name__ == "__main__":
    main(prog_name="python -m densespec_conformance")
