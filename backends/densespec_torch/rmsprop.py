"""Holds RMSProp as TensorFlow 1 had it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from densespec.recipes.optimizers import FIRST


class RMSProp(torch.optim.Optimizer):
    """Moves parameters by RMSProp, with epsilon within the root, mean squares that start at one,
    and velocities that hold the learning rate.

    Per parameter: ``g += weight_decay * p``;
    ``square_avg = alpha * square_avg + (1 - alpha) * g**2``;
    ``momentum_buffer = momentum * momentum_buffer + lr * g / sqrt(square_avg + eps)``; then
    ``p -= momentum_buffer``. ``torch.optim.RMSprop`` adds epsilon to the root, starts at zero, and
    multiplies by the learning rate at the end, so that a drop rescales history.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        alpha: the share of the mean square that is kept at each step, in [0, 1).
        momentum: the share of the velocity that is kept at each step, in [0, 1).
        eps: what is added to the mean square.
        weight_decay: coefficient of coupled L2 decay.

    Raises:
        ValueError: a constant is out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        alpha: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        for name, share in (("alpha", alpha), ("momentum", momentum)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} = {share!r}, but should be in [0, 1)")
        for name, number in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not number >= 0:
                raise ValueError(f"{name} = {number!r}, but should be at least 0")
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps}
        super().__init__(params, defaults | {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Any, gradient: Any, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["square_avg"] = torch.full_like(parameter, FIRST["mean_square"])
            state["momentum_buffer"] = torch.zeros_like(parameter)
        square, velocity = state["square_avg"], state["momentum_buffer"]
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        square.mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        size = square.add(group["eps"]).sqrt_()
        velocity.mul_(group["momentum"]).addcdiv_(gradient, size, value=group["lr"])
        parameter.sub_(velocity)
