# %% [markdown]
# # Deploy small
#
# A trained network goes to where there is neither PyTorch nor densespec. This tutorial writes it
# as ONNX, makes the file smaller in two ways, measures what that costs, and runs it with ONNX
# Runtime alone, on images as programs have them.
#
# It needs `pip install "densespec[torch,data,draw,pretrained,onnx]"`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data

# %% [markdown]
# ## A trained network
#
# Scikit-learn's digits, as bytes in an `.npz` file: what an image needs before the network is
# then known of the data, and kept with the weights.

# %%
digits = data.load("digits")
as_bytes = {
    "x": np.round(digits.train.x * (255 / 16)).astype("uint8"),
    "y": digits.train.y,
    "test_x": np.round(digits.test.x * (255 / 16)).astype("uint8"),
    "test_y": digits.test.y,
}
np.savez("digits.npz", **as_bytes)

spec = DenseNetSpec(
    blocks=(6, 6),
    growth_rate=16,
    bottleneck_width=4,
    compression=0.5,
    stem_width="2k",
    in_channels=1,
    classes=10,
)
recipe = TrainingRecipe(epochs=8, batch_size=64, learning_rate=0.1)
result = densespec.train(
    spec, out="run", data="arrays:digits.npz", recipe=recipe, backend="torch.nn+fast"
)
print(f"{result.accuracy:.1%} of the test images are right")

# %% [markdown]
# ## Three files
#
# In float32 first. The file is loaded, run, and compared with the float64 reference before it is
# kept.

# %% language="bash"
# densespec export run/best.safetensors -o float32.onnx

# %% [markdown]
# float16 halves it.

# %% language="bash"
# densespec export run/best.safetensors -o float16.onnx --dtype float16

# %% [markdown]
# int8 needs images, of which it takes the ranges of values. It also says what became of the
# answers: had too many of them changed, nothing would have been written.

# %% language="bash"
# densespec export run/best.safetensors -o int8.onnx --int8 --calibrate arrays:digits.npz

# %% [markdown]
# ## Without densespec
#
# From here on it is ONNX Runtime that computes. Each file is asked about all test images,
# prepared as the weights say.

# %%
prepare = densespec.preprocessing(densespec.build(weights=result.best, backend="torch.nn"))
print("mean", prepare.mean, "deviation", prepare.std)
x = prepare.batch(list(as_bytes["test_x"].transpose(0, 2, 3, 1)))


def answers(path):
    """Ask a file about all test images: the classes, (count,)."""
    session = onnxruntime.InferenceSession(path)
    (wanted,) = session.get_inputs()
    images = x.astype("float16" if "16" in wanted.type else "float32")
    return session.run(None, {wanted.name: images})[0].argmax(1)


files = ("float32.onnx", "float16.onnx", "int8.onnx")
sizes = [Path(file).stat().st_size / 1024 for file in files]
right = [(answers(file) == as_bytes["test_y"]).mean() for file in files]
for file, size, share in zip(files, sizes, right, strict=True):
    print(f"{file:12} {size:6.0f} KiB  {share:.2%} right")
assert min(right) > 0.9

# %% figure="The size of each file, and how often its answers are right"
figure, (left, middle) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
for axes, values, label in (
    (left, sizes, "size, KiB"),
    (middle, [100 * share for share in right], "right, %"),
):
    bars = axes.barh([file.removesuffix(".onnx") for file in files], values, color="#4c72b0")
    axes.bar_label(bars, fmt="%.1f", padding=2)
    axes.set(xlabel=label, xlim=(0, 1.2 * max(values)))
left.invert_yaxis()

# %% [markdown]
# ## With what images need inside
#
# Whoever runs the file would have to know the mean and the deviation. `--with-preprocessing` puts
# that into the file: bytes of any size go in, probabilities come out, and the names of the
# classes are in its metadata.

# %% language="bash"
# densespec export run/best.safetensors -o whole.onnx --with-preprocessing

# %%
session = onnxruntime.InferenceSession("whole.onnx")
large = np.kron(as_bytes["test_x"][:1, 0, ..., None], np.ones((1, 3, 3, 1), "uint8"))
(probabilities,) = session.run(None, {session.get_inputs()[0].name: large})
print(f"an image of {large.shape[1]}x{large.shape[2]}: {probabilities[0].argmax()},", end=" ")
print(f"with probability {probabilities[0].max():.0%}; it is a {as_bytes['test_y'][0]}")
print(sorted(session.get_modelmeta().custom_metadata_map))

# %% [markdown]
# [Export and deploy](../deploy.md) lists the formats and where each of them runs: OpenVINO,
# LiteRT, `torch.export`, SavedModel and StableHLO. `densespec bench run/best.safetensors
# torch.nn+inference onnx` measures which is the fastest on a machine, and `densespec conformance
# float32.onnx --weights run/best.safetensors` proves a file again wherever it went.
