"""Writes preprocessing as TensorFlow's operations: it takes bytes, and gives a network's input.

Resizing is Pillow's, as :mod:`densespec.deploy.resampling` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from densespec.deploy.resampling import (
    FILTERS,
    NEAREST,
    check_exportable,
    resampled,
    resized_sizes,
)
from densespec.pretrained.preprocessing import Preprocessing

IMAGES = "images"
"""The input has this name. It takes bytes of shape (batch, height, width, channels)."""


def prepared(images: Any, preprocessing: Preprocessing) -> Any:
    """Prepare images, bytes (batch, height, width, channels), as a network takes them.

    Raises:
        DensespecError: The kind of resizing can't be exported.
    """
    import tensorflow as tf

    check_exportable(preprocessing, (NEAREST, *FILTERS))
    sides = tf.unstack(tf.cast(tf.shape(images)[1:3], tf.float64))
    if preprocessing.interpolation == NEAREST:
        pixels = _nearest(images, sides, preprocessing)
    else:
        positions = [tf.range(side) for side in sides]
        pixels = resampled(_functions(), tf.cast(images, tf.float64), positions, preprocessing)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    return (tf.cast(pixels, tf.float32) / np.float32(255) - mean) / std


def _functions() -> SimpleNamespace:
    """Collect TensorFlow's functions by numpy's names."""
    import tensorflow as tf

    return SimpleNamespace(
        abs=tf.abs,
        arange=tf.range,
        ceil=tf.math.ceil,
        clip=tf.clip_by_value,
        einsum=tf.einsum,
        float64=tf.float64,
        floor=tf.floor,
        minimum=tf.minimum,
        round=tf.round,
        sum=tf.reduce_sum,
        where=tf.where,
    )


def _nearest(images: Any, sides: Sequence[Any], said: Preprocessing) -> Any:
    import tensorflow as tf

    sizes = resized_sizes(_functions(), sides, said)
    for axis, side, size, kept in zip((1, 2), sides, sizes, said.size, strict=True):
        scale = side / size
        steps = tf.where(tf.range(size) < 0.5, scale * 0.5, scale)
        places = tf.cast(tf.floor(tf.cumsum(steps)), tf.int32)
        start = tf.cast(tf.round((size - kept) / 2), tf.int32)
        images = tf.gather(images, places[start : start + kept], axis=axis)
    return images
