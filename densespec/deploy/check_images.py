"""Checks a file that prepares images itself: it is compared on images of several forms."""

from __future__ import annotations

import zlib

import numpy as np

from densespec.deploy.check import COMPARED, TOLERANCES, Measured, WrongExport, check_model
from densespec.deploy.network import ExportOptions, Runner, WeightedGraph
from densespec.pretrained.preprocessing import Preprocessing
from densespec.reference.model import ReferenceModel


class WidthFirst(Preprocessing):
    """Resizes one axis after the other, as exported files do.

    Pillow rounds to bytes in between. Before version 13 it began with the width. Since then it
    begins with the height if resizing takes away more than twice as many rows as columns.
    """

    def resized(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resize bytes (height, width, channels): their width, and then their height."""
        across = super().resized(pixels, (pixels.shape[0], size[1]))
        return super().resized(across, size)


def measure_on_images(
    run: Runner, network: WeightedGraph, options: ExportOptions, preprocessing: Preprocessing
) -> Measured:
    """Run an exported file on images, and compare it with preprocessing and the reference.

    Raises:
        WrongExport: It differs by more than rounding, or gives another shape; or the model that the
            network was read from computes something else.
    """
    reference = ReferenceModel(network.graph, network.arrays)
    prepare = WidthFirst(**preprocessing.to_dict())
    if network.model is not None:
        check_model(network.model)
    shapes, differences = _shapes(preprocessing, options), []
    for shape in shapes:
        images = np.random.default_rng(zlib.crc32(repr(shape).encode())).integers(
            0, 256, shape, dtype=np.uint8
        )
        expected = reference(prepare.batch(images[:COMPARED]).astype(np.float64))
        given = run(images)
        (actual,) = (given,) if isinstance(given, np.ndarray) else given
        if actual.shape != (shape[0], *expected.shape[1:]):
            raise WrongExport(f"for images of shape {shape} it gives {actual.shape}")
        apart = np.abs(actual[:COMPARED].astype(np.float64) - expected).max()
        differences.append(float(apart / (np.abs(expected).max() or 1.0)))
    difference = max(differences)
    if not difference <= TOLERANCES[options.dtype]:  # NaN is wrong as well
        raise WrongExport(
            f"on images the exported network differs from the reference by {difference:.1e} of the "
            f"largest value, where {options.dtype} may differ by {TOLERANCES[options.dtype]:.0e}: "
            "nothing was written"
        )
    return Measured(difference, shapes)


def _shapes(preprocessing: Preprocessing, options: ExportOptions) -> tuple[tuple[int, ...], ...]:
    """Choose shapes of larger and smaller images than the network takes, both wide and tall."""
    height, width = preprocessing.size
    sizes = ((2 * height + 3, 3 * width + 1), (height, width - 1), (height // 2 + 1, width // 3))
    batch = options.batch or 2
    return tuple((batch, h, max(w, 1), preprocessing.channels) for h, w in sizes)
