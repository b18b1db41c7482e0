"""Trains networks in folders that are whole at every moment, on any backend and across them.

from densespec.training import train

result = train("densenet-40-12", data="digits", backend="torch.nn", out="runs/first")
result = train(out="runs/first", resume=True, backend="jax", epochs=40)
"""

from __future__ import annotations

from typing import Any

from densespec.training.errors import Diverged as Diverged
from densespec.training.errors import FolderInUse as FolderInUse
from densespec.training.errors import TrainingError as TrainingError
from densespec.training.keywords import takes_options
from densespec.training.log import read_log as read_log
from densespec.training.loop import carry_out as carry_out
from densespec.training.options import RunOptions as RunOptions
from densespec.training.plan import TrainingPlan as TrainingPlan
from densespec.training.plan import plan_of as plan_of
from densespec.training.progress import ProgressListener as ProgressListener
from densespec.training.result import RunResult as RunResult
from densespec.training.run import TrainingRun as TrainingRun
from densespec.training.run import read_run as read_run


@takes_options
def train(said: dict[str, Any]) -> RunResult:
    """Train a network, or go on with a run that was stopped.

    SIGINT (Ctrl-C) and SIGTERM end a run after the step it is at, with a checkpoint; the result
    says that it was stopped. ``docs/training.md`` tells the whole of it.

    Args:
        {options}

    Raises:
        TrainingError: the run can't be made or resumed like this; the message says what to do.
        Diverged: the loss is not finite; the last good checkpoint stays.
        DensespecError: a spec, a recipe, data or weights are not what they should be.
    """
    return carry_out(plan_of(**said))
