"""Describes known ways in which implementations of a DenseNet differ, as data.

Each module here is a family of them, with a tuple ``DEVIATIONS``. A deviation is tried on the
reference; if it then computes what a target does, that is what the target does differently
(``densespec_conformance.explaining.diagnosis``).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densespec_conformance.deviations.deviation import Deviation

FAMILIES = (*("spec", "op", "weights", "dropout", "distribution", "init", "precision"),)
"""Lists the families in the order in which they are tried and named: the most common come first."""


@functools.cache
def families() -> Mapping[str, tuple[Deviation, ...]]:
    """Return every deviation, by family."""
    return {
        family: importlib.import_module(f"{__name__}.{family}").DEVIATIONS for family in FAMILIES
    }


@functools.cache
def catalogue() -> Mapping[str, Deviation]:
    """Return every deviation by its id."""
    found = [deviation for group in families().values() for deviation in group]
    by_id = {deviation.id: deviation for deviation in found}
    assert len(by_id) == len(found), "ids are unique"
    return by_id
