# %% [markdown]
# # The paper, by experiments
#
# [Densely Connected Convolutional Networks](https://arxiv.org/abs/1608.06993) (Huang, Liu, van
# der Maaten and Weinberger, CVPR 2017) makes five choices. This page shows what each of them is
# and does, by experiments that take seconds on scikit-learn's digits. Such small data can show an
# effect, and not how large it is on photographs; the paper has the tables for that.
#
# It needs `pip install "densespec[torch,data,draw]"`.

# %%
import itertools
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data

digits = data.load("digits")
few = data.Dataset(
    "few digits",
    digits.classes,
    digits.train.take(np.arange(400)),
    digits.test,
    digits.normalisation,
)
recipe = TrainingRecipe(epochs=12, batch_size=40, learning_rate=0.1)

# %% [markdown]
# ## 1. Dense connectivity
#
# In a plain network each layer reads the layer before it. In a residual network it reads the sum
# of all before it, and in a dense one all of them side by side. Here are all three, 24 layers
# deep, from one class. Widths are such that they have about as many parameters.


# %%
class Network(nn.Module):
    """Layers of batch norm, ReLU and a 3x3 convolution, joined in one of three ways."""

    def __init__(self, join, width, depth=24):
        super().__init__()
        self.join, channels = join, width
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.layers.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv))
            channels += width if join == "dense" else 0
        self.norm, self.classifier = nn.BatchNorm2d(channels), nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            match self.join:
                case "plain":
                    x = layer(x)
                case "residual":
                    x = x + layer(x)
                case "dense":
                    x = torch.cat([x, layer(x)], dim=1)
        return self.classifier(self.norm(x).relu().mean((2, 3)))


WIDTHS = {"plain": 24, "residual": 24, "dense": 6}


def trained(join, width):
    """Train a network; give the first gradient of each layer, and all losses."""
    torch.manual_seed(0)
    model, losses = Network(join, width), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for x, labels in itertools.chain(*map(data.Batches.for_training(few, recipe).epoch, range(10))):
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            kernels = [conv.weight for *_, conv in model.layers]
            first = [float(each.grad.norm() / each.detach().norm()) for each in kernels]
        optimizer.step()
        losses.append(loss.item())
    x, labels = data.Batches.for_test(few, batch_size=len(few.test)).batch(0, 0)
    right = (model.eval()(torch.from_numpy(x)).argmax(1).numpy() == labels).mean()
    count = sum(p.numel() for p in model.parameters())
    print(f"{join:9} {count:7,} parameters, loss {np.mean(losses[-10:]):.3f}, {right:.1%} right")
    return first, losses


ways = {join: trained(join, width) for join, width in WIDTHS.items()}
(first, losses), (_, residual), (even, dense) = ways.values()
assert max(first) > 10 * min(first)
assert max(even) < 3 * min(even)
assert np.mean(dense[-10:]) < np.mean(residual[-10:]) < np.mean(losses[-10:])

# %% figure="Gradients of each layer in the first step, and the loss while training, for three ways"
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for join, (first, losses) in ways.items():
    left.semilogy(range(1, 25), first, label=join)
    right.semilogy(np.convolve(losses, np.ones(10) / 10, "valid"), label=join)
left.set(xlabel="layer", ylabel="gradient in the first step, relative to the weight")
right.set(xlabel="step", ylabel="loss, mean of 10 steps")
left.legend()
for axes in (left, right):
    axes.grid(alpha=0.3)

# %% [markdown]
# In the plain network the gradients of the first and the last layers differ by more than ten
# times; in the dense one hardly at all, since the loss reaches every layer by a short way. The
# paper calls it implicit deep supervision. The loss of the dense network falls the fastest, with
# the fewest parameters.
#
# ## 2. Why concatenation
#
# What is added up can't be taken apart again. What stands side by side can be read by every later
# layer, each with weights of its own. Does a trained network use that? Each square below is one
# layer reading one other: those weights are set to zero, and the loss on the test images is
# measured again.


# %%
@dataclass
class Trial:
    """What came of training a spec: its weights, its accuracy, and what it costs."""

    checkpoint: Path
    accuracy: float
    parameters: int
    multiply_adds: int


numbers = itertools.count()


def tried(spec, seed=0):
    """Train a network by the recipe, and measure it."""
    run = densespec.train(
        spec,
        out=f"runs/{next(numbers)}",
        data=few,
        recipe=recipe.replace(seed=seed),
        backend="torch.nn+fast",
    )
    graph = densespec.lower(spec, (8, 8))
    return Trial(run.checkpoint, run.accuracy, graph.parameters.trainable, graph.multiply_adds)


base = DenseNetSpec(blocks=(8, 8), growth_rate=4, in_channels=1, classes=10)
with densespec.open_weights(tried(base).checkpoint) as found:
    arrays = found.arrays()

x, labels = data.Batches.for_test(few, batch_size=len(few.test)).batch(0, 0)
SOURCES = [slice(0, 16), *(slice(16 + 4 * layer, 20 + 4 * layer) for layer in range(8))]


