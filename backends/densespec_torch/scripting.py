"""Knows what ``torch.jit.script`` needs of networks: which modules it can compile.

It also checks that.
"""

from __future__ import annotations

from typing import List  # noqa: UP035  # TorchScript reads this one

import torch
from torch import nn

from densespec_torch.layers import PADDED
from densespec_torch.norms import BIASED_NORM, SynchronisedNorm

UNSCRIPTABLE = (*PADDED, *BIASED_NORM.values(), SynchronisedNorm)


def require_scriptable(name: str, module: nn.Module | None) -> None:
    """Check that TorchScript can compile a module.

    Raises:
        TypeError: It is one of this package's own that it can't.
    """
    if isinstance(module, UNSCRIPTABLE):
        raise TypeError(
            f"{name} is a {type(module).__name__}, which torch.jit.script can't compile: "
            "densespec.export writes the network as ONNX or a torch.export program"
        )


def require_size(x: torch.Tensor, sizes: List[int]) -> None:  # noqa: UP006
    """Check the spatial size of an input; -1 stands for any.

    Raises:
        ValueError: It is not what the network was built for.
    """
    for dimension, size in enumerate(sizes):
        if size != -1 and x.size(dimension + 2) != size:
            raise ValueError("this network was built for inputs of another size")
