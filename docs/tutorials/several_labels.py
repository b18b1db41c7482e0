# %% [markdown]
# # Several labels: findings in chest X-rays
#
# An X-ray may show no finding, one, or several, and for some nobody has said. This tutorial
# trains a network on such labels, and judges it by the area under the ROC curve of each finding.
#
# The images are drawn by a program, and are far simpler than X-rays: what they share with them is
# the form of the labels. It needs `pip install "densespec[torch,data,draw,pretrained]"`.

# %%
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import densespec
from densespec import DenseNetSpec

# %% [markdown]
# ## Images
#
# Two dark lungs and a heart between them, in noise. A large heart, a fluid at the bottom of a
# lung and a nodule somewhere in one are the findings, which come independently of each other and
# are not frequent.

# %%
FINDINGS = ("cardiomegaly", "effusion", "nodule")
FREQUENCY = (0.25, 0.2, 0.15)
SIDE = 48


def radiograph(draw, shown):
    """Draw an image with some findings, (SIDE, SIDE), bytes."""
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    rows, columns = rows + draw.normal(0, 0.04), columns + draw.normal(0, 0.04)
    image = np.full((SIDE, SIDE), 0.75)
    lungs = [np.hypot((columns - at) / 0.36, rows / 0.75) < 1 for at in (-0.45, 0.45)]
    image[lungs[0] | lungs[1]] = 0.3
    side = lungs[draw.integers(2)]
    if shown[1]:
        image[side & (rows > draw.uniform(0.3, 0.45))] = 0.65
    if shown[2]:
        inside = np.argwhere(side & (abs(rows) < 0.4) & (abs(columns) > 0.35))
        row, column = inside[draw.integers(len(inside))]
        image[np.hypot(*(np.mgrid[:SIDE, :SIDE] - [[[row]], [[column]]])) < 2.2] += 0.25
    heart = draw.uniform(0.34, 0.4) if shown[0] else draw.uniform(0.2, 0.27)
    image[np.hypot((columns - 0.1) / heart, (rows - 0.3) / 0.3) < 1] = 0.7
    return np.clip(255 * (image + draw.normal(0, 0.12, image.shape)), 0, 255).astype("uint8")


# %% [markdown]
# ## A table of labels
#
# As such collections come: PNG files and a table, with a column for each finding. 1 says that it
# is there, 0 that it is not, and -1 that nobody knows, which holds for a tenth of the labels to
# train on.

# %%
draw = np.random.default_rng(0)
Path("chests").mkdir()
with Path("chests", "labels.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(("path", "split", *FINDINGS))
    for number in range(1600):
        part = "train" if number < 1200 else "test"
        shown = (draw.random(3) < FREQUENCY).astype(int)
        Image.fromarray(radiograph(draw, shown)).save(f"chests/{number:04}.png")
        unknown = (draw.random(3) < 0.1) & (part == "train")
        table.writerow((f"{number:04}.png", part, *np.where(unknown, -1, shown)))

# %% figure="Eight of the images, each with its findings"
rows = list(csv.DictReader(Path("chests", "labels.csv").read_text().splitlines()))
figure, grid = plt.subplots(2, 4, figsize=(8, 4.6), layout="constrained")
for axes, row in zip(grid.flat, rows[1200:], strict=False):
    axes.imshow(Image.open(Path("chests", row["path"])), cmap="gray", vmin=0, vmax=255)
    axes.set_title(", ".join(f for f in FINDINGS if row[f] == "1") or "no finding", fontsize=9)
    axes.axis("off")

# %% [markdown]
# ## Training
#
# `loss="sigmoid"` gives each finding a probability of its own; labels that nobody knows count in
# nothing. Findings are rare, so a label that is there weighs as much as those that are not:
# `positive_weights` has a factor for each.

# %%
known = [[float(row[f]) for row in rows[:1200] if row[f] != "-1"] for f in FINDINGS]
weights = tuple(round(float(1 / np.mean(each) - 1), 2) for each in known)
print("weights of labels that are there:", dict(zip(FINDINGS, weights, strict=True)))

spec = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=8,
    bottleneck_width=4,
    compression=0.5,
    stem_width="2k",
    stem_stride=2,
    in_channels=1,
    classes=len(FINDINGS),
)
recipe = densespec.get_recipe("fine-tune").replace(
    loss="sigmoid",
    positive_weights=weights,
    epochs=8,
    batch_size=32,
    learning_rate=0.01,
    augmentation="none",
)
result = densespec.train(
    spec,
    out="run",
    data="table:chests/labels.csv",
    size=(SIDE, SIDE),
    in_channels=1,
    recipe=recipe,
    metrics=("auc", "f1"),
    best="auc",
    backend="torch.nn+fast",
)

# %% [markdown]
# ## How good is it?
#
# Accuracy says little where findings are rare: a network that never finds anything is right for
# most labels. The area under the ROC curve does not depend on how rare a finding is: it is how
# often an image with the finding is given a higher probability than one without. The best epoch
# is the one with the highest mean.

# %%
best = result.best_epoch["metrics"]
for finding in FINDINGS:
    print(f"{finding:13} AUC {best['auc:' + finding]:.3f}  F1 {best['f1:' + finding]:.3f}")
assert best["auc"] > 0.9

# %% figure="The area under the ROC curve of each finding, by epoch"
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
for finding in FINDINGS:
    axes.plot([epoch["metrics"][f"auc:{finding}"] for epoch in result.epochs], label=finding)
axes.set(xlabel="epoch", ylabel="AUC on test images")
axes.legend()
axes.grid(alpha=0.3)

# %% [markdown]
# The large shapes are easy, and the small nodule in noise is learnt last.
#
# ## Probabilities
#
# A checkpoint says what images need and what its classes are called. Several findings may be
# likely in one image, so probabilities do not add up to 1.

# %%
tested = rows[1200:1204]
said = densespec.predict(
    result.best, [Path("chests", row["path"]) for row in tested], backend="torch.nn"
)
for row, one in zip(tested, said, strict=True):
    there = [finding for finding in FINDINGS if row[finding] == "1"]
    print(f"{row['path']} shows {', '.join(there) or 'nothing'}")
    print(*(f"    {guess.label} {guess.probability:.0%}" for guess in one.guesses), sep="\n")

# %% [markdown]
# For X-rays you would start from trained weights, `torchxrayvision:densenet121-res224-all` or
# `imagenet` ([the weights that have names](../pretrained.md)).
# [Training](../training.md#what-is-judged) lists the metrics, and `python examples/two_labels.py`
# compares backends on labels of this form.
