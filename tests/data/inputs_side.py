"""Trains from batches through a framework's own input, in a process of its own.

``test_inputs.py`` runs it with the name of the framework.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from densespec.data import Batches
from tests.data.samples import dataset

DATA = dataset(50, size=(8, 8))
BATCHES = Batches(DATA.train, DATA.normalisation, batch_size=16, seed=5, augmentation="cifar")


def same(found: Iterable[Any], expected: Iterable[Any], *, last: bool) -> None:
    """Check images and labels, of which the found may be channels last."""
    for (x, y), (images, labels) in zip(list(found), list(expected), strict=True):
        x = np.moveaxis(np.asarray(x), -1, 1) if last else np.asarray(x)
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(np.asarray(y), labels)
        assert x.dtype == np.float32


def torch() -> None:
    from torch.utils.data import DataLoader

    inputs = BATCHES.as_torch_dataset()
    for workers in (0, 2):
        loader = DataLoader(
            inputs, batch_size=None, num_workers=workers, persistent_workers=bool(workers)
        )
        for epoch in (0, 3):
            inputs.set_epoch(epoch)
            assert len(loader) == BATCHES.steps_per_epoch
            same(loader, BATCHES.epoch(epoch), last=False)


def tensorflow() -> None:
    for data_format in ("channels_last", "channels_first"):
        found = BATCHES.as_tf_dataset(range(2, 4), data_format=data_format)  # type: ignore[arg-type]
        assert int(found.cardinality()) == 8
        expected = [BATCHES[step] for step in range(8, 16)]
        for _ in range(2):  # it can be gone through again
            same(found.as_numpy_iterator(), expected, last=data_format == "channels_last")


def keras() -> None:
    """``fit`` sees the batches in order, over epochs, from the step that it goes on from."""
    import keras

    seen: list[Any] = []

    class Watching(keras.Model):
        def train_step(self, *arguments: Any) -> Any:
            *state, (x, y) = arguments
            seen.append((keras.ops.convert_to_numpy(x), keras.ops.convert_to_numpy(y)))
            loss = {"loss": keras.ops.zeros(())}
            return (loss, state[0]) if state else loss

    image = keras.Input((8, 8, 3))
    model = Watching(image, keras.layers.Flatten()(image))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    steps = BATCHES.steps_per_epoch
    for workers in (1, 2):
        seen.clear()
        inputs = BATCHES.as_keras_dataset(3, data_format="channels_last", workers=workers)
        model.fit(inputs, epochs=3, steps_per_epoch=steps, verbose=0)
        same(seen, [BATCHES[3 + step] for step in range(3 * steps)], last=True)
    test = Batches.for_test(DATA, batch_size=3)
    flat = model.predict(test.as_keras_dataset(data_format="channels_last"), verbose=0)
    expected = np.concatenate([x for x, _ in test])
    np.testing.assert_array_equal(np.moveaxis(flat.reshape(-1, 8, 8, 3), -1, 1), expected)


CHECKS = {"torch": (torch, keras), "tensorflow": (tensorflow, keras), "jax": (keras,)}

if __name__ == "__main__":
    for check in CHECKS[sys.argv[1]]:
        check()
