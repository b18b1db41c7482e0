"""Finds the likeliest classes of images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import REFERENCE
from densespec.errors import ImageError
from densespec.predicting.classifier import Classifier, NetworkLike, classifier
from densespec.pretrained.pictures import SUFFIXES, ImageLike
from densespec.pretrained.preprocessing import Preprocessing
from densespec.weights.reading import InterpretingOptions, takes_options_of

BATCH = 16


@dataclass(frozen=True)
class Guess:
    """Describes a class that an image may have.

    Attributes:
        label: The name of the class.
        index: Its number.
        probability: The probability that the network gives it, from 0 to 1.
        identifier: Another identifier of the class, such as its WordNet id; empty if there is none.
    """

    label: str
    index: int
    probability: float
    identifier: str = ""


@dataclass(frozen=True)
class Prediction:
    """Holds what a network says of an image.

    Attributes:
        image: The image as it was given; for a file in a given folder, its path.
        guesses: The likeliest classes in order; the first is the likeliest.
    """

    image: ImageLike
    guesses: tuple[Guess, ...]


@takes_options_of(InterpretingOptions)
def predict(
    network: NetworkLike,
    images: ImageLike | Iterable[ImageLike],
    *,
    backend: str = REFERENCE,
    top: int = 5,
    weights: Any = None,
    preprocessing: Preprocessing | None = None,
    batch_size: int = BATCH,
    **reading: Any,
) -> list[Prediction]:
    """Say which classes images have.

    Args:
        network: A model that densespec built; the name of a variant; the path of a weight file or
            of a folder of the Hub; or the name of trained weights.
        images: Images: paths of files or folders, arrays of bytes (height, width) or (height,
            width, channels), or Pillow's; or one of these.
        backend: Where the network is built, if it is not built yet.
        top: How many classes to tell of each image.
        weights: The weights of a variant; None for those that ``imagenet`` means.
        preprocessing: What images need; None for what the weights say.
        batch_size: How many images are computed together.
        {reading}

    Raises:
        ImageError: An image can't be read; the message names it.
        DensespecError: The network has no classifier, or nothing says what its images need.
    """
    built = classifier(
        network,
        backend=backend,
        weights=weights,
        preprocessing=preprocessing,
        reading=InterpretingOptions(**reading),
    )
    found: list[Prediction] = []
    waiting = _each(images)
    while some := tuple(islice(waiting, batch_size)):
        probabilities = built.probabilities(built.preprocessing.batch(some))
        found += map(Prediction, some, (_guesses(built, row, top) for row in probabilities))
    return found


def _each(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Yield every image; the images of folders come one by one."""
    one = isinstance(images, str | os.PathLike | np.ndarray) or hasattr(images, "convert")
    several: Any = [images] if one else images
    for image in several:
        if isinstance(image, str | os.PathLike) and Path(image).is_dir():
            yield from files_in(Path(image))
        else:
            yield image


def files_in(folder: Path) -> Sequence[Path]:
    """List the image files below a folder, by name.

    Raises:
        ImageError: There are none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ImageError(f"{folder}: no image files in it ({', '.join(SUFFIXES)})")
    return files


def _guesses(built: Classifier, probabilities: np.ndarray, top: int) -> tuple[Guess, ...]:
    """Return the likeliest classes that have names. In some networks an output has none."""
    labels, identifiers = built.labels, built.identifiers
    order = [int(index) for index in np.argsort(-probabilities, kind="stable") if labels[index]]
    return tuple(
        Guess(labels[index], index, float(probabilities[index]), identifiers[index])
        for index in order[:top]
    )