def loss_without(reader, source):
    """Measure the loss where a layer of the first block does not read one of its sources."""
    name = f"block1.layer{reader}.conv1.kernel"
    kernel = arrays[name].copy()
    kernel[:, SOURCES[source]] = 0
    model = densespec.build(base, backend="torch.nn", weights={**arrays, name: kernel}).eval()
    with torch.no_grad():
        return float(
            nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels))
        )


uncut = loss_without(1, 8)  # the first layer does not read the last one in any case
rise = np.full((8, 8), np.nan)
for reader in range(1, 9):
    for source in range(reader):
        rise[source, reader - 1] = loss_without(reader, source) - uncut

# %% figure="How much the loss rises where one layer of the first block can't read one source"
figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
shown = axes.imshow(rise, cmap="viridis", vmin=0, vmax=2 * np.nanmedian(rise))
axes.set_xticks(range(8), range(1, 9))
axes.set_yticks(range(8), ["stem", *range(1, 8)])
axes.set(xlabel="layer that reads", ylabel="what it can't read")
figure.colorbar(shown, label=f"rise of the loss, which is {uncut:.2f}")

# %%
old = [rise[source, reader] for reader in range(8) for source in range(reader - 1)]
print(f"{np.sum(np.array(old) > 0)} of {len(old)} times it is worse not to read what is old")
assert np.mean(old) > 0

# %% [markdown]
# What was computed long ago is read again, directly, beside what is new. In a plain network each
# layer would have to pass it on, and a sum would mix it with all the rest.
#
# ## 3. Growth rate
#
# Each layer adds k maps to those that are there already, so k may be small. This is what the
# paper means by narrow layers: its networks have k = 12 to 40, where others have hundreds of maps
# in a layer.

# %%
growth = {k: [tried(base.replace(growth_rate=k), seed) for seed in range(2)] for k in (1, 2, 4, 8)}
for k, trials in growth.items():
    mean = np.mean([trial.accuracy for trial in trials])
    print(f"k = {k}: {trials[0].parameters:6,} parameters, {mean:.1%} right")

# %% figure="Accuracy by the number of parameters, for four growth rates"
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for trials in zip(*growth.values(), strict=True):
    axes.semilogx([t.parameters for t in trials], [100 * t.accuracy for t in trials], "o-")
for k, (trial, _) in growth.items():
    axes.annotate(
        f"k = {k}", (trial.parameters, 100 * trial.accuracy), (5, -12), textcoords="offset points"
    )
axes.set(xlabel="parameters", ylabel="accuracy, %; a line for each seed", xlim=(4e3, 2e5))
axes.grid(alpha=0.3)

# %% [markdown]
# Layers of one or two maps are enough for most of it, because no layer is alone: the last one of
# a block reads all maps of those before it.
#
# ## 4. Bottleneck layers
#
# Late layers read many maps and add few. A 1x1 convolution to 4k maps in front of the 3x3 one
# makes that cheap (the B in DenseNet-BC). No training is needed to see where it pays: this is the
# third block of DenseNet-121, layer by layer.

# %% figure="Multiply-adds of each layer in the third block of DenseNet-121"
network = densespec.get("densenet121")
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
for label, spec in (
    ("with bottlenecks", network),
    ("without", network.replace(bottleneck_width=None)),
):
    nodes = densespec.lower(spec, (224, 224)).nodes
    costs = [
        sum(n.multiply_adds for n in nodes if n.name.startswith(f"block3.layer{layer}."))
        for layer in range(1, 25)
    ]
    axes.plot(range(1, 25), np.array(costs) / 1e6, "o-", label=label)
axes.set(xlabel="layer", ylabel="multiply-adds, millions", ylim=(0, None))
axes.legend()
axes.grid(alpha=0.3)

# %%
for name, width in (("without", None), ("with", 4)):
    trial = tried(base.replace(blocks=(12, 12), bottleneck_width=width))
    print(
        f"{name:8} {trial.parameters:7,} parameters, {trial.multiply_adds:10,} multiply-adds, "
        f"{trial.accuracy:.1%} right"
    )

# %% [markdown]
# Of c maps that it reads, a layer without a bottleneck makes k by 9ck weights, and one with it by
# 4ck + 36k². So it pays from c = 7.2k on, and in DenseNet-121 every layer of the third block
# reads more than that. In the small network it is the later layers that gain.
#
# ## 5. Compression
#
# Between blocks, a transition halves the size of the maps, and may keep only a share of them (the
# C in DenseNet-BC, with theta = 0.5). All that the next block has to read is then less.

# %%
for theta in (1.0, 0.5, 0.25):
    trials = [tried(base.replace(compression=theta), seed) for seed in range(2)]
    print(
        f"theta = {theta:4}: {trials[0].parameters:6,} parameters, "
        f"{trials[0].multiply_adds:9,} multiply-adds, "
        f"{' and '.join(f'{trial.accuracy:.1%}' for trial in trials)} right"
    )

# %% [markdown]
# The network gets smaller and faster. What it costs in accuracy, if anything, is not more than
# what the choice of the seed changes.
#
# Both together make DenseNet-BC, and [the spec](../spec.md) says every choice in a field.
# `densespec describe densenet121` shows what becomes of the numbers.
