"""What a backend is, and how one is found.

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
"""The backend that is the reference, which decides: densespec's own."""

DataFormat = Literal["channels_first", "channels_last"]

MODES: Mapping[str, str] = {
    "layers": "one standard layer or module for each op: every value can be seen and hooked",
    "fast": "trains faster: several ops at a time, in the framework's native layout",
    "efficient": "trains in little memory: activations are computed again in the backward pass",
    "inference": "prepared for inference: norms are folded; it can't be trained",
}
"""How a backend may run a network; every mode computes the same."""
LAYERS = "layers"


@dataclass(frozen=True)
class Origin:
    """What a model was built from; a built model carries it as its attribute ``densespec``.

    Attributes:
        backend: The backend's name, with the mode behind it.
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
    """One training step: the loss before it, and the gradient of every trainable weight.

    Attributes:
        gradients: those of the loss alone, without weight decay, by canonical name and shape; empty
            where they were not asked for.
        correct: how many samples the training-mode logits classify rightly; None if not counted,
            as where a sample has several labels.
    """

    loss: float
    gradients: Arrays
    correct: int | None = None


class Trainer(Protocol):
    """Training steps on a model, through what users of its framework train with."""

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        """One step of the recipe, in training mode; what is frozen stays in inference mode.

        Args:
            x: (batch, channels, *spatial).
            labels: (batch,) integers with the loss ``softmax``; where the recipe mixes images,
                (batch, classes) shares that sum to 1; with other losses (batch, classes) numbers,
                of which one that is not known is NaN, or negative with ``sigmoid``.
            masks: one for each dropout node, of its shape with a batch axis before it: 1 keeps a
                value, 0 drops it. Without masks, dropout draws its own.
            gradients: whether to give the gradients, which costs time.
        """
        ...

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) of x (batch, channels, *spatial), in inference mode.

        They are by the averages of the weights, where the recipe has them.
        """
        ...

    def moments(self) -> dict[str, Arrays]:
        """What is kept beside the weights, in their shapes.

        It is by the names of ``recipe.kept``, such as ``velocity`` or ``average``, and then by the
        canonical name: moments of every trainable weight, averages of everything that is not
        frozen (:func:`densespec.recipes.moments.moving`). It is empty where nothing is kept. Where
        several processes train together, every one has to call it.
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
        """Every array by canonical name, running statistics as the recipe defines them.

        Where several processes train together, every one has to call it.
        """
        ...

    def close(self) -> None:
        """Give back what the trainer holds, such as other processes; it takes no step after."""
        ...


@runtime_checkable
class Backend(Protocol):
    """How graphs run in one framework. All arrays at this interface are canonical: numpy,
    channels first, by canonical name and shape, whatever the framework prefers inside."""

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        """Layout of the built model's input: the requested one, or the framework's default.

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
        """A model of the framework that computes ``graph`` with these weights.

        Args:
            dtype: such as ``"float32"``; None for the framework's default.
            name: the name of the model, where models have names.
        """
        ...

    def read_weights(self, model: Any, graph: Graph) -> Arrays:
        """Every array of the model."""
        ...

    def write_weights(self, model: Any, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
        """Replace every array of the model. The names and shapes have been checked."""
        ...

    def count_parameters(self, model: Any) -> tuple[int, int]:
        """Trainable parameters and running statistics, as the framework itself counts them."""
        ...

    def forward(self, model: Any, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        """Outputs of the named nodes in inference mode; x is (batch, channels, *spatial)."""
        ...

    def trainer(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> Trainer:
        """A trainer of the model by the recipe's loss and optimizer."""
        ...


@runtime_checkable
class ModalBackend(Protocol):
    """A backend with other modes than ``layers``. Optional."""

    @property
    def modes(self) -> Sequence[str]:
        """Those of ``MODES`` that it has."""
        ...

    def in_mode(self, mode: str) -> Backend:
        """The backend whose models run in one of its modes."""
        ...


@runtime_checkable
class InspectableBackend(Protocol):
    """A backend that can tell what a model has become since it was built. Optional.

    Users change models: another head, another epsilon, a hook. What a spec can say of that is
    carried over to whatever is made of the model; the rest is refused.
    """

    def graph_of(self, model: Any, graph: Graph) -> Graph:
        """The graph that the model is of now; ``graph`` is the one that it was built of.

        Raises:
            ModelChanged: no spec says what the model computes now; names the part.
        """
        ...

    def rebuild(
        self, source: Any, origin: Origin, weights: Mapping[str, np.ndarray], *, trainable: bool
    ) -> Any:
        """A new model that has what another of the same network has beyond values of arrays.

        That is their types, their devices and whether the model is in training mode.

        Args:
            source: the other model.
            origin: what the new one is built from; its graph is the network of both.
            weights: the arrays of ``source``.
            trainable: whether what trains is kept too; the graph of ``origin`` says it otherwise.
        """
        ...


@runtime_checkable
class RecognisingBackend(Protocol):
    """A backend that knows networks in its framework's models, whoever made those. Optional.

    Users make models of the layers of another, and files of models forget what they were built of.
    """

    def recognise(self, model: Any) -> Origin | None:
        """What a model could have been built from; None for a model of another framework.

        Raises:
            WeightsError: it is no network of densespec's; names what is not.
        """
        ...


@runtime_checkable
class ShapingBackend(Protocol):
    """A backend whose framework knows the shapes of nodes without running them. Optional."""

    def shapes(
        self, model: Any, graph: Graph, names: Sequence[str]
    ) -> Mapping[str, tuple[int | None, ...]]:
        """Shapes of the named nodes' outputs, (channels, *spatial), as the framework says."""
        ...


@runtime_checkable
class ConfigurableBackend(Protocol):
    """A backend whose framework reads settings once, when it starts. Optional."""

    def configure(self, recipe: TrainingRecipe) -> None:
        """Set what the framework has to be told before it starts to train by a recipe.

        Nothing is changed that the user has set, or where the framework runs already.
        """
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend that can name the devices which its framework finds. Optional."""

    def devices(self) -> Sequence[str]:
        """Start the framework and name its devices, as it does: ``["cuda:0 (...)", "cpu"]``."""
        ...


class ComputingDevice(Protocol):
    """A device on which a framework computes, as those see it who measure it."""

    @property
    def name(self) -> str:
        """Its name, as :class:`DeviceBackend` gives it."""
        ...

    def peak_memory(self) -> int | None:
        """The most bytes of its memory that this process has used; None where nothing tells."""
        ...

    def product(self, side: int) -> Callable[[], object]:
        """What multiplies two float32 matrices on it, and returns when that is done.

        Args:
            side: the rows and columns of each.
        """
        ...


@runtime_checkable
class TimeableBackend(Protocol):
    """A backend whose models can be timed as their users run them. Optional.

    Without it, what is timed is ``forward``, which copies arrays to and fro.
    """

    def device(self) -> ComputingDevice:
        """The device that its users would take: the first accelerator, or else the CPU."""
        ...

    def place(self, model: Any) -> Any:
        """A built model, moved to that device."""
        ...

    def caller(self, model: Any, x: np.ndarray) -> Callable[[], object]:
        """What runs a model on that device once, in inference mode, and returns when that is done.

        Args:
            x: (batch, channels, *spatial); it is brought to the device before.
        """
        ...


@runtime_checkable
class ParallelBackend(Protocol):
    """A backend that can also train on several devices, driven from one process. Optional."""

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> Trainer:
        """A trainer that splits each batch among ``replicas`` devices, as the recipe defines it.

        All devices hold the same weights after each step.

        Raises:
            ValueError: there are not so many devices; says how to have them.
        """
        ...


class ProcessGroup(Protocol):
    """The processes that train together, as one of them sees them."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def part(self, count: int) -> slice:
        """Which of the ``count`` samples of a batch are this process's."""
        ...

    def any(self, wish: bool) -> bool:
        """Whether any process wishes something; every one has to call it."""
        ...

    def place(self, model: Any) -> Any:
        """A built model, moved to this process's device."""
        ...


@runtime_checkable
class LaunchableBackend(Protocol):
    """A backend that trains on several devices by a process for each. Optional.

    A launcher starts the processes, on one machine or more, and tells each by its environment who
    it is. All of them run the same program, each on its part of every batch.
    """

    def launcher(self, *, devices: int, nodes: int, endpoint: str | None) -> Sequence[str]:
        """The command that runs the Python arguments after it once for each device.

        Args:
            devices: processes on each machine.
            nodes: machines; the command is run on each.
            endpoint: ``host:port`` of one of them that all can reach.

        Raises:
            ValueError: several machines without an endpoint.
        """
        ...

    def launched(self) -> tuple[int, int] | None:
        """The number of this process and how many there are; None where no launcher started it."""
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
            f"the network ends in {graph.output.name}, but the loss is of logits: build it with "
            "its classifier and without classifier_activation"
        )


def check_accumulation(recipe: TrainingRecipe, devices: int) -> None:
    """Check that batches are split into parts on one device alone.

    Raises:
        ValueError: They are to be split among several devices as well.
    """
    if recipe.accumulate > 1 and devices > 1:
        raise ValueError(
            f"accumulate = {recipe.accumulate} splits batches on one device, but there are "
            f"{devices}"
        )


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
    """Names of the backends that installed packages offer; their frameworks may be absent."""
    return published.names(GROUP)


def get_backend(name: str) -> Backend:
    """A backend by its entry-point name, or ``module:attribute`` of one that is not published.

    Args:
        name: the backend's name; with a mode behind it, as in ``torch.nn+inference``, the backend
            in that mode.

    Raises:
        UnknownName: no package offers it, or it has no such mode; the message suggests near names.
        PackageMissing: its framework is not installed; says what to install.
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
    """Give the network that a built model is of now, after whatever was changed in it.

    Args:
        backend: The name of the backend that built it.
        graph: What it was built from.

    Raises:
        ModelChanged: It was changed into something that no spec says; names the part.
    """
    engine = get_backend(backend)
    return engine.graph_of(model, graph) if isinstance(engine, InspectableBackend) else graph


def split_mode(name: str) -> tuple[str, str]:
    """A backend's name without its mode, and the mode: ``layers`` where none is named."""
    base, _, mode = name.partition("+")
    return base, mode or LAYERS


def with_mode(name: str, mode: str | None) -> str:
    """The name of the same backend in a mode; None for the mode that it names.

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
