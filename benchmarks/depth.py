"""How the cost of a network grows with its depth.

    python benchmarks/depth.py torch.nn jax --layers 250,500,1000

Prints a table as it stands in docs/speed.md: seconds to build a block of so many layers with random
weights, to prepare it for inference, and to answer for one image of 32x32 for the first time and
again; and the most memory that the process had. Each line has a process of its own.
"""

from __future__ import annotations

import resource
from typing import Any

import click
import numpy as np
from timing import in_own_process, seconds

import densespec

GROWTH, SIZE = 12, 32
HEAD = (
    "| backend | layers | weights | build | optimise | first answer | next | memory |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def line(backend: str, layers: int) -> str:
    """A line of the table; of a fresh process."""
    _answered(backend, _spec(1))  # which imports the framework
    return _answered(backend, _spec(layers))


def _spec(layers: int) -> densespec.DenseNetSpec:
    return densespec.DenseNetSpec(
        blocks=(layers,), growth_rate=GROWTH, stem_width=2 * GROWTH, classes=10
    )


def _answered(backend: str, spec: densespec.DenseNetSpec) -> str:
    models: list[Any] = []
    engine: Any = densespec.get_backend(f"{backend}+inference")
    x = np.zeros((1, 3, SIZE, SIZE), "float32")
    building = seconds(lambda: models.append(densespec.build(spec, backend=backend)))
    preparing = seconds(lambda: models.append(densespec.optimize(models[0])))
    call = engine.caller(models[1], x)
    taken = [building, preparing, seconds(call), seconds(call)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    weights = densespec.lower(spec).parameters.total / 1e6
    cells = [backend, str(spec.blocks[0]), f"{weights:.0f} M", *(f"{t:.1f} s" for t in taken)]
    return f"| {' | '.join([*cells, f'{peak:.1f} GB'])} |"


@click.command()
@click.argument("backends", nargs=-1, required=True)
@click.option("--layers", default="250,500,1000", show_default=True, help="The depths.")
def main(backends: tuple[str, ...], layers: str) -> None:
    """Print what networks of some depths cost on BACKENDS."""
    click.echo("\n".join(HEAD))
    for backend in backends:
        for depth in layers.split(","):
            click.echo(in_own_process("depth:line", {"backend": backend, "layers": int(depth)}))


if __name__ == "__main__":
    main()
