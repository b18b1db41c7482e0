"""Lists what may be made of the parts of an accumulated batch, with where each is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from densespec.reference.kernels import Array

Split = Callable[[int, int], Sequence[Array]]
"""Chooses the samples of each part from the number of samples and the number of parts."""

Shares = Callable[[Sequence[int]], Sequence[float]]
"""Computes the factor on what each part comes to, from the sizes of the parts."""


def _in_order(samples: int, parts: int) -> Sequence[Array]:
    return np.array_split(np.arange(samples), parts)


def _dealt_out(samples: int, parts: int) -> Sequence[Array]:
    return [np.arange(first, samples, parts) for first in range(parts)]


def _in_chunks(samples: int, parts: int) -> Sequence[Array]:
    size = -(-samples // parts)
    return [np.arange(start, min(start + size, samples)) for start in range(0, samples, size)]


def _of_one_size(samples: int, parts: int) -> Sequence[Array]:
    size = samples // parts
    return [np.arange(start, start + size) for start in range(0, parts * size, size)]


def _whole(samples: int, parts: int) -> Sequence[Array]:
    return [np.arange(samples)]


def by_samples(sizes: Sequence[int]) -> Sequence[float]:
    return [size / sum(sizes) for size in sizes]


def _alike(sizes: Sequence[int]) -> Sequence[float]:
    return [1 / len(sizes)] * len(sizes)


def _summed(sizes: Sequence[int]) -> Sequence[float]:
    return [1.0] * len(sizes)


def _last(sizes: Sequence[int]) -> Sequence[float]:
    return [0.0] * (len(sizes) - 1) + [1.0]


@dataclass(frozen=True)
class PartsRule:
    """Says what is made of the parts of a batch, with every choice spelled out.

    The defaults are the recipe's.

    Attributes:
        split: Which samples are in which part.
        gradients, loss: What the gradients of parts and their losses count.
        statistics: Running statistics are updated by one part after the other, ``in turn``; by each
            from what they were before the step, of which the ``last`` stays, or their ``mean``.
    """

    split: Split = _in_order
    gradients: Shares = by_samples
    loss: Shares = by_samples
    statistics: Literal["in turn", "last", "mean"] = "in turn"


@dataclass(frozen=True)
class PartsChoice:
    """Describes what may be made of parts instead.

    It has the words, the place where it is found, and the fields of the rule that differ.
    """

    does: str
    source: str
    changes: Mapping[str, Any]

    def on(self, rule: PartsRule) -> PartsRule | None:
        """Change a rule; None where it has made such a choice already."""
        taken = any(getattr(rule, one) != getattr(PartsRule(), one) for one in self.changes)
        return None if taken else replace(rule, **self.changes)


PARTS = (
    PartsChoice(
        "a batch is not split, so norms see all of it",
        "an ignored option",
        {"split": _whole},
    ),
    PartsChoice(
        "gradients of parts are added up, and so are their losses",
        "loops that call backward() for each part and never divide the loss",
        {"gradients": _summed, "loss": _summed},
    ),
    PartsChoice(
        "gradients of parts are added up, where their losses are averaged",
        "loops that call backward() for each part and divide the loss that they log",
        {"gradients": _summed},
    ),
    PartsChoice(
        "parts count alike, whatever their size",
        "gradient_accumulation_steps of Keras, optax.MultiSteps, Lightning",
        {"gradients": _alike, "loss": _alike},
    ),
    PartsChoice(
        "gradients are those of the last part alone, and so is the loss",
        "optimizer.zero_grad() before each backward(), a scan that carries no gradients",
        {"gradients": _last, "loss": _last},
    ),
    PartsChoice(
        "the loss that is reported is that of the last part",
        "loss.item() after the loop over the parts",
        {"loss": _last},
    ),
    PartsChoice(
        "the loss that is reported is the sum over the parts",
        "running totals of training loops",
        {"loss": _summed},
    ),
    PartsChoice(
        "each part updates the running statistics from before the step, and the last stays",
        "vmap or scan over parts that returns the last state",
        {"statistics": "last"},
    ),
    PartsChoice(
        "running statistics are the mean of what each part makes of those from before the step",
        "parts treated as devices are",
        {"statistics": "mean"},
    ),
    PartsChoice(
        "samples are dealt out to the parts in turn",
        "x[i::n], reshape(-1, n)",
        {"split": _dealt_out},
    ),
    PartsChoice(
        "parts are as large as the first, but for the last, so there may be fewer",
        "torch.chunk, Tensor.split",
        {"split": _in_chunks},
    ),
    PartsChoice(
        "parts are of the same size, and samples that are left over are dropped",
        "drop_last=True, loops over len(x) // n samples",
        {"split": _of_one_size},
    ),
)
"""Lists what may be made of parts instead, the simplest first."""
