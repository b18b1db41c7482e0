"""Defines what several commands share: options, and output for people and for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from densespec.network.catalogue import variants
from densespec.network.files import SUFFIXES
from densespec.network.spec import GLOBAL_POOLS

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Arrays in memory and in files can have these dtypes."""

LONGEST = 3000
"""At most this many characters of an error are shown."""


def printable(text: str) -> str:
    """Escape what a terminal would not print but obey, such as colours; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """Leave out the middle of a text that would fill a terminal: it ends in what to do."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class Failure(click.ClickException):
    """A user can put this error right. It is shown as one line, without a traceback."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {printable(shortened(self.format_message()))}", file=file, err=True)


def _complete_spec(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of variants, or names of files where no variant fits."""
    names = [CompletionItem(name) for name in variants() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


spec_argument = click.argument("spec", shell_complete=_complete_spec)
optional_spec_argument = click.argument("spec", required=False, shell_complete=_complete_spec)
no_top_option = click.option("--no-top", is_flag=True, help="Leave out the classifier.")
pooling_option = click.option(
    "--pooling", type=click.Choice(GLOBAL_POOLS), help="Global pool after --no-top."
)


def _parts(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))


outputs_option = click.option(
    "--outputs",
    metavar="PART,...",
    callback=_parts,
    help="Give the values of these parts, such as stem,block1,block2,final, and no others.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


def label(spec: str) -> str:
    """Return the name of a variant, or that of a spec file without its suffix."""
    path = Path(spec)
    return path.stem if path.suffix in SUFFIXES else spec


def print_json(record: Any) -> None:
    """Print a record on stdout, for programs."""
    click.echo(json.dumps(record, indent=2))


def say(text: str, *, err: bool = False) -> None:
    """Print a line that may hold texts of strangers' files."""
    click.echo(printable(text), err=err)


def say_written(path: Path) -> None:
    """Say on stderr that a file was written."""
    click.echo(f"wrote {path}", err=True)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner on stderr, where what frameworks print goes too: stdout stays clean."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with contextlib.redirect_stdout(sys.stderr), console.status(escape(what)):
        yield


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal's stderr, for what takes long enough to wonder."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
