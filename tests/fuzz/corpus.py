"""The right files that are damaged: one of each container, as it is written here and by others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.containers.samples import SAMPLES, network, sample

KINDS = {
    "zip.pth": "torch-zip",
    "net.pth": "torch-zip",
    "wrapped.pt": "torch-zip, wrapped",
    "legacy.pth": "torch-legacy",
    "net.npz": "npz",
    "plain.npz": "npz by numpy",
    "packed.npz": "npz, packed",
    "archive.keras": "keras",
    "packed.keras": "keras, packed",
}
"""What a sample is called in the table, where its name does not say it."""


@dataclass(frozen=True)
class Seed:
    """A right file.

    Attributes:
        kind: a line of the table.
        arrays: what it holds, by name.
    """

    kind: str
    name: str
    content: bytes
    arrays: Mapping[str, np.ndarray]


def seeds(folder: Path) -> list[Seed]:
    """Write every sample into a folder and give it with what it holds."""
    arrays = network()
    return [
        Seed(KINDS.get(name, name), name, sample(folder, name, arrays).read_bytes(), arrays)
        for name in SAMPLES
    ]
