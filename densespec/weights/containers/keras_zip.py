"""Reads ``.keras``, a zip archive of a model's description and its ``model.weights.h5``.

The format is only read here, because the description can't be written without the model. The
description is kept as text: nothing in it is loaded or run.
"""

from __future__ import annotations

from densespec.texts import LONGEST, parsed_json
from densespec.weights.containers import hdf5
from densespec.weights.containers.base import BytesInMemory, Damaged, Opened, Refused
from densespec.weights.containers.zips import Archive

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def read(opened: Opened) -> None:
    archive = Archive(opened)
    for name in (CONFIG, WEIGHTS):
        if name not in archive.members:
            raise Refused(
                f"a .keras file should have {name}, but this archive has none; save the model "
                "anew with model.save"
            )
    hdf5.read_from(opened, BytesInMemory(archive.content(WEIGHTS)))
    opened.container = "keras"
    opened.metadata["config"] = _text(archive, CONFIG)
    if METADATA in archive.members:
        opened.metadata.update(_texts(_text(archive, METADATA)))


def _text(archive: Archive, name: str) -> str:
    """Read a member, once it is known to be JSON."""
    if archive.members[name].file_size > LONGEST:
        raise Damaged(f"{name} is longer than {LONGEST} bytes")
    text = archive.content(name).tobytes().decode()
    parsed_json(text, name)
    return text


def _texts(metadata: str) -> dict[str, str]:
    entries = parsed_json(metadata, METADATA)
    if not isinstance(entries, dict):
        raise Damaged(f"{METADATA} should be a JSON object")
    return {key: text for key, text in entries.items() if isinstance(text, str)}
