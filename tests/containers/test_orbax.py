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
from densespec.errors import WeightsWarning
from tests.containers.samples import refusal
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
