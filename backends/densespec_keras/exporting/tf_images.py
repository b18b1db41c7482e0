"""Preprocessing as TensorFlow's operations: bytes of any size in, what the network takes out.

Resizing is Pillow's, as :mod:`densespec.deploy.onnx_images` has it: two products with matrices of
whole numbers, and rounding to bytes after each, the width first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from densespec.deploy.resampling import FILTERS, PRECISION, check_exportable
from densespec.pretrained.preprocessing import Preprocessing

IMAGES = "images"
"""The name of the input: bytes (batch, height, width, channels)."""


def prepared(images: Any, preprocessing: Preprocessing) -> Any:
    """Prepare images, bytes (batch, height, width, channels), as a network takes them.

    Raises:
        DensespecError: The kind of resizing can't be exported.
    """
    import tensorflow as tf

    check_exportable(preprocessing)
    sides = tf.shape(images)[1:3]
    sizes = _resized_sizes(sides, preprocessing)
    if preprocessing.interpolation == "nearest":
        pixels = _nearest(images, sides, sizes)
    else:
        pixels = _resampled(images, sides, sizes, preprocessing.interpolation)
    pixels = tf.cast(_cropped(pixels, sizes, preprocessing.size), tf.float32)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    return (pixels / np.float32(255) - mean) / std


def _resized_sizes(sides: Any, said: Preprocessing) -> Any:
    """The height and width before the crop; see ``Preprocessing.resized_size``."""
    import tensorflow as tf

    target = said.resize_target
    if said.resize == "squash":
        return tf.constant(target)
    if target[0] == target[1]:
        return target[0] * sides // tf.reduce_min(sides)
    exact = tf.cast(sides, tf.float64)
    ratio = tf.reduce_min(exact / np.array(target, np.float64))
    return tf.cast(tf.round(exact / ratio), tf.int32)


def _resampled(images: Any, sides: Any, sizes: Any, kind: str) -> Any:
    import tensorflow as tf

    rows, columns = (_weights(sides[axis], sizes[axis], kind) for axis in (0, 1))
    pixels = tf.cast(images, tf.float64)
    pixels = _bytes(tf.einsum("nhwc,vw->nhvc", pixels, columns))
    return _bytes(tf.einsum("nhwc,vh->nvwc", pixels, rows))


def _weights(side: Any, size: Any, kind: str) -> Any:
    import tensorflow as tf

    side_, size_ = tf.cast(side, tf.float64), tf.cast(size, tf.float64)
    scale = side_ / size_
    centres = (tf.range(size_, dtype=tf.float64)[:, None] + 0.5) * scale
    offsets = tf.range(side_, dtype=tf.float64)[None] - centres + 0.5
    distances = tf.abs(offsets * (1 / tf.maximum(scale, 1)))
    weights = tf.zeros_like(distances)
    for reach, factors in reversed(FILTERS[kind]):
        value = tf.fill(tf.shape(distances), tf.constant(factors[0], tf.float64))
        for factor in factors[1:]:
            value = value * distances + factor
        weights = tf.where(distances < reach, value, weights)
    weights = weights * (1 / tf.reduce_sum(weights, 1, keepdims=True)) * PRECISION
    return tf.where(weights < 0, tf.math.ceil(weights - 0.5), tf.floor(weights + 0.5))


def _bytes(sums: Any) -> Any:
    import tensorflow as tf

    return tf.clip_by_value(tf.floor((sums + PRECISION / 2) / PRECISION), 0, 255)


def _nearest(images: Any, sides: Any, sizes: Any) -> Any:
    import tensorflow as tf

    for axis in (0, 1):
        size = tf.cast(sizes[axis], tf.float64)
        scale = tf.cast(sides[axis], tf.float64) / size
        steps = tf.where(tf.range(size, dtype=tf.float64) < 0.5, scale * 0.5, scale)
        places = tf.cast(tf.floor(tf.cumsum(steps)), tf.int32)
        images = tf.gather(images, places, axis=axis + 1)
    return images


def _cropped(pixels: Any, sizes: Any, kept: tuple[int, ...]) -> Any:
    import tensorflow as tf

    starts = tf.cast(tf.round(tf.cast(sizes - kept, tf.float64) / 2), tf.int32)
    top, left = starts[0], starts[1]
    return pixels[:, top : top + kept[0], left : left + kept[1]]
