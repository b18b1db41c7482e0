"""The canonical checkpoint: a safetensors file of canonical names that describes itself.

Its metadata holds ``densespec`` (the version of this layout), ``spec`` (the spec as JSON) and
``classifier`` (whether the classifier's arrays are there). Reading one executes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densespec.errors import DensespecError, WeightsError
from densespec.files import atomic_path, spec_from_json, spec_to_json
from densespec.graph import Graph
from densespec.spec import DenseNetSpec
from densespec.weights import Arrays, check_weights

LAYOUT = "1"
"""Version of the layout, under the metadata key ``densespec``."""


@dataclass(frozen=True)
class Checkpoint:
    """What a canonical checkpoint holds.

    Attributes:
        spec: of the network the arrays belong to.
        include_top: whether the classifier's arrays are among them.
        arrays: by canonical name.
    """

    spec: DenseNetSpec
    include_top: bool
    arrays: Arrays


def write_checkpoint(
    path: str | os.PathLike[str], graph: Graph, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a network's arrays to a ``.safetensors`` file, whole or not at all.

    Raises:
        WeightsError: the arrays do not fit the network, or the path has another suffix.
    """
    from safetensors.numpy import save_file

    path = _checked(path)
    check_weights(graph, arrays)
    include_top = any(weight.name.startswith("classifier.") for weight in graph.weights)
    metadata = {
        "format": "np",
        "densespec": LAYOUT,
        "spec": spec_to_json(graph.spec),
        "classifier": "yes" if include_top else "no",
    }
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a canonical checkpoint.

    Raises:
        WeightsError: the file is absent, damaged, or not a densespec checkpoint; names the file.
    """
    from safetensors import SafetensorError, safe_open

    path = _checked(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        # The last two are safetensors's answer to types that numpy lacks, such as float8.
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    if metadata.get("densespec") != LAYOUT:
        found = metadata.get("densespec", "none")
        raise WeightsError(
            f"{path}: not a densespec checkpoint of layout {LAYOUT} (its metadata says {found})"
        )
    try:
        spec = spec_from_json(metadata.get("spec", ""))
    except DensespecError as error:
        raise WeightsError(f"{path}: the spec in its metadata: {error}") from error
    return Checkpoint(spec, metadata.get("classifier") == "yes", arrays)


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: a densespec checkpoint ends in .safetensors")
    return path
