"""Reads DICOM files, as hospitals keep images, by pydicom.

Grey images are float32 in the unit that the file states: ``slope * stored + intercept``. Where low
values are shown bright (MONOCHROME1) they are turned round within the range of the stored bits, so
that high is bright in every image: value v becomes lowest + highest - v. The window that a file
states is for eyes, and left out unless it is asked for; through it, values are from 0 to 255.
Several frames make a volume (frames, rows, columns). Colours are bytes, as in other pictures.
"""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np

from densespec.data.dataset import BYTE
from densespec.data.reading.pictures import pixels_of
from densespec.data.reading.reader import ImageForm, ImageReader, with_channels
from densespec.errors import shown
from densespec.installed import imported, require_pillow

EXTRA = "dicom"
MOST_VALUES = 2**28
"""An image may have at most this many values: a few packed bytes can claim any number."""

INVERSE, GREY = "MONOCHROME1", "MONOCHROME2"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DEFLATED = b"1.2.840.10008.1.2.1.99"
"""In the syntax with this name a few bytes can hold gigabytes, which pydicom would unpack."""
UNREAD = {
    "ModalityLUTSequence": "a table of values (Modality LUT)",
    "SharedFunctionalGroupsSequence": "groups of frames, each with a scale of its own",
    "PerFrameFunctionalGroupsSequence": "groups of frames, each with a scale of its own",
}
"""These attributes change the meaning of values, and are not read."""


def read(file: BinaryIO, form: ImageForm) -> np.ndarray:
    """Read an image (channels, rows, columns) or (channels, frames, rows, columns).

    Raises:
        ValueError: It is an image of another kind, or has other channels.
        PackageMissing: pydicom is not installed.
    """
    pydicom = imported("reading DICOM files", "pydicom", extra=EXTRA)
    if DEFLATED in file.read():
        raise ValueError("it is deflated as a whole, which is not unpacked")
    file.seek(0)
    dataset = pydicom.dcmread(file)
    _check(dataset)
    stored = pydicom.pixels.pixel_array(dataset)
    if dataset.PhotometricInterpretation in COLOURS:
        picture = require_pillow("converting colours").fromarray(stored)
        return pixels_of(picture, form.channels)
    return with_channels(_grey(dataset, stored, window=form.window)[None], form.channels)


def _check(dataset: Any) -> None:
    kind = dataset.get("PhotometricInterpretation")
    if kind not in (INVERSE, GREY, *COLOURS):
        raise ValueError(
            f"its pixels are {shown(kind)}, but should be one of {', '.join((INVERSE, GREY))}, "
            f"{', '.join(COLOURS)}"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    for name, what in UNREAD.items():
        if name in dataset:
            raise ValueError(f"it has {what}, which is not looked into: write plain frames instead")
    if kind in COLOURS and (frames > 1 or dataset.BitsAllocated != 8):
        raise ValueError("it has colours, but only one frame of eight bits is read")
    count = math.prod((frames, int(dataset.Rows), int(dataset.Columns)))
    if not 0 < count < MOST_VALUES:
        raise ValueError(f"it has {count} values, but should have from 1 to below {MOST_VALUES}")


def _grey(dataset: Any, stored: np.ndarray, *, window: bool) -> np.ndarray:
    slope = float(dataset.get("RescaleSlope", 1))
    intercept = float(dataset.get("RescaleIntercept", 0))
    values = stored * slope + intercept
    ends = _stored_ends(dataset) * slope + intercept
    if window:
        values, ends = BYTE * _windowed(dataset, values), np.array([0, BYTE])
    if dataset.PhotometricInterpretation == INVERSE:
        values = ends.sum() - values
    return np.asarray(values, np.float32)


def _stored_ends(dataset: Any) -> np.ndarray:
    """Return the lowest and the highest value that the stored bits can have."""
    bits, signed = int(dataset.get("BitsStored", 0)), bool(dataset.get("PixelRepresentation", 0))
    if not bits and dataset.PhotometricInterpretation == INVERSE:
        raise ValueError("it shows low values bright, and does not say how many bits it stores")
    lowest = -(2.0 ** (bits - 1)) if signed else 0.0
    return np.array([lowest, lowest + 2.0**bits - 1])


def _windowed(dataset: Any, values: np.ndarray) -> np.ndarray:
    """Return what eyes see through the first window of a file, from 0 to 1 (DICOM PS3.3 C.11.2)."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        raise ValueError("it states no window: leave out --window, or window=True")
    kind = dataset.get("VOILUTFunction", "LINEAR")
    if kind == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width <= 0:
        return np.asarray(values > centre, float)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first(value: Any) -> float | None:
    """Return the first of the values of an attribute, which may have one, several or none."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") else value)


READER = ImageReader(
    name="DICOM image",
    suffixes=(".dcm", ".dicom"),
    claims=lambda head: head[128:132] == b"DICM",
    read=read,
)
