"""Cases as data, for implementations that Python can't reach: ``docs/export.md`` is its format.

A case is run on a target that answers as the reference does and keeps what it was asked, so every
case can be exported, and none has to say how.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import densespec
from densespec.errors import DensespecError
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.files import to_json
from densespec.network.graph import Graph, Node
from densespec_conformance.answering.answers import graph_of, handle
from densespec_conformance.asking.requests import (
    About,
    Forward,
    Inspect,
    Inspected,
    NetworkToBuild,
    ReadMoments,
    ReadWeights,
    Request,
    Train,
)
from densespec_conformance.case import Case
from densespec_conformance.judging.expected import Expectation, Reference, expectation
from densespec_conformance.judging.measure import parts_of_steps, spoken

FORMAT = 1
"""States the version of the format, which ``index.json`` has as ``format``."""
INDEX = "index.json"
LARGEST = 16 * 2**20
"""Cases whose questions have more bytes of float64 weights than this are left out."""

Contents = dict[str, bytes]
"""Holds the files of a question by name."""


class ExportError(DensespecError, ValueError):
    """Cases can't be exported to the folder."""


@dataclass(frozen=True)
class Exported:
    """Describes what was written.

    Attributes:
        left_out: the ids of cases that are too large, or that the reference can't answer.
    """

    questions: int
    bytes: int
    left_out: tuple[str, ...]


