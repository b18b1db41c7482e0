"""Defines the commands about networks as described: in the catalogue, in spec files, in figures."""

from __future__ import annotations

from pathlib import Path

import click

from densespec.cli import rendering
from densespec.cli.shared import json_option, label, print_json, say_written, spec_argument
from densespec.cli.sizes import InputShape, sized_graph, sized_input_option
from densespec.network.catalogue import catalogue, resolve
from densespec.network.drawing import draw
from densespec.network.files import schema, to_toml, write_spec


@click.command("list")
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
        print_json([rendering.variant_record(variant) for variant in catalogue().values()])
    else:
        rendering.show_variants(catalogue().values())


@click.command("describe")
@spec_argument
@sized_input_option
@json_option
def describe_command(spec: str, shape: InputShape | None, as_json: bool) -> None:
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
    graph = sized_graph(resolve(spec), shape)
    if as_json:
        print_json(rendering.graph_record(label(spec), graph))
    else:
        rendering.show_graph(label(spec), graph)


@click.command("draw")
@spec_argument
@click.option(
    "-o", "--output", type=Path, required=True, metavar="FILE", help="A .svg, .png or .pdf file."
)
@sized_input_option
def draw_command(spec: str, output: Path, shape: InputShape | None) -> None:
    """Draw the architecture of a network as a figure.

    Stages stand from left to right: their height follows the spatial size, and the slices of a
    dense block are its input and what each of its layers adds to it. Needs matplotlib:
    pip install 'densespec[draw]'.

    \b
    Examples:
      densespec draw densenet169-bc -o net.svg
      densespec draw net.toml --input 1x64x64 -o net.pdf
    """
    draw(sized_graph(resolve(spec), shape), output, title=label(spec))
    say_written(output)


@click.command("spec")
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
        say_written(output)


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of spec files.

    Editors check and complete spec files with it; it describes each field.

    \b
    Examples:
      densespec schema > spec.schema.json
      densespec schema | jq .properties.compression
    """
    print_json(schema())
