"""Weights for other channels against timm's own rule."""

from __future__ import annotations

import numpy as np
import pytest

from densespec.weights.channels import fitted_kernel
from tests.peers.networks import import_torchvision

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import_torchvision()  # which timm imports
manipulate = pytest.importorskip("timm.models._manipulate", reason="timm is not installed")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7, 13])
def test_a_kernel_is_fitted_as_timm_fits_it(channels: int, dtype: str) -> None:
    kernel = np.random.default_rng(3).standard_normal((64, 3, 7, 7)).astype(dtype)
    theirs = manipulate.adapt_input_conv(channels, torch.from_numpy(kernel)).numpy()
    np.testing.assert_array_equal(fitted_kernel(kernel, channels), theirs)
