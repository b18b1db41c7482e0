"""DenseNets as others write them in ``flax.nnx``, for ``test_adapters_flax.py``."""

from __future__ import annotations

from typing import Any

from flax import nnx

from benchmarks.plain_flax import PlainDenseNet
from densespec import DenseNetSpec

SPEC = DenseNetSpec(
    blocks=(2, 1),
    growth_rate=4,
    bottleneck_width=4,
    compression=0.5,
    classes=1000,
    stem_kind="conv-norm-relu",
    stem_width=6,
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    batch_norm_momentum=0.01,
    running_variance="biased",
)


def plain(epsilon: float = 1e-5, momentum: float = 0.99, *, rngs: nnx.Rngs) -> PlainDenseNet:
    """Make the network of ``SPEC``, or one whose norms are otherwise.

    Args:
        momentum: How much of a running statistic a step leaves, as Flax has it.
    """
    model = PlainDenseNet((2, 1), growth=4, stem=6, rngs=rngs)
    for _, module in nnx.iter_graph(model):
        if isinstance(module, nnx.BatchNorm):
            module.epsilon, module.momentum = epsilon, momentum
    return model


class Compiled(nnx.Module):
    """The same, whose layers run within a function that JAX compiles."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.network = plain(rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return nnx.jit(lambda network, x: network(x))(self.network, x)


class Several(Compiled):
    def __call__(self, x: Any) -> Any:
        return self.network(x), x
