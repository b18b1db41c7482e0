"""What densespec is timed against: each framework's own DenseNets, other engines, and the floor."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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


def openvino(model: Any, x: Any) -> Callable[[], object]:
    """A PyTorch model in OpenVINO, compiled for the shape of ``x``, in float32."""
    ov: Any = importlib.import_module("openvino")
    converted = ov.convert_model(model, example_input=x)
    converted.reshape(list(x.shape))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(converted, "CPU", settings).create_infer_request()
    array = x.numpy()
    return lambda: request.infer([array])


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


def convolutions(variant: str, batch: int, size: int, dtype: Any) -> Callable[[], object]:
    """Nothing but the convolutions of a network, channels_last: a floor of what it may cost."""
    import torch
    from torch.nn import functional

    from densespec import get, lower, ops

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
        for x, kernel, stride, side in work:
            functional.conv2d(x, kernel, None, stride, side)

    return run
