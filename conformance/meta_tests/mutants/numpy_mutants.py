"""The numpy reference with one thing changed, so that nothing but that thing can be caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from densespec.backends import StepResult
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.backend import NumpyBackend, NumpyTrainer
from densespec.reference.kernels import (
    KERNELS,
    Array,
    AvgPoolKernel,
    BatchNormKernel,
    ConcatKernel,
    Context,
    ConvKernel,
    DropoutKernel,
    MaxPoolKernel,
    ReluKernel,
    SoftmaxKernel,
)
from densespec.reference.model import ReferenceModel
from meta_tests.mutants.mutant import (
    APART,
    BIASED,
    COUNTS,
    DECAY,
    DROP,
    KERNELS_ONLY,
    LAYER_RATES,
    MASKS,
    MOMENTS,
    NEGATIVE,
    NO_DROPOUT,
    ROUND_TRIP,
    SEED,
    SOFTMAX,
    STEM,
    TOGETHER,
    Mutant,
)

Rewrite = Callable[[Node], Node]


def _same(node: Node) -> Node:
    return node


@dataclass(frozen=True)
class MutantBackend(NumpyBackend):
    """The reference with some parts replaced."""

    rewrite: Rewrite = _same
    kernels: Mapping[type, Any] = field(default_factory=dict)
    load: Callable[[str, Array], Array] = lambda name, array: array
    train: type[NumpyTrainer] = NumpyTrainer

    def build(self, graph: Graph, weights: Mapping[str, Array], **options: Any) -> ReferenceModel:
        changed = Graph(graph.spec, tuple(self.rewrite(node) for node in graph.nodes))
        loaded = {name: self.load(name, array) for name, array in weights.items()}
        return ReferenceModel(
            changed, loaded, dtype=options["dtype"] or "float64", kernels=KERNELS | self.kernels
        )

    def trainer(self, model: ReferenceModel, graph: Graph, recipe: TrainingRecipe) -> NumpyTrainer:
        return self.train(model, recipe)


def _on(kind: type, **changes: Any) -> Rewrite:
    """Change fields of every op of a kind."""

    def rewrite(node: Node) -> Node:
        return replace(node, op=replace(node.op, **changes)) if isinstance(node.op, kind) else node

    return rewrite


def _at(name: str, **changes: Any) -> Rewrite:
    """Change fields of the op of one node."""

    def rewrite(node: Node) -> Node:
        return replace(node, op=replace(node.op, **changes)) if node.name == name else node

    return rewrite


def _pad_like_tensorflow(node: Node) -> Node:
    windowed = isinstance(node.op, ops.Conv | ops.MaxPool)
    return replace(node, op=replace(node.op, padding="same")) if windowed else node


class _NoRelu(ReluKernel):
    """Leaves out the ReLU of nodes whose name starts with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def forward(self, op: ops.Relu, ctx: Context, x: Array) -> Array:
        return x if ctx.node.startswith(self.prefix) else super().forward(op, ctx, x)


class _ReluWithoutNan(ReluKernel):
    def forward(self, op: ops.Relu, ctx: Context, x: Array) -> Array:
        return np.fmax(x, 0)


class _MaxPoolWithoutNan(MaxPoolKernel):
    """Takes NaN for the least number, as TensorFlow does on CPUs."""

    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        least = np.finfo(x.dtype).min
        return super().forward(op, ctx, np.where(np.isnan(x), least, x))


class _ZeroPaddedMaxPool(MaxPoolKernel):
    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        return np.maximum(super().forward(op, ctx, x), -1e-3)


class _AveragePoolInStem(MaxPoolKernel):
    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
        padded = np.pad(x, ((0, 0), (0, 0), *pads), mode="edge")
        return AvgPoolKernel().forward(ops.AvgPool(op.window, op.stride), ctx, padded)


class _ReversedConcat(ConcatKernel):
    def forward(self, op: ops.Concat, ctx: Context, *xs: Array) -> Array:
        return super().forward(op, ctx, *reversed(xs))


class _FlippedConv(ConvKernel):
    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        kernel = ctx.weights["kernel"]
        flipped = np.flip(kernel, tuple(range(2, kernel.ndim)))
        return super().forward(op, replace(ctx, weights={**ctx.weights, "kernel": flipped}), x)


class _UnbiasedConv(ConvKernel):
    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        return super().forward(replace(op, bias=False), ctx, x)


