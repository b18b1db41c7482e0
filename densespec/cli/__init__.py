"""Defines the command line: ``densespec``, or ``python -m densespec``.

A command is a function ``NAME_command`` in a file of this folder and a row of the table below. Its
file is imported when the command is called, so that each pays for no other's imports.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from densespec.cli.shared import Failure, printable
from densespec.errors import DensespecError, WeightsWarning
from densespec.version import __version__

COMMANDS: Mapping[str, tuple[str, str]] = {
    "bench": ("bench", "Time a network here, in several frameworks, modes and exported files."),
    "build": ("build", "Build a network in a framework and count what was built."),
    "conformance": (
        "conformance",
        "Compare implementations with the float64 reference, op by op.",
    ),
    "convert": ("weights", "Convert weights from one framework's file to another's."),
    "describe": ("networks", "Show a network stage by stage."),
    "draw": ("networks", "Draw the architecture of a network as a figure."),
    "env": ("env", "Show versions, threads and devices, for an issue."),
    "evaluate": ("predicting", "Measure how well a network classifies a data set."),
    "export": (
        "export",
        "Write a network as ONNX, OpenVINO IR, LiteRT, SavedModel, StableHLO or .pt2.",
    ),
    "inspect": ("weights", "Say what a weight file holds."),
    "layouts": ("weights", "List the weight layouts that are known."),
    "list": ("networks", "List the named networks."),
    "predict": ("predicting", "Say which classes images are of."),
    "recipes": ("recipes", "List the named recipes, or print one as TOML."),
    "schema": ("networks", "Print the JSON Schema of spec files."),
    "spec": ("networks", "Print a spec as TOML, or write it to a file."),
    "train": ("train", "Train a network, or go on with a run that was stopped."),
    "verify": ("weights", "Say whether two weight files are the same network."),
    "weights": ("pretrained", "List trained weights that have names, or fetch them."),
}
"""Gives the file of each command in this folder, and its line in the list of commands."""


class Commands(click.Group):
    """Holds the commands of the table. Their expected errors end in a message and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing them."""
        found = [
            CompletionItem(name, help=about)
            for name, (_, about) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _notes_on_stderr():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (DensespecError, ValueError, OSError, ImportError, MemoryError) as error:
            raise Failure(_text_of(error)) from error


@contextlib.contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Show what is assumed of weights as notes, not as warnings of a program."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, WeightsWarning):
                click.echo(printable(f"note: {message}"), err=True)
            else:
                others(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _text_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return (
            f"there is not enough memory: {error}" if str(error) else "there is not enough memory"
        )
    return str(error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="densespec", message="%(prog)s %(version)s")
def main() -> None:
    """DenseNets described once, as data, and the same network in every framework.

    \b
    A short tour:
      densespec list                                     every named network
      densespec describe densenet121                     its stages, counts and spec
      densespec draw densenet121 -o net.svg              its architecture as a figure
      densespec spec densenet121 -o net.toml             its spec as a file, yours to edit
      densespec describe net.toml                        the network in that file
      densespec build net.toml --backend torch.nn        built in a framework, and counted
      densespec convert net.pth net.keras                weights from one framework to another
      densespec train net.toml --backend jax --out run   trained; it can go on in any framework
      densespec predict densenet121 cat.jpg              what is on an image, by trained weights

    Wherever a command takes SPEC, give the name of a variant or the path of a .toml or .json spec
    file.
    """
