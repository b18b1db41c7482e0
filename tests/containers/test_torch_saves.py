"""Every form in which ``torch.save`` saves tensors, compared with what ``torch.load`` makes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.containers.samples import read_all

TYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
)
UNTYPED = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
"""Types whose storages have no class of their own, which the bare format does not hold."""


class Child(torch.Tensor):
    """A tensor of a user's class."""


def any_tensor(choose: random.Random, kind: torch.dtype) -> torch.Tensor:
    """A tensor of any bits, which may be a view of a larger storage."""
    shape = [choose.randrange(4) for _ in range(choose.randrange(5))]
    count = int(torch.tensor([*shape, 1]).prod())
    size = torch.empty((), dtype=kind).element_size()
    high = 2 if kind == torch.bool else 256
    content = bytes(choose.randrange(high) for _ in range((count + 7) * size))
    start = choose.randrange(8)
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(kind)
    return flat[start : start + count].reshape(shape)


def viewed(choose: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """One of the views, and of the kinds of tensors, that are saved differently."""
    complex_type = tensor.dtype.is_complex
    match choose.randrange(9):
        case 0:
            return tensor.permute(choose.sample(range(tensor.ndim), tensor.ndim))
        case 1 if tensor.ndim and tensor.shape[0]:
            return tensor[:: choose.randrange(1, 3)]
        case 2:
            return tensor.unsqueeze(0).expand(3, *tensor.shape)
        case 3 if complex_type:
            return tensor.conj()
        case 4 if complex_type:
            return tensor.conj().imag
        case 5 if tensor.dtype.is_floating_point or complex_type:
            return torch.nn.Parameter(tensor, requires_grad=choose.random() < 0.5)
        case 6:
            return tensor.as_subclass(Child)
        case 7 if tensor.ndim > 1 and tensor.numel():
            return tensor[0, choose.randrange(tensor.shape[1])]
    return tensor


def states(choose: random.Random, zipped: bool) -> Iterator[dict[str, torch.Tensor]]:
    """State dicts whose tensors now and then share a storage."""
    for _ in range(100):
        state: dict[str, torch.Tensor] = {}
        for number in range(choose.randrange(1, 12)):
            kinds = TYPES + UNTYPED if zipped else TYPES
            tensor = any_tensor(choose, choose.choice(kinds))
            state[f"layer{number}.weight"] = viewed(choose, tensor)
            if choose.random() < 0.3 and not tensor.dtype.is_complex:
                state[f"layer{number}.again"] = viewed(choose, tensor)
        yield state


def bits(tensor: torch.Tensor) -> bytes:
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype)
    plain.copy_(tensor.detach().flatten())
    return plain.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_any_tensors_are_read_as_torch_reads_them(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    choose = random.Random(protocol)
    path = tmp_path / "net.pth"
    for state in states(choose, zipped):
        torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        with torch.serialization.safe_globals([Child]):
            expected: dict[str, Any] = torch.load(path, weights_only=protocol == 2)
        found = read_all(path)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
            assert found[name].shape == tuple(tensor.shape)
            assert found[name].tobytes() == bits(tensor), name
