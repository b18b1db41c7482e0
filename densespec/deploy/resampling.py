"""Pillow's resampling, as numbers: what every exported file that prepares images computes.

A new pixel is a weighted sum of old ones. The weight of one at a distance t is that of a filter,
which is a polynomial of t in each of its pieces; weights are made whole numbers of 22 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

from densespec.errors import DensespecError
from densespec.pretrained.preprocessing import Preprocessing

PRECISION = 2.0**22
"""What weights of old pixels are multiplied by to be whole numbers."""

_A = -0.5
"""The parameter of Pillow's cubic."""

FILTERS: Mapping[str, tuple[tuple[float, tuple[float, ...]], ...]] = {
    "bilinear": ((1.0, (-1.0, 1.0)),),
    "bicubic": (
        (1.0, (_A + 2, -(_A + 3), 0.0, 1.0)),
        (2.0, (_A, -5 * _A, 8 * _A, -4 * _A)),
    ),
}
"""The pieces of each filter: up to which distance, and the factors of the powers, highest first."""


def check_exportable(preprocessing: Preprocessing) -> None:
    """Check that files can resize as a preprocessing says.

    Raises:
        DensespecError: They can't.
    """
    kinds = ("nearest", *FILTERS)
    if preprocessing.interpolation not in kinds:
        raise DensespecError(
            f"resizing of the kind {preprocessing.interpolation!r} can't be exported: "
            f"{' and '.join(kinds)} can"
        )
