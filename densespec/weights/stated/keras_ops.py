"""Says what the layers of a Keras model compute, in the ops of a network's graph.

A layer that does nothing in inference is left out, with a note. A layer that computes what no graph
has is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from densespec.errors import shown
from densespec.network import ops
from densespec.network.graph import ACTIVATIONS
from densespec.weights.stated.keras_layers import OWN, StatedLayer, StatedModel, understood
from densespec.weights.stated.network import StatedOtherwise

TRANSPARENT = ("Identity", "ActivityRegularization", "Flatten")
"""These layers pass on what they read; a Flatten does so only after the global pool."""

TRAINING_ONLY = (
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
)
"""These layers act in training alone, unless they are called with ``training=True``."""

DIFFERENT_IN_TRAINING = ("BatchNormalization", "Dropout")

RELU_OPTIONS = ("max_value", "negative_slope", "threshold")

AUGMENTATIONS = ("AugMix", "CutMix", "MixUp", "RandAugment")
"""These layers change images in training alone, as do those whose names begin with Random."""

RESCALING = (
    "Rescaling",
    "Normalization",
    "Lambda",
    "TrueDivide",
    "Divide",
    "Multiply",
    "Subtract",
    "TFOpLambda",
    "TensorFlowOpLayer",
)
"""People put these layers in front of a network so that it takes other images."""


@dataclass(frozen=True)
class StatedOp:
    """Describes an op that a layer computes.

    Attributes:
        op: One of :data:`densespec.network.ops.Op`.
        sources: The names of the ops that it reads.
        says_same: Whether the layer pads by Keras's word "same".
    """

    name: str
    layer: StatedLayer
    op: Any
    sources: tuple[str, ...]
    shape: ops.Shape
    says_same: bool = False


@dataclass
class StatedOps:
    """Holds the ops of a model in order, by name.

    Attributes:
        output: The name of the op whose value the model gives.
        left_out: The layers that act in training alone, and are no ops.
    """

    by_name: dict[str, StatedOp] = field(default_factory=dict)
    output: str = ""
    left_out: list[StatedLayer] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Say in sentences what was left out."""
        return [f"{layer} acts only in training, and is left out" for layer in self.left_out]

    def of(self, *kinds: type[Any]) -> list[StatedOp]:
        """Return the ops of one of some kinds, in order."""
        return [op for op in self.by_name.values() if isinstance(op.op, kinds)]

    def source(self, op: StatedOp) -> StatedOp:
        """Return the first op that an op reads."""
        return self.by_name[op.sources[0]]


@dataclass(frozen=True)
class _Pads:
    """Pads that a layer of its own puts around a value, for the next layer to slide over."""

    pads: ops.Pads
    fill: float


def ops_of(model: StatedModel) -> StatedOps:
    """Say what the layers of a model compute.

    Raises:
        StatedOtherwise: A layer computes what no graph has; the message names it, and what it says.
    """
    return _Reader(model).read()


