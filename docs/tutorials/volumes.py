# %% [markdown]
# # Three dimensions: volumes from files
#
# A DenseNet of three dimensions is the same description with one field changed. This tutorial
# writes volumes as NIfTI files, which is what scanners' images are often kept in, and trains a
# network to tell three kinds of bodies apart.
#
# It needs `pip install "densespec[torch,data,draw,nifti]"`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np

import densespec
from densespec import DenseNetSpec

# %% [markdown]
# ## The files
#
# A ball, a cube or a ring lies somewhere in noise, turned by any angles. Values are those of a
# CT: about -1000 around it, and 400 more inside. A slice alone may not tell which it is.

# %%
BODIES = ("ball", "cube", "ring")
SIDE = 16


def volume(body, draw):
    """Draw a body in noise, (SIDE, SIDE, SIDE), int16."""
    turned, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1) - SIDE / 2 + 0.5
    at = (grid - draw.uniform(-2, 2, 3)) @ turned
    radius = draw.uniform(4, 5.5)
    around = np.hypot(np.linalg.norm(at[..., :2], axis=-1) - radius, at[..., 2])
    inside = {
        "ball": np.linalg.norm(at, axis=-1) < radius,
        "cube": np.abs(at).max(-1) < 0.8 * radius,
        "ring": around < 2,
    }
    return draw.normal(400 * inside[body] - 1000, 200).astype("int16")


draw = np.random.default_rng(0)
for part, count in (("train", 40), ("test", 20)):
    for body in BODIES:
        folder = Path("scans", part, body)
        folder.mkdir(parents=True)
        for number in range(count):
            image = nibabel.Nifti1Image(volume(body, draw), np.eye(4))
            nibabel.save(image, folder / f"{number:03}.nii.gz")

# %% figure="Three volumes, each by five slices"
figure, grid = plt.subplots(3, 5, figsize=(7.5, 4.6), layout="constrained")
for row, body in zip(grid, BODIES, strict=True):
    voxels = np.asarray(nibabel.load(f"scans/train/{body}/000.nii.gz").dataobj)
    for axes, depth in zip(row, range(2, SIDE, 3), strict=False):
        axes.imshow(voxels[..., depth], cmap="gray", vmin=-1400, vmax=-200)
        axes.set(xticks=[], yticks=[])
    row[0].set_ylabel(body)

# %% [markdown]
# ## The network
#
# `spatial_dims=3` is all the difference: kernels have three sides, and so have pools. Its shapes
# show it.

# %%
spec = DenseNetSpec(blocks=(2, 2), growth_rate=8, in_channels=1, classes=3, spatial_dims=3)
graph = densespec.lower(spec, (SIDE,) * 3)
for stage in graph.stages():
    print(f"{stage.name:12} {'x'.join(map(str, stage.shape)):12} {stage.multiply_adds:>12,}")

# %% [markdown]
# ## Training
#
# The folder is given as a folder of photographs would be; voxels are normalised by what is
# measured on those to train on. Augmentation is for images of two dimensions, so there is none.

# %%
recipe = densespec.get_recipe("fine-tune").replace(
    epochs=16, batch_size=16, learning_rate=0.01, augmentation="none"
)
result = densespec.train(
    spec,
    out="run",
    data="folder:scans",
    size=(SIDE,) * 3,
    recipe=recipe,
    backend="torch.nn",
)
print(f"{result.accuracy:.1%} of the test volumes are right")
assert result.accuracy > 0.8

# %% figure="Accuracy on volumes to train on and to test on, by epoch"
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
for name, label in (("accuracy", "to train on"), ("validation_accuracy", "to test on")):
    axes.plot([100 * epoch[name] for epoch in result.epochs], label=label)
axes.axhline(100 / 3, color="black", linewidth=1, linestyle="--", label="by chance")
axes.set(xlabel="epoch", ylabel="accuracy, %")
axes.legend(loc="lower right")
axes.grid(alpha=0.3)

# %% [markdown]
# ## Which are taken for which
#
# The run's folder has the counts of the last epoch: a row for what a volume is, a column for what
# it is taken for.

# %%
print(Path("run", "confusion.csv").read_text())

# %% [markdown]
# ## Weights of images, for volumes
#
# Trained weights of images fit a network of three dimensions as well: each kernel is repeated
# along the new axis, and divided by its extent. A volume that is constant along that axis gives
# what its image gives, away from the borders, and training goes on from there.

# %%
flat = densespec.build(spec.replace(spatial_dims=2), backend="torch.nn")
deep = densespec.build(weights=flat, backend="torch.nn", spatial_dims=3)
(name, before), *_ = flat.state_dict().items()
print(name, tuple(before.shape), "becomes", tuple(deep.state_dict()[name].shape))

# %% [markdown]
# [Training](../training.md#volumes) has the figures of every backend on these volumes, from
# `python examples/volumes.py`; [preparing data](../data.md) tells what is read of NIfTI and DICOM
# files, and `densenet121-3d` and others are [variants by name](../spec.md) in MONAI's form.
