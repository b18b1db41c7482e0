"""Snapshots of tensors see every write, whatever way it takes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densespec_torch.snapshot import Snapshot  # noqa: E402


def _parameter() -> Any:
    return torch.nn.Parameter(torch.arange(1.0, 65.0).reshape(8, 8))


def _set(array: Any) -> None:
    array[0, 0] = 7.5


def _in_inference_mode(p: Any) -> None:
    with torch.inference_mode():
        p.mul_(2)


WRITES: dict[str, Callable[[Any], object]] = {
    "in place": lambda p: p.mul_(2),
    "a copy": lambda p: p.copy_(torch.zeros(8, 8)),
    "in inference mode": _in_inference_mode,
    "data, in place": lambda p: p.data.mul_(2),
    "data, a copy": lambda p: p.data.copy_(torch.zeros(8, 8)),
    "data, one value": lambda p: _set(p.data),
    "data, a view": lambda p: p.data.view(-1)[3:4].zero_(),
    "data, other bits": lambda p: p.data.view(torch.int32).add_(1),
    "data, by an output": lambda p: torch.mm(torch.eye(8), torch.eye(8), out=p.data),
    "data, by a place": lambda p: p.data.index_fill_(0, torch.tensor([1]), 0.0),
    "data, at random": lambda p: p.data.normal_(),
    "data, several at a time": lambda p: torch._foreach_mul_([p.data], 2.0),
    "data, by an optimizer": lambda p: torch._fused_sgd_(
        [p.data],
        [torch.ones(8, 8)],
        [],
        weight_decay=0.0,
        momentum=0.0,
        lr=0.1,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=True,
    ),
    "other data": lambda p: setattr(p, "data", torch.zeros(8, 8)),
    "the data of one's own": lambda p: setattr(p, "data", 2 * p.data),
    "numpy": lambda p: _set(p.detach().numpy()),
    "DLPack": lambda p: torch.from_dlpack(p.data).zero_(),
    "storage": lambda p: p.untyped_storage().fill_(0),
    "an address": lambda p: ctypes.memset(p.data_ptr(), 0, 8),
    "memory for other processes": lambda p: p.data.share_memory_().zero_(),
    "a swap": lambda p: torch.utils.swap_tensors(p, torch.nn.Parameter(torch.zeros(8, 8))),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_seen(write: Callable[[Any], object]) -> None:
    p = _parameter()
    before, snapshot = p.detach().clone(), Snapshot([p])
    assert snapshot.is_untouched([p])
    with torch.no_grad():
        write(p)
    assert not torch.equal(p, before)
    assert not snapshot.is_untouched([p])
    assert not snapshot.equals(Snapshot([p]))
    torch.testing.assert_close(snapshot.copies()[0], before, rtol=0, atol=0)


OWNERS: dict[str, Callable[[Any], Any]] = {
    "a view": lambda p: p.data[:],
    "an array": lambda p: p.detach().numpy(),
    "another's array": lambda p: p.detach().view(-1).numpy()[:5].reshape(1, 5),
}


@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
def test_who_had_the_memory_before_is_seen_too(owner: Callable[[Any], Any]) -> None:
    p = _parameter()
    other = owner(p)
    snapshot = Snapshot([p])
    _set(other)
    assert not snapshot.is_untouched([p])
    assert not snapshot.equals(Snapshot([p]))


def test_memory_of_numpy_is_copied() -> None:
    array = np.ones((8, 8), np.float32)
    p = torch.nn.Parameter(torch.from_numpy(array))
    snapshot = Snapshot([p])
    assert snapshot.equals(Snapshot([p]))
    _set(array)
    assert not snapshot.is_untouched([p])
    assert not snapshot.equals(Snapshot([p]))


def test_reading_leaves_a_snapshot_equal() -> None:
    p = _parameter()
    p.data[0] = float("nan")
    snapshot = Snapshot([p])
    torch.nn.functional.linear(torch.ones(2, 8), p)
    p.detach().numpy().copy()
    p.detach().clone()
    again = Snapshot([p])
    assert snapshot.equals(again)
    assert again.is_untouched([p])


def test_other_tensors_are_others() -> None:
    p = _parameter()
    snapshot = Snapshot([p])
    assert not snapshot.is_untouched([torch.nn.Parameter(p.detach().clone())])
    assert not snapshot.equals(Snapshot([p.detach().double()]))
    assert not snapshot.equals(Snapshot([p.detach().reshape(4, 16)]))


def test_what_is_written_needs_no_grad_from_a_snapshot() -> None:
    p = _parameter()
    snapshot = Snapshot([p])
    (2 * p).sum().backward()
    assert p.grad.sum() == 128
    assert p.requires_grad
    assert not any(copy.requires_grad for copy in snapshot.copies())
