"""What is not finite stays not finite, layer by layer, where the engine lets it: JAX does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

NETWORKS = {
    "torch": ("preactivation", "same", "cifar"),
    "tensorflow": ("cifar",),  # whose max pool on CPUs takes NaN for the least number
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_has_no_class(
    value: float, engine: str, build: Any, images: Any
) -> None:
    x = np.moveaxis(images(), 1, -1)
    x[1] = value
    for network in NETWORKS[engine]:
        if network == "preactivation" and value == -np.inf:
            continue  # its first norm keeps it, and the ReLU after that makes 0 of it
        model = build(network, input_shape=x.shape[1:], classifier_activation="softmax")
        probabilities = model.predict_on_batch(x)
        assert np.isfinite(probabilities[0]).all()
        assert np.isnan(probabilities[1]).all(), network
