"""What is particular to the torch engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import densespec


def test_autograd_gives_the_gradients_of_the_native_backend(build: Any, images: Any) -> None:
    """Through unbiased norms too, and the running statistics with them."""
    model = build("preactivation")
    native = densespec.build(
        model.densespec.graph.spec, backend="torch.nn", weights=densespec.read_weights(model)
    )
    labels = torch.tensor([1, 0, 4])
    x = torch.from_numpy(images(3))
    losses = [
        torch.nn.functional.cross_entropy(logits.cpu(), labels)
        for logits in (native(x), model(x.movedim(1, -1), training=True))
    ]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(losses[1].item(), losses[0].item(), rtol=1e-5)
    for keras_name, torch_name in (
        ("stem_norm.gamma", "features.norm0.weight"),
        ("stem_norm.beta", "features.norm0.bias"),
        ("block1_layer2_norm2.beta", "features.denseblock1.denselayer2.norm2.bias"),
        ("transition1_norm.gamma", "features.transition1.norm.weight"),
        ("classifier.bias", "classifier.bias"),
    ):
        layer, _, variable = keras_name.partition(".")
        gradient = getattr(model.get_layer(layer), variable).value.grad.cpu()
        expected = native.get_parameter(torch_name).grad
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * scale)
    ours, theirs = densespec.read_weights(native), densespec.read_weights(model)
    for name in ours:
        if ".running_" in name:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-6, err_msg=name)
