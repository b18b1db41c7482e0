"""Orbax's folders: in each form in which programs save a network, damaged and hostile."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.errors import WeightsError, WeightsWarning
from densespec.weights.containers import write_file
from tests.containers.samples import content, network, refusal, tensors
from tests.strategies import tiny

jax = pytest.importorskip("jax", reason="JAX is not installed")
ocp = pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")
nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

SPEC = tiny(blocks=(2, 1))


def _state(model: Any) -> Any:
    return nnx.state(model, (nnx.Param, nnx.BatchStat))


def _pure(model: Any, folder: Path) -> None:
    _standard(folder, nnx.to_pure_dict(_state(model)))


def _variables(model: Any, folder: Path) -> None:
    _standard(folder, _state(model))


def _standard(folder: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)


def _in_collections(model: Any, folder: Path) -> None:
    trees = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    tree = {name: nnx.to_pure_dict(nnx.state(model, kind)) for name, kind in trees.items()}
    ocp.PyTreeCheckpointer().save(folder, tree)


def _among_others(model: Any, folder: Path) -> None:
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, 0.9), wrt=nnx.Param)
    kept = nnx.to_pure_dict(nnx.state(optimizer))
    tree = {"params": nnx.to_pure_dict(_state(model)), "opt": kept, "step": 3, "name": "net"}
    ocp.PyTreeCheckpointer().save(folder, tree)


def _without_ocdbt(model: Any, folder: Path) -> None:
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    ocp.Checkpointer(handler).save(folder, nnx.to_pure_dict(_state(model)))


def _of_steps(model: Any, folder: Path) -> None:
    with ocp.CheckpointManager(folder) as manager:
        for step, factor in ((9, 0.0), (10, 1.0)):
            tree = nnx.to_pure_dict(nnx.map(lambda _, v, f=factor: v * f, _state(model)))
            manager.save(step, args=ocp.args.StandardSave(tree))


FORMS: tuple[Callable[[Any, Path], None], ...] = (
    *(_pure, _variables, _in_collections, _among_others, _without_ocdbt, _of_steps),
)


@pytest.fixture(scope="module")
def model() -> Any:
    return densespec.build(SPEC, backend="flax.nnx")


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orbax") / "saved"
    _pure(model, folder)
    return folder


@pytest.mark.parametrize("save", FORMS, ids=lambda form: form.__name__[1:])
def test_a_network_in_it_is_found(model: Any, tmp_path: Path, save: Any) -> None:
    save(model, tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightsWarning)  # of what is left out
        found = densespec.build(SPEC, backend="flax.nnx", weights=tmp_path / "saved")
    expected = nnx.to_pure_dict(_state(model))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(_state(found)), expected)


# Written


@pytest.fixture(scope="module")
def written(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    densespec.save(model, folder / "net.safetensors")
    densespec.convert(folder / "net.safetensors", folder / "net.orbax")
    return folder / "net.orbax"


def test_orbax_restores_what_is_written_into_a_module(model: Any, written: Path) -> None:
    other = densespec.build(SPEC, backend="flax.nnx", seed=7)
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(other, checkpointer.restore(written, nnx.to_pure_dict(_state(other))))
    expected = nnx.to_pure_dict(_state(model))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(_state(other)), expected)
    x = np.ones((1, 16, 16, 3), np.float32)
    for each in (model, other):
        each.eval()
    np.testing.assert_array_equal(model(x), other(x))


def test_orbax_takes_it_without_being_told_a_tree(model: Any, written: Path) -> None:
    expected = nnx.to_pure_dict(_state(model))
    with ocp.PyTreeCheckpointer() as checkpointer:
        jax.tree.map(np.testing.assert_array_equal, checkpointer.restore(written), expected)


def test_what_is_written_is_read_bit_for_bit(model: Any, written: Path, tmp_path: Path) -> None:
    densespec.convert(written, tmp_path / "back.safetensors", spec=SPEC)
    back = densespec.read_weights(
        densespec.build(weights=tmp_path / "back.safetensors", backend="numpy")
    )
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_texts_are_where_orbax_has_them(tmp_path: Path) -> None:
    write_file(tmp_path / "net.orbax", tensors(network()), {"note": "a note"})
    with ocp.StandardCheckpointer() as checkpointer:
        said = checkpointer.metadata(tmp_path / "net.orbax").custom_metadata
    assert said == {"note": "a note"}


def _a_folder(path: Path) -> None:
    path.mkdir()
    (path / "photo.jpg").touch()


@pytest.mark.parametrize("put", [_a_folder, Path.touch], ids=["a folder", "a file"])
def test_something_else_is_not_replaced(tmp_path: Path, put: Callable[[Path], None]) -> None:
    path = tmp_path / "net.orbax"
    put(path)
    before = content(path)
    with pytest.raises(WeightsError, match="is there and no folder of orbax: give another name"):
        write_file(path, tensors(network()))
    assert content(path) == before


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a/b.c", "a.b/c"), "the same folder as 'a/b.c'"),
        (("_METADATA",), "can't be the name of a folder"),
        (("..",), "can't be the name of a folder"),
        (("a/" + "b" * 300,), "at most 255 bytes"),
    ],
)
def test_names_that_are_no_folders_are_refused(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(WeightsError, match=said):
        write_file(tmp_path / "net.orbax", tensors(dict.fromkeys(names, np.ones(2, np.float32))))
    assert list(tmp_path.iterdir()) == []


# Damaged


def test_an_array_that_is_gone_is_not_taken_for_zeros(tmp_path: Path) -> None:
    write_file(tmp_path / "net.orbax", tensors(network()))
    (tmp_path / "net.orbax" / "layers.conv0.kernel" / "0.0").unlink()
    assert "layers.conv0.kernel" in refusal(tmp_path / "net.orbax")


def _without_data(folder: Path) -> None:
    for path in [*folder.glob("d/*"), *folder.glob("ocdbt.process_0/d/*")]:
        path.unlink()


def _cut_off(folder: Path) -> None:
    for path in [*folder.glob("d/*"), *folder.glob("ocdbt.process_0/d/*")]:
        path.write_bytes(path.read_bytes()[:100])


def _without_manifest(folder: Path) -> None:
    (folder / "manifest.ocdbt").unlink()


def _no_json(folder: Path) -> None:
    (folder / "_METADATA").write_text("{")


def _no_tree(folder: Path) -> None:
    (folder / "_METADATA").write_text('{"tree_metadata": [1]}')


def _no_keys(folder: Path) -> None:
    (folder / "_METADATA").write_text('{"tree_metadata": {"a": {"key_metadata": 1}}}')


@pytest.mark.parametrize(
    "harm", [_without_data, _cut_off, _without_manifest, _no_json, _no_tree, _no_keys]
)
def test_what_is_damaged_is_refused_in_a_line(
    model: Any, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / "saved"
    _pure(model, folder)
    harm(folder)
    assert "\n" not in refusal(folder)


@pytest.mark.parametrize("key", ["..", ".", "a/b", "../../etc", "/etc", "\\etc", ""])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    leaf = {"key_metadata": [{"key": key}], "value_metadata": {"value_type": "jax.Array"}}
    tree = {"tree_metadata": {"x": leaf}, "use_ocdbt": False}
    (tmp_path / "_METADATA").write_text(json.dumps(tree))
    assert refusal(tmp_path).endswith("can't be the keys to a leaf of a tree")
