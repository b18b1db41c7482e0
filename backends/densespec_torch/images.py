"""Does preprocessing as a module: it takes bytes of any size, and gives a network's input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from densespec.deploy.resampling import resampled
from densespec.pretrained.preprocessing import Preprocessing

FULL = 255
"""A byte at full intensity has this value."""


class OnImages(nn.Module):
    """Prepares images before a network, with Pillow's resizing to the bit.

    Args:
        network: The network, which takes (batch, channels, height, width).
        preprocessing: What its images need.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))

    def forward(self, images: Tensor) -> Any:
        """Compute what the network gives of images, bytes (batch, height, width, channels)."""
        positions = [torch.arange(n, dtype=torch.float64) for n in images.shape[1:3]]
        pixels = resampled(torch, images.to(torch.float64), positions, self.preprocessing)
        normal = (pixels.to(torch.float32) / FULL - self.mean) / self.std
        return self.network(normal.movedim(-1, 1))
