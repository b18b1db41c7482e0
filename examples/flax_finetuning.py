"""A DenseNet trained on the digits 0 to 6 in JAX, and fine-tuned on 7, 8 and 9.

    python examples/flax_finetuning.py

Takes scikit-learn's digits (1,797 real images of 8x8) and about a minute on a CPU. The loop is one
of Flax's own: the network is an ``nnx.Module``, and the recipe's SGD is optax's. Needs
``densespec[flax,data]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import nnx

import densespec
import densespec_flax
from densespec import DenseNetSpec, TrainingRecipe, data

SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    in_channels=1,
    classes=7,
    stem_width="2k",
)
RECIPE = TrainingRecipe(epochs=4, learning_rate=0.05)
GENTLE = TrainingRecipe(epochs=4, learning_rate=0.01, batch_size=32)


@nnx.jit
def step(model: Any, optimizer: nnx.Optimizer[Any], x: Any, labels: Any) -> Any:
    """Take one step; frozen arrays are no ``nnx.Param`` and get no gradient."""
    loss = densespec_flax.loss_of(RECIPE)
    value, gradients = nnx.value_and_grad(lambda model: loss(model(x), labels))(model)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def right(model: Any, x: Any, labels: Any) -> Any:
    """Count the answers that are right."""
    return (model(x).argmax(-1) == labels).sum()


def trained(model: Any, images: data.Dataset, recipe: TrainingRecipe) -> float:
    """Train a model, and give its share of right answers on the test split."""
    batches = data.Batches.for_training(images, recipe, drop_last=True)  # one shape, one compiling
    rate = densespec_flax.schedule_of(recipe, batches.steps_per_epoch)
    optimizer = nnx.Optimizer(model, densespec_flax.optimizer_of(recipe, rate), wrt=nnx.Param)
    model.train()
    taken = nnx.cached_partial(step, model, optimizer)  # which takes the modules apart once
    for epoch in range(recipe.epochs):
        for x, labels in batches.epoch(epoch):
            loss = taken(x, labels)
        print(f"epoch {epoch}: loss {float(loss):.4f}")
    model.eval()
    test = data.Batches.for_test(images, batch_size=len(images.test))
    return float(right(model, *test.batch(0, 0))) / len(images.test)


def digits(*wanted: int) -> data.Dataset:
    """Give the images of some digits; the labels count from 0."""
    whole = data.load("digits")

    def chosen(split: data.Split) -> data.Split:
        taken = split.take(np.flatnonzero(np.isin(split.y, wanted)))
        return data.Split(taken.x, taken.y - min(wanted))

    names = tuple(map(str, wanted))
    return data.Dataset(
        "some digits", names, chosen(whole.train), chosen(whole.test), whole.normalisation
    )


def main(spec: DenseNetSpec = SPEC, epochs: int = RECIPE.epochs) -> tuple[Any, Any]:
    """Train a network on seven digits, and a new head and the last block of it on three."""
    backbone = densespec.build(spec, backend="flax.nnx", data_format="channels_first", mode="fast")
    share = trained(backbone, digits(*range(7)), RECIPE.replace(epochs=epochs))
    print(f"0 to 6: {share:.2%} right")
    model = densespec.transfer(
        classes=3,
        backend="flax.nnx",
        weights=backbone,
        trainable_from=f"block{len(spec.blocks)}",
        data_format="channels_first",
        mode="fast",
    )
    share = trained(model, digits(7, 8, 9), GENTLE.replace(epochs=epochs))
    print(f"7 to 9: {share:.2%} right")
    return backbone, model


if __name__ == "__main__":
    main()
