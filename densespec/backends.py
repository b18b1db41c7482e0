"""Defines what a backend is and finds one by its name.

A backend turns a graph into a model of some framework. It is published under the entry-point group
``densespec.backends``, by anyone: the first-party ones have no privileges. ``docs/backends.md``
walks through writing one; the conformance suite says whether it is right.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Protocol, runtime_checkable

import numpy as np

from densespec import published
from densespec.errors import BackendUnavailable, PackageMissing, UnknownName
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.pretrained.accompaniment import NOTHING, Accompaniment
from densespec.recipes.moments import OptimizerMoments
from densespec.recipes.recipe import TrainingRecipe

GROUP = "densespec.backends"

REFERENCE = "numpy"
"""Names densespec's own backend, which is the reference: its result is the right one."""

DataFormat = Literal["channels_first", "channels_last"]

MODES: Mapping[str, str] = {
    "layers": "one standard layer or module for each op: every value can be seen and hooked",
    "fast": "trains faster: several ops at a time, in the framework's native layout",
    "efficient": "trains in little memory: activations are computed again in the backward pass",
    "inference": "prepared for inference: norms are folded; it can't be trained",
}
"""Lists the modes in which a backend may run a network. Every mode computes the same."""
LAYERS = "layers"


@dataclass(frozen=True)
class Origin:
    """Records what a model was built from; a built model carries it as its attribute ``densespec``.

    Attributes:
        backend: The backend's name, followed by ``+`` and the mode, if the mode is not ``layers``.
        dtype, data_format, name: What the backend was given.
        accompaniment: What goes with its weights: where they are from, what images need, labels.
    """

    backend: str
    graph: Graph
    dtype: str | None
    data_format: DataFormat
    name: str
    accompaniment: Accompaniment = NOTHING


@dataclass(frozen=True)
class StepResult:
    """Holds what a training step gives: the loss before it, and each trainable weight's gradient.

    Attributes:
        gradients: those of the loss alone, without weight decay, by canonical name and shape; empty
            if they were not asked for.
        correct: how many samples the training-mode logits classify rightly; None if not counted,
            as where a sample has several labels.
    """

    loss: float
    gradients: Arrays
    correct: int | None = None


