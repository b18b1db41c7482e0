"""``python -m densespec_conformance TARGET...`` runs pytest on the suite's cases alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from densespec.backends import backends as installed_backends
from densespec.errors import DensespecError
from densespec.installed import require
from densespec.network.catalogue import variants
from densespec_conformance.running.options import OPTIONS

EPILOG = """\b
pytest runs the cases, and takes all of its options, such as
  -k "training and not dropout"   cases by the words in their id
  -x                              stop at the first failure
  --lf                            only the cases that failed last
  --junitxml FILE                 a report for continuous integration
  --durations N                   list the slowest cases
\b
Examples:
  python -m densespec_conformance torch.nn
  python -m densespec_conformance tensorflow torch jax torch.nn numpy --html report.html
  python -m densespec_conformance my_package.backend:BACKEND -k training
  python -m densespec_conformance torchvision.models:densenet121 --spec densenet121
\b
Exit status: 0 if every case is as it should be, 1 if not, 2 for unusable arguments, 130 if
interrupted. `export FOLDER` writes the cases as data instead. See docs/conformance.md.
"""

Command = TypeVar("Command", bound=Callable[..., Any])

INTERRUPTED = 130
TYPED = "densespec_conformance.typed"
"""The key in click's context for what was typed."""


class Suite(click.Group):
    """Groups commands. If none is named, ``run`` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = shlex.join(["python", "-m", "densespec_conformance", *args])
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
    """Add options of the suite to a command; all but the targets if none is named."""

    def add(command: Command) -> Command:
        for one in reversed(OPTIONS):
            if one.name in names or (not names and one.name != "target"):
                option = click.option(
                    *((one.short,) if one.short else ()),
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


@main.command("run", epilog=EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument(
    "words",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="TARGET...",
    shell_complete=_complete_target,
)
@_suite_options()
@click.option("--list", "list_cases", is_flag=True, help="List the cases and stop.")
@click.pass_context
def run_command(
    ctx: click.Context, /, words: tuple[str, ...], list_cases: bool, **options: Any
) -> None:
    """Compare targets with the float64 reference.

    A target is a backend: its name, if an installed package offers it, or module:attribute. Or it
    is what makes one network, such as torchvision.models:densenet121, with the --spec to hold it
    to. Each runs in a process of its own.
    """
    from densespec_conformance.plugin import alone

    words += ("--collect-only",) * list_cases + _in_words_of_pytest(options)
    ctx.exit(alone.run_cases(words, ctx.meta[TYPED]))


@main.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@_suite_options("spec", "input", "tier", "case")
@click.option("-k", "expression", default="", metavar="EXPRESSION", help="Which, as for pytest.")
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
    from densespec_conformance.plugin import alone

    cases = alone.chosen_cases(("-k", expression, *_in_words_of_pytest(options)))
    with click.progressbar(cases, label="exporting", file=sys.stderr) as bar:
        done = export_cases(folder, cases, lambda case: bar.update(1))
    click.echo(f"wrote {done.questions} questions into {folder} ({done.bytes / 1e6:.0f} MB)")
    for id_ in done.left_out:
        click.echo(f"left out {id_}: too large", err=True)


def _in_words_of_pytest(options: dict[str, Any]) -> tuple[str, ...]:
    """Say the options as the suite's plugin has them."""
    given = {one: options[one.key] for one in OPTIONS if options.get(one.key)}
    return tuple(
        f"{one.flag}={each}" if one.metavar else one.flag
        for one, value in given.items()
        for each in (value if one.many else (value,))
    )


if __name__ == "__main__":
    main(prog_name="python -m densespec_conformance")
