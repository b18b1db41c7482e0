"""Runs one process of :class:`densespec_torch.parallel.ReplicatedTrainer`, by ``python -m``."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from typing import Any

import torch
from torch import distributed

from densespec_torch.backend import BACKEND
from densespec_torch.parallel import Call, Start
from densespec_torch.training import TorchTrainer


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what libraries print
    trainer: TorchTrainer | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request = pickle.load(sys.stdin.buffer)
            try:
                if isinstance(request, Start):
                    trainer = _started(request)
                    answer = None
                else:
                    answer = _answer(trainer, request)
            except Exception as error:
                answer = _portable(error)
            pickle.dump(answer, answers)
            answers.flush()


def _started(start: Start) -> TorchTrainer:
    device = torch.device(start.device, start.rank if start.device == "cuda" else 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=start.meeting.as_uri(),
        rank=start.rank,
        world_size=start.size,
    )
    torch.manual_seed(start.recipe.seed + start.rank)  # dropouts draw differently in each
    model = BACKEND.in_mode(start.mode).build(
        start.graph,
        start.weights,
        dtype=start.dtype,
        data_format="channels_first",
        name="densenet",
    )
    return TorchTrainer(model.to(device), start.graph, start.recipe)


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with its origin if it is none of the caller's."""
    if isinstance(error, ValueError):
        return ValueError(str(error))
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note(traceback.format_exc())
    return told


def _answer(trainer: TorchTrainer | None, call: Call) -> Any:
    return getattr(trainer, call.method)(*call.arguments, **(call.options or {}))


if __name__ == "__main__":
    main()