class _DropoutInInference(DropoutKernel):
    def forward(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        return super().forward(op, ctx, x) if ctx.training else x * (1 - op.rate)


class _UnscaledDropout(DropoutKernel):
    def _scale(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        return super()._scale(op, ctx, x) * (1 - op.rate)


class _IgnoredDropout(DropoutKernel):
    def _scale(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        return np.ones_like(x)


class _StaleStatistics(BatchNormKernel):
    def _running(self, op: Any, ctx: Context, *moments: Any) -> Arrays:
        return {}


class _RunningStatisticsInTraining(BatchNormKernel):
    def _moments(self, ctx: Context, x: Array) -> tuple[Array, Array]:
        return ctx.weights["running_mean"], ctx.weights["running_variance"]


class _NormWithoutBatchGradient(BatchNormKernel):
    """Takes the batch's statistics for constants in the backward pass."""

    def backward(
        self, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array
    ) -> tuple[list[Array], Arrays]:
        mean, variance = self._moments(ctx, x)
        frozen = {**ctx.weights, "running_mean": mean, "running_variance": variance}
        return super().backward(op, replace(ctx, training=False, weights=frozen), dy, x)


class _LogSoftmax(SoftmaxKernel):
    def forward(self, op: ops.Softmax, ctx: Context, x: Array) -> Array:
        return np.log(super().forward(op, ctx, x))


class _Float32Conv(ConvKernel):
    """Computes in float32 what it was asked for in float64."""

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        weights = {name: w.astype(np.float32) for name, w in ctx.weights.items()}
        return (
            super().forward(op, replace(ctx, weights=weights), x.astype(np.float32)).astype(x.dtype)
        )


def _swap_gamma_and_beta(name: str, array: Array) -> Array:
    return array + 0.5 if name.endswith((".gamma", ".beta")) else array


def _transposed(name: str, array: Array) -> Array:
    return np.swapaxes(array, -1, -2) if name == "stem.conv.kernel" else array


class _OtherRule(NumpyTrainer):
    """A trainer with another update rule."""

    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        model, rate = self._model, options["learning_rate"]
        loss, gradients, statistics = model.loss_and_gradients(x, labels, masks=options["masks"])
        velocity = NumpyTrainer.moments(self)["velocity"]
        for name, gradient in gradients.items():
            model.weights[name], velocity[name] = self.rule(
                model.weights[name], gradient, velocity[name], rate
            )
        model.moments["velocity"] = velocity
        model.weights.update(statistics)
        return StepResult(loss, gradients)

    def rule(self, w: Array, g: Array, v: Array, rate: float) -> tuple[Array, Array]:
        raise NotImplementedError


def _with_one_moment(
    recipe: TrainingRecipe, w: Array, g: Array, v: Array, rate: float
) -> tuple[Array, Array]:
    moved, moments = recipe.step("", w, g, {"velocity": v}, rate)
    return moved, moments["velocity"]


class _KerasVelocity(_OtherRule):
    """Velocity holds the learning rate, as in ``keras.optimizers.SGD``; scaled back for reading."""

    def rule(self, w: Array, g: Array, v: Array, rate: float) -> tuple[Array, Array]:
        g = g + self._recipe.weight_decay * w
        last = getattr(self, "last_rate", rate)
        v = self._recipe.momentum * v * (last / rate) + g
        return w - rate * (g + self._recipe.momentum * v), v

    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        result = super().step(x, labels, **options)
        self.last_rate = options["learning_rate"]
        return result


class _DecoupledDecay(_OtherRule):
    def rule(self, w: Array, g: Array, v: Array, rate: float) -> tuple[Array, Array]:
        v = self._recipe.momentum * v + g
        step = g + self._recipe.momentum * v
        return w - rate * (step + self._recipe.weight_decay * w), v


class _NoNesterov(_OtherRule):
    def rule(self, w: Array, g: Array, v: Array, rate: float) -> tuple[Array, Array]:
        v = self._recipe.momentum * v + g + self._recipe.weight_decay * w
        return w - rate * v, v


class _NoMomentumYet(NumpyTrainer):
    """Holds moments as an optimizer that makes its state at the first step."""

    def moments(self) -> dict[str, Arrays]:
        return {}


class _ConstantRate(NumpyTrainer):
    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        return super().step(x, labels, **options | {"learning_rate": self._recipe.learning_rate})


class _SummedLoss(NumpyTrainer):
    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        result = super().step(x, labels, **options)
        return StepResult(result.loss * len(labels), result.gradients)


class _Miscounts(NumpyBackend):
    def count_parameters(self, model: ReferenceModel) -> tuple[int, int]:
        trainable, other = super().count_parameters(model)
        return trainable + other, 0


class _LateRate(NumpyTrainer):
    """Steps by the learning rate of the next step, which it is told in advance."""

    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        self._steps = getattr(self, "_steps", -1) + 1
        early = self._recipe.learning_rate_at(self._steps + 1)
        return super().step(x, labels, **options | {"learning_rate": early})


class _RawKerasVelocity(_KerasVelocity):
    """Velocity as ``keras.optimizers.SGD`` keeps it: minus the rate times the gradient."""

    def moments(self) -> dict[str, Arrays]:
        held = super().moments()["velocity"]
        return {"velocity": {name: -self.last_rate * v for name, v in held.items()}}


class _Penalised(NumpyTrainer):
    """Reports the loss with the penalty that weight decay is the gradient of."""

    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        trainable = [w for name, w in self._model.weights.items() if ".running" not in name]
        penalty = sum(float((w * w).sum()) for w in trainable)
        result = super().step(x, labels, **options)
        return StepResult(result.loss + self._recipe.weight_decay / 2 * penalty, result.gradients)


class _DecayedGradients(NumpyTrainer):
    """Shows gradients to which weight decay was added in place."""

    def step(self, x: Array, labels: Array, **options: Any) -> StepResult:
        before = dict(self._model.weights)
        result = super().step(x, labels, **options)
        decay = self._recipe.weight_decay
        shown = {name: g + decay * before[name] for name, g in result.gradients.items()}
        return StepResult(result.loss, shown)


class _SparesNorms(_OtherRule):
    """Decays no weights of one dimension."""

    def rule(self, w: Array, g: Array, v: Array, rate: float) -> tuple[Array, Array]:
        decay = self._recipe.weight_decay if w.ndim > 1 else 0.0
        v = self._recipe.momentum * v + g + decay * w
        return w - rate * (g + decay * w + self._recipe.momentum * v), v


class _IgnoresLayerRates(NumpyTrainer):
    def __init__(self, model: ReferenceModel, recipe: TrainingRecipe) -> None:
        super().__init__(model, replace(recipe, layer_rates=()))


class _PerReplica(NumpyTrainer):
    def __init__(self, model: ReferenceModel, recipe: TrainingRecipe) -> None:
        super().__init__(model, replace(recipe, batch_norm="per-replica"))


class _Synchronised(NumpyTrainer):
    def __init__(self, model: ReferenceModel, recipe: TrainingRecipe) -> None:
        super().__init__(model, replace(recipe, batch_norm="synchronised"))


class _SummingModel(ReferenceModel):
    """Sums gradients over devices, as an all-reduce without a division does."""

    def _over_replicas(self, *args: Any) -> tuple[float, Arrays, Arrays]:
        loss, gradients, statistics = super()._over_replicas(*args)
        return loss, {name: 2 * g for name, g in gradients.items()}, statistics


class _FirstBuffers(ReferenceModel):
    """Keeps the running statistics of the first device."""

    def _over_replicas(
        self, x: Array, labels: Array, masks: Any, recipe: TrainingRecipe, count: int
    ) -> tuple[float, Arrays, Arrays]:
        loss, gradients, _ = super()._over_replicas(x, labels, masks, recipe, count)
        part = np.array_split(np.arange(len(x)), count)[0]
        own = {name: mask[part] for name, mask in masks.items()}
        statistics = self.loss_and_gradients(x[part], labels[part], masks=own)[2]
        return loss, gradients, statistics


class _Together(NumpyBackend):
    """Trains on several devices by another trainer or model."""

    def __init__(self, train: Any = NumpyTrainer, model: Any = ReferenceModel) -> None:
        self.train, self.model = train, model

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> Any:
        trainer = self.train(self.model(graph, weights), recipe)
        trainer.replicas = replicas
        return trainer


MUTANTS: Mapping[str, Mutant] = {
    "ONE_NORM_OF_ANOTHER_EPSILON": Mutant(
        "one norm of many has an epsilon of its own",
        STEM,
        "block2.layer2.norm1",
        (),
        lambda: MutantBackend(rewrite=_at("block2.layer2.norm1", epsilon=0.002)),
        says=("block2.layer2.norm1: epsilon is 0.002, not 1e-05",),
    ),
    "ONE_NORM_OF_ANOTHER_EPSILON_IN_TRAINING": Mutant(
        "the same, in training: it is seen in inference already",
        DROP,
        "step 1",
        (),
        lambda: MutantBackend(rewrite=_at("block2.layer2.norm1", epsilon=0.002)),
        says=(
            "in inference already, 1 of 47 ops is wrong by itself: block2.layer2.norm1: epsilon",
        ),
    ),
    "EPSILON_OF_KERAS": Mutant(
        "norms use Keras's epsilon of 1e-3",
        STEM,
        "stem.norm",
        ("eps-keras",),
        lambda: MutantBackend(_on(ops.BatchNorm, epsilon=1e-3)),
    ),
    "EPSILON_OF_KERAS_APPLICATIONS": Mutant(
        "norms use an epsilon of 1.001e-5",
        STEM,
        "stem.norm",
        ("eps-keras-applications",),
        lambda: MutantBackend(_on(ops.BatchNorm, epsilon=1.001e-5)),
    ),
    "SAME_PADDING": Mutant(
        "pads as TensorFlow's 'same'",
        STEM,
        "stem.conv",
        ("same-padding",),
        lambda: MutantBackend(_pad_like_tensorflow),
    ),
    "NO_TRANSITION_RELU": Mutant(
        "leaves out the transition's ReLU",
        STEM,
        "transition1.relu",
        ("no-transition-relu",),
        lambda: MutantBackend(kernels={ops.Relu: _NoRelu("transition")}),
    ),
    "NO_FINAL_RELU": Mutant(
        "leaves out the final ReLU",
        STEM,
        "final.relu",
        ("no-final-relu",),
        lambda: MutantBackend(kernels={ops.Relu: _NoRelu("final")}),
    ),
    "RELU_WITHOUT_NAN": Mutant(
        "ReLUs make 0 of NaN",
        "not-finite/nan-images",
        "stem.relu",
        (),
        lambda: MutantBackend(kernels={ops.Relu: _ReluWithoutNan()}),
    ),
    "MAX_POOL_WITHOUT_NAN": Mutant(
        "the max pool takes NaN for the least number",
        "not-finite/nan-weights",
        "stem_pool",
        (),
        lambda: MutantBackend(kernels={ops.MaxPool: _MaxPoolWithoutNan()}),
    ),
    "ZERO_PADDED_MAX_POOL": Mutant(
        "the max pool is padded with zeros",
        NEGATIVE,
        "stem_pool",
        (),
        lambda: MutantBackend(kernels={ops.MaxPool: _ZeroPaddedMaxPool()}),
    ),
    "AVERAGE_POOL_IN_STEM": Mutant(
        "the stem averages where it should take the maximum",
        STEM,
        "stem_pool",
        (),
        lambda: MutantBackend(kernels={ops.MaxPool: _AveragePoolInStem()}),
    ),
    "REVERSED_CONCAT": Mutant(
        "new feature maps come first",
        STEM,
        "block1.concat1",
        ("concat-reversed",),
        lambda: MutantBackend(kernels={ops.Concat: _ReversedConcat()}),
    ),
    "FLIPPED_KERNELS": Mutant(
        "convolves where it should correlate",
        STEM,
        "stem.conv",
        ("flipped-kernels",),
        lambda: MutantBackend(kernels={ops.Conv: _FlippedConv()}),
    ),
    "TRANSPOSED_KERNEL": Mutant(
        "a kernel's height and width are swapped",
        ROUND_TRIP,
        "stem.conv.kernel",
        ("stem-kernel-turned",),
        lambda: MutantBackend(load=_transposed),
    ),
    "NO_CONV_BIAS": Mutant(
        "ignores biases of convolutions",
        "forward/convolutions-with-bias",
        "stem.conv",
        ("no-conv-bias",),
        lambda: MutantBackend(kernels={ops.Conv: _UnbiasedConv()}),
    ),
    "SHIFTED_NORMS": Mutant(
        "gammas and betas are changed on loading",
        STEM,
        "stem.norm",
        (),
        lambda: MutantBackend(load=_swap_gamma_and_beta),
    ),
    "FLOAT32_INSIDE": Mutant(
        "computes in float32 when asked for float64",
        STEM,
        "stem.conv",
        ("float32-inside",),
        lambda: MutantBackend(kernels={ops.Conv: _Float32Conv()}),
    ),
    "LOG_SOFTMAX": Mutant(
        "gives log-probabilities",
        SOFTMAX,
        "softmax",
        ("log-softmax",),
        lambda: MutantBackend(kernels={ops.Softmax: _LogSoftmax()}),
    ),
    "DROPOUT_SCALES_INFERENCE": Mutant(
        "scales in inference, as dropout was first published",
        NO_DROPOUT,
        "stem.dropout",
        ("dropout-scales-inference",),
        lambda: MutantBackend(kernels={ops.Dropout: _DropoutInInference()}),
    ),
    "UNSCALED_DROPOUT": Mutant(
        "does not scale what dropout keeps",
        MASKS,
        "step 1, loss",
        (),
        lambda: MutantBackend(kernels={ops.Dropout: _UnscaledDropout()}),
        says=("what is kept is not scaled",),
    ),
    "IGNORED_DROPOUT": Mutant(
        "has no dropout",
        MASKS,
        "step 1, loss",
        (),
        lambda: MutantBackend(kernels={ops.Dropout: _IgnoredDropout()}),
        says=("all 7 dropouts: it drops nothing",),
    ),
    "BIASED_VARIANCE": Mutant(
        "running variance divides by n",
        DROP,
        "step 1, running statistic stem.norm.running_variance",
        (),
        lambda: MutantBackend(_on(ops.BatchNorm, unbiased=False)),
        says=("all 13 norms: its running variance is divided by n (",),
    ),
    "UNBIASED_VARIANCE": Mutant(
        "running variance divides by n - 1 where the spec says n",
        BIASED,
        "step 1, running statistic stem.norm.running_variance",
        (),
        lambda: MutantBackend(_on(ops.BatchNorm, unbiased=True)),
        says=("all 9 norms: its running variance is divided by n - 1",),
    ),
    "MOMENTUM_OF_KERAS": Mutant(
        "takes norm momentum for the weight of the old value",
        DROP,
        "step 1, running statistic stem.norm.running_mean",
        (),
        lambda: MutantBackend(_on(ops.BatchNorm, momentum=0.9)),
        says=("the new value's weight in its running statistics is 0.9, not 0.1",),
    ),
    "STALE_STATISTICS": Mutant(
        "never updates running statistics",
        DROP,
        "step 1, running statistic stem.norm.running_mean",
        (),
        lambda: MutantBackend(kernels={ops.BatchNorm: _StaleStatistics()}),
        says=("all 13 norms: its running statistics are not updated",),
    ),
    "RUNNING_STATISTICS_IN_TRAINING": Mutant(
        "normalises by running statistics in training",
        DROP,
        "step 1, loss",
        (),
        lambda: MutantBackend(kernels={ops.BatchNorm: _RunningStatisticsInTraining()}),
    ),
    "NORM_WITHOUT_BATCH_GRADIENT": Mutant(
        "no gradient flows through the batch's mean and variance",
        DROP,
        "step 1, gradient",
        (),
        lambda: MutantBackend(kernels={ops.BatchNorm: _NormWithoutBatchGradient()}),
        says=("all 13 norms: no gradient flows through its mean and variance",),
    ),
    "FORGETS_MOMENTUM_BEFORE_IT_STEPS": Mutant(
        "has no momentum before its first step, not even what it was given",
        MOMENTS,
        "names",
        (),
        lambda: MutantBackend(train=_NoMomentumYet),
    ),
    "KERAS_VELOCITY": Mutant(
        "velocity holds the learning rate",
        DROP,
        "step 7, velocity",
        (),
        lambda: MutantBackend(train=_KerasVelocity),
        says=("velocity holds the learning rate, so a drop does not reach",),
    ),
    "DECOUPLED_DECAY": Mutant(
        "weight decay is decoupled",
        DECAY,
        "step 1, velocity",
        (),
        lambda: MutantBackend(train=_DecoupledDecay),
        says=("weight decay is decoupled from the gradient",),
    ),
    "NO_NESTEROV": Mutant(
        "leaves out Nesterov's look ahead",
        DROP,
        "step 1, weight",
        (),
        lambda: MutantBackend(train=_NoNesterov),
        says=("optimizer of all 40 weights: momentum does not look ahead",),
    ),
    "DECAYS_EVERYTHING": Mutant(
        "decays norms and biases where only kernels should",
        KERNELS_ONLY,
        "step 1, velocity",
        (),
        lambda: MutantBackend(
            train=type(
                "_DecaysEverything",
                (_OtherRule,),
                {
                    "rule": lambda self, w, g, v, rate: _with_one_moment(
                        TrainingRecipe(weight_decay=self._recipe.weight_decay), w, g, v, rate
                    )
                },
            )
        ),
        says=("optimizer of every bias, gamma and beta: norms and biases have weight decay too",),
    ),
    "CONSTANT_RATE": Mutant(
        "ignores the drop of the learning rate",
        DROP,
        "step 7, weight",
        (),
        lambda: MutantBackend(train=_ConstantRate),
        says=("learning rate: the learning rate does not drop",),
    ),
    "SUMMED_LOSS": Mutant(
        "reports the loss summed over the batch",
        DROP,
        "step 1, loss",
        (),
        lambda: MutantBackend(train=_SummedLoss),
        says=("loss: the loss that is reported is summed over the batch",),
    ),
    "OTHER_SEED": Mutant(
        "initial weights are its own",
        SEED,
        "stem.conv.kernel",
        (),
        lambda: MutantBackend(load=lambda name, array: array * np.float32(0.99)),
    ),
    "MISCOUNTS": Mutant(
        "counts running statistics as trainable",
        COUNTS,
        "trainable parameters",
        ("statistics-counted-as-trainable",),
        lambda: _Miscounts(),
    ),
    "EARLY_RATE": Mutant(
        "the learning rate drops a step early",
        DROP,
        "step 6, weight",
        (),
        lambda: MutantBackend(train=_LateRate),
        says=("learning rate: the learning rate drops one step early",),
    ),
    "RAW_KERAS_VELOCITY": Mutant(
        "velocity is minus the learning rate times the gradient",
        DROP,
        "step 1, velocity",
        (),
        lambda: MutantBackend(train=_RawKerasVelocity),
        says=("velocity holds the learning rate, with its sign turned",),
    ),
    "PENALISED_LOSS": Mutant(
        "the loss that is reported contains weight decay's penalty",
        DECAY,
        "step 1, loss",
        (),
        lambda: MutantBackend(train=_Penalised),
        says=("loss: the loss that is reported contains the penalty of weight decay",),
    ),
    "DECAYED_GRADIENTS": Mutant(
        "weight decay was added to the gradients in place",
        DECAY,
        "step 1, gradient",
        (),
        lambda: MutantBackend(train=_DecayedGradients),
        says=("as it is shown, contains weight decay of 0.1",),
    ),
    "SPARES_VECTORS": Mutant(
        "norms and biases are spared from decay where they should not be",
        DECAY,
        "step 1, velocity block1.layer1.norm1.gamma",
        (),
        lambda: MutantBackend(train=_SparesNorms),
        says=("optimizer of every gamma, beta and bias: there is no weight decay",),
    ),
    "IGNORES_LAYER_RATES": Mutant(
        "every layer has the same learning rate",
        LAYER_RATES,
        "step 1, weight",
        (),
        lambda: MutantBackend(train=_IgnoresLayerRates),
        says=("every part of the network has the same learning rate",),
    ),
    "SLOW_MOMENTUM": Mutant(
        "norm momentum is PyTorch's where the spec has Keras's",
        BIASED,
        "step 1, running statistic stem.norm.running_mean",
        (),
        lambda: MutantBackend(_on(ops.BatchNorm, momentum=0.1)),
        says=("the new value's weight in its running statistics is 0.1, not 0.01",),
    ),
    "STATISTICS_APART": Mutant(
        "each device normalises by its own statistics where they should be synchronised",
        TOGETHER,
        "step 1, loss",
        (),
        lambda: _Together(_PerReplica),
        says=("each device normalises by its own part of the batch",),
    ),
    "STATISTICS_TOGETHER": Mutant(
        "norms are synchronised where each device should have its own",
        APART,
        "step 1, loss",
        (),
        lambda: _Together(_Synchronised),
        says=("all devices normalise by the whole batch",),
    ),
    "SUMMED_OVER_DEVICES": Mutant(
        "gradients are summed over the devices",
        APART,
        "step 1, gradient",
        (),
        lambda: _Together(model=_SummingModel),
        says=("gradients are summed over the devices, not averaged",),
    ),
    "BUFFERS_OF_THE_FIRST_DEVICE": Mutant(
        "running statistics are broadcast from the first device",
        APART,
        "step 1, running statistic",
        (),
        lambda: _Together(model=_FirstBuffers),
        says=("running statistics are those of the first device",),
    ),
}
