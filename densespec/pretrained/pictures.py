"""Turns images as users have them into arrays of bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from densespec.errors import ImageError, shown
from densespec.installed import require_pillow
from densespec.texts import check_regular

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff")
MODES = {1: "L", 3: "RGB"}
WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes with more than eight bits a channel."""

ImageLike = str | os.PathLike[str] | np.ndarray | Any
"""The path of an image file, an array (height, width) or (height, width, channels) of bytes, or an
image of Pillow's."""


def pixels_of(image: ImageLike, channels: int) -> np.ndarray:
    """Return an image as bytes (height, width, channels), its colours converted where need be.

    Grey images become coloured ones and coloured ones grey, as Pillow does it; what is transparent
    loses its transparency. A file is not turned as its camera was held.

    Raises:
        ImageError: It is no image that can be read, or has other channels.
        PackageMissing: Pillow is not installed.
    """
    if isinstance(image, np.ndarray):
        return _of_array(image, channels)
    if isinstance(image, str | os.PathLike):
        return _read(Path(image), channels)
    if not hasattr(image, "convert"):
        raise ImageError(
            f"an image is a {type(image).__name__}, but should be a path, an array of bytes or an "
            "image of Pillow's"
        )
    return _checked(image, channels, "the image")


def _of_array(image: np.ndarray, channels: int) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ImageError(
            f"an image is an array of {image.dtype} of shape {image.shape}, but should be one of "
            "uint8 (0 to 255), (height, width) or (height, width, channels)"
        )
    pixels = image[..., None] if image.ndim == 2 else image
    own = pixels.shape[-1]
    if own == channels:
        return pixels
    if own not in (1, 3, 4) or channels not in MODES:
        raise ImageError(
            f"an image has {own} channels, which are the last axis of {image.shape}, but should "
            f"have {channels}"
        )
    picture = require_pillow("converting images").fromarray(pixels[..., 0] if own == 1 else pixels)
    return _converted(picture, channels)


def _read(path: Path, channels: int) -> np.ndarray:
    pillow = require_pillow("reading image files")
    try:
        check_regular(path)
        with pillow.open(path, formats=FORMATS) as picture:
            return _checked(picture, channels, str(path))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        reason = (isinstance(error, OSError) and error.strerror) or shown(str(error))
        raise ImageError(
            f"{path}: not a readable image of the formats {', '.join(FORMATS)}: {reason}"
        ) from error


def _checked(picture: Any, channels: int, name: str) -> np.ndarray:
    if picture.mode in WIDE:
        raise ImageError(
            f"{name}: has more than eight bits a channel ({picture.mode}), but should have eight; "
            "convert it"
        )
    if channels not in MODES:
        raise ImageError(
            f"{name}: can't be converted to {channels} channels, only to 1 or 3; give an array "
            "(height, width, channels)"
        )
    return _converted(picture, channels)


def _converted(picture: Any, channels: int) -> np.ndarray:
    pixels = np.asarray(picture.convert(MODES[channels]))
    return pixels[..., None] if pixels.ndim == 2 else pixels
