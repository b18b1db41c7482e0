"""Defines ``DenseNetSpec``: everything that makes one DenseNet differ from another, no more.

Each field has a numbered constraint (S1, S2, ...); error messages cite the number, and
``docs/spec.md`` explains it. Defaults describe the plain DenseNet of the paper's section 3 (Huang
et al., "Densely Connected Convolutional Networks", CVPR 2017): no bottleneck (B), no compression
(C), a 3x3 stem; everything else has to be chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from densespec.errors import SpecError
from densespec.network.fields import (
    Choice,
    Either,
    Flag,
    Integer,
    Integers,
    Interval,
    OrNone,
    Record,
    constrained,
    parse_fields,
)

STEM_KINDS = ("conv", "conv-norm-relu", "norm-relu-conv", "deep")
DROPOUT_PLACES = ("conv", "every-conv", "layer")
STEM_POOL_KINDS = ("max", "max-blur")
TRANSITION_POOL_KINDS = ("avg", "blur")
GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax")
ACTIVATION_KINDS = ("relu", "leaky-relu", "elu", "silu", "gelu", "gelu-tanh", "relu6", "prelu")
NORMS = ("batch", "instance", "group", "none")

MOST_LAYERS = 10_000
"""A network has at most this many dense layers; the deepest published one has 125."""
MOST_CLASSES = 1_000_000
WIDEST = 1000
"""A window of the stem spans at most this many pixels, and moves by at most as many."""
MOST_HEADS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseNetSpec(Record):
    """Describes a DenseNet as data: frozen, hashable, and checked when it is made.

    Raises:
        SpecError: A value is not allowed; the message names the field, its value and the allowed
            values.
    """

    NOUN: ClassVar[str] = "spec"

    blocks: tuple[int, ...] = constrained(
        "S1", Integers(1), "number of dense layers in each dense block"
    )
    growth_rate: int = constrained(
        "S2", Integer(1), "k, the feature maps that each dense layer adds"
    )
    bottleneck_width: int | None = constrained(
        "S3",
        OrNone(Integer(1)),
        "B: feature maps of the 1x1 convolution before each 3x3 one, as a multiple of k; "
        "none for no bottleneck",
        default=None,
    )
    compression: float = constrained(
        "S4",
        Interval(0, 1, open_lower=True),
        "C: theta, a transition keeps floor(theta * m) of m feature maps; 1 keeps all",
        default=1.0,
    )
    in_channels: int = constrained("S5", Integer(1), "channels of the input", default=3)
    classes: int = constrained(
        "S6", Integer(1, MOST_CLASSES), "outputs of the classifier", default=1000
    )
    spatial_dims: int = constrained(
        "S7", Integer(1, 3), "spatial dimensions of the input: 2 for images", default=2
    )
    stem_kind: Literal["conv", "conv-norm-relu", "norm-relu-conv", "deep"] = constrained(
        "S8",
        Choice(STEM_KINDS),
        "operations before the first block, in order; 'norm-relu-conv' normalises the input "
        "itself, and 'deep' is conv-norm-relu three times, the first two of half the width",
        default="conv",
    )
    stem_width: int | Literal["2k"] = constrained(
        "S9",
        Either(Integer(1), Choice(("2k",))),
        "feature maps of the stem: a number, or twice the growth rate",
        default=16,
    )
    stem_kernel: int = constrained("S10", Integer(1, WIDEST), "kernel size of the stem", default=3)
    stem_stride: int = constrained(
        "S11", Integer(1, WIDEST), "stride of the stem convolution", default=1
    )
    stem_pool: int | None = constrained(
        "S12",
        OrNone(Integer(2, WIDEST)),
        "window of the max pool (stride 2) that ends the stem; none for no pool",
        default=None,
    )
    padding: Literal["symmetric", "same"] = constrained(
        "S13",
        Choice(("symmetric", "same")),
        "of the stem convolution and the max pool: (n-1)/2 on both sides, or TensorFlow's 'same', "
        "which puts less at the start when strided",
        default="symmetric",
    )
    conv_bias: bool = constrained("S14", Flag(), "whether convolutions have a bias", default=False)
    batch_norm_epsilon: float = constrained(
        "S15",
        Interval(0, 1, open_lower=True),
        "added to the variance before its square root",
        default=1e-5,
    )
    batch_norm_momentum: float = constrained(
        "S16",
        Interval(0, 1, open_lower=True),
        "weight of the new value in running statistics (PyTorch's momentum, 1 - Keras's)",
        default=0.1,
    )
    running_variance: Literal["unbiased", "biased"] = constrained(
        "S17",
        Choice(("unbiased", "biased")),
        "what running variance averages: the batch variance over n-1 (Torch7, PyTorch) or n "
        "(Keras) values; normalisation itself always divides by n",
        default="unbiased",
    )
    transition_relu: bool = constrained(
        "S18", Flag(), "whether transitions have a ReLU after their norm", default=True
    )
    final_norm: bool = constrained(
        "S19", Flag(), "whether a norm and a ReLU come before the global pool", default=True
    )
    dropout_rate: float = constrained(
        "S20",
        Interval(0, 1, open_upper=True),
        "probability of dropping a value in training; 0 for none",
        default=0.0,
    )
    dropout_place: Literal["conv", "every-conv", "layer"] = constrained(
        "S21",
        Choice(DROPOUT_PLACES),
        "where dropout stands: after each convolution but the stem's (the paper), after every "
        "convolution, or at the end of each dense layer (torchvision)",
        default="conv",
    )
    head_units: tuple[int, ...] = constrained(
        "S25",
        Integers(1, may_be_empty=True, most=MOST_HEADS),
        "units of dense layers, each with a ReLU, between the global pool and the classifier, as "
        "transfer learning adds them; none in any published DenseNet",
        default=(),
    )
    head_dropout_rate: float = constrained(
        "S28",
        Interval(0, 1, open_upper=True),
        "probability of dropping a value before the classifier in training; 0 for none",
        default=0.0,
        silent=True,
    )
    classifier_bias: bool = constrained(
        "S29", Flag(), "whether the classifier has a bias", default=True, silent=True
    )
    global_pool: Literal["avg", "max", "avgmax", "catavgmax"] = constrained(
        "S30",
        Choice(GLOBAL_POOLS),
        "what the classifier reads of each feature map: its mean, its maximum, the mean of the "
        "two, or all means and then all maxima",
        default="avg",
        silent=True,
    )
    stem_pool_kind: Literal["max", "max-blur"] = constrained(
        "S31",
        Choice(STEM_POOL_KINDS),
        "how the stem's pool halves the size: by its own stride, or by a blur behind it",
        default="max",
        silent=True,
    )
    transition_pool_kind: Literal["avg", "blur"] = constrained(
        "S32",
        Choice(TRANSITION_POOL_KINDS),
        "how transitions halve the size: by means over windows of 2, or by a blur",
        default="avg",
        silent=True,
    )
    activation: Literal[
        "relu", "leaky-relu", "elu", "silu", "gelu", "gelu-tanh", "relu6", "prelu"
    ] = constrained(
        "S34",
        Choice(ACTIVATION_KINDS),
        "what stands wherever the paper has a ReLU; dense layers before the classifier keep it; "
        "'gelu' is exact, by the error function, and 'prelu' has one slope for all channels",
        default="relu",
        silent=True,
    )
    activation_slope: float = constrained(
        "S35",
        Interval(0, 1, open_lower=True),
        "slope of a leaky ReLU below zero; other activations have none",
        default=0.01,
        silent=True,
    )
    norm: Literal["batch", "instance", "group", "none"] = constrained(
        "S36",
        Choice(NORMS),
        "what stands wherever the paper has a batch norm: over the batch, over each channel of a "
        "sample, over groups of channels of a sample, or nothing",
        default="batch",
        silent=True,
    )
    norm_groups: int = constrained(
        "S37",
        Integer(1),
        "groups of channels of a group norm; the channels of every norm are a multiple of it",
        default=32,
        silent=True,
    )
    norm_affine: bool = constrained(
        "S38",
        Flag(),
        "whether norms have a trained scale and shift of each channel",
        default=True,
        silent=True,
    )

    def __post_init__(self) -> None:
        parse_fields(self)
        if self.padding == "symmetric" and self.stem_kernel % 2 == 0:
            raise SpecError(
                "S22", "stem_kernel", self.stem_kernel, "odd where padding is 'symmetric'"
            )
        if sum(self.blocks) > MOST_LAYERS:
            raise SpecError("S26", "blocks", self.blocks, f"at most {MOST_LAYERS} layers in all")
        if self.stem_kind == "deep" and self.stem_channels < 2:
            raise SpecError("S33", "stem_width", self.stem_width, "at least 2 in a deep stem")
        kept = self.stem_channels
        for layers in self.blocks[:-1]:
            channels = kept + layers * self.growth_rate
            kept = self.compressed(channels)
            if kept < 1:
                raise SpecError(
                    "S23",
                    "compression",
                    self.compression,
                    f"large enough to keep at least 1 of {channels} feature maps",
                )

    @property
    def stem_channels(self) -> int:
        """Return the number of feature maps after the stem, with the ``2k`` rule worked out."""
        return 2 * self.growth_rate if self.stem_width == "2k" else self.stem_width

    @property
    def shrinks_early(self) -> bool:
        """Say whether the stem makes images smaller.

        Such networks are for large images, as in ImageNet, and the others for small ones, as in
        CIFAR.
        """
        return self.stem_stride > 1 or self.stem_pool is not None

    def compressed(self, channels: int) -> int:
        """Count the feature maps that a transition keeps: floor(theta * m), as in the paper."""
        return math.floor(self.compression * channels)

    @property
    def depth(self) -> int:
        """Count the layers as the paper does: the convolutions and the classifier."""
        per_layer = 1 if self.bottleneck_width is None else 2
        stem = 3 if self.stem_kind == "deep" else 1
        return stem + per_layer * sum(self.blocks) + len(self.blocks)
