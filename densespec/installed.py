"""Checks whether optional packages are installed: the one place that says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from densespec.errors import PackageMissing


def require(what: str, package: str, *, extra: str) -> None:
    """Check that a package is installed that something needs, without importing it.

    Args:
        what: what needs it, as the subject of a sentence, such as ``"backend 'jax'"``.
        package: the name under which it is imported.
        extra: the extra of densespec that installs it.

    Raises:
        PackageMissing: it is not installed; the message names the extra to install.
    """
    if not is_installed(package):
        raise PackageMissing(what, package, extra)


def is_installed(package: str) -> bool:
    """Say whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that was put into sys.modules by hand has no spec
        return True


def imported(what: str, module: str, *, extra: str) -> ModuleType:
    """Import a module of a package that something needs.

    Args:
        what: What needs it, as the subject of a sentence.
        module: The name of the module, such as ``"PIL.Image"``.
        extra: The extra of densespec that installs the package.

    Raises:
        PackageMissing: The package is not installed; the message says what to install.
    """
    require(what, module.partition(".")[0], extra=extra)
    return importlib.import_module(module)


def require_pillow(what: str) -> ModuleType:
    """Import Pillow's ``PIL.Image``.

    Args:
        what: What needs it, as the subject of a sentence.

    Raises:
        PackageMissing: Pillow is not installed; the message says what to install.
    """
    return imported(what, "PIL.Image", extra="data")