def export_cases(
    folder: Path, cases: Sequence[Case], progress: Callable[[Case], None] = lambda case: None
) -> Exported:
    """Write cases into a folder, whole or not at all; an earlier export there is replaced.

    The same cases give the same bytes.

    Args:
        progress: called with each case after it was written.

    Raises:
        ExportError: the folder holds something else, or is in no folder.
    """
    folder = folder.absolute()
    _check(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        done = _write(temporary, cases, progress)
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def _check(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise ExportError(f"no folder {folder.parent} to write {folder.name} into")
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file, but should be a folder, or absent")
    if folder.exists() and any(folder.iterdir()) and not _is_export(folder / INDEX):
        raise ExportError(f"{folder} holds something that is no export: give an empty folder")


def _is_export(index: Path) -> bool:
    try:
        return bool(json.loads(index.read_text(encoding="utf-8"))["kind"] == "densespec export")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(folder: Path, cases: Sequence[Case], progress: Callable[[Case], None]) -> Exported:
    entries: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for case in cases:
        recorder = _Recorder()
        try:
            case.check(recorder, recorder.reference)
        except _LeftOut as error:
            left_out.append({"case": case.id, "reason": str(error)})
        else:
            entries += _write_case(folder, case, recorder.kept)
        progress(case)
    index = {
        "kind": "densespec export",
        "format": FORMAT,
        "densespec": densespec.__version__,
        "numpy": np.__version__,
        "questions": entries,
        "left_out": left_out,
    }
    (folder / INDEX).write_bytes(_json(index))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Exported(len(entries), size, tuple(entry["case"] for entry in left_out))


def _write_case(
    folder: Path, case: Case, kept: Sequence[tuple[str, Request, Any]]
) -> list[dict[str, Any]]:
    entries = []
    for number, (kind, request, answer) in enumerate(kept, start=1):
        name = case.id if len(kept) == 1 else f"{case.id}/{number}"
        contents, about = _QUESTIONS[kind](request, answer)
        path = folder / "cases" / name
        path.mkdir(parents=True)
        for file, data in contents.items():
            (path / file).write_bytes(data)
        entries.append(
            {
                "id": name,
                "case": case.id,
                "claim": case.claim,
                "kind": kind,
                "dtype": request.network.dtype,
                "folder": f"cases/{name}",
                "files": sorted(contents),
                **about,
            }
        )
    return entries


class _LeftOut(Exception):
    """A case is not exported; the message says why."""


class _Recorder:
    """Answers as the reference does, and keeps what it was asked."""

    name = "the reference"

    def __init__(self) -> None:
        self.kept: list[tuple[str, Request, Any]] = []
        self.reference = _Remembered()

    def ask(self, request: Request) -> Any:
        match request:
            case Forward() | Train():
                _check_size(request.network)
                _check_finite(request)
                kind = "forward" if isinstance(request, Forward) else "train"
                expected = self.reference.of(request)
                self.kept.append((kind, request, expected))
                return expected.values
            case Inspect() | ReadWeights():
                answer = handle("numpy", request)
                kind = "inspect" if isinstance(request, Inspect) else "weights"
                self.kept.append((kind, request, answer))
                return answer
            case About():
                return handle("numpy", request)
            case ReadMoments():
                raise _LeftOut("it is about what Python can ask a trainer")
        raise TypeError(f"{type(request).__name__} is no question of a case")


class _Remembered(Reference):
    """Computes a request once, however it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self._by_request: list[tuple[Request, Expectation]] = []

    def expect(self, key: str, request: Callable[[], Request]) -> Expectation:
        return self.of(request())

    def of(self, request: Request) -> Expectation:
        for known, expected in self._by_request:
            if known is request:
                return expected
        _check_size(request.network)
        expected = expectation(request)
        self._by_request.append((request, expected))
        return expected


def _check_size(network: NetworkToBuild) -> None:
    size = 8 * sum(array.size for array in (network.weights or {}).values())
    if size > LARGEST:
        raise _LeftOut(f"its weights take {size / 2**20:.0f} MiB")


def _check_finite(request: Request) -> None:
    if isinstance(request, Forward):
        arrays = (request.x, *(request.network.weights or {}).values())
        if not all(np.isfinite(array).all() for array in arrays):
            raise _LeftOut("it is about what is not finite, which has no bound")


def _forward(request: Forward, expected: Expectation) -> tuple[Contents, dict[str, Any]]:
    assert isinstance(expected.values, dict)
    graph = _graph(request.network, request.x.shape[2:])
    contents = _network(request.network, graph) | {
        "inputs.safetensors": _tensors({"x": request.x}),
        "expected.safetensors": _tensors(expected.values),
        "bounds.json": _bounds(expected),
    }
    return contents, {"bound_reason": expected.bounds.reason}


def _train(request: Train, expected: Expectation) -> tuple[Contents, dict[str, Any]]:
    assert isinstance(expected.values, list)
    graph = _graph(request.network, request.batches[0].x.shape[2:])
    steps = [{"learning_rate": batch.learning_rate} for batch in request.batches]
    recipe = request.recipe.to_dict() | {
        "replicas": request.replicas,
        "steps": steps,
        "steps_before": request.steps_before,
    }
    contents = _network(request.network, graph) | {
        "recipe.json": _json(recipe),
        "inputs.safetensors": _tensors(_inputs(request)),
        "expected.safetensors": _tensors(parts_of_steps(expected.values)),
        "bounds.json": _bounds(expected),
    }
    return contents, {"bound_reason": expected.bounds.reason, "steps": len(steps)}


def _inputs(request: Train) -> Arrays:
    arrays: Arrays = {
        f"{spoken(moment)} {name}": np.asarray(array)
        for moment, given in (request.moments or {}).items()
        for name, array in given.items()
    }
    for number, batch in enumerate(request.batches, start=1):
        arrays[f"step {number}, x"] = batch.x
        arrays[f"step {number}, labels"] = batch.labels
        for name, mask in batch.masks.items():
            arrays[f"step {number}, mask {name}"] = mask.astype(np.uint8)
    return arrays


def _inspect(request: Inspect, answer: Inspected) -> tuple[Contents, dict[str, Any]]:
    graph = _graph(request.network, request.sample_size)
    found = {
        "trainable": answer.trainable,
        "running_statistics": answer.non_trainable,
        "shapes": {name: list(shape) for name, shape in answer.shapes.items()},
    }
    return _network(request.network, graph, weights=False) | {"expected.json": _json(found)}, {}


def _read(request: ReadWeights, answer: Arrays) -> tuple[Contents, dict[str, Any]]:
    network = request.network
    contents = _network(network, _graph(network, network.input_size))
    stored = {"expected.safetensors": _tensors(answer, as_they_are=True)}
    return contents | stored, {} if network.weights else {"seed": network.seed}


_QUESTIONS: Mapping[str, Callable[[Any, Any], tuple[Contents, dict[str, Any]]]] = {
    "forward": _forward,
    "train": _train,
    "inspect": _inspect,
    "weights": _read,
}


def _graph(network: NetworkToBuild, size: tuple[int, ...] | None) -> Graph:
    return graph_of(dataclasses.replace(network, input_size=size))


def _network(network: NetworkToBuild, graph: Graph, *, weights: bool = True) -> Contents:
    contents = {
        "spec.json": to_json(network.spec).encode(),
        "graph.json": _json({"nodes": [_node(node) for node in graph.nodes]}),
    }
    if weights and network.weights is not None:
        contents["weights.safetensors"] = _tensors(network.weights)
    return contents


def _node(node: Node) -> dict[str, Any]:
    weights = {weight.short: weight.name for weight in node.weights}
    trainable = [weight.name for weight in node.weights if weight.trainable]
    fields = dataclasses.asdict(node.op)
    if isinstance(node.op, ops.Input):
        fields = {}
    return {
        "name": node.name,
        "op": type(node.op).__name__,
        **fields,
        "inputs": node.inputs,
        "shape": node.shape,
        "weights": weights,
        "trainable": trainable,
        "frozen": node.frozen,
    }


def _bounds(expected: Expectation) -> bytes:
    return _json({"reason": expected.bounds.reason, "relative": dict(expected.bounds.relative)})


def _tensors(arrays: Mapping[str, np.ndarray], *, as_they_are: bool = False) -> bytes:
    """Write a safetensors file in float64, integers excepted, unless ``as_they_are``."""
    from safetensors.numpy import save

    def stored(array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        keep = as_they_are or array.dtype.kind != "f"
        return np.ascontiguousarray(array if keep else array.astype(np.float64))

    return save({name: stored(array).reshape(np.shape(array)) for name, array in arrays.items()})


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
