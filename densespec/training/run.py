"""Describes what a run trains, as ``run.toml`` in its folder states it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from densespec.data.dataset import DIMS
from densespec.errors import DensespecError, in_words
from densespec.network.fields import (
    Integer,
    Integers,
    OrNone,
    Record,
    RecordOf,
    RecordsOf,
    Text,
    stated,
)
from densespec.network.files import from_toml
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.texts import read_text
from densespec.training.errors import TrainingError
from densespec.training.metrics import OWN_BEST
from densespec.training.options import RunSettings
from densespec.version import __version__

RUN = "run.toml"


@dataclass(frozen=True, kw_only=True)
class Stretch(Record):
    """Describes the steps that one process took."""

    NOUN: ClassVar[str] = "stretch of steps"

    backend: str = stated(Text(), "the backend that took them", key="name")
    from_step: int = stated(Integer(0), "steps that were done before")
    devices: int = stated(Integer(1), "how many devices it used")
    time: str = stated(Text(), "when it began, as an ISO date")
    version: str = stated(Text(), "the version of densespec", key="densespec")


@dataclass(frozen=True, kw_only=True)
class TrainingRun(RunSettings):
    """Describes what is trained, as ``run.toml`` holds it."""

    NOUN: ClassVar[str] = "run"

    network: str = stated(Text(), "what messages call the network")
    spec: DenseNetSpec = stated(
        RecordOf(DenseNetSpec), "the network, with the recipe's dropout rate"
    )
    recipe: TrainingRecipe = stated(RecordOf(TrainingRecipe), "what it is trained by")
    data: str | None = stated(
        OrNone(Text()),
        "the data as densespec.data.load takes them; none for arrays, which have to be given again",
        default=None,
    )
    fingerprint: str = stated(Text(), "a digest of the data")
    size: tuple[int, ...] = stated(Integers(1, most=len(DIMS)), "the spatial size of the images")
    stretches: tuple[Stretch, ...] = stated(
        RecordsOf(Stretch), "who took which steps, in order", key="backend", default=()
    )

    @property
    def judged_by(self) -> str:
        """Return the metric that tells the best epoch."""
        return self.best or OWN_BEST[self.recipe.loss]

    def begun(self, backend: str, devices: int, step: int) -> TrainingRun:
        """Return the run as another process continues it, without the steps that it takes again."""
        stretch = Stretch(
            backend=backend, from_step=step, devices=devices, time=now(), version=__version__
        )
        before = tuple(s for s in self.stretches if s.from_step < step)
        return self.replace(stretches=(*before, stretch))

    def words(self) -> dict[str, Any]:
        """Return the options with which the run goes on as it is."""
        last = self.stretches[-1]
        return self.settings() | {
            "spec": self.spec,
            "recipe": self.recipe,
            "data": self.data,
            "size": self.size,
            "backend": last.backend,
            "devices": last.devices,
        }

    def differences(self, other: TrainingRun) -> list[str]:
        """Say in words how another run differs from this one, so that it does not continue it.

        The number of epochs may change, and so may everything that has no effect on the weights.
        """
        fixed = ("size", "trainable_from", "dropout")
        ours, theirs = ({name: getattr(run, name) for name in fixed} for run in (self, other))
        return [
            *differences(self.spec.to_dict(), other.spec.to_dict()),
            *differences(_but_epochs(self.recipe), _but_epochs(other.recipe)),
            *differences(ours, theirs),
        ]


def _but_epochs(recipe: TrainingRecipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.to_dict().items() if name != "epochs"}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say in words which values of the same name differ."""
    return in_words(
        {name: (value, here[name]) for name, value in there.items() if value != here[name]}
    )


def now() -> str:
    """Return the time as an ISO date, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def read_run(folder: str | os.PathLike[str]) -> TrainingRun:
    """Read what the run in a folder trains.

    Raises:
        TrainingError: there is no run in it, or ``run.toml`` is damaged.
    """
    path = Path(folder) / RUN
    try:
        run = from_toml(read_text(path), TrainingRun)
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} holds no run: there is no {RUN} in it") from None
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from error
    except (DensespecError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} does not describe a run: {error}") from error
    if not run.stretches:
        raise TrainingError(f"{path} does not describe a run: it names no backend")
    return run
