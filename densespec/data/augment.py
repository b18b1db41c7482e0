"""Augments images before a network sees them.

What happens to an image depends only on the seed, the epoch and the image's index in its split. So
batches of any size, any number of workers and a resumed run give the same. Below, ``r[0], r[1],
...`` are the numbers of an image with index ``i``: those of the stream ``(seed, "augmentation",
position = epoch)`` of :mod:`densespec.data.draws` from number ``4 i`` (cifar) or ``24 i``
(imagenet) on. ``u[j]`` is ``(r[j] >> 11) * 2**-53``, in [0, 1).

``none``
    The image as it is, or brought to ``size`` as for evaluation.

``cifar``
    As in the paper's code for CIFAR+: the normalised image, padded with 4 zeros on each side, is
    cropped at row ``r[0] mod 9`` and column ``r[1] mod 9`` of the padded one, back to its size.
    Then its columns are reversed where ``r[2]`` is odd. The zeros are those of normalised numbers,
    so that the border is the mean colour and not black.

``imagenet``
    For attempt t = 0 to 9, of an image of height H and width W:

        area    (0.08 + 0.92 u[2t]) H W
        aspect  exp(log(3/4) + u[2t + 1] (log(4/3) - log(3/4)))
        width   round(sqrt(area * aspect))        halves to even
        height  round(sqrt(area / aspect))

    The first box that is at least 1 wide and high, at most W wide and H high, is cut out, at row
    ``r[20] mod (H - height + 1)`` and column ``r[21] mod (W - width + 1)``. Where none is, it is
    the largest box in the middle with an aspect from 3/4 to 4/3. It is resized to ``size`` and its
    columns are reversed where ``r[22]`` is odd, then it is normalised.

Evaluation: the shorter side is resized to round(8/7 of ``size``), such as 256 for 224, the longer
one in proportion, rounded down; then the middle is cut out, at row ``(H - height) // 2``. An image
that has the size already is left as it is.

Resizing is Pillow's ``BILINEAR`` on each channel alone: a triangle filter that widens where an
image shrinks. Bytes stay bytes; floats are resized in float32. Images of one or three dimensions
are brought to a size as a whole: see :mod:`densespec.data.interpolation`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densespec.data.dataset import DataError, Normalisation, Split
from densespec.data.draws import BLOCK, raw, unit
from densespec.data.interpolation import interpolated
from densespec.errors import UnknownName
from densespec.installed import require_pillow

STREAM = "augmentation"
PADDING = 4
NUMBERS = 24
"""In ``imagenet`` an image has this many numbers; the last one is not used."""
ATTEMPTS = 10
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
SHORT_SIDE = 8 / 7
COLOURS = 3
LONGEST = 100
"""An image may be at most this many times longer than wide to be resized as for evaluation."""


@dataclass(frozen=True)
class ImageRequest:
    """Says which images of a split to prepare, and how.

    Attributes:
        rows: The indices of the images within the split, (count,).
        size: The size that they will have.
    """

    split: Split
    rows: np.ndarray
    seed: int
    epoch: int
    size: tuple[int, ...]
    normalisation: Normalisation
    dtype: np.dtype


Augmentation = Callable[[ImageRequest], np.ndarray]
"""Makes normalised images, (count, channels, *size)."""


def none(request: ImageRequest) -> np.ndarray:
    """Leave images as they are, at the requested size."""
    return request.normalisation.apply(evaluated(request), request.dtype)


def cifar(request: ImageRequest) -> np.ndarray:
    """Crop the padded images at random, and turn half of them round."""
    x = request.normalisation.apply(evaluated(request), request.dtype)
    height, width = request.size
    numbers = _epoch_numbers(request.seed, request.epoch, len(request.split))[request.rows]
    offsets = (numbers[:, :2] % np.uint64(2 * PADDING + 1)).astype(np.intp)
    padded = np.zeros((*x.shape[:2], height + 2 * PADDING, width + 2 * PADDING), x.dtype)
    padded[:, :, PADDING:-PADDING, PADDING:-PADDING] = x
    flipped = (numbers[:, 2] % np.uint64(2)).astype(bool)
    for image, source, (top, left), flip in zip(x, padded, offsets, flipped, strict=True):
        crop = source[:, top : top + height, left : left + width]
        image[...] = crop[..., ::-1] if flip else crop
    return x


@functools.lru_cache(maxsize=2)
def _epoch_numbers(seed: int, epoch: int, count: int) -> np.ndarray:
    """Draw the numbers of every image of an epoch, (count, 4)."""
    return raw(seed, STREAM, epoch, BLOCK * count).reshape(count, BLOCK)


def imagenet(request: ImageRequest) -> np.ndarray:
    """Cut a random part out of each image, resize it, and turn half of them round."""
    images = []
    for row in request.rows:
        image = request.split.image(int(row))
        block = int(row) * (NUMBERS // BLOCK)
        numbers = raw(request.seed, STREAM, request.epoch, NUMBERS, block=block)
        top, left, height, width = random_box(numbers, image.shape[1], image.shape[2])
        crop = resized(image[:, top : top + height, left : left + width], request.size)
        images.append(crop[..., ::-1] if numbers[22] % 2 else crop)
    return request.normalisation.apply(np.stack(images), request.dtype)


AUGMENTATIONS: dict[str, Augmentation] = {"none": none, "cifar": cifar, "imagenet": imagenet}


def augmentation(name: str, dims: int) -> Augmentation:
    """Return an augmentation by name, for images of so many spatial dimensions.

    Raises:
        UnknownName: There is no such augmentation.
        DataError: It is for images of two dimensions alone.
    """
    if name not in AUGMENTATIONS:
        raise UnknownName("augmentation", name, AUGMENTATIONS)
    if name != "none" and dims != 2:
        raise DataError(
            f"augmentation {name!r} is for images of two dimensions, not {dims}: set "
            "augmentation = 'none'"
        )
    return AUGMENTATIONS[name]


def evaluated(request: ImageRequest) -> np.ndarray:
    """Bring images to the requested size as for evaluation, without normalising them."""
    split, rows, size = request.split, request.rows, request.size
    if isinstance(split.x, np.ndarray) and split.shape[1:] == size:
        return split.x[rows]
    return np.stack([centred(split.image(int(row)), size) for row in rows])


def centred(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bring an image (channels, *sizes) to a size as for evaluation.

    Raises:
        DataError: It is far too long.
    """
    if image.shape[1:] == size:
        return image
    if len(size) != 2:
        return interpolated(image, size)
    height, width = image.shape[1:]
    if max(height, width) > LONGEST * min(height, width):
        raise DataError(f"an image of size {(height, width)} is too long to be brought to {size}")
    target = (round(size[0] * SHORT_SIDE), round(size[1] * SHORT_SIDE))
    if height * target[1] <= width * target[0]:
        inner = (target[0], width * target[0] // height)
    else:
        inner = (height * target[1] // width, target[1])
    top, left = (inner[0] - size[0]) // 2, (inner[1] - size[1]) // 2
    return resized(image, inner)[:, top : top + size[0], left : left + size[1]]


def random_box(numbers: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Choose the row, column, height and width of what ``imagenet`` cuts out."""
    units = unit(numbers)
    low, high = map(math.log, ASPECT)
    for attempt in range(ATTEMPTS):
        area = (AREA[0] + (AREA[1] - AREA[0]) * units[2 * attempt]) * height * width
        aspect = math.exp(low + units[2 * attempt + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(numbers[20]) % (height - h + 1), int(numbers[21]) % (width - w + 1)
            return top, left, h, w
    h = min(height, max(1, round(width / ASPECT[0])))
    w = min(width, max(1, round(height * ASPECT[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize an image (channels, height, width), channel by channel."""
    if image.shape[1:] == size:
        return image
    pillow = require_pillow("resizing images")
    across, filtered = (size[1], size[0]), pillow.Resampling.BILINEAR
    if image.dtype == np.uint8 and len(image) == COLOURS:  # the same numbers in less time
        picture = pillow.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(picture.resize(across, filtered)).transpose(2, 0, 1)
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    out = np.empty((len(image), *size), image.dtype)
    for channel, pixels in enumerate(image):
        picture = pillow.fromarray(np.ascontiguousarray(pixels, kind))
        out[channel] = picture.resize(across, filtered)
    return out
