"""What mkdocstrings can't read in the source: docstrings that a decorator completes.

Such decorators describe options that are declared elsewhere, as fields of a record. They are of
the core, which can be imported without any framework.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe


class CompletedDocstrings(griffe.Extension):
    """Takes the docstrings of decorated functions of the core from the functions themselves."""

    def on_function(self, *, func: griffe.Function, **others: Any) -> None:
        """Replace a docstring by what it is once the decorators have run."""
        if func.docstring and any(
            d.callable_path.startswith("densespec.") for d in func.decorators
        ):
            function = getattr(importlib.import_module(func.module.path), func.name)
            func.docstring.value = inspect.getdoc(function) or ""
