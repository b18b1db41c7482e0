"""The same DenseNet on every backend: trained on real images from one seed, and compared.

    python examples/demo.py --out out/demo

Trains a small DenseNet-BC on scikit-learn's handwritten digits (1,797 real images of 8x8) on each
backend, each in a process of its own, from the same initial weights and with the same batches. One
more run starts in PyTorch and goes on in JAX. The numpy reference joins for the first steps. Ends
with a table and a figure of the loss curves, and builds densenet169-bc everywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
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
from densespec.atomic import atomic_path
from densespec.data import Batches, load
from densespec.weights.checkpoint import TrainingState, read_checkpoint

BACKENDS = ("tensorflow", "torch", "jax", "torch.nn", "flax.nnx")
SWITCH = ("torch.nn", "jax")
REFERENCE = "numpy"
REFERENCE_STEPS = 10

SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    in_channels=1,
    classes=10,
    stem_width="2k",
)


@dataclass(frozen=True)
class Leg:
    """A part of a run, on one backend: from a step on, up to another."""

    backend: str
    start: int
    stop: int


@dataclass
class Run:
    """What came of one run.

    Attributes:
        losses: training loss of every step.
        accuracy: on the test images, in [0, 1]; None for the reference.
        parameters: trainable parameters of densenet169-bc as the framework counts them.
        seconds: of training, compilation included.
    """

    name: str
    legs: tuple[Leg, ...]
    losses: list[float] = field(default_factory=list)
    accuracy: float | None = None
    parameters: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Settings:
    """What all runs have in common.

    Attributes:
        threads: that a framework may use.
        folder: for checkpoints between legs.
    """

    recipe: TrainingRecipe
    threads: int
    folder: Path

    def batches(self) -> Batches:
        """The same for every backend, in whole batches."""
        return Batches.for_training(
            load("digits"), self.recipe, dtype=self.recipe.dtype, drop_last=True
        )


def train(leg: Leg, settings: Settings, messages: Any) -> None:
    """Train one leg, in this process, and tell ``messages`` how it goes."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    import densespec

    backend, recipe = leg.backend, settings.recipe
    engine = densespec.get_backend(backend)
    if leg.start == 0:
        built = densespec.build("densenet169-bc", backend=backend)
        messages.put(("parameters", engine.count_parameters(built)[0]))
    before = settings.folder / f"step-{leg.start}.safetensors"
    found = read_checkpoint(before) if leg.start else None
    weights = found.arrays if found else None
    dtype = "float64" if backend == REFERENCE else recipe.dtype
    model = densespec.build(SPEC, backend=backend, weights=weights, seed=recipe.seed, dtype=dtype)
    trainer = engine.trainer(model, densespec.lower(SPEC), recipe)
    if found and found.training:
        trainer.restore(found.training.moments, step=found.training.step)
    batches, clock = settings.batches(), time.perf_counter()
    for step in range(leg.start, leg.stop):
        x, labels = batches[step]
        rate = recipe.rate_of_step(step, batches.steps_per_epoch)
        messages.put(("loss", trainer.step(x, labels, learning_rate=rate, gradients=False).loss))
    messages.put(("seconds", time.perf_counter() - clock))
    after = settings.folder / f"step-{leg.stop}.safetensors"
    densespec.save(model, after, training=TrainingState(leg.stop, recipe, trainer.moments()))
    test = Batches.for_test(load("digits"), dtype=recipe.dtype)
    correct = sum(int((trainer.predict(x).argmax(1) == labels).sum()) for x, labels in test)
    messages.put(("accuracy", correct / len(test.split)))
    messages.put(("done", None))


def follow(run: Run, settings: Settings, advance: Any) -> Run:
    """Go through a run's legs, each in a process of its own, and gather what they tell."""
    with tempfile.TemporaryDirectory() as folder:
        for leg in run.legs:
            _follow(leg, run, replace(settings, folder=Path(folder)), advance)
    return run


def _follow(leg: Leg, run: Run, settings: Settings, advance: Any) -> None:
    """Raises ``click.ClickException`` if the process dies."""
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    process = context.Process(target=train, args=(leg, settings, messages), daemon=True)
    process.start()
    while True:
        try:
            kind, value = messages.get(timeout=1)
        except queue.Empty:
            if not process.is_alive():
                raise click.ClickException(
                    f"{leg.backend} ended with exit code {process.exitcode}"
                ) from None
            continue
        match kind:
            case "done":
                process.join()
                return
            case "loss":
                run.losses.append(value)
                advance(run)
            case "seconds":
                run.seconds += value
            case _:
                setattr(run, kind, value)


def runs_of(steps: int) -> list[Run]:
    """The reference for the first steps, every backend, and one that changes half-way."""
    half = steps // 2
    first, second = SWITCH
    switched = (Leg(first, 0, half), Leg(second, half, steps))
    return [
        Run(REFERENCE, (Leg(REFERENCE, 0, min(REFERENCE_STEPS, steps)),)),
        *(Run(backend, (Leg(backend, 0, steps),)) for backend in BACKENDS),
        Run(f"{first}, then {second}", switched),
    ]


def run_all(recipe: TrainingRecipe, jobs: int, console: Console) -> list[Run]:
    """Every run, ``jobs`` at a time, with a progress bar for each."""
    settings = Settings(recipe, max(1, (os.cpu_count() or 1) // jobs), Path())
    runs = runs_of(settings.batches().steps_per_epoch * recipe.epochs)
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        tasks = {
            run.name: progress.add_task(run.name, total=run.legs[-1].stop, loss="-", start=False)
            for run in runs
        }

        def advance(run: Run) -> None:
            progress.start_task(tasks[run.name])
            progress.update(tasks[run.name], advance=1, loss=f"{run.losses[-1]:.4f}")

        return list(pool.map(lambda run: follow(run, settings, advance), runs))


def disagreement(runs: Sequence[Run], steps: int) -> float:
    """Largest difference between any two loss curves in their first steps."""
    curves = np.array([run.losses[:steps] for run in runs])
    return float((curves.max(0) - curves.min(0)).max())


def table(runs: Sequence[Run]) -> Table:
    reference, *trained = runs
    digits = load("digits")
    title = f"DenseNet-BC on {len(digits.train)} digits, tested on {len(digits.test)}"
    result = Table(title=title)
    result.add_column("backend")
    for heading in ("final loss", "test accuracy", "against numpy", "densenet169-bc", "time"):
        result.add_column(heading, justify="right")
    for run in trained:
        result.add_row(
            run.name,
            f"{np.mean(run.losses[-20:]):.5f}",
            f"{run.accuracy:.2%}",
            f"{disagreement([reference, run], REFERENCE_STEPS):.1e}",
            f"{run.parameters:,}",
            f"{run.seconds:.0f} s",
        )
    result.add_row(reference.name, "", "", "", f"{reference.parameters:,}", "")
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
        width = 8.5 - 1.9 * index
        axes.plot(run.losses, label=run.name, linewidth=width, alpha=0.75)
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
    fields: dict[str, Any] = {"seed": seed, "dtype": dtype}
    recipe = TrainingRecipe(epochs=epochs, batch_size=64, learning_rate=0.1, **fields)
    runs = run_all(recipe, jobs, console)
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
