"""Reads sizes and shapes of inputs as they are typed: ``224x224`` and ``3x224x224``."""

from __future__ import annotations

from collections.abc import Callable

import click

from densespec.cli.rendering import shape_text
from densespec.cli.shared import Failure
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec

InputShape = tuple[int, ...]
"""Holds the channels, then the size of each spatial dimension."""


def parse_sizes(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Parse spatial sizes, as in ``224x224``."""
    return None if value is None else _numbers(value, 1, "sizes, such as 224x224")


def _parse_shape(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> InputShape | None:
    return None if value is None else _numbers(value, 2, "channels x sizes, such as 3x224x224")


def _numbers(value: str, least: int, what: str) -> tuple[int, ...]:
    numbers = value.split("x")
    if len(numbers) < least or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise click.BadParameter(f"{value!r} is not {what}")
    return tuple(map(int, numbers))


def input_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the option ``--input``, which gives ``shape``: the shape of one sample, or None."""
    return click.option(
        "--input",
        "shape",
        callback=_parse_shape,
        metavar="CxHxW",
        help=f"Shape of one sample, channels first: 3x224x224, 3x224x320, or 1x64x64x64 for a "
        f"network of three spatial dimensions.  [default: {default}]",
    )


sized_input_option = input_option(
    "224 in each spatial dimension if the stem has a pool or a stride above 1, else 32"
)


def check_shape(spec: DenseNetSpec, shape: InputShape) -> None:
    """Check that a network takes inputs of a shape.

    Raises:
        Failure: Its channels or its number of dimensions differ; the message says how.
    """
    channels, *sizes = shape
    if channels != spec.in_channels or len(sizes) != spec.spatial_dims:
        fitting = shape_text((spec.in_channels, *(224,) * spec.spatial_dims))
        raise Failure(
            f"--input {shape_text(shape)} does not fit: this network takes "
            f"{spec.in_channels} channels and {spec.spatial_dims} sizes, such as {fitting}"
        )


def sized_graph(spec: DenseNetSpec, shape: InputShape | None) -> Graph:
    """Lower a network at the shape given, or else at the default of :data:`sized_input_option`."""
    if shape is not None:
        check_shape(spec, shape)
        return lower(spec, shape[1:])
    return lower(spec, (224 if spec.shrinks_early else 32,) * spec.spatial_dims)
