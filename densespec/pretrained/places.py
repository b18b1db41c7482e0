"""Says where files of trained weights lie: in densespec's cache, and in those of other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from densespec.installed import require
from densespec.pretrained.row import PretrainedWeights

CACHE = "DENSESPEC_CACHE"
"""The environment variable that names the folder of the cache."""


def cache_folder() -> Path:
    """Return the folder of the cache, which need not be there.

    Raises:
        PackageMissing: platformdirs is not installed, and ``DENSESPEC_CACHE`` names no folder.
    """
    if given := os.environ.get(CACHE):
        return Path(given).expanduser()
    require("finding the cache of trained weights", "platformdirs", extra="pretrained")
    import platformdirs

    return platformdirs.user_cache_path("densespec", appauthor=False)


def own_place(row: PretrainedWeights) -> Path:
    """Return the path at which densespec keeps a file, be it there or not."""
    return cache_folder() / "pretrained" / row.publisher / row.file


def archive_place(row: PretrainedWeights) -> Path:
    """Return the path at which a download is put: that of the file, or of the archive of it."""
    place = own_place(row)
    return place.with_name(f"{place.name}.{row.archive}") if row.archive else place


def other_places(row: PretrainedWeights) -> Iterator[Path]:
    """Yield the paths at which other programs may keep a file.

    Folders are as a row states them, with variables of the environment; folders whose variables are
    not set are left out.
    """
    for folder in row.elsewhere:
        expanded = os.path.expandvars(folder)
        if "$" not in expanded:
            yield Path(expanded).expanduser() / row.file
