"""The cases: each module here holds one concern as a tuple ``CASES``, and is found by itself.

A module without ``CASES`` makes them for a network that is given.
"""

from __future__ import annotations

import importlib
import pkgutil

from densespec.backends import LAYERS
from densespec_conformance.case import Case


def all_cases(mode: str = LAYERS) -> tuple[Case, ...]:
    """Return every case of every module, the cheap ones first.

    Args:
        mode: The mode of the backend that is asked, which decides about some tiers.
    """
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    cases = [case.in_mode(mode) for module in modules for case in getattr(module, "CASES", ())]
    duplicates = {case.id for case in cases if [other.id for other in cases].count(case.id) > 1}
    assert not duplicates, f"ids used twice: {duplicates}"
    return tuple(sorted(cases, key=lambda case: case.cost))
