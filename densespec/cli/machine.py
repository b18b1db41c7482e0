"""Finds what densespec runs on: versions, threads, and the devices of each framework."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from densespec.backends import GROUP, backends
from densespec.cli.devices import devices_of
from densespec.timing.machine import usable_processors
from densespec.version import __version__

SETTINGS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "KERAS_BACKEND", "KERAS_HOME", "JAX_PLATFORMS"),
    *("JAX_ENABLE_X64", "CUDA_VISIBLE_DEVICES", "TF_ENABLE_ONEDNN_OPTS", "NVIDIA_TF32_OVERRIDE"),
    *("HF_HOME", "HF_HUB_OFFLINE"),
)
"""These environment variables change what is computed, on what, or where files are sought."""

_OF_DEVELOPERS = re.compile(r"extra\s*==\s*['\"](dev|docs|test)['\"]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def environment(*, devices: bool) -> dict[str, Any]:
    """Return a record of JSON values of what densespec runs on.

    No framework is imported. With ``devices``, each backend's framework is started in a process of
    its own and asked.
    """
    record: dict[str, Any] = {
        "densespec": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "processors": _processors(),
        "packages": _packages(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }
    if devices:
        record["devices"] = {name: devices_of(name) for name in backends()}
    return record


def _processors() -> str:
    usable = usable_processors()
    count = os.cpu_count() if usable is None else len(usable)
    return f"{platform.machine()}, {count} usable of {os.cpu_count()}"


def _packages() -> dict[str, str]:
    """Return the versions of what is installed of the packages that matter, by name, sorted."""
    found = {}
    for name in {*_publishers(), *_requirements()}:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def _publishers() -> set[str]:
    """Name the packages that publish a backend, densespec itself left out."""
    entries = metadata.entry_points(group=GROUP)
    return {entry.dist.name for entry in entries if entry.dist} - {"densespec"}


def _requirements() -> Iterator[str]:
    """Name what densespec and those who publish a backend require, for any use but development."""
    for package in {"densespec", *_publishers()}:
        for requirement in metadata.requires(package) or ():
            name = _NAME.match(requirement)
            if name and not _OF_DEVELOPERS.search(requirement):
                yield name.group().lower()
