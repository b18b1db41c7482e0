"""What leads from numpy to tensors and back, and from a wrapped model to the model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def from_numpy(array: np.ndarray) -> Tensor:
    """Copy an array into a tensor; ``torch.tensor`` is many times slower at that."""
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor into an array; bfloat16, which numpy lacks, becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def like(x: np.ndarray, model: nn.Module) -> Tensor:
    """Make a tensor of an array, in the type and on the device of a model's parameters."""
    parameter = next(model.parameters())
    contiguous = torch.as_tensor(np.ascontiguousarray(x))
    return contiguous.to(device=parameter.device, dtype=parameter.dtype)


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the module inside ``torch.compile`` and data-parallel wrappers, without key prefixes."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
