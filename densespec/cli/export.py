"""Defines ``densespec export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
from densespec.quantizing import Int8Result, export_int8
from densespec.quantizing.exporting import LEAST
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
    help="Take images, bytes of any size, and give probabilities.",
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
@click.option(
    "--opset", type=int, help="The version of ONNX's operations, 13 to 25.  [default: 17]"
)
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Run the file before it is kept."
)
@click.option("--int8", is_flag=True, help="Compute in int8; ONNX, OpenVINO and LiteRT.")
@click.option(
    "--calibrate",
    metavar="NAME[:PLACE]",
    help="Images from which int8 takes the ranges of values, as for --data of densespec train.",
)
@click.option(
    "--least-agreement",
    type=click.FloatRange(0, 1),
    default=LEAST,
    show_default=True,
    help="The part of held-out images whose likeliest class has to stay the same in int8.",
)
@options_of(ReadingOptions)
@click.option(
    "--seed", type=click.IntRange(min=0), help="The seed of initial weights: MODEL is a SPEC then."
)
@json_option
def export_command(
    model: str,
    output: Path,
    format_name: str | None,
    softmax: bool,
    no_top: bool,
    int8: bool,
    calibrate: str | None,
    least_agreement: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a network for others: ONNX, OpenVINO, LiteRT, torch.export, SavedModel or StableHLO.

    MODEL is a weight file of any layout. The format goes by the suffix of the output: .onnx, .xml
    (OpenVINO), .tflite (LiteRT), .pt2 (torch.export), .stablehlo (jax.export), .mlir (StableHLO
    text), and none for the folder of a TensorFlow SavedModel. The network takes inputs of any size
    and batch unless told otherwise. What is written is loaded and run, and compared with the
    float64 reference, before it takes its place.

    In int8, ranges of values are taken of the images to train on of --calibrate, prepared as the
    weights say; the file is compared with the same in float32 on those to test on, timed beside it,
    and refused where its likeliest classes are too often others.

    \b
    Examples:
      densespec export densenet121.pth -o densenet121.onnx
      densespec export net.safetensors -o net.onnx --size 224x224 --batch 1 --softmax
      densespec export net.safetensors -o serving/net/1 --format saved-model
      densespec export densenet169-bc --seed 0 -o untrained.pt2
      densespec export runs/photos/best.safetensors -o photos.onnx --with-preprocessing
      densespec export runs/photos/best.safetensors -o photos.xml --int8 --calibrate folder:photos
    """
    if int8 != (calibrate is not None):
        raise click.UsageError("--int8 and --calibrate go together")
    if calibrate is not None:
        _check_int8(options | {"no_top": no_top})
        options = {key: value for key, value in options.items() if key not in _FLOATS}
        with working(f"exporting {model} to {output.name} in int8"):
            quantized = export_int8(
                model,
                output,
                calibrate,
                format=format_name,
                softmax=softmax or None,
                least_agreement=least_agreement,
                **options,
            )
        _show_int8(quantized, as_json)
        return
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


_FLOATS: Mapping[str, Any] = {
    "dtype": "float32",
    "no_top": False,
    "pooling": None,
    "outputs": (),
    "optimize": True,
    "check": True,
}
"""In int8 these options have no other choice than these values."""


def _check_int8(options: Mapping[str, Any]) -> None:
    for name, only in _FLOATS.items():
        if options[name] != only:
            raise click.UsageError(f"--int8 does not go with --{name.replace('_', '-')}")


def _show_int8(done: Int8Result, as_json: bool) -> None:
    compared = done.comparison
    if as_json:
        written = {"path": str(done.path), "bytes": done.bytes, "float32": _record(done.full)}
        times = {
            str(batch): {"float32": full, "int8": int8}
            for batch, (full, int8) in compared.seconds.items()
        }
        print_json(written | {"compared": dataclasses.asdict(compared) | {"seconds": times}})
        return
    click.echo(
        f"written {done.path}: {done.full.format.about} in int8, {done.bytes / 2**20:.1f} MiB, "
        f"{done.full.bytes / 2**20:.1f} in float32"
    )
    click.echo(
        f"compared on {compared.count:,} held-out images: the likeliest class is that of float32 "
        f"for {compared.agreement:.2%}"
    )
    click.echo(f"{compared.in_words()}")
    for batch, (full, int8) in compared.seconds.items():
        click.echo(
            f"batch {batch}: {1000 * full:.3g} ms in float32, {1000 * int8:.3g} ms in int8, "
            f"{compared.ratios[batch]:.2f} of it"
        )


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
