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
# handwritten digits of scikit-learn's, even ones in one folder and odd ones in another, written
# as PNG files so that they are files like yours. Ten of each are there to learn from.


# %%
def write_images(folder, split, name_of, most=1000):
    """Write at most so many images of each class as PNG files, in a folder named after it."""
    names = np.array([name_of(digit) for digit in split.y])
    for name in sorted(set(names)):
        place = Path(folder, name)
        place.mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(names == name)[:most]):
            pixels = np.round(split.x[row, 0] * (255 / 16)).astype("uint8")
            Image.fromarray(pixels).save(place / f"{number:03}.png")


def parity(digit):
    """Say whether a digit is even or odd."""
    return "odd" if digit % 2 else "even"


digits = data.load("digits")
yours, others = digits.train.take(np.arange(100)), digits.train.take(np.arange(100, 1438))
write_images("photos/train", yours, parity, most=10)
write_images("photos/test", digits.test, parity)
print(*sorted(path.as_posix() for path in Path("photos/train").glob("*/00[01].png")), sep="\n")

# %% [markdown]
# ## A trained network
#
# For photographs you would say `weights="imagenet"`, which fetches trained weights once. So that
# nothing has to be downloaded here, the trained network is one that has learnt which digit is
# which, from other images. Nobody told it what is even.

# %%
write_images("known/train", others, str)
write_images("known/test", digits.test, str)
spec = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    stem_width="2k",
    in_channels=1,
    classes=10,
)
recipe = TrainingRecipe(epochs=8, batch_size=64, learning_rate=0.1)
trained = densespec.train(
    spec, out="trained", data="folder:known", size=(8, 8), recipe=recipe, backend="torch.nn+fast"
)
print(f"{trained.accuracy:.1%} of its test images are right")

# %% [markdown]
# ## Three ways
#
# `trainable_from="head"` freezes everything before the classifier: weights, running statistics
# and dropout. The classifier itself is new in both ways that start from the trained network,
# since it has two classes and not ten.

# %%
few = TrainingRecipe(epochs=30, batch_size=20, learning_rate=0.03)
WAYS = {
    "from scratch": {},
    "backbone frozen": {"weights": trained.checkpoint, "trainable_from": "head"},
    "fine-tuned": {"weights": trained.checkpoint},
}
runs = {
    way: densespec.train(
        spec.replace(classes=2),
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
assert runs["fine-tuned"].accuracy > runs["from scratch"].accuracy

# %% figure="Accuracy on the test images after each epoch, for the three ways"
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
for way, run in runs.items():
    axes.plot([100 * epoch["validation_accuracy"] for epoch in run.epochs], label=way)
axes.set(xlabel="epoch", ylabel="accuracy on test images, %")
axes.legend(loc="lower right")
axes.grid(alpha=0.3)

# %% [markdown]
# Twenty images are too few to learn from what digits look like, and enough to learn which of them
# are even. How much is gained depends on how near the trained network's task is to yours: `python
# examples/transfer.py` learns digits that the trained network has never seen, from one to ten
# images of each, and [its table](../training.md#transfer) has smaller gains.
#
# ## What it says of an image
#
# A checkpoint keeps the names of the classes and what images need, so a file goes in and a name
# comes out.

# %%
best = runs["fine-tuned"].best
images = sorted(Path("photos/test").glob("*/00[0-5].png"))
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
    print(f"{name:4} {row[:2]}")
assert abs(measured.top1 - runs["fine-tuned"].best_epoch["validation_accuracy"]) < 0.01

# %% [markdown]
# The same from the command line, for your photographs and ImageNet's weights:
#
# ```console
# densespec train densenet121 --weights imagenet --data folder:photos --size 224x224 \
#     --recipe fine-tune --backend torch.nn --out runs/photos
# densespec predict runs/photos/best.safetensors photos/test --backend torch.nn
# densespec evaluate runs/photos/best.safetensors --data folder:photos --backend torch.nn
# ```
#
# [Starting from trained weights](../pretrained.md) lists the weights that have names, and
# [preparing data](../data.md) what else than a folder may hold images.
