"""Defines batch norms beyond PyTorch's: of biased variance, frozen, and over several processes.

All keep PyTorch's names for their state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase


class FrozenNorm(_NormBase):
    """Computes by its running statistics, in training mode too.

    It is no ``BatchNorm2d`` for ``isinstance``. So nothing that looks for norms in a model, such as
    PyTorch's conversion to synchronised norms, makes it train again.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float, momentum: float, affine: bool = True) -> None:
        super().__init__(channels, eps, momentum, affine)
        self.train()

    def train(self, mode: bool = True) -> FrozenNorm:
        """Stay in inference mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class FrozenDropout(nn.Dropout):
    """This is a dropout that drops nothing, not even in training mode."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.train()

    def train(self, mode: bool = True) -> FrozenDropout:
        """Stay in inference mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return x


class GroupNorm(nn.GroupNorm):
    """This is PyTorch's group norm, which also takes images in channels_last that need no gradient.

    The backward pass of PyTorch 2.13 ends the process for those.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not x.requires_grad:
            x = x.contiguous()
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _Counting:
    """Counts batches for the running statistics, as PyTorch's norms do."""

    momentum: Any
    num_batches_tracked: Any

    def _share(self) -> float:
        """Count a batch; its share is ``momentum``, or without one makes them plain means."""
        self.num_batches_tracked.add_(1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum


class _BiasedNorm(_Counting):
    """This is a batch norm whose running variance averages variances over n values, as in Keras.

    PyTorch averages them over n - 1. So PyTorch's norm gets an empty average for the batch's
    variance: the buffer itself may be saved for the backward pass, and must not change before that.
    """

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    eps: float
    training: bool

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # type: ignore[misc]
        share, new = self._share(), torch.zeros_like(self.running_var)
        y = functional.batch_norm(
            x, self.running_mean, new, self.weight, self.bias, True, share, self.eps
        )
        count = x.numel() // x.shape[1]
        self.running_var.mul_(1 - share).add_(new * ((count - 1) / count))
        return y


class BiasedNorm1d(_BiasedNorm, nn.BatchNorm1d): ...


class BiasedNorm2d(_BiasedNorm, nn.BatchNorm2d): ...


class BiasedNorm3d(_BiasedNorm, nn.BatchNorm3d): ...


NORM: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
BIASED_NORM: dict[int, Any] = {1: BiasedNorm1d, 2: BiasedNorm2d, 3: BiasedNorm3d}


class SynchronisedNorm(_Counting, _BatchNorm):
    """This is a batch norm over the whole batch, whose parts are on several processes.

    PyTorch's ``SyncBatchNorm`` runs only on GPUs and keeps only the unbiased variance. This one
    runs on any device that ``torch.distributed`` has a group for, and keeps either variance.

    Attributes:
        biased: Whether the running variance averages variances over n values, not n - 1.
        process_group: The processes; None for all of them. Alone, it is a norm like any other.
    """

    biased: bool = False
    process_group: Any = None
    running_mean: Any
    running_var: Any

    @classmethod
    def of(cls, norm: _BatchNorm, process_group: Any = None) -> SynchronisedNorm:
        """Make the synchronised norm that takes a norm's place: it holds the same tensors."""
        with torch.device("meta"):
            new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine)
        new._parameters.update(norm._parameters)
        new._buffers.update(norm._buffers)
        new.training = norm.training
        new.biased = isinstance(norm, _BiasedNorm) or getattr(norm, "biased", False)
        new.process_group = process_group
        return new

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, but got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        weight = torch.ones_like(self.running_var) if self.weight is None else self.weight
        bias = torch.zeros_like(self.running_mean) if self.bias is None else self.bias
        y, mean, variance, count = _Synchronised.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, self.eps, self.process_group
        )
        with torch.no_grad():
            share = self._share()
            kept = variance if self.biased else variance * (count / (count - 1))
            self.running_mean.mul_(1 - share).add_(mean, alpha=share)
            self.running_var.mul_(1 - share).add_(kept, alpha=share)
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, biased={self.biased}"  # type: ignore[no-untyped-call]


class _Synchronised(torch.autograd.Function):
    """Computes normalisation by moments over all processes, and its gradient.

    Means and sums of squares about them are joined by Chan's rule, which loses no digits.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = (0, *range(2, x.dim()))
        exact = x.to(weight.dtype)
        variance, mean = torch.var_mean(exact, axes, correction=0)
        size = x.numel() // x.shape[1]
        parts = _gathered(torch.cat([mean.new_full((1,), size), mean, variance]), group)
        if size * len(parts) < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {x.shape}")
        counts, means, variances = torch.split(parts, [1, len(mean), len(mean)], dim=1)
        count = counts.sum()
        shares = counts / count
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, count)
        y = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        axes, shape = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
        slope = dy.to(weight.dtype)
        normalised = (x - mean.view(shape)) * inverse.view(shape)
        own = torch.stack([slope.sum(axes), (slope * normalised).sum(axes)])
        d_bias, d_weight = own.unbind()
        dx = None
        if ctx.needs_input_grad[0]:
            along, stretch = (_summed(own, ctx.group) / count).view(2, *shape).unbind()
            dx = (slope - along - normalised * stretch) * (weight * inverse).view(shape)
            dx = dx.to(x.dtype)
        return dx, d_weight, d_bias, None, None


def _gathered(vector: Tensor, group: Any) -> Tensor:
    """Gather a vector (n,) of each process: (processes, n)."""
    if not _together():
        return vector[None]
    parts = [torch.empty_like(vector) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, vector, group)
    return torch.stack(parts)


def _summed(tensor: Tensor, group: Any) -> Tensor:
    if not _together():
        return tensor
    total = tensor.clone()
    distributed.all_reduce(total, group=group)
    return total


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def synchronise_norms(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Synchronise a model's norms, in place; frozen ones stay as they are.

    This does what ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does, on any device and for
    biased variance as well. On a densespec model that one does the same as this one.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, SynchronisedNorm.of(child, process_group))
    return model
