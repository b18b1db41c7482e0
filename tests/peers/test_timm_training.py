"""The named recipe of timm's is what timm itself computes of it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.recipes.optimizers import FIRST
from tests.peers.networks import import_torchvision

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

RECIPE = densespec.get_recipe("timm-densenet121-ra_in1k")


def timms(module: str) -> Any:
    """Import a module of timm's, which needs torchvision."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    return importlib.import_module(f"timm.{module}")


def test_steps_are_those_of_rmsproptf() -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((3, 4))
    moments = {moment: np.full((3, 4), FIRST.get(moment, 0.0)) for moment in RECIPE.rule.moments}
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    theirs = timms("optim").RMSpropTF(
        [parameter],
        lr=RECIPE.learning_rate,
        alpha=RECIPE.beta2,
        eps=RECIPE.epsilon,
        momentum=RECIPE.momentum,
        weight_decay=RECIPE.weight_decay,
    )
    for number in range(1, 21):
        rate, gradient = 0.016 * 0.97**number, draw.standard_normal((3, 4))
        theirs.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient)
        theirs.step()
        weight, moments = RECIPE.step("x.kernel", weight, gradient, moments, rate, number)
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=0, atol=1e-14)


def test_rates_are_those_of_its_scheduler() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RECIPE.learning_rate)
    steps = timms("scheduler").StepLRScheduler(
        optimizer,
        decay_t=RECIPE.drop_every,
        decay_rate=RECIPE.gamma,
        warmup_t=int(RECIPE.warmup_epochs),
        warmup_lr_init=RECIPE.warmup_start * RECIPE.learning_rate,
        warmup_prefix=False,
    )
    for epoch in range(RECIPE.epochs):
        steps.step(epoch)
        rate = optimizer.param_groups[0]["lr"]
        assert RECIPE.learning_rate_at(epoch) == pytest.approx(rate, rel=1e-12), epoch
