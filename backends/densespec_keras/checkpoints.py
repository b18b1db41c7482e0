"""Reads TensorFlow's checkpoints and the folders of SavedModels by TensorFlow's own reader.

A checkpoint is an index and files of data. Its path may be the index, a file of data, the part that
their names have in common, or a folder. A SavedModel is a checkpoint beside a program, which is not
read. Arrays have the names of their variables, as in a legacy ``.h5``.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densespec.texts import parsed_json
from densespec.weights.containers.base import Opened, Refused
from densespec_keras.engine import import_tensorflow

INDEX = ".index"
DATA = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
INDEX_MAGIC = bytes.fromhex("57fb808b247547db")
"""An index ends in these bytes."""

SAVED_MODEL, VARIABLES, KERAS_METADATA = "saved_model.pb", "variables", "keras_metadata.pb"
NEWEST = re.compile(r'^model_checkpoint_path: "([^"]*)"', re.MULTILINE)
LONGEST_STATE = 2**16
LARGEST_METADATA = 64 * 2**20
MADE_OF_LAYERS = ("Functional", "Model", "Sequential")
"""The configs of Keras's models of these classes state their layers."""

NOTHING_STATED = (
    "a TensorFlow checkpoint does not tell what its program does before the first layer, such as "
    "rescaling, and after the last, such as a softmax: nothing is taken to stand there"
)

OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
BESIDE = re.compile(
    r"(.*/)?(\.OPTIMIZER_SLOT/.*|_?optimizer/.*|keras_api/.*|save_counter|_metrics/.*|metrics/.*)"
)
"""Matches the keys of variables that are no weights."""

EXPORTED, EXPORTED_AGAIN = "variables/", "_all_variables/"
"""Keras 3's exported programs list the model's variables under each of these."""

FIRST_LEAVES = frozenset({"kernel", "gamma"})


@dataclass(frozen=True)
class Variable:
    """Describes a variable of a checkpoint.

    Attributes:
        key: The key of its value in the checkpoint.
        name: Its name in the model.
    """

    key: str
    name: str


class CheckpointReader:
    """Reads them; see :class:`densespec.weights.containers.other_packages.ContainerReader`."""

    def files(self, path: Path) -> list[Path]:
        prefix = _prefix_of(path)
        if prefix is None or not _is_index(index := Path(f"{prefix}{INDEX}")):
            return []
        return [index, *sorted(prefix.parent.glob(f"{_escaped(prefix.name)}.data-?????-of-?????"))]

    def read(self, opened: Opened) -> None:
        reader = _Reader(str(_prefix_of(opened.path)))
        variables = reader.variables()
        for name, variable in zip(_names(variables), variables, strict=True):
            if BESIDE.fullmatch(variable.key.removesuffix(VALUE)):
                opened.skip(name)
            else:
                reader.add_to(opened, name, variable.key)
        if not opened.tensors:
            raise Refused(
                "its checkpoint has no variables of a model; Keras 3 keeps the weights of its "
                "models in files of its own: save them by model.save_weights('net.weights.h5')"
            )
        opened.name_as("keras-legacy")
        opened.metadata.update(stated := _stated(opened.path))
        if not stated:
            opened.notes.append(NOTHING_STATED)


READER = CheckpointReader()


# Where it lies


def _prefix_of(path: Path) -> Path | None:
    """Find what the names of a checkpoint's files have in common; None if there is none."""
    if path.is_dir():
        return _in_folder(path)
    if path.name == SAVED_MODEL:
        return _in_folder(path.parent)
    if path.suffix == INDEX:
        return path.with_suffix("")
    if match := DATA.fullmatch(path.name):
        return path.with_name(match[1])
    return path if not path.exists() and Path(f"{path}{INDEX}").is_file() else None


def _in_folder(folder: Path) -> Path | None:
    if (folder / SAVED_MODEL).is_file():
        return folder / VARIABLES / VARIABLES
    found = [path.with_suffix("") for path in sorted(folder.glob(f"*{INDEX}"))]
    newest = [prefix for prefix in found if prefix.name == _newest(folder)]
    return (newest or found)[0] if newest or len(found) == 1 else None


