# %% [markdown]
# # One network in five frameworks
#
# This tutorial writes a network and a recipe down as data, trains them in native PyTorch, native
# JAX and Keras on its three engines, and sees that all five runs are one. Then a run that began
# in PyTorch goes on in JAX.
#
# It needs `pip install "densespec[all]"`.

# %%
import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import densespec
from densespec import DenseNetSpec, TrainingRecipe

# %% [markdown]
# ## The network and the recipe are data
#
# A DenseNet-BC for scikit-learn's digits, which are grey images of 8x8 pixels. Everything that is
# not said here has the paper's values. The recipe says how to train: the paper's SGD, whose rate
# drops at half and at three quarters of the epochs.

# %%
spec = DenseNetSpec(
    blocks=(3, 3),
    growth_rate=8,
    bottleneck_width=4,
    compression=0.5,
    stem_width="2k",
    in_channels=1,
    classes=10,
)
recipe = TrainingRecipe(epochs=2, batch_size=64, learning_rate=0.1, dtype="float64")
densespec.write_spec(spec, "net.toml")
densespec.write_recipe(recipe, "recipe.toml")

# %% [markdown]
# ## Five runs
#
# The same command trains on every backend. `torch.nn` is native PyTorch and `flax.nnx` native
# JAX; `tensorflow`, `torch` and `jax` are Keras on these engines. Each run is a process of its
# own, as Keras has one engine in a process.

# %% language="bash"
# for backend in torch.nn flax.nnx tensorflow torch jax; do
#     densespec train net.toml --recipe recipe.toml --backend $backend --out runs/$backend
# done


# %% [markdown]
# Losses and accuracies are the same in every run. Its log has the loss of each step.


# %%
def losses_of(run):
    """Give the training loss of every step of a run, (steps,)."""
    lines = map(json.loads, Path("runs", run, "log.jsonl").read_text().splitlines())
    return np.array([line["loss"] for line in lines if line["kind"] == "step"])


backends = ("torch.nn", "flax.nnx", "tensorflow", "torch", "jax")
curves = {backend: losses_of(backend) for backend in backends}

# %% figure="The loss of each step on five backends, whose curves lie over each other"
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for place, (backend, losses) in enumerate(curves.items()):
    axes.plot(losses, label=backend, linewidth=9 - 2 * place, alpha=0.7)
axes.set(xlabel="training step", ylabel="loss", yscale="log")
axes.legend()
axes.grid(alpha=0.3)

# %% [markdown]
# Five curves lie over each other. How far apart are any two of them at the same step?

# %%
apart = max(
    np.abs(curves[one] - curves[other]).max() for one, other in itertools.combinations(backends, 2)
)
print(f"at most {apart:.1e}, of losses from {curves['jax'].max():.2f} to {curves['jax'].min():.3f}")
assert apart < 1e-8

# %% [markdown]
# These are the roundings of float64. In float32 they are larger, and training makes them grow
# until curves can be told apart: [why that is](../float32.md).
#
# ## Go on in another framework
#
# A run's folder has weights, the momentum of the optimizer, and the step that comes next. So a
# copy of PyTorch's run can go on in JAX, while the run itself goes on where it was.

# %% language="bash"
# cp -r runs/torch.nn runs/switched
# densespec train --resume runs/torch.nn --epochs 3
# densespec train --resume runs/switched --epochs 3 --backend flax.nnx

# %%
stayed, switched = losses_of("torch.nn"), losses_of("switched")
print(f"{len(stayed)} steps, of losses at most {np.abs(stayed - switched).max():.1e} apart")
assert np.abs(stayed - switched).max() < 1e-8

# %% [markdown]
# ## What comes out
#
# A checkpoint is a weight file like any other. It builds the network in whichever framework is
# wanted.

# %%
weights = "runs/switched/last.safetensors"
images = np.random.default_rng(0).random((2, 1, 8, 8))
in_numpy = densespec.build(weights=weights, backend="numpy")(images)

import torch

module = densespec.build(weights=weights, backend="torch.nn", dtype="float64").eval()
in_torch = module(torch.from_numpy(images)).detach().numpy()
print(f"PyTorch and the numpy reference differ by {np.abs(in_torch - in_numpy).max():.1e}")
np.testing.assert_allclose(in_torch, in_numpy, atol=1e-10)

# %% [markdown]
# [Training](../training.md) tells what else a run can do, [the recipe](../recipe.md) what each of
# its fields means, and [design](../design.md) how one description becomes five networks. `python
# examples/demo.py` is a longer run of the same kind, with the numpy reference beside it.
