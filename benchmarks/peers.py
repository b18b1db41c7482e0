"""What densespec is timed against: each framework's own DenseNets, other engines, and the floor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from densespec_conformance.adapters.constructing import import_module


def keras_applications(variant: str) -> Any:
    """``keras.applications``' network of a variant, with initial weights and logits."""
    import keras

    name = variant.replace("densenet", "DenseNet")
    constructor = getattr(keras.applications, name)
    return constructor(weights=None, classifier_activation=None)


def torchvision(variant: str, **options: Any) -> Any:
    """Torchvision's network of a variant, with initial weights.

    Raises:
        ImportError: torchvision is not installed.
    """
    models = import_module("torchvision.models")
    return getattr(models, variant)(weights=None, **options)


FLOAT32, BFLOAT16 = ({"INFERENCE_PRECISION_HINT": name} for name in ("f32", "bf16"))
"""Settings of OpenVINO, which computes in bfloat16 by itself where the processor can."""


def openvino(
    model: Any, x: Any, hint: str = "LATENCY", settings: Mapping[str, str] = FLOAT32
) -> Any:
    """A PyTorch model or an ONNX file in OpenVINO, compiled for the shape of ``x``."""
    ov: Any = importlib.import_module("openvino")
    example = {} if isinstance(model, str) else {"example_input": x}
    converted = ov.convert_model(model, **example)
    converted.reshape(list(x.shape))
    return ov.Core().compile_model(converted, "CPU", {"PERFORMANCE_HINT": hint, **settings})


def inferring(compiled: Any, x: Any) -> Callable[[], object]:
    """One answer after another of a model that OpenVINO has compiled."""
    request, array = compiled.create_infer_request(), x.numpy()
    return lambda: request.infer([array])


def queued(compiled: Any, x: Any, count: int) -> Callable[[], object]:
    """Several answers of a model that OpenVINO has compiled, as many at a time as it likes."""
    ov: Any = importlib.import_module("openvino")
    queue, array = ov.AsyncInferQueue(compiled), x.numpy()

    def run() -> None:
        for _ in range(count):
            queue.start_async([array])
        queue.wait_all()

    return run


def onnx_runtime(path: str, x: Any) -> Callable[[], object]:
    """An ONNX file in ONNX Runtime on the processor.

    Its threads do not spin while they wait for work: they would slow the sides that take turns.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda: session.run(None, {given.name: x})


def convolutions(
    variant: str, batch: int, size: int, dtype: Any, *, both_ways: bool = False
) -> Callable[[], object]:
    """Nothing but the convolutions of a network, channels_last: a floor of what it may cost.

    Args:
        both_ways: whether their gradients are computed too, as in a training step.
    """
    import torch
    from torch.nn import functional

    from densespec import get, lower
    from densespec.network import ops

    graph = lower(get(variant), (size, size))
    work = []
    for node in graph.nodes:
        if not isinstance(node.op, ops.Conv):
            continue
        shapes: list[Any] = [(batch, *graph[node.inputs[0]].shape), node.weights[0].shape]
        x, kernel = (
            torch.randn(shape).to(dtype=dtype, memory_format=torch.channels_last)
            for shape in shapes
        )
        work.append((x, kernel, node.op.stride, node.op.padding[0][0]))

    def run() -> None:
        for index, (x, kernel, stride, side) in enumerate(work):
            y = functional.conv2d(x, kernel, None, stride, side)
            if both_ways:
                by = ([stride] * 2, [side] * 2, [1] * 2, False, [0] * 2, 1)
                wanted = [index > 0, True, False]  # images have no gradient
                torch.ops.aten.convolution_backward(y, x, kernel, None, *by, wanted)

    return run
