"""A U-Net with a DenseNet as its encoder, in PyTorch.

    python examples/unet_torch.py --weights densenet121.pth

It learns to find discs on noise. The encoder gives the maps of ``outputs``; a decoder goes from the
coarsest back to the size of the image, and reads at each size the map that the encoder had there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import densespec
from densespec.cli.record_options import options_of
from densespec.network.catalogue import SpecLike
from densespec.weights.reading import InterpretingOptions

OUTPUTS = ("stem", "block1", "block2", "block3", "final")


class Up(nn.Module):
    """Brings a coarse map to the size of a finer one and mixes the two."""

    def __init__(self, coarse: int, fine: int, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(coarse + fine, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        wide = functional.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        return self.mix(torch.cat([wide, fine], 1))


class UNet(nn.Module):
    """A segmentation network: (batch, channels, height, width) to (batch, classes, height, width).

    Args:
        encoder: A densespec network with ``outputs``, from the finest map to the coarsest.
        widths: The channels of the decoder, from its coarsest map on.
    """

    def __init__(self, encoder: nn.Module, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        *fine, coarsest = [each.channels for each in densespec.feature_maps(encoder)]
        before = (coarsest, *widths[:-1])
        skips = zip(before, reversed(fine), widths, strict=True)
        self.ups = nn.ModuleList(Up(*channels) for channels in skips)
        self.classify = nn.Conv2d(widths[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        *fine, y = self.encoder(x)
        for up, skip in zip(self.ups, reversed(fine), strict=True):
            y = up(y, skip)
        wide = functional.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.classify(wide)


def discs(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy images (count, 3, size, size) of a disc each, and their masks."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    x0, y0, radius = draw.uniform([[0.2], [0.2], [0.1]], [[0.8], [0.8], [0.25]], (3, count)) * size
    apart = (rows - y0[:, None, None]) ** 2 + (columns - x0[:, None, None]) ** 2
    masks = (apart < radius[:, None, None] ** 2).astype("int64")
    noise = draw.standard_normal((count, 3, size, size))
    return (noise + 2 * masks[:, None]).astype("float32"), masks


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Give the intersection of two masks over their union."""
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def train(
    spec: SpecLike | None,
    weights: Any = None,
    *,
    steps: int,
    size: int,
    batch: int = 8,
    **reading: Any,
) -> float:
    """Train a U-Net and give its overlap with the masks of images that it has not seen."""
    torch.manual_seed(0)
    encoder = densespec.build(
        spec, backend="torch.nn", mode="fast", weights=weights, outputs=OUTPUTS, **reading
    )
    widths = [each.channels // 2 for each in densespec.feature_maps(encoder)[-2::-1]]
    model = UNet(encoder, classes=2, widths=widths)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        x, masks = map(torch.from_numpy, discs(batch, size, seed=step))
        loss = functional.cross_entropy(model(x), masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    unseen, truth = discs(16, size, seed=steps)
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(unseen)).argmax(1).numpy()
    return overlap(found == 1, truth == 1)


@click.command()
@click.option("--spec", default="densenet121", show_default=True, help="The encoder.")
@click.option("--weights", help="A weight file of any layout for the encoder.")
@options_of(InterpretingOptions)
@click.option("--steps", default=60, show_default=True)
@click.option("--size", default=96, show_default=True)
def main(spec: str, weights: str | None, steps: int, size: int, **reading: Any) -> None:
    """Train a U-Net to find discs on noise."""
    found = train(spec, weights, steps=steps, size=size, **reading)
    click.echo(f"overlap with the masks of new images: {found:.1%}")


if __name__ == "__main__":
    main()
