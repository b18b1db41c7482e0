"""Defines what reads one kind of image files, and what is asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from densespec.errors import shown

RGB = 3


@dataclass(frozen=True)
class ImageForm:
    """Says in which form images of files are wanted.

    Attributes:
        channels: The number of channels that an image will have.
        window: Whether DICOM images are seen through the window that they state.
    """

    channels: int = RGB
    window: bool = False


@dataclass(frozen=True)
class ImageReader:
    """Describes a reader, as a row of the table of readers.

    Attributes:
        name: The name of such a file in messages.
        suffixes: The ends of such files' names in folders.
        claims: The function that says whether a file is of this kind, by its first bytes.
        read: The function that reads the image (channels, *sizes) of an open file in a form, as
            uint8 or floats.

            If the file holds no such image, it raises an error of any class that says why.
        dims: The number of sizes of an image; None if files differ, and the first one decides.
        channels: The numbers of channels to which images can be converted; None for those that they
            have.
        full: The value of a byte at full intensity; None if values are measurements.
    """

    name: str
    suffixes: tuple[str, ...]
    claims: Callable[[bytes], bool]
    read: Callable[[BinaryIO, ImageForm], np.ndarray]
    dims: int | None = None
    channels: Collection[int] | None = None
    full: float | None = None


def size_of(file: BinaryIO) -> int:
    """Return how many bytes an open file has, and go to its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return an image (own channels, *sizes) so many channels: a single one is repeated for RGB.

    Raises:
        ValueError: It has others.
    """
    if len(image) == channels:
        return image
    if len(image) == 1 and channels == RGB:
        return np.repeat(image, channels, 0)
    raise ValueError(
        f"it has {len(image)} channels, but the network takes {channels}: use --in-channels "
        f"{len(image)}, or spec.replace(in_channels={len(image)})"
    )


def from_array(array: np.ndarray, channels: int) -> np.ndarray:
    """Return the image (channels, *sizes) of an array that does not say where its channels are.

    They are the first axis or else the last one, whichever has as many as are wanted. Where neither
    has, all axes are sizes of a grey image if one or three channels are wanted.

    Raises:
        ValueError: It has other axes, or other channels.
    """
    if array.ndim > 1 and array.shape[0] == channels:
        return array
    if array.ndim > 1 and array.shape[-1] == channels:
        return np.moveaxis(array, -1, 0)
    if 1 <= array.ndim <= 3 and channels in (1, RGB):
        return with_channels(array[None], channels)
    raise ValueError(
        f"it has shape {shown(array.shape)}, but neither its first nor its last axis are the "
        f"{channels} channels that the network takes"
    )
