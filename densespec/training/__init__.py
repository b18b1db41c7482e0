"""Training runs: a folder that is whole at every moment, on any backend, and across them.

from densespec.training import train

result = train("densenet-40-12", data="digits", backend="torch.nn", out="runs/first")
result = train(out="runs/first", resume=True, backend="jax", epochs=40)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from densespec.building import WeightsLike
from densespec.network.catalogue import SpecLike
from densespec.recipes.presets import RecipeLike
from densespec.training.errors import Diverged as Diverged
from densespec.training.errors import FolderInUse as FolderInUse
from densespec.training.errors import TrainingError as TrainingError
from densespec.training.log import read_log as read_log
from densespec.training.loop import RunResult as RunResult
from densespec.training.loop import carry_out
from densespec.training.plan import Cache, DataLike
from densespec.training.plan import Options as Options
from densespec.training.plan import Plan as Plan
from densespec.training.plan import plan_of as plan_of
from densespec.training.progress import Observer as Observer
from densespec.training.progress import observer
from densespec.training.ranks import is_first as is_first
from densespec.training.ranks import launched as launched
from densespec.training.run import Run as Run
from densespec.training.run import read_run as read_run
from densespec.training.stop import Stop


def train(
    spec: SpecLike | None = None,
    *,
    out: str | os.PathLike[str],
    recipe: RecipeLike | None = None,
    data: DataLike | None = None,
    backend: str | None = None,
    resume: bool = False,
    epochs: int | None = None,
    weights: WeightsLike | None = None,
    trainable_from: str | None = None,
    head_units: Sequence[int] | None = None,
    classes: int | None = None,
    size: Sequence[int] | None = None,
    devices: int | None = None,
    cache_features: Cache = "auto",
    dropout: str | None = None,
    keep: int | None = None,
    log_every: int | None = None,
    validate: bool | None = None,
    progress: bool | Observer = False,
) -> RunResult:
    """Train a network, or go on with a run that was stopped.

    SIGINT (Ctrl-C) and SIGTERM end a run after the step it is at, with a checkpoint; the result
    says that it was stopped. ``docs/training.md`` tells the whole of it.

    Args:
        spec: as :func:`densespec.build` takes it; a variant that is named takes channels and
            classes from the data. None for the network of the weight file, or of the run.
        out: folder of the run; a new one unless ``resume``.
        recipe: a named recipe, a recipe or the path of a recipe file; None for ``"digits"`` where
            the data are those.
        data: as :func:`densespec.data.load` takes it, or a data set; None for ``"digits"``.
        backend: that trains; of a run that is resumed, None for the last one.
        resume: go on with the run in ``out``. Spec, recipe and data are those of the run; where
            they are given again they have to be the same.
        epochs: replaces the recipe's number, also of a run that is resumed.
        weights: to start from: a weight file of any layout, or arrays by canonical name. Where the
            classifier's do not fit, the head is new.
        trainable_from: the first part that trains, such as ``"block4"``, or ``"head"`` for what
            follows the global pool; None for everything.
        head_units: units of dense layers with ReLU before the classifier.
        classes: replaces the spec's number.
        size: to which images are brought, such as (224, 224); None for the size they have.
        devices: to split each batch among; None for one, or for those a resumed run had last.
        cache_features: run the frozen part once over the data and train the rest on its output;
            ``"auto"`` does so where nothing stands against it.
        dropout: ``"exact"`` masks, the same on every backend and after a stop (the default), or
            those that the ``"framework"`` draws.
        keep: checkpoints of how many last epochs to keep besides the last and the best.
        log_every: steps between lines of the log.
        validate: whether to run over the test images after each epoch; None for yes.
        progress: whether to show it on stderr; or what to tell it to.

    Raises:
        TrainingError: the run can't be made or resumed so; says what to do.
        Diverged: the loss is not finite; the last good checkpoint stays.
        DensespecError: a spec, a recipe, data or weights that are not what they should be.
    """
    options = Options(
        out=Path(out),
        spec=spec,
        recipe=recipe,
        data=data,
        backend=backend,
        resume=resume,
        epochs=epochs,
        weights=weights,
        trainable_from=trainable_from,
        head_units=head_units,
        classes=classes,
        size=size,
        devices=devices,
        cache_features=cache_features,
        dropout=dropout,
        keep=keep,
        log_every=log_every,
        validate=validate,
    )
    return follow(plan_of(options), progress)


def follow(plan: Plan, progress: bool | Observer = False) -> RunResult:
    """Train as planned: the second half of :func:`train`."""
    told = observer(progress if is_first() else False)
    with Stop(patient=launched()) as stop:
        try:
            for note in plan.notes:
                told.note(note)
            return carry_out(plan, told, stop)
        finally:
            told.end()
