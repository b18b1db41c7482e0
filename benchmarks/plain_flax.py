"""A DenseNet as a user of ``flax.nnx`` would write it by hand, out of standard layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx


class DenseLayer(nnx.Module):
    def __init__(self, features: int, growth: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.BatchNorm(features, rngs=rngs)
        self.conv1 = nnx.Conv(features, 4 * growth, (1, 1), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(4 * growth, rngs=rngs)
        self.conv2 = nnx.Conv(4 * growth, growth, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = self.conv1(nnx.relu(self.norm1(x)))
        y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.conv = nnx.Conv(features, features // 2, (1, 1), use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.conv(nnx.relu(self.norm(x)))
        return nnx.avg_pool(x, (2, 2), (2, 2))  # type: ignore[no-untyped-call]


class PlainDenseNet(nnx.Module):
    """A DenseNet of (batch, height, width, 3), with 1000 classes."""

    def __init__(
        self, blocks: Sequence[int], growth: int = 32, stem: int = 64, *, rngs: nnx.Rngs
    ) -> None:
        self.conv = nnx.Conv(3, stem, (7, 7), 2, padding=3, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(stem, rngs=rngs)
        features = stem
        parts: list[Any] = []
        for index, layers in enumerate(blocks):
            for _ in range(layers):
                parts.append(DenseLayer(features, growth, rngs=rngs))
                features += growth
            if index + 1 < len(blocks):
                parts.append(Transition(features, rngs=rngs))
                features //= 2
        self.parts = nnx.List(parts)
        self.norm_out = nnx.BatchNorm(features, rngs=rngs)
        self.classifier = nnx.Linear(features, 1000, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # type: ignore[no-untyped-call]
        for part in self.parts:
            x = part(x)
        return self.classifier(nnx.relu(self.norm_out(x)).mean((1, 2)))


def plain(variant: str) -> PlainDenseNet:
    """Make the plain network of a variant of torchvision's."""
    import densespec

    spec = densespec.get(variant)
    return PlainDenseNet(spec.blocks, spec.growth_rate, 2 * spec.growth_rate, rngs=nnx.Rngs(0))
