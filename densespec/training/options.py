"""Declares once what may be said of a training run.

The keywords of :func:`densespec.train`, the flags of ``densespec train`` and what ``run.toml``
keeps of them follow from the fields here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from densespec.data import Dataset
from densespec.data.dataset import DIMS
from densespec.errors import SpecError
from densespec.network.catalogue import SpecLike
from densespec.network.fields import (
    Choice,
    Choices,
    Domain,
    Either,
    Flag,
    Instance,
    Integer,
    Integers,
    OrNone,
    Record,
    Text,
    parse_fields,
    stated,
)
from densespec.network.spec import MOST_HEADS, DenseNetSpec
from densespec.recipes.presets import RecipeLike
from densespec.recipes.recipe import TrainingRecipe
from densespec.training.errors import TrainingError
from densespec.training.metrics import ACCURACY, LOSS, METRICS
from densespec.training.progress import ProgressListener
from densespec.weights.given import WeightsLike
from densespec.weights.reading import InterpretingOptions, ReadingOptions

DIGITS = "digits"
"""If no data are given, these data and their recipe are used: scikit-learn's digits."""

AUTO = "auto"

DataLike = str | os.PathLike[str] | Dataset
"""What :func:`densespec.data.load` takes, or a data set."""


@dataclass(frozen=True)
class Folder:
    """Allows the path of a folder, which need not exist."""

    allowed = "the path of a folder"

    def parse(self, value: Any) -> Path:
        return Path(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


def _path_or(allowed: str, *classes: type) -> Domain:
    return OrNone(Instance(allowed, (str, os.PathLike, *classes)))


@dataclass(frozen=True, kw_only=True)
class RunSettings(Record):
    """Holds what a run keeps to, whichever process takes its steps."""

    trainable_from: str | None = stated(
        OrNone(Text()),
        "the first part that trains, such as block4; everything before it is frozen; head is what "
        "follows the global pool",
        default=None,
        metavar="PART",
    )
    dropout: Literal["exact", "framework"] = stated(
        Choice(("exact", "framework")),
        "who draws the masks: exact ones are the same on every backend and after a stop, the "
        "framework's are not",
        default="exact",
    )
    keep: int = stated(
        Integer(0),
        "checkpoints of how many last epochs to keep besides the last and the best",
        default=0,
        metavar="N",
    )
    log_every: int = stated(
        Integer(1), "steps from one line of the log to the next", default=1, metavar="N"
    )
    validate: bool = stated(
        Flag(),
        "whether to run over the test images after each epoch",
        default=True,
        flag="--validation/--no-validation",
    )

    window: bool = stated(
        Flag(),
        "whether DICOM images are seen through the window that they state",
        default=False,
    )
    metrics: tuple[str, ...] = stated(
        Choices(tuple(METRICS)),
        "the metrics that judge networks after each epoch, besides loss and accuracy",
        default=(),
        flag="--metric",
    )
    best: str | None = stated(
        OrNone(Choice((LOSS, ACCURACY, *METRICS))),
        "the metric that tells the best epoch; without one, accuracy, or loss if an image has "
        "several labels",
        default=None,
    )
    patience: int | None = stated(
        OrNone(Integer(1)),
        "epochs without a better one after which the run stops early",
        default=None,
        metavar="N",
    )
    tensorboard: bool = stated(
        Flag(),
        "whether to write the log for TensorBoard too, in the folder tensorboard",
        default=False,
    )

    def settings(self) -> dict[str, Any]:
        """Return only these settings, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(RunSettings)}


@dataclass(frozen=True)
class Invocation(Record):
    """Holds what else one call may say."""

    spec: SpecLike | None = stated(
        _path_or("a variant's name, a spec, or the path of a spec file", DenseNetSpec),
        "the network; a named variant takes classes, channels and dimensions from the data; none "
        "takes the weight file's network",
        default=None,
    )
    _: KW_ONLY
    out: str | os.PathLike[str] = stated(
        Folder(), "the folder of the run: a new one, or with resume the one of the run"
    )
    resume: bool = stated(
        Flag(),
        "whether to go on with the run in the folder; its spec, recipe and data then decide, "
        "and have to be the same if they are given again",
        default=False,
    )
    recipe: RecipeLike | None = stated(
        _path_or("a recipe's name, a recipe, or the path of a recipe file", TrainingRecipe),
        "the recipe to train by; without one, the recipe of the digits if the data are the digits",
        default=None,
        metavar="NAME|FILE",
    )
    changes: Mapping[str, Any] | None = stated(
        OrNone(Instance("a table of fields of the recipe", (Mapping,))),
        "fields of the recipe to change, by name",
        default=None,
    )
    epochs: int | None = stated(
        OrNone(Integer(1)),
        "replaces the recipe's number of epochs, also in a run that is resumed",
        default=None,
        metavar="N",
    )
    data: DataLike = stated(
        Instance("a data set, or what densespec.data.load takes", (str, os.PathLike, Dataset)),
        "the data to train on",
        default=DIGITS,
        metavar="NAME[:PLACE]",
    )
    backend: str | None = stated(
        OrNone(Text()),
        "the backend that trains; with +fast or +efficient behind its name, it trains faster or in "
        "less memory; a run that is resumed stays in its last one",
        default=None,
        metavar="NAME",
    )
    weights: WeightsLike | None = stated(
        _path_or("the path of a weight file of any layout, arrays by name, or a model", object),
        "the weights to start from, a file or the name of trained ones, such as imagenet; if the "
        "classifier's do not fit, the head is new",
        default=None,
        metavar="FILE|NAME",
    )
    head_units: Sequence[int] | None = stated(
        OrNone(Integers(1, may_be_empty=True, most=MOST_HEADS)),
        "units of a dense layer with ReLU before the classifier; there may be several",
        default=None,
        flag="--head",
        metavar="UNITS",
    )
    classes: int | None = stated(
        OrNone(Integer(1)),
        "replaces the spec's number of classes",
        default=None,
        metavar="N",
    )
    in_channels: int | None = stated(
        OrNone(Integer(1)),
        "replaces the spec's number of channels; weights are adapted to it",
        default=None,
        metavar="N",
    )
    size: Sequence[int] | None = stated(
        OrNone(Integers(1, most=len(DIMS))),
        "the size to which images are brought; none keeps the size that they have",
        default=None,
        metavar="HxW",
    )
    devices: int = stated(
        Integer(1),
        "the number of devices among which a batch is split; a resumed run keeps its last number",
        default=1,
        metavar="N",
    )
    cache_features: bool | Literal["auto"] = stated(
        Either(Flag(), Choice((AUTO,))),
        "whether to run the frozen part once over the data and train the rest on its output; by "
        "default, this is done if nothing prevents it",
        default=AUTO,
        flag="--cache-features/--no-cache-features",
    )
    progress: bool | ProgressListener = stated(
        Instance("true, false, or what to tell it to", (object,)),
        "whether to show progress on stderr, or the listener that is told",
        default=False,
    )


@dataclass(frozen=True)
class RunOptions(InterpretingOptions, RunSettings, Invocation):
    """Holds all that may be said of a run: the keywords of :func:`densespec.train`.

    Raises:
        TrainingError: a value is not allowed; the message names the option.
    """

    NOUN: ClassVar[str] = "set of options"

    @property
    def reading(self) -> ReadingOptions:
        """Return the options of how the weights are read."""
        names = (field.name for field in dataclasses.fields(InterpretingOptions))
        return ReadingOptions(**{name: getattr(self, name) for name in names})

    def __post_init__(self) -> None:
        try:
            parse_fields(self)
        except SpecError as error:
            raise TrainingError(str(error)) from error
