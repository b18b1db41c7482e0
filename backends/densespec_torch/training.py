"""Trains by PyTorch's optimizers and the recipe's rules, alone or on several processes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from densespec.backends import StepResult, check_labels, require_logits
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.optimizers import FIRST
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec.weights.layouts.torch_names import module_path, state_keys
from densespec_torch.as_built import GivenMask
from densespec_torch.averaging import WeightAverage
from densespec_torch.distributed import average, rank_world, shard
from densespec_torch.inspecting import keys_of
from densespec_torch.losses import loss_of
from densespec_torch.norms import FrozenDropout, FrozenNorm, synchronise_norms
from densespec_torch.rmsprop import RMSProp
from densespec_torch.tensors import from_numpy, like, to_numpy, unwrapped

SLOTS = {
    "velocity": "momentum_buffer",
    "first_moment": "exp_avg",
    "second_moment": "exp_avg_sq",
    "mean_square": "square_avg",
}
"""Names the moments in the states of PyTorch's optimizers."""
STEP = "step"
"""The state of a weight holds the number of the last step under this name, to correct bias."""

# Each process keeps its own running statistics. PyTorch 2.13 has renamed the option.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if _RENAMED else "broadcast_buffers": False,
}

_MIXED = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def trainable_parameters(model: nn.Module, graph: Graph) -> dict[str, nn.Parameter]:
    """Return a model's trainable parameters by canonical name."""
    parameters, keys = dict(unwrapped(model).named_parameters()), state_keys(graph)
    return {w.name: parameters[keys[w.name]] for w in graph.weights if w.trainable}