class Trainer(Protocol):
    """Takes training steps on a model by the means that its framework's users train with."""

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        """Take one step of the recipe in training mode. Frozen parts stay in inference mode.

        Args:
            x: (batch, channels, *spatial).
            labels: (batch,) integers with the loss ``softmax``; where the recipe mixes images,
                (batch, classes) shares that sum to 1; with other losses (batch, classes) numbers,
                where an unknown one is NaN, or negative with ``sigmoid``.
            masks: one array for each dropout node, by the node's name. Its shape is the node's with
                a batch axis before it. In it, 1 keeps a value and 0 drops it. Without masks,
                dropout draws its own.
            gradients: whether to give the gradients, which costs time.
        """
        ...

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Compute the logits (batch, classes) of x (batch, channels, *spatial) in inference mode.

        The averages of the weights are used if the recipe keeps averages.
        """
        ...

    def moments(self) -> dict[str, Arrays]:
        """Return what the optimizer keeps beside the weights, as arrays of the weights' shapes.

        The outer keys are the names of ``recipe.kept``, such as ``velocity`` or ``average``. The
        inner keys are canonical names. There are moments of every trainable weight, and averages of
        everything that is not frozen (:func:`densespec.recipes.moments.moving`). The result is
        empty if nothing is kept. Where several processes train together, every one has to call it.
        """
        ...

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        """Take up a run that was stopped.

        Args:
            moments: what :meth:`moments` gave there.
            step: how many steps the run had taken.

        Raises:
            WeightsError: they are not of the trainable weights; nothing is changed then.
        """
        ...

    def weights(self) -> Arrays:
        """Return every array by canonical name, with running statistics as the recipe defines them.

        Where several processes train together, every one has to call it.
        """
        ...

    def close(self) -> None:
        """Give back what the trainer holds, such as other processes; it takes no step after."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Runs graphs in one framework.

    All arrays at this interface are canonical, whatever the framework prefers inside: they are
    numpy arrays, channels first, in canonical shapes and under canonical names.
    """

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        """Choose the layout of the built model's input: as requested, or the framework's default.

        Raises:
            ValueError: the framework has no such layout.
        """
        ...

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> Any:
        """Build a model of the framework that computes ``graph`` with these weights.

        Args:
            dtype: such as ``"float32"``; None for the framework's default.
            name: the name of the model, where models have names.
        """
        ...

    def read_weights(self, model: Any, graph: Graph) -> Arrays:
        """Read every array of the model by canonical name, in canonical shape."""
        ...

    def write_weights(self, model: Any, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
        """Replace every array of the model. The names and shapes have been checked."""
        ...

    def count_parameters(self, model: Any) -> tuple[int, int]:
        """Count trainable parameters and running statistics as the framework itself counts them."""
        ...

    def forward(self, model: Any, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        """Compute the named nodes' outputs in inference mode; x is (batch, channels, *spatial)."""
        ...

    def trainer(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> Trainer:
        """Make a trainer that trains the model by the recipe's loss and optimizer."""
        ...


@runtime_checkable
class ModalBackend(Protocol):
    """Has other modes than ``layers``. This is optional for a backend."""

    @property
    def modes(self) -> Sequence[str]:
        """Return the names of those ``MODES`` that it has."""
        ...

    def in_mode(self, mode: str) -> Backend:
        """Return the backend whose models run in one of its modes."""
        ...


@runtime_checkable
class InspectableBackend(Protocol):
    """Tells what a model has become since it was built. This is optional for a backend.

    Users change models: they set another head, another epsilon or a hook. A change that a spec can
    state is carried over to whatever is made from the model. Any other change is refused.
    """

    def graph_of(self, model: Any, graph: Graph) -> Graph:
        """Return the model's graph as it is now; ``graph`` is the one that it was built from.

        Raises:
            ModelChanged: no spec says what the model computes now; the message names the part.
        """
        ...

    def rebuild(
        self, source: Any, origin: Origin, weights: Mapping[str, np.ndarray], *, trainable: bool
    ) -> Any:
        """Build a new model that also has what its source has beyond the values of arrays.

        It keeps the arrays' types and devices, and whether the model is in training mode.

        Args:
            source: the other model.
            origin: what the new one is built from; its graph is the network of both.
            weights: the arrays of ``source``.
            trainable: whether what trains is kept too; the graph of ``origin`` says it otherwise.
        """
        ...


@runtime_checkable
class RecognisingBackend(Protocol):
    """Knows densespec's networks in its framework's models, whoever made those. Optional.

    Users make new models from another model's layers, and files of models do not record what the
    models were built from.
    """

    def recognise(self, model: Any) -> Origin | None:
        """Return what a model could have been built from; None for another framework's model.

        Raises:
            WeightsError: it is none of densespec's networks; the message names the part that
                differs.
        """
        ...


@runtime_checkable
class ShapingBackend(Protocol):
    """Knows the shapes of nodes without running them. This is optional for a backend."""

    def shapes(
        self, model: Any, graph: Graph, names: Sequence[str]
    ) -> Mapping[str, tuple[int | None, ...]]:
        """Return the shapes of the named nodes' outputs, as the framework has them.

        A shape is (channels, *spatial); a size that the framework does not know is None.
        """
        ...


@runtime_checkable
class ConfigurableBackend(Protocol):
    """Reads settings once, when its framework starts. This is optional for a backend."""

    def configure(self, recipe: TrainingRecipe) -> None:
        """Set what the framework has to be told before it starts to train by a recipe.

        Nothing is changed that the user has set, or where the framework runs already.
        """
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """Names the devices that its framework finds. This is optional for a backend."""

    def devices(self) -> Sequence[str]:
        """Start the framework and name its devices, as it does: ``["cuda:0 (...)", "cpu"]``."""
        ...


class ComputingDevice(Protocol):
    """Represents a device on which a framework computes, for those who measure it."""

    @property
    def name(self) -> str:
        """Return its name, as :class:`DeviceBackend` gives it."""
        ...

    def peak_memory(self) -> int | None:
        """Return the most bytes of its memory that this process has used; None if it is unknown."""
        ...

    def product(self, side: int) -> Callable[[], object]:
        """Make a function that multiplies two float32 matrices on the device, and waits for it.

        Args:
            side: the rows and columns of each.
        """
        ...


@runtime_checkable
class TimeableBackend(Protocol):
    """Has models that can be timed in the way their users run them. Optional for a backend.

    Without it, ``forward`` is timed, which also copies arrays to the device and back.
    """

    def device(self) -> ComputingDevice:
        """Return the device that its users would take: the first accelerator, or else the CPU."""
        ...

    def place(self, model: Any) -> Any:
        """Move a built model to that device, and return it."""
        ...

    def caller(self, model: Any, x: np.ndarray) -> Callable[[], object]:
        """Make a function that runs a model on that device in inference mode, and waits for it.

        Args:
            x: (batch, channels, *spatial); it is copied to the device once, before the timing.
        """
        ...


@runtime_checkable
class ParallelBackend(Protocol):
    """Can also train on several devices that one process drives. This is optional for a backend."""

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> Trainer:
        """Make a trainer that splits a batch among ``replicas`` devices, as the recipe defines it.

        All devices hold the same weights after each step.

        Raises:
            ValueError: there are fewer devices; the message says how to get them.
        """
        ...


class ProcessGroup(Protocol):
    """Represents the processes that train together, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Return the number of this process, counted from 0."""
        ...

    @property
    def size(self) -> int:
        """Return the number of processes."""
        ...

    def part(self, count: int) -> slice:
        """Return the slice of ``count`` consecutive samples that this process computes."""
        ...

    def any(self, wish: bool) -> bool:
        """Say whether any process wishes something. Every process has to call it."""
        ...

    def place(self, model: Any) -> Any:
        """Move a built model to this process's device, and return it."""
        ...


@runtime_checkable
class LaunchableBackend(Protocol):
    """Trains on several devices with one process for each. This is optional for a backend.

    A launcher starts the processes on one or more machines, and sets environment variables that
    tell each process its number. All of them run the same program, each on its part of every batch.
    """

    def launcher(self, *, devices: int, nodes: int, endpoint: str | None) -> Sequence[str] | None:
        """Return the command that runs the Python arguments after it once for each device.

        Return None where one process uses all devices, as a :class:`ParallelBackend` does.

        Args:
            devices: processes on each machine.
            nodes: machines; the command is run on each.
            endpoint: ``host:port`` of one of them that all can reach.

        Raises:
            ValueError: several machines without an endpoint.
        """
        ...

    def launched(self) -> tuple[int, int] | None:
        """Return this process's number and their count; None if no launcher started it."""
        ...

    def join(self) -> ProcessGroup:
        """Join the processes that the launcher started; without one, this process is alone."""
        ...

    def leave(self) -> NoReturn:
        """End this process, which the launcher started, as soon as all are done."""
        ...


def require_logits(graph: Graph) -> None:
    """Check that a network can be trained: the loss is of logits.

    Raises:
        ValueError: it has no classifier, or a softmax after it.
    """
    if not graph.gives_logits:
        raise ValueError(
            f"the network ends in {graph.output.name}, but the loss takes logits: build it with "
            "its classifier and without classifier_activation"
        )


def own_samples(share: Callable[[int], slice], count: int, accumulate: int) -> np.ndarray:
    """Return the places of a device's samples in a batch: its share of each part of the batch.

    Args:
        share: Gives the device's share of so many samples.
        count: The number of samples in the batch.
        accumulate: Into how many parts the batch is split. Split into as many, the samples that are
            given are the shares.
    """
    parts = np.array_split(np.arange(count), accumulate)
    return np.concatenate([part[share(len(part))] for part in parts])


def check_labels(recipe: TrainingRecipe, x: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Check that labels are such as the recipe's loss takes, one or more for each sample.

    Raises:
        ValueError: no samples, or labels of another kind, shape or range.
    """
    labels = np.asarray(labels)
    if len(x) < recipe.accumulate:
        raise ValueError(f"{len(x)} samples can't be split into {recipe.accumulate} parts")
    if recipe.has_shares:
        _check_shares(x, labels, classes)
        return
    single = recipe.loss == "softmax"
    shape = (len(x),) if single else (len(x), classes)
    kinds = "iu" if single else "fiu"
    if not len(x) or labels.shape != shape or labels.dtype.kind not in kinds:
        raise ValueError(
            f"{len(x)} samples with labels of shape {labels.shape} and type {labels.dtype}, but "
            f"there should be samples, each with {'an integer' if single else f'{classes} numbers'}"
        )
    if recipe.loss == "squared":
        return
    outside = labels >= classes if single else labels > 1
    wrong = np.argwhere(outside | (labels < 0) if single else outside)
    if len(wrong):
        first = tuple(wrong[0])
        allowed = f"[0, {classes})" if single else "[0, 1], or are negative or NaN"
        raise ValueError(
            f"label {labels[first]} of sample {first[0]}, but labels of this network lie in "
            f"{allowed}"
        )


def _check_shares(x: np.ndarray, labels: np.ndarray, classes: int) -> None:
    shaped = len(x) and labels.shape == (len(x), classes) and labels.dtype.kind == "f"
    if not shaped or labels.min() < 0 or not np.allclose(labels.sum(1), 1, rtol=0, atol=1e-5):
        raise ValueError(
            f"{len(x)} samples with labels of shape {labels.shape} and type {labels.dtype}, but a "
            f"recipe that mixes images takes samples, each with its shares of {classes} classes, "
            "which sum to 1"
        )


def backends() -> tuple[str, ...]:
    """List the backends that installed packages offer, by name. Their frameworks may be absent."""
    return published.names(GROUP)


def get_backend(name: str) -> Backend:
    """Find a backend by its entry-point name, or by ``module:attribute`` if it is not published.

    Args:
        name: the backend's name. With a mode after it, as in ``torch.nn+inference``, the backend
            runs its models in that mode.

    Raises:
        UnknownName: no package offers it, or it has no such mode; the message suggests near names.
        PackageMissing: its framework is not installed; the message says what to install.
        BackendUnavailable: its own module, or the attribute, is not there.
    """
    name, mode = split_mode(name)
    backend: Backend = _from_module(name) if ":" in name else published.load(GROUP, "backend", name)
    if mode == LAYERS:
        return backend
    modes = backend.modes if isinstance(backend, ModalBackend) else (LAYERS,)
    if mode not in modes:
        raise UnknownName(f"mode of backend {name!r}", mode, modes)
    assert isinstance(backend, ModalBackend)
    return backend.in_mode(mode)


def recognised(model: Any) -> Origin | None:
    """Ask the installed backends what a model could have been built from; None if none knows it.

    Raises:
        WeightsError: It is a model of a framework that can say so, and no network of densespec's.
    """
    for name in backends():
        with contextlib.suppress(PackageMissing, BackendUnavailable):
            backend = get_backend(name)
            if isinstance(backend, RecognisingBackend) and (found := backend.recognise(model)):
                return found
    return None


def graph_now(backend: str, model: Any, graph: Graph) -> Graph:
    """Return the network that a built model is of now, after whatever was changed in it.

    Args:
        backend: The name of the backend that built it.
        graph: What it was built from.

    Raises:
        ModelChanged: It was changed into something that no spec says; the message names the part.
    """
    engine = get_backend(backend)
    return engine.graph_of(model, graph) if isinstance(engine, InspectableBackend) else graph


def split_mode(name: str) -> tuple[str, str]:
    """Split a backend's name into the name without a mode, and the mode (``layers`` by default)."""
    base, _, mode = name.partition("+")
    return base, mode or LAYERS


def with_mode(name: str, mode: str | None) -> str:
    """Name the same backend in another mode; None keeps the mode that the name has.

    Raises:
        UnknownName: there is no such mode.
    """
    base, named = split_mode(name)
    mode = mode or named
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    return base if mode == LAYERS else f"{base}+{mode}"


def _from_module(name: str) -> Backend:
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise BackendUnavailable(f"backend {name!r} is not of the form 'module:attribute'")
    return published.loaded(
        "backend", name, lambda: getattr(importlib.import_module(module), attribute)
    )
