"""Networks that are a ``flax.nnx.Module``, of images (batch, *spatial, channels)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from densespec.backends import StepResult, Trainer
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.layouts import Axes
from densespec.weights.tensors import Tensor
from densespec_conformance.adapters.foreign import ForeignArray, ForeignTrainer, Observation
from densespec_conformance.asking.constructor import ConstructorError
from densespec_conformance.asking.requests import Unsupported
from densespec_flax.arrays import count, to_canonical, to_numpy
from densespec_flax.layers import from_canonical
from densespec_flax.losses import loss_of
from densespec_flax.optimizers import moments_in, optimizer_of, with_moments
from densespec_flax.precision import TYPES

LEAVES = {"kernel": "kernel", "bias": "bias"}
NORM_LEAVES = {
    "scale": "gamma",
    "bias": "beta",
    "mean": "running_mean",
    "var": "running_variance",
}


@contextlib.contextmanager
def making(dtype: str) -> Iterator[None]:
    """Let arrays be float64 where that is asked for, while a constructor is called."""
    with computing_in(dtype):
        yield


def computing_in(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Let JAX compute in float64 for a while, where that is the dtype."""
    return jax.enable_x64(dtype == "float64")


def adapt(made: object, dtype: str, dims: int) -> FlaxNetwork | None:
    """Return the network, or None if it is not one of ``nnx``.

    Raises:
        Unsupported: JAX has no such dtype.
    """
    if not isinstance(made, nnx.Module):
        return None
    if dtype not in TYPES:
        raise Unsupported(f"JAX has no dtype {dtype!r}")
    return FlaxNetwork(made, dtype)