def optimizer_of(
    parameters: Mapping[str, nn.Parameter], recipe: TrainingRecipe
) -> torch.optim.Optimizer:
    """Make the recipe's optimizer of parameters by canonical name: PyTorch's own, or ours.

    Parameters with the same weight decay and learning rate are a group. Its ``factor`` is the
    factor of the recipe's ``layer_rates`` on its learning rate. Clipping is not part of the
    optimizer: see :func:`clip_gradients`.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        key = recipe.decay_of(name), recipe.rate_factor_of(name)
        groups.setdefault(key, []).append(parameter)
    return OPTIMIZERS[recipe.optimizer](
        [
            {
                "params": group,
                "weight_decay": decay,
                "lr": recipe.learning_rate * factor,
                "factor": factor,
            }
            for (decay, factor), group in groups.items()
        ],
        recipe,
    )


def _sgd(groups: list[dict[str, Any]], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    nesterov = recipe.nesterov and bool(recipe.momentum)
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov)


def _adam(groups: list[dict[str, Any]], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon)


def _adamw(groups: list[dict[str, Any]], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon)


def _rmsprop(groups: list[dict[str, Any]], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    return RMSProp(groups, momentum=recipe.momentum, alpha=recipe.beta2, eps=recipe.epsilon)


OPTIMIZERS: Mapping[str, Callable[[list[dict[str, Any]], TrainingRecipe], torch.optim.Optimizer]]
OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "rmsprop": _rmsprop}


def clip_gradients(parameters: Iterable[Tensor], recipe: TrainingRecipe) -> None:
    """Scale gradients down to the recipe's norm, of all of them together.

    ``torch.nn.utils.clip_grad_norm_`` adds 1e-6 to the norm, and so clips to less than it is told.
    """
    if recipe.clip_norm is None:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    factor = torch.clamp(recipe.clip_norm / norm, max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of an optimizer of :func:`optimizer_of`, each group's by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def moments_of(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    recipe: TrainingRecipe,
) -> dict[str, Arrays]:
    """Return the moments of every parameter by canonical name, also before the first step."""
    return {
        moment: {
            name: to_numpy(optimizer.state[p].get(SLOTS[moment], _first(moment, p)))
            for name, p in parameters.items()
        }
        for moment in recipe.rule.moments
    }


def _first(moment: str, parameter: Tensor) -> Tensor:
    return torch.full_like(parameter, FIRST.get(moment, 0))


def restore_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    moments: OptimizerMoments,
    step: int,
) -> None:
    """Set the moments of parameters by canonical name, as they were after so many steps."""
    for moment, arrays in moments.items():
        for name, array in arrays.items():
            parameter = parameters[name]
            buffer = torch.empty_like(parameter, requires_grad=False)
            optimizer.state[parameter][SLOTS[moment]] = buffer.copy_(from_numpy(array))
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        for parameter in parameters.values():
            optimizer.state[parameter][STEP] = torch.tensor(float(step))


class TorchTrainer:
    """Takes training steps of a model by a recipe.

    Where this process has joined others (:mod:`densespec_torch.distributed`), the model is wrapped
    in ``DistributedDataParallel``; each process then gives :meth:`step` its part of the batch,
    masks included, and gets the result of the whole. Where the recipe accumulates, that is its
    share of each part of the batch: see :func:`densespec.backends.own_samples`.

    Args:
        model: a module with densespec's names; ``torch.compile`` may have wrapped it.
        graph: the graph that the model computes.

    Raises:
        ValueError: the network gives no logits.
    """

    def __init__(self, model: nn.Module, graph: Graph, recipe: TrainingRecipe) -> None:
        require_logits(graph)
        self._given, self._inner = model, unwrapped(model)
        self._graph, self._recipe = graph, recipe
        recipe.check_classes(graph.spec.classes)
        self._criterion, self._counts = loss_of(recipe), recipe.loss == "softmax"
        self._rank, self._size = rank_world()
        self._parameters = trainable_parameters(model, graph)
        self._optimizer, self._done = optimizer_of(self._parameters, recipe), 0
        self._device = next(self._inner.parameters()).device
        self._model = model if self._size == 1 else self._distributed(model)
        averages = recipe.average is not None
        self._average = WeightAverage(model, graph, recipe) if averages else None
        self._modules = tuple(self._inner.modules())
        self._scaler = torch.amp.GradScaler(
            self._device.type, enabled=recipe.dtype == "mixed_float16"
        )

    def _distributed(self, model: nn.Module) -> nn.Module:
        if self._recipe.batch_norm == "synchronised":
            synchronise_norms(self._inner)
        devices = [self._device] if self._device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, **OWN_BUFFERS)

    def shard(self, count: int) -> slice:
        """Choose which samples of a batch are this process's; all of them if it is alone."""
        return shard(count, self._rank, self._size)

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        """Take one step; see :class:`densespec.backends.Trainer`.

        Raises:
            ValueError: there are no samples, or fewer samples than parts, or labels that are no
                classes. Nothing has changed then.
        """
        recipe = self._recipe
        check_labels(self._recipe, x, labels, self._graph.output.shape[0] or 0)
        if self._counts and not self._recipe.has_shares:
            labels = np.asarray(labels, np.int64)
        set_learning_rate(self._optimizer, learning_rate)
        share = len(x) / self._whole(len(x))
        self._optimizer.zero_grad()
        parts = [shard(len(x), index, recipe.accumulate) for index in range(recipe.accumulate)]
        loss = correct = torch.zeros((), device=self._device)
        for part in parts:
            own = {name: mask[part] for name, mask in (masks or {}).items()}
            joins = self._joining(part is parts[-1])
            with mode(self._modules, training=True), self._masked(own), joins:
                of_part, right = self._loss(x[part], labels[part])
                of_part = of_part * (len(x[part]) / len(x))
                # Gradients are averaged over the processes.
                self._scaler.scale(of_part * (share * self._size)).backward()  # type: ignore[no-untyped-call]
            loss, correct = loss + of_part.detach(), correct + right
        self._scaler.unscale_(self._optimizer)
        taken = self._gradients() if gradients else {}
        clip_gradients(self._parameters.values(), self._recipe)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._done += 1
        if self._average is not None:
            self._average.update(self._done)
        sums = self._total(torch.stack([loss * share, correct]).double()).tolist()
        return StepResult(sums[0], taken, round(sums[1]) if self._counts else None)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Compute the logits in inference mode, by the running statistics of this process."""
        averaged = contextlib.nullcontext() if self._average is None else self._average.in_place()
        with averaged, mode(self._modules, training=False), torch.no_grad(), self._precision():
            logits = self._given(like(x, self._inner))
        return to_numpy(_widened(logits))

    def moments(self) -> dict[str, Arrays]:
        moments = moments_of(self._optimizer, self._parameters, self._recipe)
        if self._average is None:
            return moments
        self._average_statistics()
        return moments | {AVERAGE: self._average.read()}

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        own = {moment: moments[moment] for moment in self._recipe.rule.moments}
        restore_moments(self._optimizer, self._parameters, own, step)
        if self._average is not None:
            self._average.write(moments[AVERAGE])
        self._done = step

    def weights(self) -> Arrays:
        """Return every array by canonical name.

        Where norms are per replica, running statistics become their means over the processes, in
        the model as well. Every process must call it.
        """
        self._average_statistics()
        return read_weights(self._inner, self._graph)

    def _average_statistics(self) -> None:
        """Give all processes the same statistics, and the same averages of them."""
        if self._recipe.batch_norm == "per-replica":
            average_statistics(self._inner)
            average([] if self._average is None else self._average.statistics)

    def close(self) -> None:
        """Do nothing, as nothing is held."""

    def _loss(self, x: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Compute the mean loss, and count the logits that are highest at their label."""
        with self._precision():
            logits = _widened(self._model(like(x, self._inner)))
        target = torch.as_tensor(np.asarray(labels), device=self._device)
        if self._recipe.has_shares:
            target = target.to(logits.dtype)
        loss: Tensor = self._criterion(logits, target)
        if not self._counts:
            return loss, torch.zeros_like(loss)
        right = target.argmax(1) if self._recipe.has_shares else target
        return loss, (logits.detach().argmax(1) == right).sum()

    def _joining(self, joins: bool) -> contextlib.AbstractContextManager[Any]:
        """Join the gradients of all processes in a backward pass, or leave them apart."""
        if joins or not isinstance(self._model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._model.no_sync()

    def _precision(self) -> Any:
        narrow = _MIXED.get(self._recipe.dtype)
        if narrow is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=narrow)

    def _gradients(self) -> Arrays:
        gradients = {name: parameter.grad for name, parameter in self._parameters.items()}
        return {name: to_numpy(g) for name, g in gradients.items() if g is not None}

    def _whole(self, count: int) -> int:
        """Count the samples of the whole batch, of which this process has ``count``."""
        if self._size == 1:
            return count
        return int(self._total(torch.tensor(count, device=self._device)))

    def _total(self, tensor: Tensor) -> Tensor:
        """Sum up a tensor over all processes."""
        if self._size > 1:
            distributed.all_reduce(tensor)
        return tensor

    @contextlib.contextmanager
    def _masked(self, masks: Mapping[str, np.ndarray]) -> Iterator[None]:
        """Put given masks in place of what dropouts draw for a while; frozen ones drop nothing."""
        with contextlib.ExitStack() as stack:
            for name, mask in masks.items():
                node = self._graph[name]
                assert isinstance(node.op, ops.Dropout), f"{name} is no dropout"
                if node.frozen:
                    continue
                module = self._inner.get_submodule(module_path(name))
                stack.enter_context(mode([module], training=False))  # so that it draws nothing
                scale = like(mask, self._inner) / (1 - node.op.rate)
                handle = module.register_forward_hook(GivenMask(scale))
                stack.callback(handle.remove)
            yield


def average_statistics(model: nn.Module) -> None:
    """Replace running statistics by their means over the processes, where a norm keeps them.

    An average of averages: done at any time, it leaves the mean's further course as it is.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    average([s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None])


def read_weights(model: nn.Module, graph: Graph) -> Arrays:
    """Read every array of a model by canonical name."""
    model = unwrapped(model)
    state = model.state_dict()
    return {name: to_numpy(state[key]) for name, key in keys_of(model, graph).items()}


def _widened(logits: Tensor) -> Tensor:
    """Convert logits to float32 at least, in which the loss is taken."""
    return logits.float() if logits.dtype in _MIXED.values() else logits


@contextlib.contextmanager
def mode(modules: Iterable[nn.Module], *, training: bool) -> Iterator[Any]:
    """Set training or inference mode for a while, except for what is frozen; then restore it."""
    switched = [
        module
        for module in modules
        if module.training is not training and not isinstance(module, FrozenNorm | FrozenDropout)
    ]
    for module in switched:
        module.training = training
    try:
        yield
    finally:
        for module in switched:
            module.training = not training
