"""Coordinates training on several processes: who is here, and who computes what.

Processes come from PyTorch's own launcher, ``torchrun``, which sets environment variables that tell
each process its number. :func:`setup_from_environment` joins them; after that a trainer works on
its part of a batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, distributed, nn

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""The launcher sets this in the environment of each process that it starts."""


@dataclass(frozen=True)
class World:
    """Represents this process among all: a :class:`densespec.backends.ProcessGroup`.

    Attributes:
        rank: its number, counted from 0.
        size: the number of processes.
        device: the device that it computes on.
    """

    rank: int
    size: int
    device: torch.device

    def part(self, count: int) -> slice:
        return shard(count, self.rank, self.size)

    def any(self, wish: bool) -> bool:
        return bool(total([float(wish)])[0])

    def place(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)


def launched() -> tuple[int, int] | None:
    """Return this process's number and their count; None if ``torchrun`` started none."""
    if LAUNCHED not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def setup_from_environment() -> World:
    """Join the processes that the environment tells of; without any, this one is alone.

    Uses NCCL and one GPU a process where there are GPUs, otherwise Gloo on the CPU. May be called
    again.

    Raises:
        ValueError: this machine has fewer GPUs than processes.
    """
    device = _own_device(int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not is_distributed():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        torch.manual_seed(torch.initial_seed() + distributed.get_rank())  # dropouts of their own
    return World(*rank_world(), device)


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}: start no more processes, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to train on CPUs"
        )
    return torch.device("cuda", local_rank)


def is_distributed() -> bool:
    """Say whether this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


def rank_world() -> tuple[int, int]:
    """Return this process's number and their count; (0, 1) for a process alone."""
    if not is_distributed():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shard(count: int, rank: int, size: int) -> slice:
    """Choose which of ``count`` samples belong to a process: consecutive ones.

    If they do not divide, the first processes' parts are larger by one.
    """
    share, left = divmod(count, size)
    start = rank * share + min(rank, left)
    return slice(start, start + share + (rank < left))


def total(values: Sequence[float]) -> list[float]:
    """Sum up values over all processes, for each of them; every one must call it."""
    if not is_distributed():
        return [float(value) for value in values]
    numbers = torch.tensor(values, dtype=torch.float64, device=_communicating())
    distributed.all_reduce(numbers)
    return numbers.tolist()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place; every one must call it."""
    _, size = rank_world()
    if size == 1 or not tensors:
        return
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(joined)
    joined /= size
    parts = torch.split(joined, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def barrier() -> None:
    """Wait for all processes."""
    if is_distributed():
        distributed.barrier()


def leave() -> NoReturn:
    """End this process, which the launcher started, when all are done.

    Not by way of the interpreter's end: threads of PyTorch's process group may still run then, and
    now and again the process aborts (seen with 2.13 and Gloo), although all has been written.
    """
    barrier()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def launcher(devices: int = 1, nodes: int = 1, endpoint: str | None = None) -> list[str]:
    """Return the command that runs the Python arguments after it once for each device.

    Args:
        devices: processes on each machine.
        nodes: machines; the command is run on each.
        endpoint: ``host:port`` of one of them that all can reach, where there are several.

    Raises:
        ValueError: several machines without an endpoint.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}"]
    if nodes == 1:
        return [*command, "--standalone"]
    if endpoint is None:
        raise ValueError(f"{nodes} machines need the address of one of them, such as 'host:29400'")
    return [*command, f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]


def _communicating() -> torch.device:
    """Return the device whose tensors the processes exchange."""
    nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
