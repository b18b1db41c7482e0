"""Between numpy and tensors, and between a wrapped model and the model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def from_numpy(array: np.ndarray) -> Tensor:
    """A copy as a tensor; ``torch.tensor`` is many times slower at that."""
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy as numpy; bfloat16, which numpy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def like(x: np.ndarray, model: nn.Module) -> Tensor:
    """An array in the type and on the device of a model's parameters."""
    parameter = next(model.parameters())
    contiguous = torch.as_tensor(np.ascontiguousarray(x))
    return contiguous.to(device=parameter.device, dtype=parameter.dtype)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers: its keys have no prefix."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
