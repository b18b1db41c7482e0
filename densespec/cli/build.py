"""Defines ``densespec build``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from densespec.backends import get_backend
from densespec.building import build, origin_of, read_weights, save
from densespec.cli import rendering
from densespec.cli.record_options import options_of
from densespec.cli.shared import (
    DTYPES,
    Failure,
    json_option,
    label,
    no_top_option,
    optional_spec_argument,
    outputs_option,
    pooling_option,
    print_json,
    say_written,
    working,
)
from densespec.cli.sizes import InputShape, check_shape, input_option
from densespec.network.catalogue import resolve
from densespec.network.graph import Count
from densespec.weights.reading import ReadingOptions


@click.command("build")
@optional_spec_argument
@click.option(
    "--backend",
    required=True,
    help="numpy, torch.nn, flax.nnx, tensorflow, torch or jax (the last three: Keras on that "
    "engine), another installed backend, or MODULE:ATTRIBUTE; with a mode behind it, such as "
    "torch.nn+inference.",
)
@click.option("--classes", type=click.IntRange(min=1), help="Replaces the spec's classes.")
@no_top_option
@pooling_option
@outputs_option
@click.option(
    "--weights",
    metavar="FILE|NAME",
    help="Start from this weight file, of any layout, or from trained weights by name, such as "
    "imagenet.",
)
@options_of(ReadingOptions, leave_out=("spec",))
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The seed of initial weights.",
)
@input_option("any size")
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
    name = label(options["weights"] if spec is None else spec)
    if spec is not None and shape is not None:
        reading, _ = ReadingOptions.taken(options)
        check_shape(resolve(spec).replace(**reading.of_network()), shape)
    if output is not None:
        _check_output(output)
    with working(f"building {name} on {backend}"):
        options["input_shape"] = _in_layout_of(backend, shape)
        start = time.perf_counter()
        model = build(spec, backend=backend, include_top=not no_top, **options)
        seconds = time.perf_counter() - start
        record = _built_record(name, model) | {"seconds": round(seconds, 3)}
        if output is not None:
            save(model, output)
    if as_json:
        print_json(record)
    else:
        rendering.show_built(record)
    if output is not None:
        say_written(output)


def _built_record(name: str, model: Any) -> dict[str, Any]:
    """Turn a built model into JSON values; its parameters are counted on the arrays it holds."""
    origin = origin_of(model)
    trainable = {weight.name for weight in origin.graph.weights if weight.trainable}
    sizes = {name: array.size for name, array in read_weights(model).items()}
    learnt = sum(size for name, size in sizes.items() if name in trainable)
    return {
        "name": name,
        "backend": origin.backend,
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "input": list(origin.graph.input.shape),
        "outputs": [asdict(each) for each in origin.graph.feature_maps],
        "parameters": rendering.count_record(Count(learnt, sum(sizes.values()) - learnt)),
    }


def _check_output(path: Path) -> None:
    """Refuse a checkpoint's path before the time to build a network is spent."""
    if path.suffix != ".safetensors":
        raise Failure(f"{path}: a densespec checkpoint ends in .safetensors")
    if not path.parent.is_dir():
        raise Failure(f"no folder {path.parent} to write {path.name} into")


def _in_layout_of(backend: str, shape: InputShape | None) -> InputShape | None:
    """Put a channels-first shape as the backend's models take it. This imports the framework."""
    channels_last = get_backend(backend).data_format(None) == "channels_last"
    return (*shape[1:], shape[0]) if shape and channels_last else shape
