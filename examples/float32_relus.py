"""Why float32 training curves part: one ReLU whose input rounds to the other side of zero.

    python examples/float32_relus.py

Trains the demo's network with the numpy reference in float64 and in float32, from the same weights
and with the same batches, and counts the ReLUs that are on in one and off in the other.
"""

from __future__ import annotations

import numpy as np
from demo import SPEC
from rich.console import Console
from rich.table import Table

from densespec import TrainingRecipe, initial_weights, lower
from densespec.data import Batches, load
from densespec.network.ops import Relu
from densespec.reference.model import ReferenceModel

STEPS = 8


def main() -> None:
    """Print, step by step, how far the two are apart and how many ReLUs disagree."""
    graph, recipe = lower(SPEC), TrainingRecipe(epochs=6, batch_size=64, learning_rate=0.1)
    exact, rounded = (
        ReferenceModel(graph, initial_weights(graph), dtype=dtype) for dtype in ("f8", "f4")
    )
    relus = [node.name for node in graph.nodes if isinstance(node.op, Relu)]
    batches = Batches.for_training(load("digits"), recipe, dtype="float64")
    table = Table("step", "loss difference", "largest gradient difference", "ReLUs that disagree")
    for step in range(STEPS):
        x, labels = batches[step]
        on = [model.run(x, taps=relus, training=True) for model in (exact, rounded)]
        flips = sum(int(((on[0][name] > 0) != (on[1][name] > 0)).sum()) for name in relus)
        ours, theirs = (
            model.train_step(x, labels, recipe, learning_rate=recipe.learning_rate)
            for model in (exact, rounded)
        )
        apart = max(
            float(np.abs(theirs.gradients[name] - g).max() / np.abs(g).max())
            for name, g in ours.gradients.items()
        )
        table.add_row(
            str(step + 1), f"{abs(ours.loss - theirs.loss):.1e}", f"{apart:.1e}", str(flips)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
