"""DenseNets as others write them in PyTorch, for ``test_adapters.py``."""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import checkpoint

from densespec import DenseNetSpec

SPEC = DenseNetSpec(
    blocks=(2, 1),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_kind="conv-norm-relu",
    stem_width=6,
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
)


class Layer(nn.Module):
    """As torchvision's: it reads a list of features, and may recompute."""

    def __init__(self, channels: int, recompute: bool, inplace: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(inplace), nn.ReLU(inplace)
        self.recompute = recompute

    def bottleneck(self, *features: Tensor) -> Tensor:
        return self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))

    def forward(self, features: list[Tensor]) -> Tensor:
        if self.recompute and self.training:
            x = checkpoint.checkpoint(self.bottleneck, *features, use_reentrant=False)
        else:
            x = self.bottleneck(*features)
        return self.conv2(self.relu2(self.norm2(x)))


class Block(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Small(nn.Module):
    """The network of ``SPEC``, in torchvision's names.

    Args:
        recompute: whether its layers recompute what they read, as ``memory_efficient`` does.
        epsilon: of the norms.
        head: ``logits``, ``softmax``, ``features``, or ``tuple`` of logits and features.
    """

    def __init__(
        self,
        num_classes: int = 5,
        recompute: bool = False,
        inplace: bool = True,
        epsilon: float = 1e-5,
        head: str = "logits",
    ) -> None:
        super().__init__()
        options = {"recompute": recompute, "inplace": inplace}
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, 6, 7, 2, 3, bias=False),
                norm0=nn.BatchNorm2d(6),
                relu0=nn.ReLU(inplace),
                pool0=nn.MaxPool2d(3, 2, 1),
                denseblock1=Block(
                    {"denselayer1": Layer(6, **options), "denselayer2": Layer(10, **options)}
                ),
                transition1=nn.Sequential(
                    OrderedDict(
                        norm=nn.BatchNorm2d(14),
                        relu=nn.ReLU(inplace),
                        conv=nn.Conv2d(14, 7, 1, bias=False),
                        pool=nn.AvgPool2d(2, 2),
                    )
                ),
                denseblock2=Block({"denselayer1": Layer(7, **options)}),
                norm5=nn.BatchNorm2d(11),
            )
        )
        self.head = head
        if head != "features":
            self.classifier = nn.Linear(11, num_classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    def forward(self, x: Tensor) -> Any:
        features = functional.relu(self.features(x), inplace=True)
        if self.head == "features":
            return features
        logits = self.classifier(features.mean((2, 3)))
        match self.head:
            case "softmax":
                return logits.softmax(1)
            case "tuple":
                return logits, features
        return logits


class Filtered(Small):
    """The same with numbers that are in no file, as timm's pools that blur have."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.ones(3), persistent=False)


class Renamed(nn.Module):
    """The same network in names of its own, registered out of order, with fused norms and ReLUs,
    and pooled before the transition's convolution."""

    def __init__(self) -> None:
        super().__init__()
        inner = Small(inplace=False).features
        self.head = nn.Linear(11, 5)
        self.narrow = nn.ModuleList([inner.transition1.norm, inner.transition1.conv])
        self.first = nn.ModuleList([inner.conv0, FusedNorm(6)])
        self.layers = nn.ModuleList([*inner.denseblock1.values(), *inner.denseblock2.values()])
        self.last = FusedNorm(11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first[1](self.first[0](x))
        x = functional.max_pool2d(x, 3, 2, 1)
        for layer in self.layers[:2]:
            x = torch.cat([x, layer([x])], 1)
        x = self.narrow[1](functional.avg_pool2d(self.narrow[0](x).relu(), 2))
        x = torch.cat([x, self.layers[2]([x])], 1)
        return self.head(self.last(x).mean((2, 3)))


class FusedNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class GroupedNorm(nn.GroupNorm):
    """A norm of one group that has the activation in it."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(1, channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Grouped(nn.Module):
    """A network like that of ``SPEC``, with group norms and another activation, in names of its
    own."""

    def __init__(self, act: str) -> None:
        super().__init__()
        kind = {"silu": nn.SiLU, "prelu": nn.PReLU}[act]
        shapes = ((6, 8, 1), (8, 4, 3), (10, 8, 1), (8, 4, 3), (14, 7, 1), (7, 8, 1), (8, 4, 3))
        self.head = nn.Linear(11, 5)
        self.stem = nn.Conv2d(3, 6, 7, 2, 3, bias=False)
        self.norms = nn.ModuleList(
            GroupedNorm(channels, kind()) for channels in (6, *(one[0] for one in shapes), 11)
        )
        self.convs = nn.ModuleList(
            nn.Conv2d(given, made, side, padding=side // 2, bias=False)
            for given, made, side in shapes
        )

    def forward(self, x: Tensor) -> Tensor:
        norms, convs = iter(self.norms), iter(self.convs)

        def unit(x: Tensor) -> Tensor:
            return next(convs)(next(norms)(x))

        x = functional.max_pool2d(next(norms)(self.stem(x)), 3, 2, 1)
        x = torch.cat([x, unit(unit(x))], 1)
        x = torch.cat([x, unit(unit(x))], 1)
        x = functional.avg_pool2d(unit(x), 2)
        x = torch.cat([x, unit(unit(x))], 1)
        return self.head(next(norms)(x).mean((2, 3)))


def compiled() -> Any:
    """Compiled by a compiler that is quick, and compiles nothing."""
    return torch.compile(Small(), backend="eager")


def pretrained(weights: str | None = "imagenet") -> nn.Module:
    """It would download its weights unless told not to."""
    if weights is not None:
        socket.create_connection(("weights.example", 443))
    return Small()


def always_pretrained() -> nn.Module:
    return pretrained("imagenet")


def broken() -> nn.Module:
    raise RuntimeError("no kernel image is available")


def nothing() -> str:
    return "a network"
