"""Networks that give the values of several parts: what is given, kept, exported and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import densespec
from densespec.cli import main
from densespec.errors import UnknownName, WeightsError
from densespec.network.graph import FeatureMap, lower, without
from densespec.network.ops import Dropout
from densespec.network.passes import prepare
from densespec.network.steps import steps
from densespec.reference.model import ReferenceModel
from densespec.weights.checkpoint import read_checkpoint
from tests.strategies import specs, tiny, unhurried
from tests.test_convert import random_weights

SPEC = tiny(
    blocks=(2, 1, 2),
    stem_kind="conv-norm-relu",
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    bottleneck_width=2,
    compression=0.5,
)
OUTPUTS = ("block2", "stem", "block1", "final")


def _built(outputs: tuple[str, ...] = OUTPUTS, **options: Any) -> Any:
    return densespec.build(
        SPEC, backend="numpy", outputs=outputs, **({"weights": random_weights(SPEC)} | options)
    )


def _images(size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, size, size))


def test_each_output_is_the_value_of_the_last_node_of_its_part() -> None:
    whole = densespec.build(SPEC, backend="numpy", weights=random_weights(SPEC))
    last = ("block2.concat1", "stem.relu", "block1.concat2", "final.relu")
    values = whole.run(_images(), taps=last)
    given_values = _built()(_images())
    assert isinstance(given_values, tuple)
    for name, value in zip(last, given_values, strict=True):
        np.testing.assert_array_equal(value, values[name])


def test_channels_and_strides_are_told_and_are_those_of_the_maps() -> None:
    model = _built((*OUTPUTS, "global_pool"))
    told = densespec.feature_maps(model)
    stem = SPEC.stem_channels
    assert told[1:3] == (FeatureMap("stem", stem, 2), FeatureMap("block1", stem + 4, 4))
    values = model(_images(64))
    assert [(m.channels, m.stride and 64 // m.stride) for m in told] == [
        (value.shape[1], value.shape[2] if value.ndim > 2 else None) for value in values
    ]


def test_what_is_behind_the_last_output_is_left_out() -> None:
    graph = lower(SPEC, outputs=("block2", "stem"))
    assert graph.output.name == "block2.concat1"
    assert not graph.has_classifier
    assert lower(SPEC, outputs=("classifier",)).has_classifier
    assert lower(SPEC, graph.input_size, **graph.ends) == graph


def test_a_single_output_is_a_tuple_too() -> None:
    (value,) = _built(("block1",))(_images())
    assert value.ndim == 4


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        (("blok1",), UnknownName, "unknown output of the network 'blok1'.*block1"),
        (("block4",), UnknownName, "unknown output"),
        (("block1.layer1",), UnknownName, "unknown output"),
        (("head1",), UnknownName, "unknown output"),
        ("block1", ValueError, "names of stages, each once"),
        (("block1", "block1"), ValueError, "names of stages, each once"),
    ],
)
def test_what_is_no_output_is_refused(outputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lower(SPEC.replace(head_units=(4,)), outputs=outputs)


@given(spec=specs(), data=st.data())
@unhurried
def test_no_rewriting_computes_another_value_in_the_place_of_an_output(
    spec: Any, data: st.DataObject
) -> None:
    names = [stage.name for stage in lower(spec).stages() if not stage.name.startswith("head")]
    outputs = tuple(data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))
    graph = lower(spec, outputs=outputs)
    inferred = without(graph, {node.name for node in graph.nodes_of(Dropout)})
    kept = [node.name for node in inferred.given]
    assert [node.name for node in prepare(graph).graph.given] == kept
    ends = [step.output.name for step in steps(inferred, batch=lambda _: False)]
    assert set(kept) <= set(ends)


def test_a_network_prepared_for_inference_gives_the_same_values() -> None:
    graph = lower(SPEC, outputs=(*OUTPUTS, "global_pool", "classifier"))
    arrays = random_weights(SPEC)
    prepared = prepare(graph, arrays=arrays)
    model = ReferenceModel(prepared.graph, prepared.fold(arrays))
    expected = ReferenceModel(graph, arrays)(_images())
    for ours, theirs in zip(model(_images()), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


# Files


@pytest.mark.parametrize("outputs", [OUTPUTS, ("block2", "stem"), ("stem", "classifier")])
def test_a_checkpoint_says_what_its_network_gives(outputs: tuple[str, ...], tmp_path: Path) -> None:
    model, path = _built(outputs), tmp_path / "net.safetensors"
    densespec.save(model, path)
    assert read_checkpoint(path).arrays.keys() == densespec.read_weights(model).keys()
    again = densespec.build(backend="numpy", weights=path)
    assert again.densespec.graph.outputs == outputs
    for ours, theirs in zip(again(_images()), model(_images()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_hubs_folder_gives_the_same(tmp_path: Path) -> None:
    model = _built(("block1", "stem"))
    densespec.save_pretrained(model, tmp_path / "folder")
    again = densespec.from_pretrained(tmp_path / "folder", backend="numpy")
    for ours, theirs in zip(again(_images()), model(_images()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_without_what_is_asked_for_says_what_is_missing(tmp_path: Path) -> None:
    densespec.save(_built(("block1",)), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"transition1\.norm\.gamma is missing"):
        _built(("block2",), weights=tmp_path / "net.safetensors")


def test_stated_outputs_that_can_not_be_are_refused(tmp_path: Path) -> None:
    import safetensors.numpy

    path = tmp_path / "net.safetensors"
    densespec.save(_built(("block1",)), path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() | {"outputs": "block9"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["digests"]
    safetensors.numpy.save_file(arrays, path, metadata)
    with pytest.raises(WeightsError, match="its metadata has 'block9' among outputs"):
        densespec.build(SPEC, backend="numpy", weights=path)


def test_weights_of_the_whole_network_serve_and_a_frozen_part_stays_frozen() -> None:
    model = _built(trainable_from="block2")
    graph = model.densespec.graph
    assert graph.trainable_from == "block2.layer1.norm1"
    assert graph.outputs == OUTPUTS


def test_an_export_gives_every_output_by_name(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    model = _built()
    done = densespec.export(model, tmp_path / "net.onnx")
    assert done.measured is not None
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [node.name for node in model.densespec.graph.given]
    assert [output.name for output in session.get_outputs()] == names
    x = _images().astype("float32")
    for ours, theirs in zip(session.run(None, {"input": x}), model(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_commands_take_outputs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    net, target = tmp_path / "net.safetensors", tmp_path / "net.onnx"
    densespec.save(densespec.build(SPEC, backend="numpy", weights=random_weights(SPEC)), net)
    words = ["--outputs", "block2,stem", "--json"]
    told = CliRunner().invoke(main, ["export", str(net), "-o", str(target), *words])
    assert told.exit_code == 0, told.output
    exported = json.loads(told.stdout)["outputs"]
    assert [each["name"] for each in exported] == ["block2.concat1", "stem.relu"]
    told = CliRunner().invoke(main, ["build", "--weights", str(net), "--backend", "numpy", *words])
    assert told.exit_code == 0, told.output
    maps = json.loads(told.stdout)["outputs"]
    assert [(each["name"], each["stride"]) for each in maps] == [("block2", 8), ("stem", 2)]
