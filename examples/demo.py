"""The same DenseNet on every backend: trained on real images from one seed, and compared.

    python examples/demo.py --out out/demo

Trains a small DenseNet-BC on scikit-learn's handwritten digits (1,797 real images of 8x8) on each
backend, each in a process of its own, from the same initial weights and with the same batches.
The numpy reference joins for the first steps. Ends with a table and a figure of the loss curves,
and builds densenet169-bc everywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from densespec import DenseNetSpec, TrainingRecipe
from densespec.files import atomic_path

BACKENDS = ("tensorflow", "torch", "jax", "torch.nn")
REFERENCE = "numpy"
REFERENCE_STEPS = 10
TEST_IMAGES = 360

SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    in_channels=1,
    classes=10,
    stem_width="2k",
)
SIZE = (8, 8)


@dataclass(frozen=True)
class Data:
    """Images as (count, 1, 8, 8) in [0, 1], labels as (count,)."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass
class Run:
    """What came of one backend.

    Attributes:
        losses: training loss of every step.
        accuracy: on the test images, in [0, 1]; None for the reference.
        parameters: trainable parameters of densenet169-bc as the framework counts them.
        seconds: of training, compilation included.
    """

    backend: str
    losses: list[float] = field(default_factory=list)
    accuracy: float | None = None
    parameters: int = 0
    seconds: float = 0.0


def load_digits(seed: int) -> Data:
    """Scikit-learn's digits, shuffled and split."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x = (images[order] / 16).reshape(-1, 1, *SIZE)
    y = labels[order].astype(np.int64)
    return Data(x[TEST_IMAGES:], y[TEST_IMAGES:], x[:TEST_IMAGES], y[:TEST_IMAGES])


def batches(data: Data, recipe: TrainingRecipe, seed: int) -> list[tuple[np.ndarray, float]]:
    """Indices of each step's images and its learning rate, the same for every backend."""
    draw, steps = np.random.default_rng(seed), []
    for epoch in range(recipe.epochs):
        order = draw.permutation(len(data.train_y))
        whole = len(order) // recipe.batch_size * recipe.batch_size
        rate = recipe.learning_rate_at(epoch)
        steps += [(part, rate) for part in order[:whole].reshape(-1, recipe.batch_size)]
    return steps


def train(
    backend: str, recipe: TrainingRecipe, seed: int, dtype: str, threads: int, messages: Any
) -> None:
    """Train on one backend, in this process, and tell ``messages`` how it goes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import densespec

    engine = densespec.get_backend(backend)
    parameters, _ = engine.count_parameters(densespec.build("densenet169-bc", backend=backend))
    messages.put(("parameters", parameters))

    is_reference = backend == REFERENCE
    model = densespec.build(SPEC, backend=backend, seed=seed, dtype=None if is_reference else dtype)
    graph = densespec.lower(SPEC)
    trainer = engine.trainer(model, graph, recipe)
    data, start = load_digits(seed), time.perf_counter()
    steps = batches(data, recipe, seed)
    for indices, rate in steps[:REFERENCE_STEPS] if is_reference else steps:
        x, labels = data.train_x[indices], data.train_y[indices]
        messages.put(("loss", trainer.step(x, labels, learning_rate=rate).loss))
    messages.put(("seconds", time.perf_counter() - start))
    if not is_reference:
        logits = engine.forward(model, graph, data.test_x, ["classifier"])["classifier"]
        messages.put(("accuracy", float((logits.argmax(1) == data.test_y).mean())))
    messages.put(("done", None))


def follow(run: Run, arguments: Sequence[Any], advance: Any) -> Run:
    """Start a backend's process and gather what it tells.

    Raises:
        click.ClickException: the process died.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    process = context.Process(target=train, args=(run.backend, *arguments, messages), daemon=True)
    process.start()
    while True:
        try:
            kind, value = messages.get(timeout=1)
        except queue.Empty:
            if not process.is_alive():
                raise click.ClickException(
                    f"{run.backend} ended with exit code {process.exitcode}"
                ) from None
            continue
        if kind == "done":
            process.join()
            return run
        if kind == "loss":
            run.losses.append(value)
            advance(run)
        else:
            setattr(run, kind, value)


