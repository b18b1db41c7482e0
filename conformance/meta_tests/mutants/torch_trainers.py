"""Training loops in PyTorch with one thing wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.optim import swa_utils

from densespec.backends import StepResult
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec_torch.training import TorchTrainer, optimizer_of, read_weights


class NoNesterov(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["nesterov"] = False


class LossNotScaled(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=False)


class Dampened(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["dampening"] = 0.9


class NoDecay(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["weight_decay"] = 0.0


class DoubledDecay(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["weight_decay"] *= 2


class OneGroup(TorchTrainer):
    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        super().__init__(model, graph, recipe)
        self._optimizer = torch.optim.SGD(
            self._parameters.values(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self._optimizer.param_groups[0]["factor"] = 1.0


class Decoupled(NoDecay):
    scaled = True

    def _gradients(self) -> Any:
        """Called between the backward pass and the step."""
        for group in self._optimizer.param_groups:
            factor = group["lr"] if self.scaled else 1.0
            with torch.no_grad():
                for parameter in group["params"]:
                    parameter.mul_(1 - factor * self._recipe.weight_decay)
        return super()._gradients()


class DecoupledUnscaled(Decoupled):
    scaled = False


class DecoupledWithoutNesterov(Decoupled):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["nesterov"] = False


class NoZeroGrad(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]


class LateScheduler(TorchTrainer):
    last: float | None = None

    def step(self, *args: Any, learning_rate: float, **options: Any) -> StepResult:
        now, self.last = self.last or learning_rate, learning_rate
        return super().step(*args, learning_rate=now, **options)


class NoScheduler(TorchTrainer):
    def step(self, *args: Any, learning_rate: float, **options: Any) -> StepResult:
        return super().step(*args, learning_rate=self._recipe.learning_rate, **options)


class TwoSchedulers(TorchTrainer):
    def step(self, *args: Any, learning_rate: float, **options: Any) -> StepResult:
        twice = learning_rate**2 / self._recipe.learning_rate
        return super().step(*args, learning_rate=twice, **options)


class _OtherLoss(TorchTrainer):
    def _loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        logits = self._model(torch.from_numpy(x))
        target = torch.from_numpy(labels)
        return self.loss(logits, target), (logits.argmax(1) == target).sum()

    def loss(self, logits: Any, target: Any) -> Any:
        raise NotImplementedError


class SummedLoss(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        return functional.cross_entropy(logits, target, reduction="sum")


class DoubleSoftmax(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        return functional.cross_entropy(logits.softmax(1), target)


class NoSmoothing(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        return functional.cross_entropy(logits, target)


class BinaryLoss(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        one_hot = functional.one_hot(target, logits.shape[1]).to(logits)
        return functional.binary_cross_entropy_with_logits(logits, one_hot)


class SmoothingOverTheOthers(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        share, classes = self._recipe.label_smoothing, logits.shape[1]
        smooth = torch.full_like(logits, share / (classes - 1))
        smooth.scatter_(1, target[:, None], 1 - share)
        return -(smooth * logits.log_softmax(1)).sum(1).mean()


class _OtherLabels(TorchTrainer):
    """Another loss of several labels."""

    def _loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        logits = self._model(torch.from_numpy(x))
        return self.loss(logits, torch.from_numpy(labels)), torch.zeros(())

    def loss(self, logits: Any, target: Any) -> Any:
        raise NotImplementedError


class UnknownAsAbsent(_OtherLabels):
    def loss(self, logits: Any, target: Any) -> Any:
        absent = torch.where(target >= 0, target, 0)
        return functional.binary_cross_entropy_with_logits(logits, absent)


class OverKnownLabels(_OtherLabels):
    def loss(self, logits: Any, target: Any) -> Any:
        known = target >= 0
        return functional.binary_cross_entropy_with_logits(logits[known], target[known])


class LabelsSummed(_OtherLabels):
    def loss(self, logits: Any, target: Any) -> Any:
        known = (target >= 0).to(logits.dtype)
        absent = torch.where(target >= 0, target, 0)
        summed = functional.binary_cross_entropy_with_logits(
            logits, absent, weight=known, reduction="sum"
        )
        return summed / len(logits)


class WeightsIgnored(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        share = self._recipe.label_smoothing
        return functional.cross_entropy(logits, target, label_smoothing=share)


class WeightsNormalised(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        weights = logits.new_tensor(self._recipe.class_weights)
        share = self._recipe.label_smoothing
        each = functional.cross_entropy(logits, target, reduction="none", label_smoothing=share)
        return (each * weights[target]).sum() / weights[target].sum()


class TwoForwardPasses(TorchTrainer):
    def _loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        with torch.no_grad():
            self._model(torch.from_numpy(x))
        return super()._loss(x, labels)


class Clipped(TorchTrainer):
    def _gradients(self) -> Any:
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        return super()._gradients()


class GammaFrozen(TorchTrainer):
    def _gradients(self) -> Any:
        for name, parameter in self._parameters.items():
            if name.endswith(".gamma") and parameter.grad is not None:
                parameter.grad.zero_()
        return super()._gradients()


class _OtherMasks(TorchTrainer):
    def step(self, *args: Any, masks: Any = None, **options: Any) -> StepResult:
        changed = {name: self.mask(name, mask) for name, mask in masks.items()}
        return super().step(*args, masks=changed, **options)

    def mask(self, name: str, mask: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class DropsMaps(_OtherMasks):
    def mask(self, name: str, mask: np.ndarray) -> np.ndarray:
        return np.ones_like(mask) * mask[:, :, :1, :1]


class DividesByRate(_OtherMasks):
    def mask(self, name: str, mask: np.ndarray) -> np.ndarray:
        op: Any = self._graph[name].op
        return mask * (1 - op.rate) / op.rate


class DropsAtLayerEnds(_OtherMasks):
    def mask(self, name: str, mask: np.ndarray) -> np.ndarray:
        op: Any = self._graph[name].op
        return mask if name.endswith("dropout2") else np.full_like(mask, 1 - op.rate)


class DropsTheOthers(_OtherMasks):
    def mask(self, name: str, mask: np.ndarray) -> np.ndarray:
        return 1 - mask


class ForgetsMomentum(TorchTrainer):
    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        pass


class CountsAnew(TorchTrainer):
    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        super().restore(moments, step=0)


class KerasEpsilon(TorchTrainer):
    """Epsilon as ``keras.optimizers.Adam`` adds it: before the correction of the moment's bias."""

    steps = 0

    def step(self, *args: Any, **options: Any) -> StepResult:
        self.steps += 1
        for group in self._optimizer.param_groups:
            group["eps"] = self._recipe.epsilon / (1 - self._recipe.beta2**self.steps) ** 0.5
        return super().step(*args, **options)


