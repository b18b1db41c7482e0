# %% [markdown]
# # Convert weights, and prove it
#
# Somebody trained a DenseNet in PyTorch, and you need it in Keras. This tutorial converts the
# file, proves that the result is the same network, and shows what is refused because it would not
# be.
#
# It needs `pip install "densespec[torch,tensorflow,data,draw,hdf5]"`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data

# %% [markdown]
# ## Somebody's file
#
# So that nothing has to be downloaded, the file is made here: a small DenseNet with torchvision's
# stem, trained for a few epochs on scikit-learn's digits, which are enlarged to 32x32. What is
# kept is its `state_dict`, whose names are those of torchvision's own networks.


# %%
def enlarged(split):
    """Give the images of a split at four times their size, (count, 1, 32, 32)."""
    return np.kron(split.x, np.ones((1, 1, 4, 4)))


digits = data.load("digits")
images = data.Dataset.of(
    enlarged(digits.train), digits.train.y, enlarged(digits.test), digits.test.y, scale=16
)
spec = DenseNetSpec(
    blocks=(2, 2, 2),
    growth_rate=32,
    bottleneck_width=4,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_width="2k",
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    in_channels=1,
    classes=10,
)
recipe = TrainingRecipe(epochs=4, batch_size=64, learning_rate=0.1)
result = densespec.train(spec, out="run", data=images, recipe=recipe, backend="torch.nn")
print(f"{result.accuracy:.1%} of the test images are right")

theirs = densespec.build(weights=result.checkpoint, backend="torch.nn").eval()
torch.save(theirs.state_dict(), "somebody.pth")

# %% [markdown]
# ## What is it?
#
# The names and shapes of the arrays tell it: whose names they are, and which network.

# %% language="bash"
# densespec inspect somebody.pth

# %% [markdown]
# ## Convert it
#
# A `.keras` file is a whole model. `--check` reads what was written and compares outputs.

# %% language="bash"
# densespec convert somebody.pth net.keras --check

# %% [markdown]
# `densespec verify` compares any two files: arrays one by one, and what the float64 reference
# computes of each.

# %% language="bash"
# densespec verify somebody.pth net.keras

# %% [markdown]
# ## In Keras itself
#
# The file has been read by densespec alone so far. Keras loads it without densespec's help, but
# for one import: torchvision's running variance is the unbiased one, which Keras's own norm does
# not have.

# %%
import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras

from densespec_keras import BatchNormalization  # noqa: F401  registers it

model = keras.saving.load_model("net.keras")

x, labels = data.Batches.for_test(images, batch_size=len(images.test)).batch(0, 0)
with torch.no_grad():
    in_torch = theirs(torch.from_numpy(x)).numpy()
in_keras = model.predict(np.moveaxis(x, 1, -1), verbose=0)


def apart(outputs):
    """Give the difference of each image's outputs from PyTorch's, as a share of the largest."""
    return np.abs(outputs - in_torch).max(1) / np.abs(in_torch).max()


print(f"largest difference between the frameworks: {apart(in_keras).max():.1e}")
print(f"images with another class: {(in_keras.argmax(1) != in_torch.argmax(1)).sum()}")
assert apart(in_keras).max() < 1e-5

# %% [markdown]
# That is float32's rounding.
#
# ## What is refused
#
# keras-hub has a DenseNet too. It has the same arrays, but its stem pads as TensorFlow does. A
# file for it would load without a word and compute something else, so densespec does not write
# it, and says how much it would matter.

# %% language="bash" tags=["raises-exception"]
# densespec convert somebody.pth hub.weights.h5 --to keras-hub

# %% [markdown]
# Is that worth a refusal? The spec says in one field what keras-hub does otherwise, so it can be
# tried.

# %%
padded = densespec.build(
    spec.replace(padding="same"),
    backend="torch.nn",
    weights=densespec.read_weights(theirs),
).eval()
with torch.no_grad():
    elsewhere = padded(torch.from_numpy(x)).numpy()
print(f"largest difference: {apart(elsewhere).max():.1e}")
print(f"images with another class: {(elsewhere.argmax(1) != in_torch.argmax(1)).sum()} of {len(x)}")

# %% figure="How far the outputs of each test image are from PyTorch's, on a logarithmic scale"
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
bins = np.logspace(-8, 1, 55)
axes.hist(apart(in_keras), bins, label="converted to Keras")
axes.hist(apart(elsewhere), bins, label="the same weights, padded as keras-hub does")
axes.set(xscale="log", xlabel="difference, as a share of the largest output", ylabel="images")
axes.legend()

# %% [markdown]
# One is what rounding does. The other is another network, although each of its arrays is the
# same.
#
# ## And back
#
# A conversion loses nothing: what comes back are the same bits.

# %% language="bash"
# densespec convert net.keras back.pth

# %%
before, after = (torch.load(name, weights_only=True) for name in ("somebody.pth", "back.pth"))
assert all(torch.equal(after[name], array) for name, array in before.items())
print(f"all {len(before)} arrays are equal, bit for bit")

# %% [markdown]
# [Weights from any framework to any other](../weights.md) lists the layouts that are known and
# what to say of files that leave something open. [The same weights, another
# network](../same-weights.md) tells what keras-hub computes from torchvision's DenseNet-121.
