"""Lists deviations that compute with fewer bits than were asked for.

Its roundings are not foreseen value by value. So such a deviation is tried last. It holds only if
the first values that differ are off by as much as its dtype rounds, and then allows the bounds of
that dtype.
"""

from __future__ import annotations

from densespec_conformance.deviations.deviation import Deviation

DEVIATIONS = (
    Deviation(
        "float32-inside",
        "it computes in float32",
        "Keras's type promotion on PyTorch and JAX, JAX without x64",
        dtype="float32",
    ),
    Deviation(
        "tf32-inside",
        "products are rounded to TF32",
        "torch.backends.cuda.matmul.allow_tf32, TensorFlow's default on NVIDIA GPUs",
        dtype="tf32",
    ),
    Deviation(
        "float16-inside", "it computes in float16", "mixed precision, autocast", dtype="float16"
    ),
    Deviation(
        "bfloat16-inside", "it computes in bfloat16", "mixed precision, autocast", dtype="bfloat16"
    ),
)
