"""What JAX exports: StableHLO, serialized and as text, from plain functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from densespec import DenseNetSpec
from densespec.deploy import WeightedGraph, export
from densespec.network.graph import lower
from densespec.network.initial import initial_weights

pytest.importorskip("jax", reason="JAX is not installed")

CIFAR = DenseNetSpec(blocks=(2, 1), growth_rate=3, bottleneck_width=2, compression=0.5, classes=4)
NETWORKS = {
    "torchvision-like": CIFAR.replace(stem_kind="conv-norm-relu", stem_pool=3, stem_stride=2),
    "same": CIFAR.replace(padding="same", stem_kernel=7, stem_stride=2, stem_pool=3),
    "preactivation": CIFAR.replace(
        stem_kind="norm-relu-conv", stem_pool=2, conv_bias=True, dropout_rate=0.1
    ),
}


def network_of(spec: DenseNetSpec, *size: int) -> WeightedGraph:
    graph = lower(spec, size or None)
    return WeightedGraph(graph, initial_weights(graph, 1))


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("suffix", ["stablehlo", "mlir"])
def test_any_batch_and_size_go(spec: DenseNetSpec, suffix: str, tmp_path: Path) -> None:
    for optimize in (True, False):
        done = export(network_of(spec), tmp_path / f"{optimize}.{suffix}", optimize=optimize)
        assert done.measured is not None
        assert done.measured.difference < 2e-6
        assert {shape[0] for shape in done.measured.shapes} == {1, 2}


@pytest.mark.parametrize("suffix", ["stablehlo", "mlir"])
def test_a_fixed_size_and_batch_are_exported(suffix: str, tmp_path: Path) -> None:
    network = network_of(NETWORKS["same"], 35, 42)
    done = export(network, tmp_path / f"net.{suffix}", batch=3)
    assert done.measured is not None
    assert done.measured.shapes == ((3, 3, 35, 42),)


def test_one_and_three_dimensions_go(tmp_path: Path) -> None:
    for dims in (1, 3):
        network = network_of(NETWORKS["same"].replace(spatial_dims=dims))
        done = export(network, tmp_path / f"{dims}.stablehlo")
        assert done.measured is not None
        assert done.measured.difference < 2e-6
