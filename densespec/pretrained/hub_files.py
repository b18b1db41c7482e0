"""Finds files of the Hugging Face Hub in the Hub's own cache.

In its cache, the Hub names a large file by its SHA-256. So the file is known without a network, and
also if another program has fetched it.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from densespec.errors import WeightsError
from densespec.installed import is_installed, require
from densespec.pretrained.checksums import file_digest
from densespec.pretrained.row import HUB, PretrainedWeights

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """Describes a file of the Hub that is in the local cache.

    Attributes:
        path: Where it lies.
        commit: The commit of its repository that it comes from.
        address: Where it is published.
    """

    path: Path
    commit: str
    address: str


def place(row: PretrainedWeights) -> Path | None:
    """Return the path of a file in the Hub's cache; None if it is not there."""
    if not is_installed("huggingface_hub"):
        return None
    found = _hub().try_to_load_from_cache(row.repository, row.file, revision=row.revision)
    return Path(found) if isinstance(found, str) else None


def cached(row: PretrainedWeights) -> HubFile | None:
    """Return a file that is in the Hub's cache; None if it is not.

    Raises:
        WeightsError: It has a wrong digest; it is deleted.
    """
    found = place(row)
    return None if found is None else _checked(row, found)


def fetched(row: PretrainedWeights) -> HubFile:
    """Fetch a file of the Hub into its cache.

    Raises:
        WeightsError: It can't be fetched, or has a wrong digest; the message says what to do.
        PackageMissing: huggingface_hub is not installed.
    """
    require(f"{row.name} is on the Hugging Face Hub, which", "huggingface_hub", extra="hub")
    try:
        found = _hub().hf_hub_download(row.repository, row.file, revision=row.revision)
    except Exception as error:  # of many types: no repository, no access, no network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        at = f" --revision {row.revision}" if row.revision else ""
        raise WeightsError(
            f"{row.name} is not here, and can't be fetched from {row.source}: {reason} Where there "
            f"is a network, run `hf download {row.repository} {row.file}{at}`, and copy the Hub's "
            f"cache to {_hub().constants.HF_HUB_CACHE}"
        ) from error
    return _checked(row, Path(found))


def _hub() -> ModuleType:
    return importlib.import_module("huggingface_hub")


def _checked(row: PretrainedWeights, path: Path) -> HubFile:
    """Return the file, if it has the digest by which the Hub names it.

    Raises:
        WeightsError: It has another digest; the file is deleted.
    """
    blob = path.resolve()
    digest = file_digest(blob)
    named = SHA256.fullmatch(blob.name) is not None
    if (named and blob.name != digest) or (row.digest and not row.digest.fits(blob)):
        expected = row.digest or f"sha256:{blob.name}"
        path.unlink()
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{row.name}: {path} has the digest sha256:{digest}, but should have {expected}: it is "
            "damaged, and has been deleted"
        )
    commit = path.parent.name
    return HubFile(path, commit, f"{HUB}/{row.repository}/resolve/{commit}/{row.file}")
