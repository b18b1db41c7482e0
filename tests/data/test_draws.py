"""Random numbers: those that the documentation says, drawn again without numpy's help."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest

import densespec
from densespec.data import Batches, DataError, dropout_masks
from densespec.data.dataset import held_out
from densespec.data.draws import SeedError, raw
from densespec.network.ops import Dropout
from tests.data.samples import dataset, philox

SPEC = densespec.DenseNetSpec(blocks=(2, 2), growth_rate=4, dropout_rate=0.2)
GRAPH = densespec.lower(SPEC, (8, 8))
NODES = [node for node in GRAPH.nodes if isinstance(node.op, Dropout)]


def numbers(seed: int, text: str, position: int, count: int) -> list[int]:
    return list(itertools.islice(philox((seed, zlib.crc32(text.encode())), position), count))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("position", [0, 300])
def test_streams_are_those_of_philox_as_documented(seed: int, position: int) -> None:
    expected = numbers(seed, "order", position, 23)
    assert raw(seed, "order", position, 23).tolist() == expected
    assert raw(seed, "order", position, 11, block=3).tolist() == expected[12:]


def test_the_order_of_an_epoch_is_the_argsort_of_its_stream() -> None:
    data = dataset(50)
    batches = Batches(data.train, data.normalisation, seed=5)
    for epoch in (0, 3):
        keys = numbers(5, "order", epoch, 50)
        assert batches.order(epoch).tolist() == sorted(range(50), key=keys.__getitem__)


@pytest.mark.parametrize("rate", [0.2, 0.5, 1e-3])
def test_masks_are_those_documented(rate: float) -> None:
    graph = densespec.lower(SPEC.replace(dropout_rate=rate), (3, 5))
    masks = dropout_masks(graph, seed=4, step=9, batch=3)
    for name, mask in masks.items():
        assert mask.shape == (3, *graph[name].shape)
        wide = numbers(4, name, 9, (mask.size + 1) // 2)
        narrow = [half for number in wide for half in (number % 2**32, number // 2**32)]
        expected = [number >= round(rate * 2**32) for number in narrow[: mask.size]]
        assert mask.reshape(-1).tolist() == expected


def test_a_number_at_the_threshold_is_kept_and_one_below_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = round(0.2 * 2**32)
    pair = np.uint64(at + (at - 1) * 2**32)
    monkeypatch.setattr(
        "densespec.data.masks.raw", lambda seed, text, position, count, block: np.full(count, pair)
    )
    for mask in dropout_masks(GRAPH, 0, 0, 1).values():
        assert mask.reshape(-1).tolist() == [True, False] * (mask.size // 2)


def test_masks_drop_at_the_rate_and_differ_by_node_step_and_seed() -> None:
    masks = dropout_masks(GRAPH, seed=0, step=0, batch=64)
    assert list(masks) == [node.name for node in NODES]
    kept = np.concatenate([mask.reshape(-1) for mask in masks.values()])
    assert abs(kept.mean() - 0.8) < 5 * np.sqrt(0.2 * 0.8 / kept.size)
    first = NODES[0].name
    assert masks[first].shape == masks[NODES[1].name].shape
    others = [
        masks[NODES[1].name],
        dropout_masks(GRAPH, seed=0, step=1, batch=64)[first],
        dropout_masks(GRAPH, seed=1, step=0, batch=64)[first],
    ]
    for other in others:  # independent masks agree where both keep or both drop: 0.68
        assert (masks[first] == other).mean() == pytest.approx(0.68, abs=0.02)


def test_a_smaller_batch_has_the_first_masks_of_a_larger_one() -> None:
    large, small = (dropout_masks(GRAPH, 0, 2, batch) for batch in (8, 3))
    for name, mask in small.items():
        np.testing.assert_array_equal(mask, large[name][:3])


@pytest.mark.parametrize("part", [[0, 1], [3, 4, 5], [7], [1, 2, 5], [0, 2, 7]])
def test_masks_of_a_part_are_those_of_the_whole(part: list[int]) -> None:
    whole, found = (dropout_masks(GRAPH, 3, 1, 8, part=p) for p in (None, np.array(part)))
    for name, mask in whole.items():
        np.testing.assert_array_equal(found[name], mask[part])


def test_masks_need_sizes() -> None:
    with pytest.raises(DataError, match="lower the spec with an input size"):
        dropout_masks(densespec.lower(SPEC), 0, 0, 1)


def test_no_two_dropouts_of_a_variant_share_a_stream() -> None:
    for name in densespec.variants():
        spec = densespec.get(name).replace(dropout_rate=0.5, dropout_place="every-conv")
        texts = [n.name for n in densespec.lower(spec).nodes if isinstance(n.op, Dropout)]
        texts += ["order", "augmentation", "split"]
        assert len({zlib.crc32(text.encode()) for text in texts}) == len(texts)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "0"])
def test_seeds_are_64_bit_integers(seed: object) -> None:
    with pytest.raises(SeedError, match="from 0 to below"):
        raw(seed, "order", 0, 1)  # type: ignore[arg-type]


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = np.array([2] * 10 + [0] * 13 + [1] * 2 + [0] * 5)
    chosen = held_out(labels)
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [4, 0, 2]
    rows = np.flatnonzero(labels == 0)
    keys = numbers(0, "split", 0, len(rows))
    first = sorted(range(len(rows)), key=keys.__getitem__)[:4]
    assert sorted(np.flatnonzero(chosen & (labels == 0))) == sorted(rows[first])
