"""Writes preprocessing as StableHLO: it takes bytes of any size, and gives a network's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from densespec.deploy.network import Runner
from densespec.deploy.resampling import resampled
from densespec.pretrained.preprocessing import Preprocessing


def exported_on_images(
    run: Callable[[Any], Any],
    preprocessing: Preprocessing,
    batch: int | None,
    platforms: Sequence[str],
) -> Any:
    """Return a network behind what its images need, as ``jax.export`` does.

    Args:
        run: What computes the network, of (batch, height, width, channels).
        preprocessing: What its images need; it is computed in float64.
        batch: The one batch size that it takes; None for any.
        platforms: The platforms that it may run on.

    Raises:
        DensespecError: The kind of resizing can't be exported.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))

    def on_prepared(images: Any) -> Any:
        positions = [jnp.arange(n, dtype=jnp.float64) for n in images.shape[1:3]]
        pixels = resampled(jnp, images.astype(jnp.float64), positions, preprocessing)
        return run((pixels.astype(jnp.float32) / np.float32(255) - mean) / std)

    with jax.enable_x64(True):
        shape = export.symbolic_shape(f"{batch or 'batch'}, height, width, {len(mean)}")
        return export.export(jax.jit(on_prepared), platforms=platforms)(
            jax.ShapeDtypeStruct(shape, jnp.uint8)  # type: ignore[no-untyped-call]
        )


def on_images(run: Callable[[np.ndarray], Any]) -> Runner:
    """Turn what runs images into a runner, which gives an array of numpy's."""
    return lambda images: np.asarray(run(images))
