"""Compiles the kernels of ``triton_norms.py`` for a GPU, and prints the size of what comes of it.

NVIDIA's assembler is part of Triton, so that machine code is made without a GPU.
"""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from densespec_torch import triton_norms

KERNELS = ("_part_moments", "_joined_moments", "_values", "_part_sums", "_joined_sums", "_slopes")
TYPES = ("fp32", "fp64", "bf16", "fp16")
VALUES = ("x", "y", "slope", "dx")
"""Arguments of the type of the features; those of other arrays have the type of sums."""

NUMBERS = ("rows", "channels", "parts")
CONSTANTS = {"tile_rows": 64, "width": 32, "most_parts": 64, "epsilon": 1e-5}


def source(name: str, kind: str) -> ASTSource:
    kernel = getattr(triton_norms, name)
    places = {argument: place for place, argument in enumerate(kernel.arg_names)}
    types = dict.fromkeys(places, "*fp64" if kind == "fp64" else "*fp32")
    types |= {argument: f"*{kind}" for argument in VALUES if argument in places}
    types |= {argument: "i32" for argument in NUMBERS if argument in places}
    fixed = {argument: value for argument, value in CONSTANTS.items() if argument in places}
    types |= dict.fromkeys(fixed, "constexpr")
    constants = {(places[argument],): value for argument, value in fixed.items()}
    return ASTSource(fn=kernel, signature=types, constexprs=constants)


if __name__ == "__main__":
    for name in KERNELS:
        for kind in TYPES:
            made = triton.compile(source(name, kind), target=GPUTarget("cuda", 80, 32))
            print(name, kind, len(made.asm["cubin"]))
