"""What a trained backbone is worth when labels are few, on real images.

    python examples/transfer.py --out out/transfer

A small DenseNet-BC learns scikit-learn's digits 0 to 6. The digits 7, 8 and 9 are then learnt from
a few images of each, three ways: from scratch, with the trained backbone frozen under a new
classifier, and with the whole trained network fine-tuned. Each way is repeated with other images
and other initial weights; the figure shows means and extremes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from densespec import DenseNetSpec, TrainingRecipe
from densespec.atomic import atomic_path
from densespec.data import Dataset, Split, load
from densespec.training import train

KNOWN, NEW = range(7), range(7, 10)
LABELS = (1, 2, 3, 5, 10)
SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    in_channels=1,
    stem_width="2k",
)
BACKBONE = TrainingRecipe(epochs=25, learning_rate=0.03, dropout_rate=0.2)
FEW = TrainingRecipe(epochs=60, batch_size=16)


@dataclass(frozen=True)
class Way:
    """One way to learn from few labels.

    Attributes:
        learning_rate: at the start.
        from_backbone: whether it starts from the trained backbone.
        trainable_from: the first part that trains; None for everything.
    """

    name: str
    learning_rate: float
    from_backbone: bool = True
    trainable_from: str | None = None


WAYS = (
    Way("from scratch", 0.03, from_backbone=False),
    Way("backbone frozen", 0.3, trainable_from="head"),
    Way("fine-tuned", 0.03),
)


def some_classes(digits: Dataset, classes: range) -> Dataset:
    """The images of some digits, labelled from 0."""
    parts = []
    for split in (digits.train, digits.test):
        kept = split.take(np.flatnonzero(np.isin(split.y, classes)))
        parts.append(Split(kept.x, kept.y - classes.start))
    names = tuple(map(str, classes))
    return Dataset("digits", names, parts[0], parts[1], digits.normalisation)


def few_labels(data: Dataset, count: int, seed: int) -> Dataset:
    """The same test images, and ``count`` images of each class to learn from."""
    draw = np.random.default_rng(seed)
    rows = [
        draw.choice(np.flatnonzero(data.train.y == label), count, replace=False)
        for label in range(len(data.classes))
    ]
    few = data.train.take(np.concatenate(rows))
    return Dataset(data.name, data.classes, few, data.test, data.normalisation)


def runs(repeats: int) -> Iterator[tuple[Way, int, int]]:
    """Every way, number of labels and seed."""
    return ((way, count, seed) for count in LABELS for seed in range(repeats) for way in WAYS)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/transfer"))
@click.option("--backend", default="torch.nn", show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
def main(out: Path, backend: str, repeats: int) -> None:
    """Learn seven digits, then three others from few images."""
    console = Console()
    digits = load("digits")
    known, new = some_classes(digits, KNOWN), some_classes(digits, NEW)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    found: dict[tuple[str, int], list[float]] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("backbone", total=1 + len(list(runs(repeats))))
        backbone = train(
            SPEC.replace(classes=len(KNOWN)),
            data=known,
            recipe=BACKBONE,
            backend=backend,
            out=fresh(out / "backbone"),
        )
        progress.advance(task)
        for way, count, seed in runs(repeats):
            progress.update(task, description=f"{count} of each, {way.name}")
            result = train(
                SPEC.replace(classes=len(NEW)),
                data=few_labels(new, count, seed),
                recipe=FEW.replace(learning_rate=way.learning_rate, seed=seed),
                weights=backbone.checkpoint if way.from_backbone else None,
                trainable_from=way.trainable_from,
                backend=backend,
                out=fresh(out / f"{way.name.replace(' ', '-')}-{count}-{seed}"),
            )
            assert result.accuracy is not None
            found.setdefault((way.name, count), []).append(result.accuracy)
            progress.advance(task)
    assert backbone.accuracy is not None
    console.print(table(found, backbone.accuracy))
    draw(found, out / "transfer.png")
    console.print(f"wrote {out / 'transfer.png'}")


def fresh(folder: Path) -> Path:
    """The folder's path, without what an earlier call of this example left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def table(found: dict[tuple[str, int], list[float]], backbone: float) -> Table:
    """Mean accuracy of each way by the number of labels."""
    title = f"Accuracy on digits 7 to 9 (backbone: {backbone:.1%} on 0 to 6)"
    result = Table(title=title)
    result.add_column("images of each digit", justify="right")
    for way in WAYS:
        result.add_column(way.name, justify="right")
    for count in LABELS:
        means = [float(np.mean(found[way.name, count])) for way in WAYS]
        result.add_row(str(count), *(f"{mean:.1%}" for mean in means))
    return result


def draw(found: dict[tuple[str, int], list[float]], path: Path) -> None:
    """Accuracy by the number of labels: means as lines, extremes as bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    for way, colour in zip(WAYS, ("#888888", "#1f77b4", "#2ca02c"), strict=True):
        values = np.array([found[way.name, count] for count in LABELS]) * 100
        axes.plot(LABELS, values.mean(1), "o-", color=colour, label=way.name)
        axes.fill_between(LABELS, values.min(1), values.max(1), color=colour, alpha=0.15)
    axes.set_xscale("log")
    axes.set_xticks(LABELS, list(map(str, LABELS)))
    axes.minorticks_off()
    axes.set_xlabel("images of each digit to learn from")
    axes.set_ylabel("accuracy on unseen images of 7, 8 and 9, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
