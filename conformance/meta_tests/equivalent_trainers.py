"""Training loops in PyTorch that do the same as the recipe in another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from densespec.backends import StepResult
from densespec_torch.training import TorchTrainer


class ForEach(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["foreach"] = True


class Fused(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["fused"], group["foreach"] = True, False


class OneByOne(TorchTrainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["foreach"] = False


class DecayByHand(TorchTrainer):
    """Adds weight decay to the gradients itself, once they have been looked at."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for group in self._optimizer.param_groups:
            group["own_decay"], group["weight_decay"] = group["weight_decay"], 0.0

    def _gradients(self) -> Any:
        seen = super()._gradients()
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.add_(parameter.detach(), alpha=group["own_decay"])
        return seen


class ByTorch7(TorchTrainer):
    """The step as the paper's Torch7 code writes it, without an optimizer's help."""

    def _gradients(self) -> Any:
        seen = super()._gradients()
        recipe, optimizer = self._recipe, self._optimizer
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                slope = parameter.grad + group["weight_decay"] * parameter.detach()
                state = optimizer.state[parameter]
                before = state.get("momentum_buffer", torch.zeros_like(slope))
                state["momentum_buffer"] = moved = recipe.momentum * before + slope
                ahead = slope + recipe.momentum * moved if recipe.nesterov else moved
                with torch.no_grad():
                    parameter -= group["lr"] * ahead
        optimizer.step = lambda *args, **options: None  # type: ignore[method-assign]
        return seen


class ScaledLoss(TorchTrainer):
    """A loss times 1024 and gradients over 1024, as mixed precision has them."""

    def _loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        loss, correct = super()._loss(x, labels)
        return _Scaled.apply(loss), correct


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Any) -> Any:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return (slopes[0] * 1024) / 1024


class _OtherLoss(TorchTrainer):
    def _loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        logits, share = self._model(torch.from_numpy(x)), self._recipe.label_smoothing
        target = functional.one_hot(torch.from_numpy(labels), logits.shape[1]).to(logits)
        target = (1 - share) * target + share / logits.shape[1]
        return self.loss(logits, target), (logits.argmax(1) == torch.from_numpy(labels)).sum()

    def loss(self, logits: Any, target: Any) -> Any:
        raise NotImplementedError


class OneHotLoss(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        return functional.cross_entropy(logits, target)


class LogSumExpLoss(_OtherLoss):
    def loss(self, logits: Any, target: Any) -> Any:
        return (logits.logsumexp(1) - (target * logits).sum(1)).mean()


class DivergenceLoss(_OtherLoss):
    """The divergence from the labels, and what they are uncertain by themselves."""

    def loss(self, logits: Any, target: Any) -> Any:
        divergence = functional.kl_div(logits.log_softmax(1), target, reduction="batchmean")
        return divergence + torch.special.entr(target).sum(1).mean()


class SampleByDot(_OtherLoss):
    """Each sample's own loss, added one after the other."""

    def loss(self, logits: Any, target: Any) -> Any:
        losses = [-(t * row.log_softmax(0)).sum() for row, t in zip(logits, target, strict=True)]
        return sum(losses) / len(losses)


class InAnotherOrder(TorchTrainer):
    """Turns the batch round, which no loss, gradient or statistic may notice."""

    def step(self, x: Any, labels: Any, *, masks: Any = None, **options: Any) -> StepResult:
        turned = {name: mask[::-1].copy() for name, mask in (masks or {}).items()}
        return super().step(x[::-1].copy(), labels[::-1].copy(), masks=turned, **options)