class FlaxNetwork:
    """A module, whose parts and variables are told apart by their paths."""

    containers = ("msgpack",)
    axes: Axes = "window_in_out"
    any_size = True
    notes: tuple[str, ...] = ()

    def __init__(self, module: Any, dtype: str) -> None:
        self.module, self.dtype = module, dtype
        self._own: Any = None
        self._keys = _keys_in_order(module)
        with computing_in(dtype):
            _set_dtype(module, jnp.dtype(dtype))

    def arrays(self) -> dict[str, ForeignArray]:
        own = self._variables()
        return {key: _array(key, own) for key in own}

    def _variables(self) -> dict[str, Any]:
        """Return every variable but the counters of random streams, as attributes were set."""
        found = _variables_of(self.module)
        return {key: found[key] for key in self._keys}

    def variables(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """Return variables by canonical name, for the module's names of them."""
        own = self._variables()
        return {name: own[key] for name, key in keys.items()}

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        own = self._variables()
        with computing_in(self.dtype):
            for key, array in arrays.items():
                own[key].set_value(jnp.asarray(array, own[key].dtype))

    def load(self, path: Path) -> None:
        raise ConstructorError("nnx has no weight files of its own")

    def keep(self) -> None:
        self._own = jax.tree.map(
            lambda array: array, nnx.state(self.module)
        )  # variables of its own

    def reset(self) -> None:
        nnx.update(self.module, self._own)

    def count_parameters(self) -> tuple[int, int]:
        return count(self.module)

    def run(self, x: np.ndarray, parts: Collection[str]) -> Observation:
        inputs: Arrays = {}
        outputs: Arrays = {}
        modules = {
            key_of(path): one
            for path, one in nnx.iter_graph(self.module)
            if isinstance(one, nnx.Module)
        }
        self.module.eval()
        with computing_in(self.dtype), _watched({n: modules[n] for n in parts}, inputs, outputs):
            y = self.module(self.images(x))
        if not isinstance(y, jax.Array):
            raise ConstructorError(
                f"the network gives a {type(y).__name__}, but should give one array: wrap it in "
                "a module that gives its logits"
            )
        return Observation(_first(y), inputs, outputs)

    def images(self, x: np.ndarray) -> jax.Array:
        """Return an array, which is channels first, as the module's input."""
        return jnp.asarray(np.moveaxis(x, 1, -1), self.dtype)

    def trainer(self, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe) -> Trainer:
        return ForeignFlaxTrainer(self, keys, graph, recipe)


def key_of(path: tuple[Any, ...]) -> str:
    """Name what lies at a path of attributes and numbers."""
    return "/".join(map(str, path))


def _variables_of(module: nnx.Module) -> dict[str, Any]:
    return {
        key_of(path): one
        for path, one in nnx.iter_graph(module)
        if isinstance(one, nnx.Variable) and not isinstance(one, nnx.RngState)
    }


def _keys_in_order(module: nnx.Module) -> list[str]:
    """List a module's variables as its attributes were set; transformations lose that order."""
    found = dict(nnx.iter_graph(module))

    def place(path: tuple[Any, ...]) -> tuple[int, ...]:
        outer = [found.get(path[:depth]) for depth in range(len(path))]
        return tuple(
            name if isinstance(name, int) else [*getattr(one, "__dict__", ()), name].index(name)
            for one, name in zip(outer, path, strict=True)
        )

    variables = _variables_of(module)
    return [key for path in sorted(found, key=place) if (key := key_of(path)) in variables]


def _set_dtype(module: nnx.Module, dtype: Any) -> None:
    """Have a module compute in a dtype; running statistics have at least float32."""
    for _, one in nnx.iter_graph(module):
        if isinstance(one, nnx.Variable) and jnp.issubdtype(one.dtype, jnp.floating):
            least = jnp.float32 if isinstance(one, nnx.BatchStat) else dtype
            one.set_value(one.get_value().astype(jnp.promote_types(dtype, least)))
        elif isinstance(one, nnx.Module) and getattr(one, "dtype", None) is not None:
            one.dtype = dtype  # type: ignore[attr-defined]


@contextlib.contextmanager
def _watched(modules: Mapping[str, nnx.Module], inputs: Arrays, outputs: Arrays) -> Iterator[None]:
    """Keep what modules read and give, as long as this lasts.

    Python looks a call up in the class, so those of their classes are watched. What runs within a
    function that JAX transforms are other modules, or has no values yet: it is not seen.
    """
    names = {id(module): name for name, module in modules.items()}

    def see(module: nnx.Module, x: Any, y: Any) -> None:
        if id(module) in names and not isinstance(y, jax.core.Tracer):
            name = names[id(module)]
            inputs[name], outputs[name] = _first(x), _first(y)

    with contextlib.ExitStack() as stack:
        for kind in {type(module) for module in modules.values()}:
            stack.enter_context(_watched_class(kind, see))
        yield


@contextlib.contextmanager
def _watched_class(kind: Any, see: Any) -> Iterator[None]:
    call, own = kind.__call__, "__call__" in vars(kind)

    def watching(module: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        y = call(module, x, *args, **kwargs)
        see(module, x, y)
        return y

    kind.__call__ = watching
    try:
        yield
    finally:
        if own:
            kind.__call__ = call
        else:
            del kind.__call__


def _first(y: Any) -> np.ndarray:
    return np.moveaxis(to_numpy(y), -1, 1)


def _array(key: str, variables: Mapping[str, Any]) -> ForeignArray:
    variable = variables[key]
    part, _, leaf = key.rpartition("/")
    of_norm = not any(f"{part}/{name}".lstrip("/") in variables for name in ("kernel", "embedding"))
    tensor = Tensor(
        tuple(variable.shape), variable.dtype.name, lambda: to_numpy(variable.get_value())
    )
    return ForeignArray(tensor, part, (NORM_LEAVES if of_norm else LEAVES).get(leaf, ""))


class ForeignFlaxTrainer(ForeignTrainer):
    """Steps of a module with the loss and the optimizer that the ``flax.nnx`` backend has."""

    def __init__(
        self, network: FlaxNetwork, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe
    ) -> None:
        super().__init__(network, keys, graph, recipe)
        self._images, self._module, self._dtype = network.images, network.module, network.dtype
        self._trained = network.variables(self._trainable_keys())
        loss = loss_of(recipe)
        self._differentiated = nnx.jit(
            nnx.value_and_grad(lambda module, x, labels: loss(module(x), labels))
        )
        with computing_in(self._dtype):
            self._state = optimizer_of(recipe).init(self._arrays())

    def _arrays(self) -> dict[str, Any]:
        return {name: variable.get_value() for name, variable in self._trained.items()}

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        self._check_masks(masks)
        self._module.train()
        with computing_in(self._dtype):
            loss, found = self._differentiated(self._module, self._images(x), jnp.asarray(labels))
            by_key = {key_of(path): one.get_value() for path, one in nnx.to_flat_state(found)}
            steepest = {name: by_key[key] for name, key in self._trainable_keys().items()}
            self._move(steepest, learning_rate)
        return StepResult(float(loss), _canonical(steepest) if gradients else {})

    def _move(self, gradients: Mapping[str, Any], learning_rate: float) -> None:
        arrays, optimizer = self._arrays(), optimizer_of(self._recipe, learning_rate)
        updates, self._state = optimizer.update(gradients, self._state, arrays)
        for name, array in optax.apply_updates(arrays, updates).items():
            self._trained[name].set_value(array)

    def moments(self) -> dict[str, Arrays]:
        kept = moments_in(self._state)
        return {name: _canonical(kept[name]) for name in self._recipe.rule.moments}

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        with computing_in(self._dtype):
            trees = {
                moment: {
                    name: from_canonical(name, moments[moment][name], variable.dtype)
                    for name, variable in self._trained.items()
                }
                for moment in self._recipe.rule.moments
            }
            self._state = with_moments(self._state, trees, step)


def _canonical(arrays: Mapping[str, Any]) -> Arrays:
    return {name: to_canonical(name, array) for name, array in arrays.items()}
