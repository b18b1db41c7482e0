# %% [markdown]
# # Fine-tune on your images
#
# You have a folder of images, few of them, and a trained network of other classes. This tutorial
# trains three networks on a handful of images of each class: one from scratch, one whose trained
# part stays as it is, and one that is fine-tuned as a whole.
#
# It needs `pip install "densespec[torch,data,draw,pretrained]"`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data

# %% [markdown]
# ## The images
#
# A folder for each class, in a folder for each part, is all that there has to be. Here they are
# photographs of nothing: handwritten sevens, eights and nines from scikit-learn's digits, written
# as PNG files so that they are files like yours. Six of each class are there to learn from.

# %%
digits = data.load("digits")
NAMES = {7: "seven", 8: "eight", 9: "nine"}


def write_images(part, split, most):
    """Write the images of a few digits as PNG files, in a folder for each of them."""
    for digit, name in NAMES.items():
        folder = Path("photos", part, name)
        folder.mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(split.y == digit)[:most]):
            pixels = np.round(split.x[row, 0] * (255 / 16)).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{number:03}.png")


write_images("train", digits.train, 6)
write_images("test", digits.test, 1000)
print(*sorted(path.as_posix() for path in Path("photos").glob("train/*/00[01].png")), sep="\n")

# %% [markdown]
# ## A trained network
#
# For photographs you would say `weights="imagenet"`, which fetches trained weights once. So that
# nothing has to be downloaded here, the trained network is one that has learnt the digits from
# zero to six, and has never seen the others.


# %%
def of_known(split):
    """Give the images of a split that show digits from 0 to 6."""
    return split.take(np.flatnonzero(split.y < 7))


known = data.Dataset(
    "digits from 0 to 6",
    digits.classes[:7],
    of_known(digits.train),
    of_known(digits.test),
    digits.normalisation,
)
spec = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    stem_width="2k",
    in_channels=1,
    classes=7,
)
recipe = TrainingRecipe(epochs=10, batch_size=64, learning_rate=0.03, dropout_rate=0.2)
trained = densespec.train(spec, out="known", data=known, recipe=recipe, backend="torch.nn+fast")
print(f"{trained.accuracy:.1%} of its test images are right")

# %% [markdown]
# ## Three ways
#
# `trainable_from="head"` freezes everything before the classifier: weights, running statistics
# and dropout. The classifier itself is new in both ways that start from the trained network,
# since it has three classes and not seven.

# %%
few = TrainingRecipe(epochs=40, batch_size=18, learning_rate=0.03)
WAYS = {
    "from scratch": {},
    "backbone frozen": {"weights": trained.checkpoint, "trainable_from": "head"},
    "fine-tuned": {"weights": trained.checkpoint},
}
runs = {
    way: densespec.train(
        spec.replace(classes=3),
        out=way.replace(" ", "-"),
        data="folder:photos",
        size=(8, 8),
        recipe=few.replace(learning_rate=0.3) if way == "backbone frozen" else few,
        backend="torch.nn+fast",
        **start,
    )
    for way, start in WAYS.items()
}
for way, run in runs.items():
    print(f"{way:16} {run.accuracy:.1%}")

# %% figure="Accuracy on the test images after each epoch, for the three ways"
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
for way, run in runs.items():
    axes.plot([100 * epoch["validation_accuracy"] for epoch in run.epochs], label=way)
axes.set(xlabel="epoch", ylabel="accuracy on test images, %")
axes.legend(loc="lower right")
axes.grid(alpha=0.3)

# %% [markdown]
# A single run with six images of each class says little about which way is the best. `python
# examples/transfer.py` repeats it with other images and other seeds, for one to ten images of a
# class; [its table](../training.md#transfer) says that starting from a trained network is worth
# most where images are fewest.
#
# ## What it says of an image
#
# A checkpoint keeps the names of the classes and what images need, so a file goes in and a name
# comes out.

# %%
best = runs["fine-tuned"].best
images = sorted(Path("photos/test").glob("*/00[0-3].png"))
said = densespec.predict(best, images, backend="torch.nn", top=1)

# %% figure="Twelve test images, each with what the network says of it and how sure it is"
figure, grid = plt.subplots(2, 6, figsize=(9, 3.4), layout="constrained")
for axes, path, one in zip(grid.flat, images, said, strict=True):
    (guess,) = one.guesses
    axes.imshow(Image.open(path), cmap="gray")
    right = guess.label == path.parent.name
    axes.set_title(
        f"{guess.label} {guess.probability:.0%}", color="black" if right else "red", fontsize=10
    )
    axes.axis("off")

# %% [markdown]
# ## Which are taken for which
#
# `densespec.evaluate` counts. Rows are what an image is, columns what it is taken for.

# %%
measured = densespec.evaluate(best, "folder:photos", backend="torch.nn")
print(f"{measured.count} images, {measured.top1:.1%} of them right")
for name, row in zip(measured.classes, measured.confusion, strict=True):
    print(f"{name:6} {row[:3]}")
assert measured.top1 > 0.7

# %% [markdown]
# The same from the command line, for your photographs and ImageNet's weights:
#
# ```console densespec train densenet121 --weights imagenet --data folder:photos --size 224x224
# --recipe fine-tune --backend torch.nn --out runs/photos densespec predict
# runs/photos/best.safetensors photos/test --backend torch.nn densespec evaluate
# runs/photos/best.safetensors --data folder:photos --backend torch.nn --figure confusion.png ```
#
# [Starting from trained weights](../pretrained.md) lists the weights that have names, and
# [preparing data](../data.md) what else than a folder may hold images.
