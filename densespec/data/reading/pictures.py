"""Reads pictures by Pillow, grey or in colours."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from densespec.data.dataset import BYTE
from densespec.data.reading.reader import ImageForm, ImageReader
from densespec.installed import require_pillow

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
"""Only these formats are opened, by content and Pillow's names: others start programs."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Gives Pillow's mode of pictures by their number of channels."""
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of grey images of sixteen bits, which it would clip to eight."""
FULL = 65535
"""Sixteen bits at full intensity have this value."""


def read(file: BinaryIO, form: ImageForm) -> np.ndarray:
    """Read a picture, of shape (channels, height, width): see :func:`pixels_of`.

    Raises:
        ValueError: Its values are of more than sixteen bits.
        PackageMissing: Pillow is not installed.
    """
    pillow = require_pillow("reading image files")
    with pillow.open(file, formats=FORMATS) as picture:
        return pixels_of(picture, form.channels)


def pixels_of(picture: Any, channels: int) -> np.ndarray:
    """Return the pixels of a picture of Pillow's, (channels, height, width).

    They are uint8; of grey pictures of sixteen bits float32, whose full intensity is 255 as well.
    How opaque a pixel is, is a fourth channel where four are wanted, and left out otherwise.

    Args:
        channels: How many channels the picture is converted to.

    Raises:
        ValueError: The values are of more than sixteen bits, or there are no such channels.
    """
    if channels not in MODES:
        raise ValueError(f"pictures are converted to {_choices()} channels, not {channels}")
    if picture.mode in SIXTEEN:
        return _sixteen_bits(np.array(picture, np.float64), channels)
    if picture.mode == "F":
        raise ValueError("its pixels are floats, whose full intensity nothing tells")
    pixels = np.array(picture.convert(MODES[channels]))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _choices() -> str:
    *first, last = map(str, MODES)
    return f"{', '.join(first)} or {last}"


def _sixteen_bits(grey: np.ndarray, channels: int) -> np.ndarray:
    if grey.min() < 0 or grey.max() > FULL:
        raise ValueError("it has more than sixteen bits")
    pixels = np.full((channels, *grey.shape), BYTE, np.float32)  # the fourth channel: opaque
    pixels[:3] = grey * (BYTE / FULL)
    return pixels


READER = ImageReader(
    name=f"image of the formats {', '.join(FORMATS)}",
    suffixes=(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"),
    claims=lambda head: True,
    read=read,
    dims=2,
    channels=MODES,
    full=BYTE,
)
