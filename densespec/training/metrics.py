"""Judges networks after each epoch, from their outputs on the host.

Accuracy and loss need no other package; the other metrics are scikit-learn's. An unknown label
counts in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from densespec.installed import require
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.losses import loss_and_slope
from densespec.training.confusion import MOST
from densespec.training.errors import TrainingError
from densespec.training.means import Means

LOSS, ACCURACY = "loss", "accuracy"

Figures = dict[str, float]
"""Holds values by name. The value of a single label has the label's name after a colon."""


@dataclass(frozen=True)
class Metric:
    """Describes one way to judge.

    Attributes:
        losses: The losses of the recipes whose outputs it can judge.
        of: The function that computes it from logits (images, classes), labels, and the names of
            the classes.
        sign: 1 if more is better, -1 if less is better.
    """

    losses: tuple[str, ...]
    of: Callable[[np.ndarray, np.ndarray, Sequence[str]], Figures]
    sign: int = 1


def _known(
    logits: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each class's name, logits and labels, where both values of the label occur."""
    for index, name in enumerate(names):
        known = labels[:, index] >= 0
        truth = labels[known, index] > 0.5
        if truth.any() and not truth.all():
            yield name, logits[known, index], truth


def _one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return labels if labels.ndim == 2 else np.eye(classes)[labels]


def _mean(name: str, each: Figures) -> Figures:
    """Return values by label, and their mean; nothing where there are none."""
    if not each:
        return {}
    of_labels = {f"{name}:{label}": value for label, value in each.items()}
    return {name: sum(each.values()) / len(each)} | of_labels


def _accuracy(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figures:
    right = ((logits > 0) == (labels > 0.5))[labels >= 0]
    return {ACCURACY: float(right.mean())} if right.size else {}


def _top5(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figures:
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return {"top5": float((best == labels[:, None]).any(1).mean())}


def _auc(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figures:
    from sklearn.metrics import roc_auc_score

    if labels.ndim == 1:
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        logits = shifted / shifted.sum(1, keepdims=True)
    given = _known(logits, _one_hot(labels, len(names)), names)
    return _mean("auc", {name: float(roc_auc_score(truth, z)) for name, z, truth in given})


def _f1(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figures:
    from sklearn.metrics import f1_score

    if labels.ndim == 1:
        logits = np.where(_one_hot(logits.argmax(1), len(names)) > 0, 1.0, -1.0)
    given = _known(logits, _one_hot(labels, len(names)), names)
    return _mean("f1", {name: float(f1_score(truth, z > 0)) for name, z, truth in given})


def _error(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figures:
    from sklearn.metrics import mean_absolute_error

    known = ~np.isnan(labels)
    each = {
        name: float(mean_absolute_error(labels[rows, index], logits[rows, index]))
        for index, name in enumerate(names)
        if (rows := known[:, index]).any()
    }
    return _mean("error", each)


METRICS: Mapping[str, Metric] = {
    "top5": Metric(("softmax",), _top5),
    "auc": Metric(("softmax", "sigmoid"), _auc),
    "f1": Metric(("softmax", "sigmoid"), _f1),
    "error": Metric(("squared",), _error, sign=-1),
}
"""Lists the metrics beyond loss and accuracy, by name."""

OWN_BEST = {"softmax": ACCURACY, "sigmoid": LOSS, "squared": LOSS}
"""By default, this metric tells the best epoch of a run, by the recipe's loss."""


def check_metrics(recipe: TrainingRecipe, metrics: Sequence[str], best: str | None) -> None:
    """Check that a recipe's outputs can be judged so.

    Raises:
        TrainingError: A metric is of other losses, or the best one is not among the metrics.
        PackageMissing: scikit-learn is not installed; the message says what to install.
    """
    for name in metrics:
        if recipe.loss not in METRICS[name].losses:
            meant = " or ".join(repr(loss) for loss in METRICS[name].losses)
            raise TrainingError(
                f"the metric {name!r} is of outputs of loss = {meant}, but the recipe's loss is "
                f"{recipe.loss!r}"
            )
    own = (LOSS,) if recipe.loss == "squared" else (LOSS, ACCURACY)
    if best not in (None, *own, *metrics):
        raise TrainingError(
            f"best = {best!r}, but the run has {', '.join((*own, *metrics))}: name it among the "
            "metrics as well"
        )
    if set(metrics) - {"top5"}:
        require("metrics", "sklearn", extra="data")


def worth(line: Mapping[str, object], best: str) -> float | None:
    """Say how good an epoch was by a metric, more being better; None if that is not known."""
    metrics = line["metrics"]
    assert isinstance(metrics, Mapping), "a log's lines are checked"
    known = {LOSS: line["validation_loss"], ACCURACY: line["validation_accuracy"], **metrics}
    value = known.get(best)
    sign = -1 if best == LOSS else METRICS[best].sign if best in METRICS else 1
    return sign * float(value) if isinstance(value, int | float) else None


@dataclass
class Judgement:
    """Judges a network's outputs on the test images.

    Attributes:
        recipe: The recipe by which the network is trained.
        metrics: The names of the metrics beyond loss and accuracy.
        classes: The names of the classes.
        confusion: The number of images of each class (row) that are taken for each class (column),
            if an image has one class and there are not too many classes.
    """

    recipe: TrainingRecipe
    metrics: Sequence[str]
    classes: Sequence[str]
    means: Means = field(default_factory=Means)
    confusion: np.ndarray | None = None
    _kept: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take in the outputs (images, classes) and labels of a batch."""
        logits, single = np.asarray(logits, np.float64), self.recipe.loss == "softmax"
        plain = self.recipe.replace(label_smoothing=0.0, mixup=0.0, cutmix=0.0)
        right = int((logits.argmax(1) == labels).sum()) if single else None
        self.means.add(loss_and_slope(plain, logits, labels)[0], right, len(labels))
        if single and len(self.classes) <= MOST:
            counted = np.zeros((len(self.classes),) * 2, np.int64)
            np.add.at(counted, (labels, logits.argmax(1)), 1)
            self.confusion = counted if self.confusion is None else self.confusion + counted
        if self.metrics or not single:
            self._kept.append((logits, labels))

    @property
    def loss(self) -> float | None:
        """Return the mean loss, without label smoothing; None if it is not finite."""
        return self.means.loss if math.isfinite(self.means.loss) else None

    @property
    def accuracy(self) -> float | None:
        """Return the share of labels that are told rightly; None if labels are numbers."""
        if self.recipe.loss != "sigmoid":
            return self.means.accuracy
        return _accuracy(*self._all(), self.classes).get(ACCURACY)

    def figures(self) -> Figures:
        """Compute the metrics by name, without those that these labels leave undefined."""
        if not self.metrics or not all(np.isfinite(logits).all() for logits, _ in self._kept):
            return {}
        logits, labels = self._all()
        found: Figures = {}
        for name in self.metrics:
            found |= METRICS[name].of(logits, labels, self.classes)
        return found

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        logits, labels = zip(*self._kept, strict=True)
        return np.concatenate(logits), np.concatenate(labels)
