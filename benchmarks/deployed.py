"""Figures of a network in each format that it is exported to, in float32 and in int8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from timing import Figures

import densespec
from densespec.deploy.formats import ExportFormat, formats
from densespec.errors import DensespecError
from densespec.network.catalogue import resolve
from densespec.network.spec import DenseNetSpec
from densespec.timing import Candidate, TimedNetwork, TimingPlan, measure

IN_PYTHON = ("torch.nn", "torch.nn+inference")
CALIBRATED = 8
"""Time in int8 does not depend on the ranges of values, so a few random images tell them."""


def inference(variant: str, batches: Sequence[int], size: Sequence[int], rounds: int) -> Figures:
    """Milliseconds in PyTorch and in each file's own runtime; each side has a process of its own.

    A side that can't be exported or run here is told of, and left out.
    """
    plan = TimingPlan(batches=batches, sizes=(size,), rounds=rounds, starts=1, cpu=True)
    sides = [Candidate(name, backend=name) for name in IN_PYTHON]
    with tempfile.TemporaryDirectory() as folder:
        sides += _files(resolve(variant), Path(folder), size)
        record = measure(TimedNetwork(variant), sides, plan)
    for failure in record["failures"]:
        click.echo(f"left out: {failure['candidate']}: {failure['why']}", err=True)
    return {
        side(timing["candidate"], timing["batch"]): [1e3 * each for each in timing["seconds"]]
        for timing in record["timings"]
    }


def side(name: str, batch: int) -> str:
    """The name of a side at a size of batches."""
    return f"{name}, batch {batch}"


def _files(spec: DenseNetSpec, folder: Path, size: Sequence[int]) -> Iterator[Candidate]:
    runnable = (each for each in formats().values() if each.load is not None)
    for chosen in runnable:
        path = folder / f"float32{chosen.suffixes[0]}"
        try:
            densespec.export(spec, path, format=chosen.name, seed=0, check=False)
            yield _candidate(chosen.name, path, chosen)
            if chosen.int8 is not None:
                quantized = path.with_stem("int8")
                chosen.int8.write(path, quantized, _images(spec, size))
                yield _candidate(f"{chosen.name} int8", quantized, chosen)
        except (DensespecError, ImportError) as error:
            click.echo(f"left out: {chosen.about}: {error}", err=True)


def _candidate(name: str, path: Path, chosen: ExportFormat) -> Candidate:
    return Candidate(name, path=str(path), format=chosen.name)


def _images(spec: DenseNetSpec, size: Sequence[int]) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(CALIBRATED):
        yield random.standard_normal((1, spec.in_channels, *size)).astype(np.float32)
