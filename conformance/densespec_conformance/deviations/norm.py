"""Batch and running statistics of norms in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from densespec.network import ops
from densespec_conformance.deviations.deviation import Change, Deviation
from densespec_conformance.deviations.kernels import Norm
from densespec_conformance.deviations.variant import Variant


def norm(**choices: Any) -> Change:
    """Make norms choose otherwise."""

    def change(variant: Variant) -> Variant:
        kernel = variant.kernels[ops.BatchNorm]
        assert isinstance(kernel, Norm)
        return variant.compute_by(ops.BatchNorm, replace(kernel, **choices))

    return change


def _counted(variant: Variant) -> Variant:
    return replace(variant, trainable_statistics=True)


DEVIATIONS = (
    Deviation(
        "stale-statistics",
        "running statistics are never updated",
        "update operations that nothing runs (TensorFlow 1, a lost JAX state)",
        norm(updates=0),
    ),
    Deviation(
        "statistics-updated-twice",
        "running statistics are updated twice in a step",
        "recomputed activations (checkpointing), a second forward pass",
        norm(updates=2),
    ),
    Deviation(
        "first-norms-updated-twice",
        "running statistics of the first norm of every dense layer are updated twice in a step",
        "torchvision's memory_efficient=True, which computes that norm again in the backward pass",
        norm(updates=2, updated=".norm1"),
    ),
    Deviation(
        "frozen-statistics",
        "training normalises by running statistics, and leaves them as they are",
        "a model left in inference mode, trainable=False",
        norm(moments="running", updates=0),
    ),
    Deviation(
        "running-statistics-in-training",
        "training updates running statistics, and normalises by them",
        "AccBatchNorm, which averages over steps in training too",
        norm(moments="running"),
    ),
    Deviation(
        "per-sample-statistics",
        "training normalises each sample by its own statistics",
        "instance norm, vmap over samples",
        norm(moments="sample"),
    ),
    Deviation(
        "unbiased-normalisation",
        "training normalises by the variance over n - 1",
        "Darknet; tensor.var() of PyTorch in hand-written norms",
        norm(corrected=True),
    ),
    Deviation(
        "constant-statistics",
        "no gradient flows through the batch's mean and variance",
        "detach(), stop_gradient()",
        norm(constant=True),
    ),
    Deviation(
        "statistics-counted-as-trainable",
        "running statistics are counted as trainable",
        "count_params() of all weights",
        _counted,
    ),
)
