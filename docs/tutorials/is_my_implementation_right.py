# %% [markdown]
# # Is my implementation right?
#
# A network with a mistake in it trains, and its accuracy looks good. This tutorial writes a small
# DenseNet in PyTorch with two mistakes that people make, sees that it learns all the same, and
# has the conformance suite find both.
#
# It needs `pip install "densespec[torch,data,draw,conformance]"`.

# %% [markdown]
# ## An implementation
#
# This is the whole of it, with names of its own. It is meant to be a DenseNet-BC: a 1x1
# convolution before each 3x3 one, and transitions that keep half of the channels.

# %%
import torch
from torch import nn


def norm_relu_conv(before, after, size):
    """The unit that a DenseNet is made of: batch norm, ReLU, convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(before, eps=1e-3),
        nn.ReLU(),
        nn.Conv2d(before, after, size, padding=size // 2, bias=False),
    )


def transition(before, after):
    """What stands between two blocks."""
    norm, conv = nn.BatchNorm2d(before), nn.Conv2d(before, after, 1, bias=False)
    return nn.Sequential(norm, conv, nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """A small DenseNet-BC for grey images."""

    def __init__(self, blocks=(3, 3), growth=8, classes=10):
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        for layers in blocks:
            if len(self.stages):
                self.stages.append(transition(channels, channels // 2))
                channels //= 2
            block = nn.ModuleList()
            for _ in range(layers):
                squeeze = norm_relu_conv(channels, 4 * growth, 1)
                block.append(nn.Sequential(squeeze, norm_relu_conv(4 * growth, growth, 3)))
                channels += growth
            self.stages.append(block)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            if isinstance(stage, nn.ModuleList):
                for layer in stage:
                    x = torch.cat([x, layer(x)], dim=1)
            else:
                x = stage(x)
        return self.classifier(self.norm(x).relu().mean((2, 3)))


# %% [markdown]
# The suite imports what it checks, so the cell above becomes a file. (`In` is IPython's list of
# cells.)

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data

source = Path("my_densenet.py")
source.write_text(In[-2])  # noqa: F821

# %% [markdown]
# ## It learns
#
# Three passes over scikit-learn's digits, real images of 8x8 pixels, are enough to be mostly
# right. Nothing here tells of a mistake.

# %%
digits, recipe = data.load("digits"), TrainingRecipe(epochs=3, batch_size=64)
torch.manual_seed(0)
model = DenseNet()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
for epoch in range(recipe.epochs):
    for x, labels in data.Batches.for_training(digits, recipe).epoch(epoch):
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

model.eval()
x, labels = data.Batches.for_test(digits, batch_size=len(digits.test)).batch(0, 0)
with torch.no_grad():
    right = (model(torch.from_numpy(x)).argmax(1).numpy() == labels).mean()
print(f"{right:.1%} of the test images are right")
assert right > 0.9

# %% [markdown]
# ## Say what it should be
#
# A spec says it in a few numbers. What is not said has the paper's values: norms with an epsilon
# of 1e-5, and a ReLU in front of every convolution.

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
densespec.write_spec(spec, "net.toml")

# %% [markdown]
# ## Ask the suite
#
# It gives the network weights and an input, and compares every op that it can see with the
# float64 reference. One case is enough to begin with.

# %% language="bash" tags=["raises-exception"]
# densespec conformance my_densenet:DenseNet --spec net.toml \
#     --case forward/float64 --json wrong.json

# %% [markdown]
# The diagnosis names both mistakes, where they are, and what is done instead: the epsilon of the
# norms in the layers is Keras's default, and the transition has no ReLU. It tells them apart
# although the second is much larger than the first, since each op is judged by its own inputs.
#
# ## See where it goes wrong
#
# The report as JSON has the error of every op, in the order of computation.

# %% figure="The error of each op along the network, on a logarithmic scale"
(result,) = json.loads(Path("wrong.json").read_text())["results"]
names = [one["name"] for one in result["comparisons"]]
shown = [names.index(each) for each in ("stem.conv", "block1.concat1", "transition1.relu")]

_, axes = plt.subplots(figsize=(9, 4), layout="constrained")
axes.semilogy([one["error"] for one in result["comparisons"]], "o-", markersize=3, label="error")
axes.semilogy(
    [one["allowed"] for one in result["comparisons"]], "k--", linewidth=1, label="allowed"
)
axes.set_xticks(shown, [names[at] for at in shown], rotation=20)
axes.set_ylabel("share of the largest value")
axes.legend()
axes.grid(alpha=0.3)

# %% [markdown]
# There are two steps: one to a thousandth at the first norm, and one to 1 in the transition.
#
# ## Put it right
#
# Both are a word in the source.

# %%
text = source.read_text()
source.write_text(
    text.replace(", eps=1e-3", "").replace("(norm, conv, nn.Avg", "(norm, nn.ReLU(), conv, nn.Avg")
)
assert source.read_text() != text

# %% language="bash"
# densespec conformance my_densenet:DenseNet --spec net.toml --case forward/float64

# %% [markdown]
# What is left are roundings of float64, as the last column says. What is allowed is not a matter
# of taste: it is [derived for this network and this input](../tolerances.md).
#
# ## Ask all of it
#
# Without `--case` the suite also trains the network, in steps that are compared down to every
# gradient, and has it save and load weights, run in float32 and at odd sizes.

# %% language="bash"
# densespec conformance my_densenet:DenseNet --spec net.toml

# %% [markdown]
# The same command takes other packages' networks, `torchvision.models:densenet121 --spec
# densenet121`, and exported files; it runs inside your own tests as a plugin of pytest. [The
# conformance suite](../conformance.md) tells all of it, and [this page](../status.md) how other
# implementations fare.
