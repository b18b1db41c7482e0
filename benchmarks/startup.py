"""Figures of starting up."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from timing import Figures, in_turn, take_turns

ANSWERS = {
    "torch.nn": """
import densespec, torch
model = densespec.build(weights="{folder}/net.safetensors", backend="torch.nn", mode="inference")
with torch.inference_mode():
    model(torch.zeros(1, 3, 224, 224))
""",
    "torchvision": """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")  # as its wheel is made for CUDA
for missing in ("nms", "qnms"):
    library.define(missing + "(Tensor dets, Tensor scores, float threshold) -> Tensor")
import torchvision
model = torchvision.models.{variant}(weights=None)
model.load_state_dict(torch.load("{folder}/net.pth"))
model.eval()
with torch.inference_mode():
    model(torch.zeros(1, 3, 224, 224))
""",
    "ONNX Runtime": """
import numpy, onnxruntime
session = onnxruntime.InferenceSession("{folder}/net.onnx")
(given,) = session.get_inputs()
session.run(None, {{given.name: numpy.zeros((1, 3, 224, 224), "float32")}})
""",
}
"""What each side's process does."""


def importing(rounds: int) -> Figures:
    """Milliseconds of a Python process that does nothing but import."""
    sides = {name: _process(f"import {name}") for name in ("densespec", "numpy")}
    figures = take_turns(sides, rounds)
    figures["numpy and 50 ms"] = [taken + 50 for taken in figures["numpy"]]
    return figures


def answering(variant: str, rounds: int) -> Figures:
    """Milliseconds of a Python process that builds a network from a file and answers once."""
    with _programs(variant) as programs:
        return take_turns({name: _process(code) for name, code in programs.items()}, rounds)


def answering_memory(variant: str, rounds: int) -> Figures:
    """MB that such a process has at its peak."""
    with _programs(variant) as programs:
        sides = {name: ("startup:peak", {"code": code}) for name, code in programs.items()}
        return in_turn(sides, rounds)


def peak(code: str) -> float:
    """MB that a Python process has at its peak; of a process that has started no other."""
    _process(code)()
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _process(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


@contextlib.contextmanager
def _programs(variant: str) -> Iterator[dict[str, str]]:
    """What each side's process does, with the files that it reads."""
    import torch
    from peers import torchvision

    import densespec

    with tempfile.TemporaryDirectory() as folder:
        theirs = torchvision(variant)
        torch.save(theirs.state_dict(), Path(folder) / "net.pth")
        densespec.convert(Path(folder) / "net.pth", Path(folder) / "net.safetensors")
        densespec.export(Path(folder) / "net.safetensors", Path(folder) / "net.onnx", check=False)
        yield {name: code.format(folder=folder, variant=variant) for name, code in ANSWERS.items()}
