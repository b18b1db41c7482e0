"""A network with the module names of the PyTorch original of ``densenet169-bc``."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn


class Unit(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.conv(self.bn(x).relu()))


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth_rate: int) -> None:
        super().__init__()
        self.conv1 = Unit(channels, 4 * growth_rate, 1)
        self.conv2 = Unit(4 * growth_rate, growth_rate, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv2(self.conv1(x))], dim=1)


class DenseBlock(nn.Module):
    def __init__(self, channels: int, layers: int, growth_rate: int) -> None:
        super().__init__()
        self.dense_layers = nn.ModuleList(
            DenseLayer(channels + index * growth_rate, growth_rate) for index in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.dense_layers:
            x = layer(x)
        return x


class Transition(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Unit(channels, channels // 2, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(x))


class OriginalDenseNet(nn.Module):
    def __init__(
        self, blocks: Sequence[int], growth_rate: int, stem_width: int, classes: int
    ) -> None:
        super().__init__()
        self.first_layer = nn.Sequential(Unit(3, stem_width, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.layer_dense = nn.ModuleList()
        channels = stem_width
        for index, layers in enumerate(blocks):
            self.layer_dense.append(DenseBlock(channels, layers, growth_rate))
            channels += layers * growth_rate
            if index < len(blocks) - 1:
                self.layer_dense.append(Transition(channels))
                channels //= 2
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first_layer(x)
        for part in self.layer_dense:
            x = part(x)
        return self.classifier(x.mean(dim=(2, 3)))
