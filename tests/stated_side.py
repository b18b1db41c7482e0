"""Keras's side of the tests of what its files state: small models, each saved in three kinds.

``stated_side.py FOLDER`` writes ``NAME.keras``, ``NAME.h5`` and ``NAME.weights.h5`` of each model,
and ``NAME.npz`` with an input ``x`` and the output ``y``, channels last.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

SHAPE = (32, 32, 3)


def relu(name: str) -> Any:
    return layers.Activation("relu", name=name)


def norm(name: str, **options: Any) -> Any:
    return layers.BatchNormalization(epsilon=1.001e-5, name=name, **options)


def conv(name: str, filters: int, window: int, **options: Any) -> Any:
    options = {"padding": "same", "use_bias": False} | options
    return layers.Conv2D(filters, window, name=name, **options)


def network(
    front: tuple[Any, ...] = (),
    rectify: Callable[[str], Any] = relu,
    normalise: Callable[[str], Any] = norm,
    stride: int = 2,
    dilation: int = 1,
    transition: Any = layers.AveragePooling2D,
    channels: int = 3,
    below: bool = False,
) -> Any:
    """A DenseNet with the names of keras.applications', up to its last ReLU.

    Args:
        below: The stem may give negative values, which the pads of its pool are not to hide.
    """

    def layer(x: Any, name: str) -> Any:
        y = rectify(f"{name}_0_relu")(normalise(f"{name}_0_bn")(x))
        y = rectify(f"{name}_1_relu")(normalise(f"{name}_1_bn")(conv(f"{name}_1_conv", 16, 1)(y)))
        y = conv(f"{name}_2_conv", 4, 3, dilation_rate=dilation)(y)
        return layers.Concatenate(name=f"{name}_concat")([x, y])

    x = inputs = keras.Input((*SHAPE[:2], channels))
    for one in front:
        x = one(x)
    x = layers.ZeroPadding2D(3)(x)
    x = conv("conv1_conv", 8, 7, strides=stride, padding="valid")(x)
    x = rectify("conv1_relu")(normalise("conv1_bn")(x))
    edges = [[0, 0], [1, 1], [1, 1], [0, 0]]
    x = keras.ops.pad(x, edges, constant_values=-np.inf) if below else layers.ZeroPadding2D(1)(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = layer(layer(x, "conv2_block1"), "conv2_block2")
    x = conv("pool2_conv", 8, 1)(rectify("pool2_relu")(normalise("pool2_bn")(x)))
    x = layer(transition(2, 2, name="pool2_pool")(x), "conv3_block1")
    return keras.Model(inputs, rectify("relu")(normalise("bn")(x)))


def headed(*head: Any, **options: Any) -> Any:
    body = network(**options)
    x = body.output
    for one in head:
        x = one(x)
    return keras.Model(body.input, x)


def within(*around: Any, front: tuple[Any, ...] = ()) -> Any:
    """The network as one layer of a functional model."""
    x = inputs = keras.Input(SHAPE)
    for one in (*front, network(), *around):
        x = one(x)
    return keras.Model(inputs, x)


def twice() -> Any:
    body, inputs = network(), keras.Input(SHAPE)
    x = layers.Average()([body(inputs), body(inputs)])
    return keras.Model(inputs, layers.Dense(3)(pool()(x)))


def branching(*branches: Callable[[Any, Any], Any]) -> Any:
    """A model that gives several values, each made of the features and of their average."""
    body = network()
    pooled = layers.GlobalAveragePooling2D(name="average")(body.output)
    return keras.Model(body.input, [branch(body.output, pooled) for branch in branches])


def mask(features: Any, pooled: Any) -> Any:
    return conv("mask", 1, 1, use_bias=True)(layers.UpSampling2D(4)(features))


def head(name: str, units: int = 3) -> Callable[[Any, Any], Any]:
    return lambda features, pooled: layers.Dense(units, name=name)(pooled)


def heads_on_a_hidden_layer() -> Any:
    body = headed(layers.GlobalAveragePooling2D(name="average"), dense(6, "relu"))
    return keras.Model(body.input, {n: layers.Dense(2, name=n)(body.output) for n in "ab"})


def always_training() -> Any:
    inputs = keras.Input(SHAPE)
    x = network()(inputs, training=True)
    return keras.Model(inputs, layers.Dense(3)(pool()(x)))


def pool() -> Any:
    return layers.GlobalAveragePooling2D()


def one_epsilon(name: str) -> Any:
    return norm(name) if name != "pool2_bn" else layers.BatchNormalization(name=name)


def dense(units: int = 3, activation: Any = None) -> Any:
    return layers.Dense(units, activation=activation)


MODELS: dict[str, Callable[[], Any]] = {
    "plain": lambda: headed(pool(), dense()),
    "no-bias": lambda: headed(pool(), layers.Dense(3, use_bias=False)),
    "grey": lambda: headed(pool(), dense(), channels=1),
    "softmax": lambda: headed(pool(), dense(3, "softmax")),
    "softmax-in-float32": lambda: headed(
        pool(), layers.Dense(3, activation="softmax", dtype="float32")
    ),
    "softmax-apart": lambda: headed(pool(), dense(), layers.Softmax()),
    "sigmoid": lambda: headed(pool(), dense(3, "sigmoid")),
    "sigmoid-apart": lambda: headed(pool(), dense(), layers.Activation("sigmoid")),
    "hidden": lambda: headed(pool(), dense(5, "relu"), layers.Dropout(0.3), dense()),
    "hidden-relu-apart": lambda: headed(pool(), dense(5), layers.ReLU(), dense()),
    "hidden-relu-object": lambda: headed(pool(), dense(5, layers.ReLU()), dense()),
    "hidden-linear": lambda: headed(pool(), dense(5), dense()),
    "hidden-gelu": lambda: headed(pool(), dense(5, "gelu"), dense()),
    "hidden-selu": lambda: headed(pool(), dense(5, "selu"), dense()),
    "hidden-relu6": lambda: headed(pool(), dense(5), layers.ReLU(6.0), dense()),
    "hidden-leaky": lambda: headed(pool(), dense(5), layers.LeakyReLU(), dense()),
    "hidden-norm": lambda: headed(pool(), dense(5, "relu"), layers.BatchNormalization(), dense()),
    "noise": lambda: headed(pool(), layers.GaussianNoise(0.1), dense()),
    "max-pool": lambda: headed(layers.GlobalMaxPooling2D(), dense()),
    "flatten": lambda: headed(layers.Flatten(), dense()),
    "flatten-after-pool": lambda: headed(pool(), layers.Flatten(), dense()),
    "features": network,
    "features-average": lambda: headed(pool()),
    "features-maximum": lambda: headed(layers.GlobalMaxPooling2D()),
    "nested": lambda: within(pool(), dense()),
    "nested-sequential": lambda: keras.Sequential([network(), pool(), dense(3, "softmax")]),
    "nested-head": lambda: within(
        keras.Sequential([pool(), layers.Dropout(0.1), dense(5, "relu"), dense(3, "softmax")])
    ),
    "nested-twice": lambda: keras.Sequential(
        [keras.Sequential([keras.Input(SHAPE), network(), pool()]), dense(5, "relu"), dense()]
    ),
    "augmented": lambda: within(
        pool(), dense(), front=(keras.Sequential([layers.RandomFlip(), layers.RandomZoom(0.1)]),)
    ),
    "flipped": lambda: headed(pool(), dense(), front=(layers.RandomFlip(),)),
    "rescaled": lambda: headed(pool(), dense(), front=(layers.Rescaling(1 / 255),)),
    "rescaled-outside": lambda: within(pool(), dense(), front=(layers.Rescaling(1 / 255),)),
    "normalised": lambda: headed(
        pool(), dense(), front=(layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 2, 1]),)
    ),
    "divided": lambda: within(pool(), dense(), front=(lambda x: x / 255,)),
    "resized": lambda: within(pool(), dense(), front=(layers.Resizing(32, 32),)),
    "relu-layers": lambda: headed(pool(), dense(), rectify=lambda name: layers.ReLU(name=name)),
    "silu": lambda: headed(
        pool(), dense(), rectify=lambda name: layers.Activation("silu", name=name), below=True
    ),
    "selu": lambda: headed(
        pool(), dense(), rectify=lambda name: layers.Activation("selu", name=name)
    ),
    "one-elu": lambda: headed(
        pool(),
        dense(),
        rectify=lambda name: layers.Activation(
            "elu" if name == "conv1_relu" else "relu", name=name
        ),
        below=True,
    ),
    "leaky": lambda: headed(
        pool(), dense(), rectify=lambda name: layers.LeakyReLU(name=name), below=True
    ),
    "relu6": lambda: headed(pool(), dense(), rectify=lambda name: layers.ReLU(6.0, name=name)),
    "instance": lambda: headed(
        pool(), dense(), normalise=lambda name: layers.GroupNormalization(-1, name=name)
    ),
    "groups": lambda: headed(
        pool(), dense(), normalise=lambda name: layers.GroupNormalization(4, name=name)
    ),
    "epsilon": lambda: headed(
        pool(), dense(), normalise=lambda name: layers.BatchNormalization(epsilon=0.02, name=name)
    ),
    "one-epsilon": lambda: headed(pool(), dense(), normalise=one_epsilon),
    "no-scale": lambda: headed(
        pool(), dense(), normalise=lambda name: norm(name, scale=False, center=False)
    ),
    "no-center": lambda: headed(
        pool(), dense(), normalise=lambda name: norm(name, scale=True, center=False)
    ),
    "stride": lambda: headed(pool(), dense(), stride=1),
    "dilation": lambda: headed(pool(), dense(), dilation=2),
    "max-transition": lambda: headed(pool(), dense(), transition=layers.MaxPooling2D),
    "twice": twice,
    "always-training": always_training,
    "two-heads": lambda: branching(head("age"), head("kind", 5)),
    "two-heads-hidden": heads_on_a_hidden_layer,
    "head-and-features": lambda: branching(head("kind"), lambda features, pooled: features),
    "head-and-mask": lambda: branching(head("kind"), mask),
    "masks": lambda: branching(mask, lambda features, pooled: layers.Flatten()(features)),
}

GIVEN = {
    "two-heads": "average",
    "two-heads-hidden": "average",
    "head-and-features": "kind",
    "head-and-mask": "kind",
}
"""Layers whose values the network gives that is read of a model with several outputs."""


def _draw(model: Any) -> None:
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.uniform(0.5, 1, array.shape) * _sign(rng, array.shape)
            for array in model.get_weights()
        ]
    )


def _sign(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Kernels have both signs; variances have not."""
    return rng.choice([-0.3, 0.3], shape) if len(shape) > 1 else 1.0


def main(folder: Path) -> None:
    for name, make in MODELS.items():
        keras.utils.clear_session(free_memory=False)
        model = make()
        _draw(model)
        x = np.random.default_rng(1).standard_normal((2, *model.input_shape[1:])).astype("float32")
        given = model.get_layer(GIVEN[name]).output if name in GIVEN else model.outputs[0]
        y = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], given)(x, training=False))
        np.savez(folder / f"{name}.npz", x=x, y=y)
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
        model.save_weights(folder / f"{name}.weights.h5")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
