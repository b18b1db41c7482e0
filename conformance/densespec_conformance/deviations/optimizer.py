"""Another update of the weights than the recipe's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.deviations.deviation import Change, Deviation

KINDS = ("kernel", "bias", "gamma", "beta")


def _update(**choices: Any) -> Change:
    return lambda variant: variant.update_by(**choices)


def _of(*kinds: str, factor: float = 1.0) -> Callable[[TrainingRecipe, str], float]:
    """Decay these kinds of weights alone."""
    return lambda recipe, name: (
        factor * recipe.weight_decay if name.rpartition(".")[2] in kinds else 0.0
    )


def _doubled(recipe: TrainingRecipe, name: str) -> float:
    return 2 * recipe.decay_of(name)


DEVIATIONS = (
    Deviation(
        "no-nesterov",
        "momentum does not look ahead",
        "the default of torch.optim.SGD and keras.optimizers.SGD",
        _update(nesterov=False),
    ),
    Deviation(
        "nesterov", "momentum looks ahead", "an option that is always on", _update(nesterov=True)
    ),
    Deviation(
        "decoupled-decay",
        "weight decay is decoupled from the gradient",
        "Keras's weight_decay, AdamW, optax.add_decayed_weights after the momentum",
        _update(decay="decoupled"),
    ),
    Deviation(
        "coupled-decay",
        "weight decay is part of the gradient, and so of the moments",
        "torch.optim.Adam with weight_decay, keras.regularizers",
        _update(decay="coupled"),
    ),
    Deviation(
        "unscaled-decay",
        "weight decay is decoupled and not scaled by the learning rate",
        "SGDW and AdamW by their paper",
        _update(decay="unscaled"),
    ),
    Deviation(
        "no-decay",
        "there is no weight decay",
        "Keras's decay=1e-4, which is of the learning rate",
        _update(decay_of=_of()),
    ),
    Deviation(
        "decay-of-everything",
        "weight decay applies to norms and biases too",
        "torch.optim.SGD over all parameters",
        _update(decay_of=_of(*KINDS)),
    ),
    Deviation(
        "decay-of-kernels-only",
        "weight decay spares norms and biases",
        "kernel_regularizer, recipes for large batches",
        _update(decay_of=_of("kernel")),
    ),
    Deviation(
        "decay-spares-norms",
        "weight decay spares norms",
        "filters on names such as 'bn'",
        _update(decay_of=_of("kernel", "bias")),
    ),
    Deviation(
        "decay-spares-biases",
        "weight decay spares biases and betas",
        "filters on the name 'bias'",
        _update(decay_of=_of("kernel", "gamma")),
    ),
    Deviation(
        "decay-spares-true-biases",
        "weight decay spares the biases of convolutions and the classifier",
        "filters on names",
        _update(decay_of=_of("kernel", "gamma", "beta")),
    ),
    Deviation(
        "doubled-decay",
        "weight decay counts twice",
        "keras.regularizers.l2, whose gradient is 2 * l * w",
        _update(decay_of=_doubled),
    ),
    Deviation(
        "doubled-decay-of-kernels",
        "weight decay counts twice, and of kernels alone",
        "kernel_regularizer=l2(...)",
        _update(decay_of=_of("kernel", factor=2.0)),
    ),
    Deviation(
        "velocity-with-rate",
        "velocity holds the learning rate, with its sign turned",
        "keras.optimizers.SGD",
        _update(velocity="raw"),
    ),
    Deviation(
        "velocity-with-rate-scaled-back",
        "velocity holds the learning rate, so a drop does not reach what was gathered before",
        "keras.optimizers.SGD, momentum read relative to the rate",
        _update(velocity="scaled"),
    ),
    Deviation(
        "dampened",
        "momentum is dampened by 0.9",
        "dampening=momentum, Torch7's default",
        _update(dampening=0.9),
    ),
    Deviation(
        "no-momentum",
        "there is no momentum",
        "a forgotten option",
        _update(momentum=0.0, nesterov=False),
    ),
    Deviation(
        "epsilon-before-correction",
        "epsilon is added to the root of the second moment before its bias is corrected",
        "keras.optimizers.Adam and AdamW, Adam's paper at the end of its section 2",
        _update(epsilon="uncorrected"),
    ),
    Deviation(
        "epsilon-within-root",
        "epsilon is added to the second moment, within the root",
        "optax.adam(eps_root=...), RMSProp of TensorFlow 1",
        _update(epsilon="inside"),
    ),
    Deviation(
        "no-bias-correction",
        "the bias of the moments is not corrected",
        "BERT's AdamWeightDecayOptimizer, correct_bias=False",
        _update(corrected=False),
    ),
    Deviation("momentum-0.99", "momentum is 0.99", "nnU-Net", _update(momentum=0.99)),
)
