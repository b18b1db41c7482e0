"""Times densespec's models against each framework's own, as ratios of medians in one run.

    python benchmarks/run.py                    # DenseNet-121, a few minutes
    python benchmarks/run.py --tier full        # 169 as well, more rounds

The two sides take turns, so that a machine whose speed drifts slows both. Each framework runs in a
process of its own. Writes a table, a figure and the raw times to ``out/benchmarks``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from densespec.files import atomic_path

BACKENDS = ("torch.nn", "torch", "tensorflow", "jax")
BATCH, SIZE = 8, 224


@dataclass(frozen=True)
class Timing:
    """Seconds of every round of one kind of work, on both sides."""

    backend: str
    variant: str
    work: str
    peer: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)


def take_turns(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int, warm_up: int
) -> tuple[list[float], list[float]]:
    """Seconds of each call, the two sides in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(warm_up + rounds):
        for side, call in zip(times, (ours, theirs), strict=True):
            start = time.perf_counter()
            call()
            if index >= warm_up:
                side.append(time.perf_counter() - start)
    return times


def time_keras(backend: str, variant: str, rounds: int) -> list[Timing]:
    """Building, inference and training steps on a Keras engine."""
    import densespec

    densespec.get_backend(backend).data_format(None)  # chooses the engine
    import keras
    from peers import keras_applications

    def ours() -> Any:
        shape = (SIZE, SIZE, 3)
        return densespec.build(variant, backend=backend, input_shape=shape)

    def theirs() -> Any:
        return keras_applications(variant)

    draw = np.random.default_rng(0)
    x = draw.standard_normal((BATCH, SIZE, SIZE, 3)).astype(np.float32)
    labels = draw.integers(0, 1000, BATCH)
    models = ours(), theirs()
    for model in models:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, 0.9, nesterov=True), loss)
    a, b = models
    work = {
        "build": take_turns(ours, theirs, 3, 1),
        "inference": take_turns(
            lambda: a.predict_on_batch(x), lambda: b.predict_on_batch(x), rounds, 2
        ),
        "training step": take_turns(
            lambda: a.train_on_batch(x, labels), lambda: b.train_on_batch(x, labels), rounds, 2
        ),
    }
    return [
        Timing(backend, variant, name, "keras.applications", *times) for name, times in work.items()
    ]


def time_torch(backend: str, variant: str, rounds: int) -> list[Timing]:
    """Inference and training steps of native modules, in both memory layouts."""
    import torch
    from peers import torchvision
    from torch.nn import functional

    import densespec

    timings = []
    for layout, memory in (
        ("", torch.contiguous_format),
        (" channels_last", torch.channels_last),
    ):
        models = [densespec.build(variant, backend=backend), torchvision(variant)]
        models = [model.to(memory_format=memory) for model in models]
        x = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=memory)
        labels = torch.randint(0, 1000, (BATCH,))

        def infer(model: Any, x: Any = x) -> None:
            with torch.inference_mode():
                model.eval()(x)

        def step(model: Any, x: Any = x, labels: Any = labels) -> None:
            model.train().zero_grad()
            functional.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]

        for name, work in (("inference", infer), ("training step", step)):
            a, b = models
            times = take_turns(lambda: work(a), lambda: work(b), rounds, 2)  # noqa: B023
            timings.append(Timing(backend, variant, name + layout, "torchvision", *times))
    return timings


def measure(backend: str, variant: str, rounds: int, answers: Any) -> None:
    """Time one backend in this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    time_backend = time_torch if backend == "torch.nn" else time_keras
    try:
        answers.put(time_backend(backend, variant, rounds))
    except ImportError as error:
        answers.put(f"{backend}: {error}")


def in_own_process(backend: str, variant: str, rounds: int) -> list[Timing]:
    """Time one backend in a process of its own.

    Raises:
        click.ClickException: it could not be timed.
    """
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=measure, args=(backend, variant, rounds, answers))
    process.start()
    while answers.empty():
        time.sleep(0.1)
        if not process.is_alive() and answers.empty():
            raise click.ClickException(f"{backend} ended with exit code {process.exitcode}")
    answer = answers.get()
    process.join()
    if isinstance(answer, str):
        raise click.ClickException(answer)
    return list(answer)


def machine() -> str:
    """The processor, the number of cores and the day."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return f"{model}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"


def markdown(timings: list[Timing]) -> str:
    """The table, as it stands in the README."""
    lines = ["| backend | work | against | ms | peer's ms | ratio |", "| --- " * 6 + "|"]
    for t in timings:
        ours, theirs = (1e3 * statistics.median(side) for side in (t.ours, t.theirs))
        work = f"{t.variant} {t.work}"
        row = (t.backend, work, t.peer, f"{ours:.0f}", f"{theirs:.0f}", f"{t.ratio:.2f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", f"Medians, batch {BATCH}, {SIZE}x{SIZE}, float32; {machine()}."])


def plot(timings: list[Timing], path: Path) -> None:
    """Bars of the ratios; below 1 densespec is faster."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.35 * len(timings) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{t.backend}: {t.variant} {t.work}" for t in timings]
    ratios = [t.ratio for t in timings]
    colours = ["tab:green" if ratio <= 1 else "tab:orange" for ratio in ratios]
    axes.barh(names, ratios, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time over the framework's own implementation")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


@click.command()
@click.option("--tier", type=click.Choice(["quick", "full"]), default="quick", show_default=True)
@click.option("--backend", "chosen", multiple=True, type=click.Choice(BACKENDS))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/benchmarks"), show_default=True
)
def main(tier: str, chosen: tuple[str, ...], out: Path) -> None:
    """Time densespec against torchvision and keras.applications."""
    console = Console(width=None if Console().is_terminal else 110)
    variants = ("densenet121",) if tier == "quick" else ("densenet121", "densenet169")
    rounds = 7 if tier == "quick" else 21
    jobs = [(backend, variant) for variant in variants for backend in chosen or BACKENDS]
    timings: list[Timing] = []
    for backend, variant in track(jobs, "timing", console=console):
        timings += in_own_process(backend, variant, rounds)
    out.mkdir(parents=True, exist_ok=True)
    plot(timings, out / "ratios.png")
    for name, text in (
        ("table.md", markdown(timings) + "\n"),
        ("times.json", json.dumps([asdict(t) for t in timings], indent=2) + "\n"),
    ):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text)
    table = Table("backend", "work", "against", "ratio", title=machine())
    for t in timings:
        table.add_row(t.backend, f"{t.variant} {t.work}", t.peer, f"{t.ratio:.2f}")
    console.print(table)
    console.print(f"Written to {out}: table.md, ratios.png, times.json")


if __name__ == "__main__":
    main()
