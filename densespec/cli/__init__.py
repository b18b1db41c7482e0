"""The command line: ``densespec``, or ``python -m densespec``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from densespec.backends import get_backend
from densespec.building import build, save
from densespec.cli import export as cli_export
from densespec.cli import rendering
from densespec.cli import train as cli_train
from densespec.cli import weights as cli_weights
from densespec.cli.shared import working
from densespec.errors import DensespecError
from densespec.network.catalogue import catalogue, resolve, variants
from densespec.network.files import SUFFIXES, schema, to_toml, write_spec
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.version import __version__

DTYPES = ("float16", "bfloat16", "float32", "float64")

InputShape = tuple[int, ...]
"""Channels, then the size of each spatial dimension."""


class Failure(click.ClickException):
    """What a user can put right: shown as one line, without a traceback."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.format_message()}", file=file, err=True)


class Commands(click.Group):
    """Commands whose expected errors end in a message and exit code 1."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As ever, but the conformance suite is imported where it is called alone."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _suite() if command is conformance_command else command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (DensespecError, ValueError, OSError, ImportError) as error:
            raise Failure(_text_of(error)) from error


def _text_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _parse_shape(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> InputShape | None:
    if value is None:
        return None
    sizes = value.split("x")
    if len(sizes) < 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise click.BadParameter(f"{value!r} is not channels x sizes, such as 3x224x224")
    return tuple(map(int, sizes))


def _complete_spec(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of variants; file names where none fits."""
    names = [CompletionItem(name) for name in variants() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def _input_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--input",
        "shape",
        callback=_parse_shape,
        metavar="CxHxW",
        help=f"Shape of one sample, channels first: 3x224x224, 3x224x320, or 1x64x64x64 for a "
        f"network of three spatial dimensions.  [default: {default}]",
    )


spec_argument = click.argument("spec", shell_complete=_complete_spec)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
sized_input_option = _input_option(
    "224 in each spatial dimension if the stem has a pool or a stride above 1, else 32"
)


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

    Wherever a command takes SPEC, give the name of a variant or the path of a .toml or .json spec
    file.
    """


@main.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the named networks.

    Depth counts convolutions and the classifier, as the paper does; k is the growth rate; B stands
    for bottleneck layers, C for compression in transitions. Parameters are the trainable ones,
    counted on the graph; errors are those published with the network.

    \b
    Examples:
      densespec list
      densespec list --json | jq '.[] | select(.depth < 100) | .name'
    """
    if as_json:
        _print_json([rendering.variant_record(variant) for variant in catalogue().values()])
    else:
        rendering.show_variants(catalogue().values())


@main.command()
@spec_argument
@sized_input_option
@json_option
def describe(spec: str, shape: InputShape | None, as_json: bool) -> None:
    """Show a network stage by stage.

    Each stage has the shape of its output, its parameters and its multiply-adds; below stand the
    fields of the spec. Parameters of a stage include running statistics, which the totals list as
    non-trainable. Multiply-adds are those of convolutions and the classifier for one sample; one
    multiply-add is two FLOPs.

    \b
    Examples:
      densespec describe densenet169-bc
      densespec describe densenet121 --input 3x224x320
      densespec describe net.toml --json | jq .parameters
    """
    graph = _sized_graph(resolve(spec), shape)
    if as_json:
        _print_json(rendering.graph_record(_label(spec), graph))
    else:
        rendering.show_graph(_label(spec), graph)


