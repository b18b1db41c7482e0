"""Describes what images need before a network as data, and does it in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from densespec.errors import ImageError, WeightsError, shown
from densespec.installed import require_pillow
from densespec.pretrained.pictures import ImageLike, pixels_of

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
RESIZES = ("shorter", "squash")

FULL = np.float32(255)
"""A byte at full intensity has this value."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Describes what images need before a network, and does it when it is called with an image.

    Images are resized to ``size / crop``, cropped to ``size`` at the centre, scaled to [0, 1], and
    normalised by channel: ``(x - mean) / std``.

    Attributes:
        mean: The mean of each channel, where full intensity is 1.
        std: The standard deviation of each channel.
        size: The height and width of the network's input, in pixels.
        interpolation: The interpolation of the resizing, by Pillow's name for it.
        crop: The part of each side that the crop at the centre keeps.
        resize: ``"shorter"`` brings the shorter side to its size and keeps the image's form;
            ``"squash"`` brings each side to its own.

    Raises:
        WeightsError: A value is not allowed; the message says which one, and what is allowed.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, ...]
    interpolation: str = "bilinear"
    crop: float = 1.0
    resize: str = "shorter"

    def __post_init__(self) -> None:
        for name in ("mean", "std", "size"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not value:
                raise _misplaced(name, value, "a list of numbers")
            object.__setattr__(self, name, tuple(value))
        if not all(map(_is_number, self.mean)):
            raise _misplaced("mean", self.mean, "numbers")
        if not all(_is_number(s) and s > 0 for s in self.std) or len(self.std) != len(self.mean):
            raise _misplaced("std", self.std, "as many numbers above 0 as mean has")
        if not all(type(side) is int and side > 0 for side in self.size):
            raise _misplaced("size", self.size, "whole numbers above 0")
        if self.interpolation not in INTERPOLATIONS:
            raise _misplaced("interpolation", self.interpolation, " or ".join(INTERPOLATIONS))
        if not _is_number(self.crop) or not 0 < self.crop <= 1:
            raise _misplaced("crop", self.crop, "a number in (0, 1]")
        if self.resize not in RESIZES:
            raise _misplaced("resize", self.resize, " or ".join(RESIZES))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocessing:
        """Make a preprocessing from what :meth:`to_dict` returned."""
        try:
            return cls(**record)
        except TypeError as error:
            raise WeightsError(f"preprocessing: {shown(record)} {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, as JSON and TOML hold them."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def channels(self) -> int:
        """Return the number of channels that the network takes."""
        return len(self.mean)

    def __call__(
        self,
        image: ImageLike,
        data_format: Literal["channels_first", "channels_last"] = "channels_first",
    ) -> np.ndarray:
        """Prepare one image.

        Args:
            image: The path of an image file, an array of bytes (height, width) or (height, width,
                channels), or an image of Pillow's.
            data_format: Where the channels of the result are.

        Returns:
            An array of float32, (channels, height, width) or (height, width, channels).

        Raises:
            ImageError: It can't be read, or has other channels.
            PackageMissing: Pillow is not installed.
        """
        if len(self.size) != 2:
            raise ImageError(
                f"preprocessing to a size of {self.size}: images have a height and width"
            )
        pixels = self._cropped(pixels_of(image, self.channels))
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        normal = (pixels.astype(np.float32) / FULL - mean) / std
        return normal if data_format == "channels_last" else np.moveaxis(normal, -1, 0).copy()

    def batch(
        self,
        images: Iterable[ImageLike],
        data_format: Literal["channels_first", "channels_last"] = "channels_first",
    ) -> np.ndarray:
        """Prepare several images; see :meth:`__call__`. They become one array, (count, ...)."""
        return np.stack([self(image, data_format) for image in images])

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        height, width = self.resized_size(pixels.shape[0], pixels.shape[1])
        pixels = self.resized(pixels, (height, width))
        top, left = (round((a - b) / 2) for a, b in zip((height, width), self.size, strict=True))
        return pixels[top : top + self.size[0], left : left + self.size[1]]

    def resized(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resize bytes (height, width, channels), as Pillow does it."""
        return resized(pixels, size, self.interpolation)

    @property
    def resize_target(self) -> tuple[int, ...]:
        """Return the sizes of the sides, or of the shorter one alone, before the crop."""
        return tuple(math.floor(side / self.crop) for side in self.size)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Say to which height and width an image of these is resized before the crop."""
        target = self.resize_target
        if self.resize == "squash":
            return target[0], target[1]
        if target[0] == target[1]:
            shorter, longer = sorted((height, width))
            other = int(target[0] * longer / shorter)
            return (target[0], other) if height <= width else (other, target[0])
        ratio = min(height / target[0], width / target[1])
        return round(height / ratio), round(width / ratio)


def resized(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize bytes (height, width, channels), each channel alone, as Pillow does it."""
    if pixels.shape[:2] == size:
        return pixels
    pillow = require_pillow("resizing images")
    how = pillow.Resampling[interpolation.upper()]
    channels = (
        pillow.fromarray(np.ascontiguousarray(pixels[..., channel])).resize(size[::-1], how)
        for channel in range(pixels.shape[-1])
    )
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer that no float holds
        return False


def _misplaced(name: str, value: object, expected: str) -> WeightsError:
    return WeightsError(f"preprocessing: {name} = {shown(value)}, but should be {expected}")


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(224, 224))
"""Torchvision's networks, and most that started from them, were trained with this preprocessing."""
