"""DenseNets as others write them in Keras, for ``keras_checks/check_adapters.py``."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def _layer(x: Any) -> Any:
    y = layers.Conv2D(8, 1, use_bias=False)(_norm_relu(x))
    y = layers.Conv2D(4, 3, padding="same", use_bias=False)(_norm_relu(y))
    return layers.Concatenate()([x, y])


def _norm_relu(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(epsilon=1e-3, momentum=0.99)(x))


def _backbone(side: int | None) -> Any:
    x = images = keras.Input((side, side, 3))
    x = _layer(_layer(layers.Conv2D(6, 3, padding="same", use_bias=False)(x)))
    x = layers.AveragePooling2D(2)(layers.Conv2D(7, 1, use_bias=False)(_norm_relu(x)))
    return keras.Model(images, _norm_relu(_layer(x)))


def nested(side: int | None = None, activation: str | None = None) -> Any:
    """A CIFAR network in names of Keras's own making, as a model within a model."""
    backbone = _backbone(side)
    images = keras.Input((side, side, 3))
    x = layers.GlobalAveragePooling2D()(backbone(images))
    return keras.Model(images, layers.Dense(5, activation=activation)(x))


class Subclassed(keras.Model):
    """The same, as a class."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.pool = _backbone(None), layers.GlobalAveragePooling2D()
        self.head = layers.Dense(5)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Without the argument ``training``, Keras would train it in inference mode."""
        return self.head(self.pool(self.backbone(images, training=training)))


def subclassed() -> Any:
    model = Subclassed()
    model(keras.ops.zeros((1, 32, 32, 3)))
    return model