@main.command("build")
@click.argument("spec", required=False, shell_complete=_complete_spec)
@click.option(
    "--backend",
    required=True,
    help="numpy, torch.nn, tensorflow, torch or jax (the last three: Keras on that engine), "
    "another installed backend, or MODULE:ATTRIBUTE; with a mode behind it, such as "
    "torch.nn+inference.",
)
@click.option("--classes", type=click.IntRange(min=1), help="Replaces the spec's classes.")
@click.option("--no-top", is_flag=True, help="Leave out the classifier.")
@click.option("--pooling", type=click.Choice(["avg", "max"]), help="Global pool after --no-top.")
@click.option("--weights", metavar="FILE", help="Start from this weight file, of any layout.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of initial weights."
)
@_input_option("any size")
@click.option("--dtype", type=click.Choice(DTYPES), help="[default: the framework's]")
@click.option("--save", "output", type=Path, metavar="FILE", help="Write a .safetensors file.")
@json_option
def build_command(
    spec: str | None,
    backend: str,
    no_top: bool,
    shape: InputShape | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a network in a framework and count what was built.

    Counts are those of the arrays read back from the model, not of the graph. The time is that of
    building alone: importing the framework is left out. --save writes a checkpoint that every
    backend can load. Without SPEC, the network is the one that the weight file is of.

    \b
    Examples:
      densespec build densenet121 --backend torch.nn
      densespec build densenet-40-12 --backend numpy --seed 7 --save net.safetensors
      densespec build --weights net.safetensors --backend jax
      densespec build densenet121 --backend tensorflow --no-top --pooling avg --input 3x224x224
    """
    if spec is None and options["weights"] is None:
        raise click.UsageError("give a SPEC, or --weights of a file that tells it")
    label = _label(spec or options["weights"])
    if spec is not None and shape is not None:
        _check_shape(resolve(spec), shape)
    if output is not None:
        _check_output(output)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with working(f"building {label} on {backend}"):
        options["input_shape"] = _in_layout_of(backend, shape)
        start = time.perf_counter()
        model = build(spec, backend=backend, include_top=not no_top, **options)
        seconds = time.perf_counter() - start
        record = rendering.built_record(label, model) | {"seconds": round(seconds, 3)}
        if output is not None:
            save(model, output)
    if as_json:
        _print_json(record)
    else:
        rendering.show_built(record)
    if output is not None:
        _say_written(output)


@main.command()
@spec_argument
@click.option(
    "-o", "--output", type=Path, required=True, metavar="FILE", help="A .svg, .png or .pdf file."
)
@sized_input_option
def draw(spec: str, output: Path, shape: InputShape | None) -> None:
    """Draw the architecture of a network as a figure.

    Stages stand from left to right: their height follows the spatial size, and the slices of a
    dense block are its input and what each of its layers adds to it. Needs matplotlib:
    pip install 'densespec[draw]'.

    \b
    Examples:
      densespec draw densenet169-bc -o net.svg
      densespec draw net.toml --input 1x64x64 -o net.pdf
    """
    from densespec.network.drawing import draw as draw_graph

    draw_graph(_sized_graph(resolve(spec), shape), output, title=_label(spec))
    _say_written(output)


@main.command("spec")
@spec_argument
@click.option("-o", "--output", type=Path, metavar="FILE", help="A .toml or .json file.")
def spec_command(spec: str, output: Path | None) -> None:
    """Print a spec as TOML, or write it to a file.

    The file states every field; edit it, and give its path wherever a command or
    densespec.build() takes a spec.

    \b
    Examples:
      densespec spec densenet-bc-100-12
      densespec spec densenet-bc-100-12 -o net.toml
      densespec spec net.toml -o net.json
    """
    if output is None:
        click.echo(to_toml(resolve(spec)), nl=False)
    else:
        write_spec(resolve(spec), output)
        _say_written(output)


@main.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of spec files.

    Editors check and complete spec files with it; it describes each field.

    \b
    Examples:
      densespec schema > spec.schema.json
      densespec schema | jq .properties.compression
    """
    _print_json(schema())


@main.command("conformance")
def conformance_command() -> None:
    """Compare implementations with the float64 reference, op by op.

    Stands for the suite's own command; see `densespec conformance --help`.
    """


def _suite() -> click.Command:
    """The command of the conformance suite.

    Raises:
        Failure: it is not installed.
    """
    try:
        import hypothesis  # noqa: F401

        from densespec_conformance.__main__ import main as suite
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "densespec_conformance"):
            raise
        raise Failure(
            f"the conformance suite needs the package {error.name!r}, which is not installed: "
            "pip install 'densespec[conformance]'"
        ) from error
    return suite


def _print_json(record: Any) -> None:
    click.echo(json.dumps(record, indent=2))


def _say_written(path: Path) -> None:
    click.echo(f"wrote {path}", err=True)


def _label(spec: str) -> str:
    """The variant's name, or the file's without its suffix."""
    path = Path(spec)
    return path.stem if path.suffix in SUFFIXES else spec


def _check_shape(spec: DenseNetSpec, shape: InputShape) -> None:
    channels, *sizes = shape
    if channels != spec.in_channels or len(sizes) != spec.spatial_dims:
        fitting = rendering.shape_text((spec.in_channels, *(224,) * spec.spatial_dims))
        raise Failure(
            f"--input {rendering.shape_text(shape)} does not fit: this network takes "
            f"{spec.in_channels} channels and {spec.spatial_dims} sizes, such as {fitting}"
        )


def _check_output(path: Path) -> None:
    """Refuse a checkpoint's path before the time to build a network is spent."""
    if path.suffix != ".safetensors":
        raise Failure(f"{path}: a densespec checkpoint ends in .safetensors")
    if not path.parent.is_dir():
        raise Failure(f"no folder {path.parent} to write {path.name} into")


def _sized_graph(spec: DenseNetSpec, shape: InputShape | None) -> Graph:
    if shape is not None:
        _check_shape(spec, shape)
        return lower(spec, shape[1:])
    return lower(spec, (224 if spec.shrinks_early else 32,) * spec.spatial_dims)


def _in_layout_of(backend: str, shape: InputShape | None) -> InputShape | None:
    """A channels-first shape as the backend's models take it. Imports the framework."""
    channels_last = get_backend(backend).data_format(None) == "channels_last"
    return (*shape[1:], shape[0]) if shape and channels_last else shape


cli_weights.register(main)
cli_train.register(main)
cli_export.register(main)
