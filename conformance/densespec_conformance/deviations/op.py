"""An op computes something else, stands elsewhere, or is one too many."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec_conformance.deviations.deviation import Change, Deviation, NotApplicable
from densespec_conformance.deviations.kernels import (
    FlippedConv,
    LateFirst,
    LogSoftmax,
    PartialPool,
    Relu,
    Reversed,
    ReversedConcat,
    Sigmoid,
    StemAverage,
    Turned,
    ZeroPaddedMaxPool,
)
from densespec_conformance.deviations.norm import norm
from densespec_conformance.deviations.rewriting import (
    after,
    on,
    relinked,
    reorder,
    replace_ops,
    without,
)
from densespec_conformance.deviations.variant import Variant

ANY = "*"


def _by(kind: type, kernel: Any) -> Change:
    """Compute a kind of op by another kernel, where the network has such ops."""

    def change(variant: Variant) -> Variant:
        if not variant.graph.nodes_of(kind):
            raise NotApplicable
        return variant.compute_by(kind, kernel)

    return change


def _other_activation(which: str, **fields: Any) -> Change:
    """Change fields of the activations of a kind."""

    def rewrite(node: Node, graph: Graph) -> Any:
        assert isinstance(node.op, ops.Activation)
        return replace(node.op, **fields) if node.op.kind == which else node.op

    return replace_ops(ANY, ops.Activation, rewrite)


def _relu(node: Node) -> ops.Relu:
    return ops.Relu()


def _extra_relu(names: str, kind: type) -> Change:
    return after(names, kind, _relu, seen=True)


def _late_first(node: Node, graph: Graph) -> LateFirst:
    first = graph[f"{node.stage}.concat1"].inputs[0]
    return LateFirst(graph[first].shape[0] or 0)


def _concat_activated(variant: Variant) -> Variant:
    """Concatenate what the layer's first ReLU gave instead of what came in."""
    graph, nodes = variant.graph, []
    for node in graph.nodes:
        if isinstance(node.op, ops.Concat):
            layer = node.inputs[1].rpartition(".")[0]
            node = replace(node, inputs=(f"{layer}.relu1", node.inputs[1]))
        nodes.append(node)
    return replace(variant, graph=relinked(Graph(graph.spec, tuple(nodes))))


def _each_that_applies(*changes: Change) -> Change:
    """Make one change after the other, without those that have no meaning for the network."""

    def change(variant: Variant) -> Variant:
        start = variant
        for each in changes:
            with contextlib.suppress(NotApplicable):
                variant = each(variant)
        if variant is start:
            raise NotApplicable
        return variant

    return change


_relus_first = _each_that_applies(
    reorder("*", ("relu", "norm")),
    reorder("*", ("relu1", "norm1")),
    reorder("*", ("relu2", "norm2")),
)
_post_activation = _each_that_applies(
    reorder("block*", ("conv1", "norm1", "relu1", "conv2", "norm2", "relu2")),
    reorder("transition*", ("conv", "norm", "relu", "pool")),
)


def _partial(divisor: str) -> Change:
    return replace_ops(
        "transition*.pool",
        ops.AvgPool,
        lambda node, graph: PartialPool(node.op.window, node.op.stride, divisor),  # type: ignore[arg-type]
    )


def _ceil_mode(node: Node, graph: Graph) -> Any:
    """Pool as PyTorch's ceil_mode: there is one more window if it starts inside."""
    op, sizes = node.op, graph[node.inputs[0]].shape[1:]
    assert isinstance(op, ops.MaxPool)
    assert op.padding != "same"
    pads = []
    for size, width, (before, behind) in zip(sizes, op.window, op.padding, strict=True):
        assert size is not None
        left = (size + before + behind - width) % op.stride
        starts_inside = size + before > size + before + behind - width - left + op.stride
        pads.append((before, behind + (op.stride - left if left and starts_inside else 0)))
    return replace(op, padding=tuple(pads))


def _turn(variant: Variant) -> Variant:
    if len(variant.graph.input.shape) < 3:
        raise NotApplicable
    return after("input", ops.Input, lambda node: Turned(), seen=False)(variant)