def run_all(
    recipe: TrainingRecipe, seed: int, dtype: str, jobs: int, console: Console
) -> list[Run]:
    """Train on every backend, ``jobs`` at a time, with a progress bar for each."""
    count = len(batches(load_digits(seed), recipe, seed))
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    runs = [Run(backend) for backend in (REFERENCE, *BACKENDS)]
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        tasks = {
            run.backend: progress.add_task(
                run.backend,
                total=REFERENCE_STEPS if run.backend == REFERENCE else count,
                loss="-",
                start=False,
            )
            for run in runs
        }

        def advance(run: Run) -> None:
            progress.start_task(tasks[run.backend])
            progress.update(tasks[run.backend], advance=1, loss=f"{run.losses[-1]:.4f}")

        arguments = (recipe, seed, dtype, max(1, (os.cpu_count() or 1) // jobs))
        return list(pool.map(lambda run: follow(run, arguments, advance), runs))


def disagreement(runs: Sequence[Run], steps: int) -> float:
    """Largest difference between any two loss curves in their first steps."""
    curves = np.array([run.losses[:steps] for run in runs])
    return float((curves.max(0) - curves.min(0)).max())


def table(runs: Sequence[Run]) -> Table:
    reference, *trained = runs
    result = Table(title=f"DenseNet-BC on {1797 - TEST_IMAGES} digits, tested on {TEST_IMAGES}")
    result.add_column("backend")
    for heading in ("final loss", "test accuracy", "against numpy", "densenet169-bc", "time"):
        result.add_column(heading, justify="right")
    for run in trained:
        result.add_row(
            run.backend,
            f"{np.mean(run.losses[-20:]):.5f}",
            f"{run.accuracy:.2%}",
            f"{disagreement([reference, run], REFERENCE_STEPS):.1e}",
            f"{run.parameters:,}",
            f"{run.seconds:.0f} s",
        )
    result.add_row(reference.backend, "", "", "", f"{reference.parameters:,}", "")
    result.caption = (
        f"final loss: mean of the last 20 steps; against numpy: largest difference of the loss in "
        f"the first {REFERENCE_STEPS} steps; densenet169-bc: trainable parameters"
    )
    return result


def plot(runs: Sequence[Run], path: Path) -> None:
    """Draw the loss curves over each other, thick ones first."""
    from matplotlib.figure import Figure

    reference, *trained = runs
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for index, run in enumerate(trained):
        width = 7.5 - 2.2 * index
        axes.plot(run.losses, label=run.backend, linewidth=width, alpha=0.75)
    axes.plot(reference.losses, "k.", label=f"numpy, first {REFERENCE_STEPS} steps")
    axes.set(xlabel="training step", ylabel="loss", yscale="log")
    axes.set_title("One spec, one seed, the same batches: training loss on every backend")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float64",
    show_default=True,
    help="In float32 rounding flips single ReLUs, and the curves part: see docs/float32.md.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=min(2, os.cpu_count() or 1),
    show_default=True,
    help="Backends trained at a time.",
)
def main(out: Path, epochs: int, seed: int, dtype: str, jobs: int) -> None:
    """Train one DenseNet on every backend and compare."""
    console = Console(width=None if Console().is_terminal else 110)
    recipe = TrainingRecipe(epochs=epochs, batch_size=64, learning_rate=0.1)
    runs = run_all(recipe, seed, dtype, jobs, console)
    out.mkdir(parents=True, exist_ok=True)
    plot(runs, out / "curves.png")
    trained = runs[1:]
    console.print(table(runs))
    console.print(
        f"Largest difference between any two backends: loss {disagreement(trained, 20):.1e} in the "
        f"first 20 steps, {disagreement(trained, len(trained[0].losses)):.1e} in the whole run, "
        f"in {dtype}."
    )
    console.print(f"Curves: {out / 'curves.png'}")
    worst = min(run.accuracy or 0.0 for run in trained)
    if worst < 0.97:
        raise click.ClickException(f"test accuracy is {worst:.2%}, but should be at least 97 %")


if __name__ == "__main__":
    main()
