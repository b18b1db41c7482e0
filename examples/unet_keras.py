"""A U-Net with a DenseNet as its encoder, in Keras on any of its engines.

    python examples/unet_keras.py --backend jax --weights densenet121.pth

The same network and the same task as in ``unet_torch.py``.
"""

from __future__ import annotations

from typing import Any

import click
import numpy as np

import densespec
from densespec.cli.record_options import options_of
from densespec.network.catalogue import SpecLike
from densespec.weights.reading import InterpretingOptions

OUTPUTS = ("stem", "block1", "block2", "block3", "final")


def unet(encoder: Any, classes: int) -> Any:
    """Put a decoder behind an encoder: a model of images to logits of each pixel.

    Args:
        encoder: A densespec model with ``outputs``, from the finest map to the coarsest, built
            for a size that its coarsest stride divides.
    """
    from keras import Model, layers

    *told, _ = densespec.feature_maps(encoder)
    *fine, y = encoder.outputs
    for skip, each in zip(reversed(fine), reversed(told), strict=True):
        if y.shape[1] != skip.shape[1]:
            y = layers.UpSampling2D(2)(y)
        y = layers.Concatenate()([y, skip])
        y = layers.Conv2D(each.channels // 2, 3, padding="same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.UpSampling2D(told[0].stride, interpolation="bilinear")(y)
    return Model(encoder.inputs, layers.Conv2D(classes, 1)(y))


def discs(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy images (count, size, size, 3) of a disc each, and their masks."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    x0, y0, radius = draw.uniform([[0.2], [0.2], [0.1]], [[0.8], [0.8], [0.25]], (3, count)) * size
    apart = (rows - y0[:, None, None]) ** 2 + (columns - x0[:, None, None]) ** 2
    masks = (apart < radius[:, None, None] ** 2).astype("int32")
    noise = draw.standard_normal((count, size, size, 3))
    return (noise + 2 * masks[..., None]).astype("float32"), masks


def train(
    backend: str,
    spec: SpecLike | None,
    weights: Any = None,
    *,
    steps: int,
    size: int,
    batch: int = 8,
    **reading: Any,
) -> float:
    """Train a U-Net and give its overlap with the masks of images that it has not seen."""
    encoder = densespec.build(
        spec,
        backend=backend,
        weights=weights,
        outputs=OUTPUTS,
        input_shape=(size, size, 3),
        data_format="channels_last",
        **reading,
    )
    import keras

    keras.utils.set_random_seed(0)
    model = unet(encoder, classes=2)
    model.compile(
        optimizer=keras.optimizers.AdamW(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*discs(steps * batch, size, seed=0), batch_size=batch, verbose=0)
    x, truth = discs(16, size, seed=1)
    found = model.predict(x, verbose=0).argmax(-1)
    both, either = (found == 1) & (truth == 1), (found == 1) | (truth == 1)
    return float(both.sum() / max(either.sum(), 1))


@click.command()
@click.option("--backend", default="tensorflow", show_default=True, help="Keras's engine.")
@click.option("--spec", default="densenet121", show_default=True, help="The encoder.")
@click.option("--weights", help="A weight file of any layout for the encoder.")
@options_of(InterpretingOptions)
@click.option("--steps", default=60, show_default=True)
@click.option("--size", default=96, show_default=True)
def main(
    backend: str, spec: str, weights: str | None, steps: int, size: int, **reading: Any
) -> None:
    """Train a U-Net to find discs on noise."""
    found = train(backend, spec, weights, steps=steps, size=size, **reading)
    click.echo(f"overlap with the masks of new images: {found:.1%}")


if __name__ == "__main__":
    main()
