"""Finds the averages of arrays, which checkpoints of training runs may hold beside the arrays."""

from __future__ import annotations

from pathlib import Path

from densespec.errors import WeightsError
from densespec.recipes.recipe import AVERAGE
from densespec.weights.tensors import Tensors

_PREFIX = f"{AVERAGE}/"
_BESIDE = (
    f"the averages of the weights, by which the run was judged, lie beside them: --key {AVERAGE} "
    "reads those"
)


def asked_for(path: Path, key: str | None) -> bool:
    """Say whether a key means the averages in one of our checkpoints."""
    return key == AVERAGE and path.suffix == ".safetensors"


def chosen(tensors: Tensors, *, averages: bool) -> tuple[Tensors, tuple[str, ...]]:
    """Return the tensors of a file by which the network is to compute, and what to say of that.

    Args:
        averages: Whether averages take the place of their arrays.

    Raises:
        WeightsError: The file has no averages.
    """
    found = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
    if not averages:
        return tensors, (_BESIDE,) if found else ()
    if not found:
        raise WeightsError(f"it has no averages of its arrays, and so no key {AVERAGE!r}")
    return {**tensors, **found}, ()
