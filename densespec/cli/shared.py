"""What several commands of the command line share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click


def parse_sizes(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Spatial sizes, as in ``224x224``."""
    if value is None:
        return None
    sizes = value.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise click.BadParameter(f"{value!r} is not sizes, such as 224x224")
    return tuple(map(int, sizes))


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr; what frameworks print goes there too, so that stdout stays clean."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with contextlib.redirect_stdout(sys.stderr), console.status(escape(what)):
        yield
