"""Lists deviations in how training on several devices is put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from densespec_conformance.deviations.deviation import Change, Deviation


def _norms(batch_norm: Literal["per-replica", "synchronised"]) -> Change:
    return lambda variant: variant.train_by(
        recipe=lambda recipe: replace(recipe, batch_norm=batch_norm)
    )


DEVIATIONS = (
    Deviation(
        "statistics-per-replica",
        "each device normalises by its own part of the batch",
        "DistributedDataParallel, MirroredStrategy without synchronized=True",
        _norms("per-replica"),
    ),
    Deviation(
        "statistics-synchronised",
        "all devices normalise by the whole batch",
        "SyncBatchNorm, jit over a sharded batch",
        _norms("synchronised"),
    ),
    Deviation(
        "replica-gradients-summed",
        "gradients are summed over the devices, not averaged",
        "psum for pmean, an all-reduce without its division",
        lambda variant: variant.train_by(across="sum"),
    ),
    Deviation(
        "first-replica-only",
        "gradients and loss are those of the first device",
        "an all-reduce that is left out",
        lambda variant: variant.train_by(across="first"),
    ),
    Deviation(
        "first-replica-statistics",
        "running statistics are those of the first device",
        "DistributedDataParallel, which broadcasts buffers of rank 0",
        lambda variant: variant.train_by(statistics="first"),
    ),
)