class Coupled(TorchTrainer):
    """``torch.optim.Adam`` with weight decay, where the recipe says AdamW."""

    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        super().__init__(model, graph, recipe)
        coupled = recipe.replace(optimizer="adam")
        self._optimizer = optimizer_of(self._parameters, coupled)


class RMSPropOfTorch(TorchTrainer):
    """``torch.optim.RMSprop`` for that of TensorFlow 1."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._optimizer = torch.optim.RMSprop(self._optimizer.param_groups)


class _OtherAdam(TorchTrainer):
    """AdamW written by hand, with another size of a step."""

    def _gradients(self) -> Any:
        seen, beta1, beta2 = super()._gradients(), self._recipe.beta1, self._recipe.beta2
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                state, slope = self._optimizer.state[parameter], parameter.grad
                zeros = torch.zeros_like(slope)
                state["step"] = number = state.get("step", 0) + 1
                state["exp_avg"] = m = beta1 * state.get("exp_avg", zeros) + (1 - beta1) * slope
                second = beta2 * state.get("exp_avg_sq", zeros) + (1 - beta2) * slope**2
                state["exp_avg_sq"] = second
                ahead = self.ahead(m, second, (1 - beta1**number), (1 - beta2**number))
                with torch.no_grad():
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter -= group["lr"] * ahead
        self._optimizer.step = lambda *args, **options: None  # type: ignore[method-assign]
        return seen

    def ahead(self, m: Any, s: Any, first: float, second: float) -> Any:
        raise NotImplementedError


class EpsilonWithinRoot(_OtherAdam):
    def ahead(self, m: Any, s: Any, first: float, second: float) -> Any:
        return m / first / (s / second + self._recipe.epsilon) ** 0.5


class NoCorrection(_OtherAdam):
    def ahead(self, m: Any, s: Any, first: float, second: float) -> Any:
        return m / (s**0.5 + self._recipe.epsilon)


class _OtherClipping(TorchTrainer):
    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        super().__init__(model, graph, recipe.replace(clip_norm=None))
        assert recipe.clip_norm is not None
        self.limit = recipe.clip_norm

    def _gradients(self) -> Any:
        seen = super()._gradients()
        self.clip([*self._parameters.values()])
        return seen

    def clip(self, parameters: list[Any]) -> None:
        pass


class NotClipped(_OtherClipping):
    pass


class ClippedByTorch(_OtherClipping):
    def clip(self, parameters: list[Any]) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, self.limit)


class ClippedEach(_OtherClipping):
    def clip(self, parameters: list[Any]) -> None:
        for parameter in parameters:
            length = float(parameter.grad.norm())
            parameter.grad.mul_(min(1.0, self.limit / max(length, 1e-30)))


class ClippedValues(_OtherClipping):
    def clip(self, parameters: list[Any]) -> None:
        torch.nn.utils.clip_grad_value_(parameters, self.limit)


class AveragedByTorch(TorchTrainer):
    """Averages as ``torch.optim.swa_utils.AveragedModel`` keeps them, without buffers."""

    buffers = False

    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        super().__init__(model, graph, recipe.replace(average=None, average_warmup=0.0))
        assert recipe.average is not None
        average = swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self._copied = swa_utils.AveragedModel(
            model, multi_avg_fn=average, use_buffers=self.buffers
        )

    def step(self, x: Any, labels: Any, **options: Any) -> StepResult:
        result = super().step(x, labels, **options)
        self._average_now()
        return result

    def _average_now(self) -> None:
        self._copied.update_parameters(self._inner)

    def moments(self) -> dict[str, Arrays]:
        found = read_weights(self._copied.module, self._graph)
        return super().moments() | {AVERAGE: found}


class AveragedByTorchvision(AveragedByTorch):
    """Averages with buffers, taken every fourth step."""

    buffers = True
    done = 0

    def _average_now(self) -> None:
        if self.done % 4 == 0:
            super()._average_now()
        self.done += 1


class AveragedByHand(AveragedByTorch):
    """An average of ``model.parameters()`` alone, which leaves buffers of the copy as they were."""

    def _average_now(self) -> None:
        with torch.no_grad():
            pairs = zip(self._copied.module.parameters(), self._inner.parameters(), strict=True)
            for average, parameter in pairs:
                average.lerp_(parameter, 0.25)


class NotWarmedUp(TorchTrainer):
    """Averages that keep as much from the first step on."""

    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        super().__init__(model, graph, recipe.replace(average_warmup=0.0))


class AveragedEarly(TorchTrainer):
    """Averages that are updated before the step."""

    def step(self, *args: Any, **options: Any) -> StepResult:
        assert self._average is not None
        self._average.update(self._done + 1)
        held, self._average = self._average, None
        result = super().step(*args, **options)
        self._average = held
        return result


class WeightsOfProbabilities(TorchTrainer):
    """The loss of PyTorch, which weighs the classes of the smoothed target."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._criterion = torch.nn.CrossEntropyLoss(
            torch.tensor(self._recipe.class_weights, dtype=torch.float64),
            label_smoothing=self._recipe.label_smoothing,
        )


