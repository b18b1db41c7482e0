"""``torch.nn`` in mode ``fast`` with every norm and its ReLU in Triton, for ``test_triton.py``."""

from __future__ import annotations

from typing import Any

from densespec_torch.backend import TorchBackend


class TritonBackend(TorchBackend):
    def build(self, *args: Any, **options: Any) -> Any:
        model: Any = super().build(*args, **options)
        fusable = [turn.children[0] for turn in model.features.turns if turn.fuses]
        model.features.ways = dict.fromkeys(fusable, "triton")
        return model


BACKEND = TritonBackend("fast")
