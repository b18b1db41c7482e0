"""States Pillow's resampling as numbers, for every exported file that prepares images.

A new pixel is a weighted sum of old ones. A filter gives the weight of an old pixel at the distance
t; in each of its pieces the filter is a polynomial of t. The weights are rounded to whole numbers
of 22 bits. So resizing multiplies by a matrix of whole numbers along each axis, and rounds to bytes
after each axis. Everything is computed in float64, in which whole numbers below 2**53 are exact.

The functions work with any framework whose functions have numpy's names.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from densespec.errors import DensespecError
from densespec.pretrained.preprocessing import Preprocessing

PRECISION = 2.0**22
"""Weights of old pixels are multiplied by this number, which makes them whole numbers."""

_A = -0.5
"""Pillow's cubic filter has this parameter."""

NEAREST = "nearest"
"""This kind of resizing has no filter: it takes old pixels as they are."""

FILTERS: Mapping[str, tuple[tuple[float, tuple[float, ...]], ...]] = {
    "bilinear": ((1.0, (-1.0, 1.0)),),
    "bicubic": (
        (1.0, (_A + 2, -(_A + 3), 0.0, 1.0)),
        (2.0, (_A, -5 * _A, 8 * _A, -4 * _A)),
    ),
}
"""States each filter's pieces: how far each goes, and its factors, highest power first."""


def check_exportable(preprocessing: Preprocessing, kinds: Collection[str] = FILTERS) -> None:
    """Check that files can resize as a preprocessing says.

    Args:
        kinds: The kinds of resizing that they can hold.

    Raises:
        DensespecError: They can't.
    """
    if preprocessing.interpolation not in kinds:
        raise DensespecError(
            f"resizing of the kind {preprocessing.interpolation!r} can't be exported in this "
            f"format: {' and '.join(kinds)} can"
        )


def resampled(np: Any, pixels: Any, positions: Sequence[Any], preprocessing: Preprocessing) -> Any:
    """Resize and crop images, along the width first.

    Args:
        np: The framework's functions, by numpy's names.
        pixels: Bytes (batch, height, width, channels), as float64.
        positions: The numbers of the rows, 0, 1, 2, ..., and those of the columns, as float64.
        preprocessing: Which size, and which kind of resizing.

    Returns:
        Bytes (batch, *size, channels), as float64.

    Raises:
        DensespecError: There is no filter of this kind, and what has none is not squashed.
    """
    squashes = preprocessing.resize == "squash"
    check_exportable(preprocessing, (*FILTERS, NEAREST) if squashes else FILTERS)
    sides = [numbers[-1] + 1 for numbers in positions]
    if preprocessing.interpolation == NEAREST:
        return _nearest(np, pixels, sides, preprocessing)
    sizes = resized_sizes(np, sides, preprocessing)
    rows, columns = (
        _weights(np, *axis, preprocessing.interpolation)
        for axis in zip(positions, sides, sizes, preprocessing.size, strict=True)
    )
    pixels = _bytes(np, np.einsum("nhwc,vw->nhvc", pixels, columns))
    return _bytes(np, np.einsum("nhwc,vh->nvwc", pixels, rows))


def resized_sizes(np: Any, sides: Sequence[Any], said: Preprocessing) -> Sequence[Any]:
    """Compute the height and width before the crop, as ``Preprocessing.resized_size`` does."""
    target = [float(side) for side in said.resize_target]
    if said.resize == "squash":
        return [side * 0 + wanted for side, wanted in zip(sides, target, strict=True)]
    if target[0] == target[1]:
        shorter = np.minimum(*sides)
        return [np.floor(side * target[0] / shorter) for side in sides]
    ratio = np.minimum(*(side / wanted for side, wanted in zip(sides, target, strict=True)))
    return [np.round(side / ratio) for side in sides]


def _weights(np: Any, positions: Any, side: Any, size: Any, kept: int, kind: str) -> Any:
    """Compute the weights of every old pixel in every new one that the crop keeps."""
    scale = side / size
    wide = np.where(scale > 1, scale, scale * 0 + 1)
    new = np.arange(kept, dtype=np.float64) + np.round((size - kept) / 2)
    offsets = positions[None] - (new[:, None] + 0.5) * scale + 0.5
    distances = np.abs(offsets * (1 / wide))
    weights = distances * 0
    for reach, factors in reversed(FILTERS[kind]):
        value = distances * 0 + factors[0]
        for factor in factors[1:]:
            value = value * distances + factor
        weights = np.where(distances < reach, value, weights)
    weights = weights * (1 / np.sum(weights, axis=1, keepdims=True)) * PRECISION
    return np.where(weights < 0, np.ceil(weights - 0.5), np.floor(weights + 0.5))


def _nearest(np: Any, pixels: Any, sides: Sequence[Any], said: Preprocessing) -> Any:
    """Choose the old pixels that are nearest to those of a known size."""
    rows, columns = (
        _places(np, side / size, size)[(start := round((size - kept) / 2)) : start + kept]
        for side, size, kept in zip(sides, said.resize_target, said.size, strict=True)
    )
    return pixels[:, rows[:, None], columns[None]]


def _places(np: Any, scale: Any, size: int) -> Any:
    """Choose the old pixel that each new one takes. Pillow adds steps up, and rounds each time."""
    centres = itertools.accumulate(itertools.repeat(scale, size - 1), initial=scale * 0.5)
    return np.asarray(np.floor(np.stack(list(centres))), dtype=np.int64)


def _bytes(np: Any, sums: Any) -> Any:
    return np.clip(np.floor((sums + PRECISION / 2) / PRECISION), 0, 255)
