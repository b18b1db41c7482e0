"""``densespec export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from densespec import published
from densespec.cli.record_options import options_of
from densespec.cli.shared import (
    json_option,
    no_top_option,
    outputs_option,
    pooling_option,
    print_json,
    working,
)
from densespec.cli.sizes import parse_sizes
from densespec.deploy import ExportResult, export
from densespec.deploy.formats import GROUP
from densespec.deploy.network import described
from densespec.weights.reading import ReadingOptions


@click.command("export")
@click.argument("model")
@click.option(
    "-o", "--output", type=Path, required=True, metavar="PATH", help="File or folder to write."
)
@click.option(
    "--format",
    "format_name",
    metavar="FORMAT",
    help=f"One of {', '.join(published.names(GROUP))}; by the suffix otherwise.",
)
@click.option(
    "--size", callback=parse_sizes, metavar="HxW", help="The one input size.  [default: any size]"
)
@click.option("--batch", type=click.IntRange(min=1), help="The one batch size.  [default: any]")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True
)
@click.option("--softmax", is_flag=True, help="End in probabilities, not logits.")
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="Take images, bytes of any size, and give probabilities; ONNX and SavedModel.",
)
@no_top_option
@pooling_option
@outputs_option
@click.option(
    "--optimize/--no-optimize",
    default=True,
    show_default=True,
    help="Fold norms and so on, or write one node for each op of the network.",
)
@click.option("--opset", type=int, help="Of ONNX, 13 to 25.  [default: 17]")
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Run the file before it is kept."
)
@options_of(ReadingOptions)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Of initial weights: MODEL is a SPEC then."
)
@json_option
def export_command(
    model: str,
    output: Path,
    format_name: str | None,
    softmax: bool,
    no_top: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a network for others to run: ONNX, OpenVINO, torch.export, SavedModel or StableHLO.

    MODEL is a weight file of any layout. The format goes by the suffix of the output: .onnx, .xml
    (OpenVINO), .pt2 (torch.export), .stablehlo (jax.export), .mlir (StableHLO text), and none for
    the folder of a TensorFlow SavedModel. The network takes inputs of any size and batch unless
    told otherwise. What is written is loaded and run, and compared with the float64 reference,
    before it takes its place.

    \b
    Examples:
      densespec export densenet121.pth -o densenet121.onnx
      densespec export net.safetensors -o net.onnx --size 224x224 --batch 1 --softmax
      densespec export net.safetensors -o serving/net/1 --format saved-model
      densespec export densenet169-bc --seed 0 -o untrained.pt2
      densespec export runs/photos/best.safetensors -o photos.onnx --with-preprocessing
    """
    with working(f"exporting {model} to {output.name}"):
        done = export(
            model,
            output,
            format=format_name,
            include_top=False if no_top else None,
            softmax=softmax or None,
            **options,
        )
    record = _record(done)
    if as_json:
        print_json(record)
    else:
        _say(done, record)


def _record(done: ExportResult) -> dict[str, Any]:
    measured = done.measured
    return {
        "path": str(done.path),
        "format": done.format.name,
        "bytes": done.bytes,
        "dtype": done.options.dtype,
        "prepares_images": done.options.preprocessing is not None,
        "optimized": done.options.optimize,
        "input": _input(done),
        "outputs": [
            {"name": node.name, "shape": described(node, done.options.batch, done.format.layout)}
            for node in done.graph.given
        ],
        "difference": None if measured is None else measured.difference,
        "checked_on": None if measured is None else [list(shape) for shape in measured.shapes],
        "unchecked": done.unchecked,
    }


def _input(done: ExportResult) -> list[int | str]:
    prepared = done.options.preprocessing
    if prepared is not None:
        return [done.options.batch or "batch", "height", "width", prepared.channels]
    return described(done.graph.input, done.options.batch, done.format.layout)


def _say(done: ExportResult, record: dict[str, Any]) -> None:
    click.echo(f"written {done.path}: {done.format.about}, {done.bytes / 2**20:.1f} MiB")
    kind = "uint8" if record["prepares_images"] else record["dtype"]
    click.echo(f"input   {kind} {' x '.join(map(str, record['input']))}")
    for each in record["outputs"]:
        click.echo(f"output  {record['dtype']} {' x '.join(map(str, each['shape']))}")
    if done.measured is not None:
        *most, last = ["x".join(map(str, shape)) for shape in done.measured.shapes]
        shapes = f"{', '.join(most)} and {last}" if most else last
        click.echo(
            f"checked on {shapes}: largest difference {done.measured.difference:.1e} of the "
            "largest value of the float64 reference"
        )
    if done.unchecked:
        click.echo(f"not checked: {done.unchecked}", err=True)