class LargestShare(TorchTrainer):
    """Takes the class with the largest share for the label."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        own = self._criterion

        def loss(logits: Any, shares: Any) -> Any:
            return own(logits, functional.one_hot(shares.argmax(1), shares.shape[1]).to(shares))

        self._criterion = loss


class _OtherParts(TorchTrainer):
    """A loop over the parts of a batch that weighs what they come to by itself."""

    def _loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        loss, correct = super()._loss(x, labels)
        self._part += 1
        return loss * self.factor(len(x)), correct

    def step(self, x: Any, labels: Any, **options: Any) -> StepResult:
        self._samples, self._part = len(x), 0
        return super().step(x, labels, **options)

    def factor(self, samples: int) -> float:
        raise NotImplementedError


class PartsSummed(_OtherParts):
    """Adds up the means of parts."""

    def factor(self, samples: int) -> float:
        return self._samples / samples


class PartsAlike(_OtherParts):
    """Takes the plain mean over the parts."""

    def factor(self, samples: int) -> float:
        return self._samples / samples / self._recipe.accumulate


class LastPartAlone(_OtherParts):
    """Forgets the gradients of a part when the next one comes."""

    def factor(self, samples: int) -> float:
        for parameter in self._parameters.values():
            parameter.grad = None
        is_last = self._part == self._recipe.accumulate
        return self._samples / samples * is_last


class NotAccumulated(TorchTrainer):
    """Ignores that a batch is to be split."""

    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        super().__init__(model, graph, recipe.replace(accumulate=1))


class FactorsOnGradients(TorchTrainer):
    """Multiplies gradients by the factors of layers, and has one learning rate."""

    def _gradients(self) -> Any:
        seen = super()._gradients()
        for name, parameter in self._parameters.items():
            assert parameter.grad is not None
            parameter.grad *= self._recipe.rate_factor_of(name)
        for group in self._optimizer.param_groups:
            group["lr"] /= group["factor"]
        return seen
