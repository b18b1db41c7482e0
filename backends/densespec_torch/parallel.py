"""Trains on several processes of this machine, which this one drives.

Each process runs :mod:`densespec_torch.replica` and holds the whole network. They are plain
subprocesses: a daemonic process may have those, and the caller's main module is not imported again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densespec.backends import LAYERS, StepResult, own_samples, require_logits
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec_torch.distributed import shard


@dataclass(frozen=True)
class Start:
    """Holds what a replica begins with.

    Attributes:
        meeting: a file that does not exist yet, by which the replicas find each other.
        device: ``"cuda"`` for the GPU of the replica's number, or ``"cpu"``.
        mode: the mode of the backend.
    """

    graph: Graph
    weights: Arrays
    recipe: TrainingRecipe
    dtype: str | None
    rank: int
    size: int
    meeting: Path
    device: str
    mode: str


@dataclass(frozen=True)
class Call:
    """Describes a method of the replica's trainer to call."""

    method: str
    arguments: Sequence[Any] = ()
    options: Mapping[str, Any] | None = None


class ReplicatedTrainer:
    """This is a :class:`densespec.backends.Trainer` on several devices.

    It has a process for each GPU if there are enough, and otherwise processes on the CPU.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
        mode: str = LAYERS,
    ) -> None:
        require_logits(graph)
        if replicas < 1:
            raise ValueError(f"replicas = {replicas}, but should be 1 or more")
        self._graph, self._recipe, self._closed = graph, recipe, False
        self._folder = tempfile.TemporaryDirectory(prefix="densespec-")
        self._threads = ThreadPoolExecutor(replicas)
        self._replicas = [_Replica(rank, replicas) for rank in range(replicas)]
        meeting = Path(self._folder.name) / "meeting"
        device = "cuda" if torch.cuda.device_count() >= replicas else "cpu"
        self._ask(
            Start(graph, dict(weights), recipe, dtype, rank, replicas, meeting, device, mode)
            for rank in range(replicas)
        )

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        parts = self._recipe.accumulate
        if len(x) < len(self._replicas) * parts:
            raise ValueError(
                f"a batch of {len(x)} cannot be split among {len(self._replicas)} processes"
                f"{f', {parts} parts each' if parts > 1 else ''}"
            )
        calls = []
        for rank in range(len(self._replicas)):
            part = own_samples(self._share(rank), len(x), parts)
            options = {
                "learning_rate": learning_rate,
                "masks": {name: mask[part] for name, mask in (masks or {}).items()},
                "gradients": gradients and rank == 0,
            }
            calls.append(Call("step", (x[part], labels[part]), options))
        return self._ask(calls)[0]

    def predict(self, x: np.ndarray) -> np.ndarray:
        self.weights()  # makes the running statistics of all the same
        parts = [x[self._share(rank)(len(x))] for rank in range(len(self._replicas))]
        return np.concatenate(self._ask(Call("predict", (part,)) for part in parts))

    def moments(self) -> dict[str, Arrays]:
        return self._ask([Call("moments")] * len(self._replicas))[0]

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        self._ask([Call("restore", (moments,), {"step": step})] * len(self._replicas))

    def weights(self) -> Arrays:
        return self._ask([Call("weights")] * len(self._replicas))[0]

    def close(self) -> None:
        self._closed = True
        for replica in self._replicas:
            replica.end()
        self._threads.shutdown()
        self._folder.cleanup()

    def _share(self, rank: int) -> Callable[[int], slice]:
        """Return the function that gives a replica's share of so many samples."""
        return functools.partial(shard, rank=rank, size=len(self._replicas))

    def _ask(self, requests: Any) -> list[Any]:
        """Return the answers of all replicas. If one fails, the others would wait for ever."""
        if self._closed:
            raise RuntimeError("the training has ended: it was closed, or a process of it failed")
        asked = [
            self._threads.submit(replica.ask, request)
            for replica, request in zip(self._replicas, requests, strict=True)
        ]
        wait(asked, return_when=FIRST_EXCEPTION)
        failed = [future for future in asked if future.done() and future.exception()]
        if failed:
            self.close()
            raise failed[0].exception() or AssertionError
        return [future.result() for future in asked]


class _Replica:
    """Drives one process: pickled requests go in and answers come out, of our own making only."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        share = max(1, (os.cpu_count() or 1) // size)
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "densespec_torch.replica"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"OMP_NUM_THREADS": str(share)} | os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # an interrupt is for the driving process, which may save
        )

    def ask(self, request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise RuntimeError(f"process {self._rank} of the training has ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """End the process, whatever it waits for: it holds nothing that is not asked for."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
