"""A network with the layers of the Keras original of ``densenet169-bc``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers


# Keras 3 has these names in its files.
class BnReluConv(keras.Model):
    def __init__(self, filters: int, kernel: int, strides: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.bn = layers.BatchNormalization()
        self.relu = layers.Activation("relu")
        self.conv = layers.Conv2D(filters, kernel, strides=strides, padding="same")

    def call(self, x: Any) -> Any:
        return self.conv(self.relu(self.bn(x)))


class DenseLayer(keras.Model):
    def __init__(self, growth_rate: int, **options: Any) -> None:
        super().__init__(**options)
        self.conv1 = BnReluConv(4 * growth_rate, 1, name=f"{self.name}conv1")
        self.conv2 = BnReluConv(growth_rate, 3, name=f"{self.name}conv2")

    def call(self, x: Any) -> Any:
        return keras.ops.concatenate([x, self.conv2(self.conv1(x))], axis=-1)


class DenseBlock(keras.Model):
    def __init__(self, count: int, growth_rate: int, **options: Any) -> None:
        super().__init__(**options)
        self.dense_layers = [DenseLayer(growth_rate, name=f"layer_{i}") for i in range(count)]

    def call(self, x: Any) -> Any:
        for layer in self.dense_layers:
            x = layer(x)
        return x


class TransitionLayer(keras.Model):
    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(**options)
        self.conv = BnReluConv(filters, 1, name=f"{self.name}conv1")
        self.pool = layers.AveragePooling2D(2, 2)

    def call(self, x: Any) -> Any:
        return self.pool(self.conv(x))


def _parts(
    blocks: Sequence[int], growth_rate: int, stem_width: int, classes: int
) -> Iterator[keras.Layer]:
    yield BnReluConv(stem_width, 7, 2, name="conv1")
    yield layers.MaxPooling2D(3, 2, padding="same")
    channels = stem_width
    for index, count in enumerate(blocks):
        yield DenseBlock(count, growth_rate, name=f"block_{index}")
        channels += count * growth_rate
        if index < len(blocks) - 1:
            channels //= 2
            yield TransitionLayer(channels, name=f"trans_{index}")
    yield layers.GlobalAveragePooling2D()
    yield layers.Dense(classes)


class DenseNet(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer_dense = list(_parts(**options))

    def call(self, x: Any) -> Any:
        for layer in self.layer_dense:
            x = layer(x)
        return x


def functional(size: int, **options: Any) -> keras.Model:
    inputs = x = keras.Input((size, size, 3))
    for layer in _parts(**options):
        x = layer(x)
    return keras.Model(inputs, x)
