"""``.keras``: a zip archive of a model's description and its ``model.weights.h5``.

Read only: the description can't be written without the model. It is text here, and stays so:
nothing in it is loaded or run.
"""

from __future__ import annotations

import json
import shutil
import tempfile

from densespec.weights.containers import hdf5, zips
from densespec.weights.containers.base import Damaged, MappedFile, Opened, Refused

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def read(opened: Opened) -> None:
    archive = zips.open_archive(opened)
    for name in (CONFIG, WEIGHTS):
        if name not in archive.namelist():
            raise Refused(
                f"a .keras file should have {name}, but this archive has none; save the model "
                "anew with model.save"
            )
    # On disk and without a name: it may be as large as the archive.
    weights = tempfile.TemporaryFile()  # noqa: SIM115
    opened.resources.enter_context(weights)
    with archive.open(WEIGHTS) as packed:
        shutil.copyfileobj(packed, weights, 2**20)
    weights.flush()
    hdf5.read_from(opened, MappedFile(weights))
    opened.container = "keras"
    opened.metadata["config"] = archive.read(CONFIG).decode()
    if METADATA in archive.namelist():
        opened.metadata.update(_texts(archive.read(METADATA)))


def _texts(metadata: bytes) -> dict[str, str]:
    entries = json.loads(metadata)
    if not isinstance(entries, dict):
        raise Damaged(f"{METADATA} should be a JSON object")
    return {key: text for key, text in entries.items() if isinstance(text, str)}