DEVIATIONS = (
    Deviation(
        "batch-statistics-in-inference",
        "norms use the batch's statistics in inference",
        "a forgotten model.eval() or training=False",
        norm(in_inference=True),
    ),
    Deviation(
        "zero-padded-max-pool",
        "the max pool is padded with zeros, not with minus infinity",
        "ZeroPadding2D before a 'valid' pool, as keras.applications has it",
        _by(ops.MaxPool, ZeroPaddedMaxPool()),
    ),
    Deviation(
        "average-pool-in-stem",
        "the stem's pool averages, without what is outside",
        "average pools of TensorFlow and Keras in the place of a maximum",
        _by(ops.MaxPool, StemAverage(counted=False)),
    ),
    Deviation(
        "average-pool-in-stem-with-padding",
        "the stem's pool averages, zeros outside included",
        "PyTorch's average pool (count_include_pad) in the place of a maximum",
        _by(ops.MaxPool, StemAverage(counted=True)),
    ),
    Deviation(
        "max-pool-in-transition",
        "transitions take the maximum, not the average",
        "FC-DenseNet (the hundred layers tiramisu)",
        replace_ops(
            "transition*.pool",
            ops.AvgPool,
            lambda node, graph: ops.MaxPool(
                node.op.window, node.op.stride, ((0, 0),) * len(node.op.window)
            ),
        ),
    ),
    Deviation(
        "transition-pool-same",
        "transitions pad as 'same': a window over the edge averages what is there",
        "Keras, padding='same'",
        _partial("there"),
    ),
    Deviation(
        "transition-pool-ceil-zeros",
        "transitions pool over the edge and count zeros there",
        "ZeroPadding2D before the pool",
        _partial("window"),
    ),
    Deviation(
        "ceil-mode-in-stem",
        "the stem's pool rounds the number of windows up",
        "Caffe, PyTorch's ceil_mode",
        replace_ops("stem_pool", ops.MaxPool, _ceil_mode),
    ),
    Deviation(
        "global-maximum",
        "the global pool takes the maximum, not the average",
        "GlobalMaxPooling2D, pooling='max'",
        replace_ops("global_pool", ops.GlobalPool, lambda node, graph: ops.GlobalPool("max")),
    ),
    Deviation(
        "global-average",
        "the global pool averages, where the maximum was asked for",
        "an ignored option",
        replace_ops("global_pool", ops.GlobalPool, lambda node, graph: ops.GlobalPool("avg")),
    ),
    Deviation(
        "extra-transition-relu",
        "transitions have a ReLU after their norm, which the spec leaves out",
        "PyTorch and Keras ports",
        _extra_relu("transition*.norm", ops.BatchNorm),
    ),
    Deviation(
        "extra-final-relu",
        "there is a ReLU before the global pool",
        "torchvision's F.relu after a final norm",
        after("block*", ops.Concat, _relu, seen=False),
    ),
    Deviation(
        "relu-after-conv",
        "every convolution has a ReLU of its own",
        "Conv2D(activation='relu')",
        _extra_relu(ANY, ops.Conv),
    ),
    Deviation(
        "relu-after-concat",
        "there is a ReLU after every concatenation",
        "tutorials that write relu(torch.cat(...))",
        _extra_relu(ANY, ops.Concat),
    ),
    Deviation(
        "relu-after-stem-conv",
        "there is a ReLU right after the stem's convolution",
        "Conv2D(activation='relu')",
        _extra_relu("stem.conv", ops.Conv),
    ),
    Deviation(
        "relu-after-classifier",
        "there is a ReLU after the classifier",
        "Dense(activation='relu')",
        _extra_relu("classifier", ops.Dense),
    ),
    Deviation(
        "relu-before-norm",
        "ReLUs come before their norms",
        "a common order outside of pre-activation networks",
        _relus_first,
    ),
    Deviation(
        "post-activation",
        "layers and transitions convolve first, then normalise",
        "networks before pre-activation, such as ResNet's first version",
        _post_activation,
    ),
    Deviation(
        "stem-relu-before-norm",
        "the stem's ReLU comes before its norm",
        "Conv2D(activation='relu') before a norm",
        reorder("stem", ("conv", "dropout", "relu", "norm")),
    ),
    Deviation("relu6", "ReLUs end at 6", "mobile networks", _by(ops.Relu, Relu(ceiling=6.0))),
    Deviation(
        "leaky-relu-0.01",
        "ReLUs have a slope of 0.01 below zero",
        "PyTorch's LeakyReLU",
        _by(ops.Relu, Relu(slope=0.01)),
    ),
    Deviation(
        "leaky-relu-0.3",
        "ReLUs have a slope of 0.3 below zero",
        "Keras's LeakyReLU",
        _by(ops.Relu, Relu(slope=0.3)),
    ),
    Deviation(
        "gelu-by-the-tangent",
        "GELU is the one by the tangent, not the exact one",
        "jax.nn.gelu and flax.nnx.gelu, unless told otherwise",
        _other_activation("gelu", kind="gelu-tanh"),
    ),
    Deviation(
        "leaky-slope-0.01",
        "leaky ReLUs have a slope of 0.01, whatever the spec says",
        "PyTorch's LeakyReLU without its argument",
        _other_activation("leaky-relu", slope=0.01),
    ),
    Deviation(
        "norms-of-samples-without-scale",
        "instance and group norms have no scale and no shift",
        "PyTorch's InstanceNorm, whose affine is False unless told otherwise",
        on(ANY, ops.GroupNorm, affine=False),
    ),
    Deviation(
        "group-norm-epsilon-1e-3",
        "instance and group norms have an epsilon of 1e-3",
        "Keras's GroupNormalization",
        on(ANY, ops.GroupNorm, epsilon=1e-3),
    ),
    Deviation(
        "group-norm-epsilon-1e-6",
        "instance and group norms have an epsilon of 1e-6",
        "Flax's GroupNorm",
        on(ANY, ops.GroupNorm, epsilon=1e-6),
    ),
    Deviation(
        "flipped-kernels",
        "convolutions flip their kernels",
        "Theano, scipy.signal.convolve",
        _by(ops.Conv, FlippedConv()),
    ),
    Deviation(
        "concat-reversed",
        "new feature maps come first",
        "ports that concatenate [new, old]",
        _by(ops.Concat, ReversedConcat()),
    ),
    Deviation(
        "concat-newest-second",
        "the newest feature maps come right after the block's input",
        "a list that is inserted into, not appended to",
        replace_ops(ANY, ops.Concat, _late_first),
    ),
    Deviation(
        "concat-activated",
        "what is passed on has gone through the layer's norm and ReLU",
        "a variable used twice, an in-place ReLU",
        _concat_activated,
    ),
    Deviation(
        "input-channels-reversed",
        "the input's channels are read in reverse (BGR)",
        "OpenCV, Caffe",
        after("input", ops.Input, lambda node: Reversed(), seen=False),
    ),
    Deviation(
        "input-turned", "height and width of the input are exchanged", "(w, h) for (h, w)", _turn
    ),
    Deviation(
        "eps-outside-the-root",
        "eps is added to the deviation, not to the variance",
        "Darknet",
        norm(epsilon="deviation"),
    ),
    Deviation(
        "variance-for-deviation",
        "norms divide by the variance, not by its root",
        "hand-written norms: (x - mean) / (variance + eps)",
        norm(root=False),
    ),
    Deviation(
        "log-softmax",
        "the softmax gives log-probabilities",
        "LogSoftmax, tf.nn.log_softmax",
        _by(ops.Softmax, LogSoftmax()),
    ),
    Deviation(
        "sigmoid",
        "the softmax is a sigmoid",
        "multi-label networks, such as CheXNet",
        _by(ops.Softmax, Sigmoid()),
    ),
    Deviation("no-softmax", "there is no softmax", "from_logits", without("softmax", ops.Softmax)),
    Deviation(
        "softmax-in-classifier",
        "the classifier gives probabilities, not logits",
        "Keras's classifier_activation='softmax'",
        after("classifier", ops.Dense, lambda node: ops.Softmax(), seen=True),
    ),
)