def _newest(folder: Path) -> str | None:
    """Find the last part of the name of a folder's newest checkpoint, as TensorFlow notes it."""
    state = folder / "checkpoint"
    if not state.is_file() or state.stat().st_size > LONGEST_STATE:
        return None
    match = NEWEST.search(state.read_text(encoding="utf-8", errors="replace"))
    return os.path.basename(match[1]) if match else None  # noqa: PTH119  (of any system's paths)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _is_index(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size < len(INDEX_MAGIC):
        return False
    with path.open("rb") as file:
        file.seek(-len(INDEX_MAGIC), os.SEEK_END)
        return file.read() == INDEX_MAGIC


# What it holds


class _Reader:
    """Wraps TensorFlow's reader, and what it says of its arrays."""

    def __init__(self, prefix: str) -> None:
        tensorflow = import_tensorflow("reading a TensorFlow checkpoint")
        self._reader = tensorflow.train.load_checkpoint(prefix)
        self._shapes = self._reader.get_variable_to_shape_map()
        self._types = self._reader.get_variable_to_dtype_map()

    def variables(self) -> list[Variable]:
        """List the variables in the order in which their model has them."""
        found = self._of_objects() if OBJECTS in self._shapes else self._of_names()
        if any(one.key.startswith(EXPORTED_AGAIN) for one in found):
            found = [one for one in found if one.key.startswith(EXPORTED)]
        return sorted(found, key=lambda one: _naturally(one.key))

    def _of_objects(self) -> list[Variable]:
        from tensorflow.core.protobuf import trackable_object_graph_pb2 as objects

        graph = objects.TrackableObjectGraph()
        graph.ParseFromString(self._reader.get_tensor(OBJECTS))
        return [
            Variable(part.checkpoint_key, part.full_name or part.checkpoint_key)
            for node in graph.nodes
            for part in node.attributes
            if part.checkpoint_key in self._shapes and self._is_number(part.checkpoint_key)
        ]

    def _of_names(self) -> list[Variable]:
        """List the variables of TensorFlow 1, whose keys are their names."""
        return [Variable(key, key) for key in self._shapes if self._is_number(key)]

    def _is_number(self, key: str) -> bool:
        return str(self._types[key].name) not in ("string", "resource", "variant")

    def add_to(self, opened: Opened, name: str, key: str) -> None:
        kind = self._types[key].as_numpy_dtype().dtype.name
        reader = self._reader
        opened.add(name, tuple(self._shapes[key]), kind, lambda dtype: reader.get_tensor(key))


def _naturally(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]


def _names(variables: Sequence[Variable]) -> Iterable[str]:
    """Yield the names of variables, with their layer's number where several have the same name."""
    counts = Counter(one.name for one in variables)
    if all(count == 1 for count in counts.values()):
        return [one.name for one in variables]
    return _numbered(variables)


def _numbered(variables: Sequence[Variable]) -> Iterator[str]:
    layers = itertools.count()
    seen: set[str] = set()
    for variable in variables:
        path, _, leaf = variable.name.rpartition("/")
        if leaf in FIRST_LEAVES or leaf in seen or not seen:
            layer, seen = next(layers), set()
        seen.add(leaf)
        yield f"{path}/{layer}/{leaf}"


def _stated(path: Path) -> dict[str, str]:
    """Read the model's config, which Keras 2 puts beside a SavedModel."""
    folder = path if path.is_dir() else path.parent
    metadata = folder / KERAS_METADATA
    if not metadata.is_file() or metadata.stat().st_size > LARGEST_METADATA:
        return {}
    from tensorflow.python.keras.protobuf import saved_metadata_pb2

    saved: Any = saved_metadata_pb2.SavedMetadata()
    saved.ParseFromString(metadata.read_bytes())
    roots = [node.metadata for node in saved.nodes if node.node_path == "root"]
    return _config(parsed_json(roots[0], KERAS_METADATA)) if roots else {}


def _config(root: Any) -> dict[str, str]:
    """Read the class and the config of a model that consists of layers; nothing for a program."""
    if not isinstance(root, dict) or root.get("class_name") not in MADE_OF_LAYERS:
        return {}
    entry = {key: _with_lists(root.get(key)) for key in ("class_name", "config")}
    return {"model_config": json.dumps(entry)}


def _with_lists(value: Any) -> Any:
    """Turn what stands in JSON for a tuple into a list."""
    match value:
        case {"class_name": "__tuple__", "items": list(items)}:
            return [_with_lists(item) for item in items]
        case dict():
            return {key: _with_lists(inner) for key, inner in value.items()}
        case list():
            return [_with_lists(inner) for inner in value]
    return value