class _Reader:
    def __init__(self, model: StatedModel) -> None:
        self.model = model
        self.channels_first = _is_channels_first(model)
        self.found = StatedOps()
        self.values: dict[str, str] = {}  # The op whose value a layer gives, by the layer's name
        self.pads: dict[str, _Pads] = {}

    def read(self) -> StatedOps:
        for layer in self.model.layers:
            try:
                with understood(f"{layer} can't be understood"):
                    self.values[layer.name] = self._read(layer)
            except StatedOtherwise as error:
                error.layer = layer.name
                raise
        if self.model.output in self.pads:
            raise StatedOtherwise(f"it ends in the padding of layer {shown(self.model.output)}")
        self.found.output = self.values[self.model.output]
        return self.found

    def _read(self, layer: StatedLayer) -> str:
        kind, plain = layer.kind, layer.kind.rstrip("D").rstrip("123")
        if layer.arguments.get("training") and kind in (*TRAINING_ONLY, *DIFFERENT_IN_TRAINING):
            raise StatedOtherwise(
                f"{layer} is called with training=True, whatever the model does, which no spec "
                "can say"
            )
        if layer.registered and not _is_own(layer) and kind != "Pad":
            raise _unknown(layer)
        if kind == "InputLayer":
            return self._input(layer)
        if plain == "ZeroPadding" or kind == "Pad":
            self.pads[layer.name] = self._padding(layer)
            return self._source(layer)
        if plain in _SLIDING:
            return _SLIDING[plain](self, layer)
        self._check_unpadded(layer)
        if kind in _KINDS:
            return _KINDS[kind](self, layer)
        if plain in ("GlobalAveragePooling", "GlobalMaxPooling"):
            return self._global_pool(layer, "max" if "Max" in plain else "avg")
        if kind == "BlurPooling" and _is_own(layer):
            self._check_format(layer)
            window = tuple(layer.config["pool_size"])
            return self._add(layer, ops.BlurPool(window, layer.config["strides"]))
        if kind == "GlobalPooling" and _is_own(layer):
            return self._global_pool(layer, layer.config["kind"])
        return self._passed_over(layer)

    # What passes on what it reads

    def _passed_over(self, layer: StatedLayer) -> str:
        source = self._source(layer)
        if layer.kind == "Flatten" and len(self.found.by_name[source].shape) != 1:
            raise StatedOtherwise(f"{layer} stands where a spec has a global pool")
        if layer.kind in TRANSPARENT:
            return source
        if layer.kind in TRAINING_ONLY or _is_augmentation(layer):
            self.found.left_out.append(layer)
            return source
        raise _unknown(layer)

    def _permute(self, layer: StatedLayer) -> str:
        source = self.found.by_name[self._source(layer)]
        dims = len(source.shape) - 1
        inwards = [*range(2, dims + 2), 1]
        outwards = [dims + 1, *range(1, dims + 1)]
        order = list(layer.config["dims"])
        if isinstance(source.op, ops.Input) and order in (inwards, outwards):
            shape = self._canonical([self._ordered(source.shape)[axis - 1] for axis in order])
            self.found.by_name[source.name] = StatedOp(
                source.name, source.layer, ops.Input(shape), (), shape
            )
        elif layer.name != self.model.output or order not in (inwards, outwards):
            raise _unknown(layer)
        return source.name

    # Ops

    def _input(self, layer: StatedLayer) -> str:
        shape = layer.config.get("batch_shape") or layer.config["batch_input_shape"]
        canonical = self._canonical(shape[1:])
        turned = any(
            each.kind == "Permute" and layer.name in each.sources for each in self.model.layers
        )
        known = canonical[0] or (turned and shape[1])
        if not all(size is None or type(size) is int for size in canonical) or not known:
            raise StatedOtherwise(
                f"{layer} has the shape {shown(shape)}, without a channels' number"
            )
        return self._add(layer, ops.Input(canonical))

    def _conv(self, layer: StatedLayer) -> str:
        config, source = layer.config, self._value(layer)
        window = tuple(config["kernel_size"])
        _check(layer, "dilation_rate", set(config.get("dilation_rate", [1])) == {1}, 1)
        _check(layer, "groups", config.get("groups", 1) == 1, 1)
        stride = _stride(layer, config["strides"])
        padding, says_same = self._pads_of(layer, window, stride)
        channels = source.shape[0] or 0
        op = ops.Conv(
            channels, _count(layer, "filters"), window, stride, padding, config["use_bias"]
        )
        name = self._add(layer, op, says_same=says_same)
        return self._activated(layer, name)

    def _max_pool(self, layer: StatedLayer) -> str:
        window = tuple(layer.config["pool_size"])
        stride = _stride(layer, layer.config["strides"] or window)
        padding, says_same = self._pads_of(layer, window, stride)
        return self._add(layer, ops.MaxPool(window, stride, padding), says_same=says_same)

    def _avg_pool(self, layer: StatedLayer) -> str:
        self._check_unpadded(layer)
        window = tuple(layer.config["pool_size"])
        _check(layer, "padding", layer.config["padding"] == "valid", "valid")
        self._check_format(layer)
        return self._add(
            layer, ops.AvgPool(window, _stride(layer, layer.config["strides"] or window))
        )

    def _global_pool(self, layer: StatedLayer, kind: Any) -> str:
        self._check_format(layer)
        _check(layer, "keepdims", not layer.config.get("keepdims"), False)
        return self._add(layer, ops.GlobalPool(kind))

    def _norm(self, layer: StatedLayer) -> str:
        config, source = layer.config, self._value(layer)
        if len(source.shape) == 1:
            raise StatedOtherwise(f"{layer} stands in the head, where a spec has no norms")
        axis = config["axis"][0] if isinstance(config["axis"], list) else config["axis"]
        self._check_axis(layer, axis, len(source.shape))
        affine = config.get("scale", True)
        _check(layer, "center", config.get("center", True) is affine, affine)
        channels, epsilon = source.shape[0] or 0, config["epsilon"]
        if layer.kind == "GroupNormalization":
            groups = channels if config["groups"] == -1 else config["groups"]
            return self._add(layer, ops.GroupNorm(channels, groups, epsilon, affine))
        op = ops.BatchNorm(
            channels=channels,
            epsilon=epsilon,
            momentum=round(1 - config["momentum"], 12),
            unbiased=layer.registered == f"{OWN}BatchNormalization",
            affine=affine,
        )
        return self._add(layer, op)

    def _concat(self, layer: StatedLayer) -> str:
        rank = len(self._value(layer).shape)
        self._check_axis(layer, layer.config.get("axis", -1), rank)
        return self._add(layer, ops.Concat())

    def _dropout(self, layer: StatedLayer) -> str:
        rate = layer.config["rate"]
        _check(layer, "rate", type(rate) in (int, float) and 0 <= rate < 1, "a number in [0, 1)")
        return self._add(layer, ops.Dropout(rate))

    def _dense(self, layer: StatedLayer) -> str:
        source = self._value(layer)
        if len(source.shape) != 1:
            raise StatedOtherwise(
                f"{layer} reads a feature map, but a spec has a global pool before it"
            )
        bias = layer.config.get("use_bias", True)
        name = self._add(layer, ops.Dense(source.shape[0] or 0, _count(layer, "units"), bias))
        return self._activated(layer, name)

    def _relu(self, layer: StatedLayer) -> str:
        options = {name: layer.config.get(name) or 0 for name in RELU_OPTIONS}
        if options == {"max_value": 6, "negative_slope": 0, "threshold": 0}:
            return self._add(layer, ops.Activation("relu6"))
        for name in ("max_value", "threshold"):
            _check(layer, name, not options[name], 0)
        slope = options["negative_slope"]
        return self._add(layer, _leaky(layer, slope) if slope else ops.Relu())

    def _leaky_relu(self, layer: StatedLayer) -> str:
        slope = layer.config.get("negative_slope", layer.config.get("alpha"))
        return self._add(layer, _leaky(layer, slope))

    def _elu(self, layer: StatedLayer) -> str:
        _check(layer, "alpha", layer.config.get("alpha", 1.0) == 1.0, 1.0)
        return self._add(layer, ops.Activation("elu"))

    def _prelu(self, layer: StatedLayer) -> str:
        return self._add(layer, ops.PRelu())

    def _gelu(self, layer: StatedLayer) -> str:
        return self._add(layer, ops.Activation("gelu"))

    def _tanh_gelu(self, layer: StatedLayer) -> str:
        return self._add(layer, ops.Activation("gelu-tanh"))

    def _softmax(self, layer: StatedLayer) -> str:
        axis, rank = layer.config.get("axis", -1), len(self._value(layer).shape)
        _check(layer, "axis", axis in (-1, [-1], rank), -1)
        return self._add(layer, ops.Softmax())

    def _activation(self, layer: StatedLayer) -> str:
        return self._activated(layer, self._source(layer))

    def _activated(self, layer: StatedLayer, source: str) -> str:
        """Add what a layer does to its value at last."""
        stated = _activation_of(layer.config.get("activation"))
        if stated == "linear":
            return source
        if stated not in _ACTIVATIONS:
            raise StatedOtherwise(
                f"{layer} has the activation {shown(stated)}, but a spec has ReLU or another "
                f"(activation), and at the end {' or '.join(ACTIVATIONS)} (classifier_activation)"
            )
        return self._put(f"{layer.name} {stated}", layer, _ACTIVATIONS[stated], (source,))

    # Reading

    def _source(self, layer: StatedLayer) -> str:
        (source,) = layer.sources
        return self.values[source]

    def _value(self, layer: StatedLayer) -> StatedOp:
        return self.found.by_name[self.values[layer.sources[0]]]

    def _add(self, layer: StatedLayer, op: ops.Op, *, says_same: bool = False) -> str:
        sources = tuple(self.values[source] for source in layer.sources)
        return self._put(layer.name, layer, op, sources, says_same)

    def _put(
        self,
        name: str,
        layer: StatedLayer,
        op: ops.Op,
        sources: tuple[str, ...],
        says_same: bool = False,
    ) -> str:
        shape = op.output(*(self.found.by_name[source].shape for source in sources))
        self.found.by_name[name] = StatedOp(name, layer, op, sources, shape, says_same)
        return name

    def _canonical(self, shape: Any) -> ops.Shape:
        return tuple(shape) if self.channels_first else (shape[-1], *shape[:-1])

    def _ordered(self, shape: ops.Shape) -> ops.Shape:
        return shape if self.channels_first else (*shape[1:], shape[0])

    # Padding and formats

    def _padding(self, layer: StatedLayer) -> _Pads:
        self._check_unpadded(layer)
        if layer.kind == "Pad":
            _check(layer, "mode", layer.config["mode"] == "constant", "constant")
            _, *pads = self._canonical(layer.config["pad_width"][1:])
            return _Pads(_pairs(pads), layer.arguments.get("constant_values") or 0.0)
        self._check_format(layer)
        pads = layer.config["padding"]
        single = layer.kind.endswith("1D") and not isinstance(pads[0], list)
        return _Pads(_pairs([pads] if single else pads), 0.0)

    def _pads_of(
        self, layer: StatedLayer, window: tuple[int, ...], stride: int
    ) -> tuple[ops.Padding, bool]:
        """Return the pads that a layer slides over, and whether it says "same"."""
        self._check_format(layer)
        (before,) = layer.sources
        outside = self.pads.get(before)
        stated = layer.config["padding"]
        source = self._value(layer)
        if stated == "same" and outside is None:
            return self._same(source, window, stride), True
        _check(layer, "padding", stated == "valid", "valid")
        if outside is None:
            return ((0, 0),) * len(window), False
        fill = -float("inf") if "Max" in layer.kind else 0.0
        if outside.fill != fill and not _never_negative(source.op):
            raise StatedOtherwise(
                f"{layer} slides over pads of {outside.fill}, but a spec pads with {fill}"
            )
        return outside.pads, False

    def _same(self, source: StatedOp, window: tuple[int, ...], stride: int) -> ops.Padding:
        if stride == 1 and all(width % 2 for width in window):
            return tuple((width // 2, width // 2) for width in window)
        return ops.resolve_padding("same", source.shape[1:], window, stride)

    def _check_unpadded(self, layer: StatedLayer) -> None:
        for source in layer.sources:
            if source in self.pads:
                raise StatedOtherwise(
                    f"{layer} reads the padding of layer {shown(source)}, but a spec pads "
                    "convolutions and max pools alone"
                )

    def _check_format(self, layer: StatedLayer) -> None:
        expected = "channels_first" if self.channels_first else "channels_last"
        stated = layer.config.get("data_format") or expected
        _check(layer, "data_format", stated == expected, expected)

    def _check_axis(self, layer: StatedLayer, axis: int, rank: int) -> None:
        """Check that an axis is the channels', in a value of this rank without the batch."""
        right = (1,) if self.channels_first and rank > 1 else (-1, rank)
        _check(layer, "axis", axis in right, right[0])


_Read = Callable[[_Reader, StatedLayer], str]
_SLIDING: Mapping[str, _Read] = {
    "Conv": _Reader._conv,
    "Convolution": _Reader._conv,
    "MaxPooling": _Reader._max_pool,
    "AveragePooling": _Reader._avg_pool,
}
_KINDS: Mapping[str, _Read] = {
    "BatchNormalization": _Reader._norm,
    "BiasedSynchronised": _Reader._norm,
    "GroupNormalization": _Reader._norm,
    "LeakyReLU": _Reader._leaky_relu,
    "ELU": _Reader._elu,
    "PRelu": _Reader._prelu,
    "Gelu": _Reader._gelu,
    "TanhGelu": _Reader._tanh_gelu,
    "Concatenate": _Reader._concat,
    "Dropout": _Reader._dropout,
    "Dense": _Reader._dense,
    "ReLU": _Reader._relu,
    "Softmax": _Reader._softmax,
    "Activation": _Reader._activation,
    "Permute": _Reader._permute,
}
_ACTIVATIONS: Mapping[str, ops.Op] = {
    "relu": ops.Relu(),
    "elu": ops.Activation("elu"),
    "gelu": ops.Activation("gelu"),
    "relu6": ops.Activation("relu6"),
    "silu": ops.Activation("silu"),
    "swish": ops.Activation("silu"),
    "leaky_relu": ops.Activation("leaky-relu", 0.2),  # Keras's default
    "softmax": ops.Softmax(),
    "sigmoid": ops.Sigmoid(),
}


def _leaky(layer: StatedLayer, slope: Any) -> ops.Activation:
    right = type(slope) in (int, float) and 0 < slope <= 1
    _check(layer, "negative_slope", right, "a number in (0, 1]")
    return ops.Activation("leaky-relu", slope)


def _never_negative(op: ops.Op) -> bool:
    return isinstance(op, ops.Relu) or op == ops.Activation("relu6")


def _is_augmentation(layer: StatedLayer) -> bool:
    random = layer.kind.startswith("Random") and layer.kind != "RandomCrop"  # which crops always
    return random or layer.kind in AUGMENTATIONS


def _is_own(layer: StatedLayer) -> bool:
    return layer.registered.startswith(OWN)


def _is_channels_first(model: StatedModel) -> bool:
    """Say whether the convolutions are channels first; the input may be permuted before them."""
    for layer in model.layers:
        if layer.kind.startswith("Conv") and "kernel_size" in layer.config:
            return layer.config.get("data_format") == "channels_first"
    return False


def _activation_of(stated: Any) -> str:
    """Return the name of an activation, which Keras writes as a name or as an object's config."""
    if stated is None:
        return "linear"
    if not isinstance(stated, dict):
        return str(stated)
    inner = stated.get("config") or {}
    if isinstance(inner, str):
        return inner
    name = str(stated["class_name"])
    changed = {key: inner[key] for key in RELU_OPTIONS if inner.get(key)}
    if changed:
        return f"{name} with {changed}"
    return {"ReLU": "relu", "Softmax": "softmax"}.get(name, name)


def _stride(layer: StatedLayer, strides: Any) -> int:
    strides = strides if isinstance(strides, list | tuple) else [strides]
    _check(layer, "strides", len(set(strides)) == 1, "the same in every dimension")
    return int(strides[0])


def _count(layer: StatedLayer, name: str) -> int:
    count = layer.config[name]
    _check(layer, name, type(count) is int and count > 0, "a whole number from 1 on")
    return int(count)


def _pairs(pads: Any) -> ops.Pads:
    return tuple((pad, pad) if isinstance(pad, int) else (pad[0], pad[1]) for pad in pads)


def _check(layer: StatedLayer, name: str, right: bool, expected: object) -> None:
    if not right:
        raise StatedOtherwise(
            f"{layer} has {name} = {shown(layer.config.get(name))}, but a spec can say only "
            f"{shown(expected)} there"
        )


def _unknown(layer: StatedLayer) -> StatedOtherwise:
    usual = ("name", "trainable", "dtype")
    says = {key: value for key, value in layer.config.items() if key not in usual}
    what = f"{layer}: {shown(says)}"
    if layer.kind in RESCALING:
        return StatedOtherwise(
            f"it rescales its input, or computes on it, by {what}; no spec can say that: take it "
            "out of the model, and do to the images what it does"
        )
    return StatedOtherwise(
        f"no spec has such a layer or activation as {what}: take it out of the model, if the "
        "network can do without it"
    )
