"""Trains on several devices by ``keras.distribution`` on JAX, ``tf.distribute`` on TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec_keras import variables
from densespec_keras.averaging import WeightAverage
from densespec_keras.running import as_input
from densespec_keras.states import slots
from densespec_keras.training import Compiled, KerasTrainer

Build = Callable[..., Any]
"""Makes the model to train: it is called as ``build(synchronised=...)``."""


class _EvenDataParallel(keras.distribution.DataParallel):
    """Gives every device the whole of a batch that does not divide."""

    def get_data_layout(self, data_shape: Any) -> Any:
        if data_shape[0] % self.num_model_replicas == 0:
            return super().get_data_layout(data_shape)
        whole = [None] * len(data_shape)
        return keras.distribution.TensorLayout(whole, self.device_mesh)


class JaxParallelTrainer(KerasTrainer):
    """Trains one program on several devices: every op sees the whole batch, so norms synchronise.

    Raises:
        ValueError: the recipe wants norms per replica, or there are fewer devices.
    """

    def __init__(self, build: Build, graph: Graph, recipe: TrainingRecipe, replicas: int) -> None:
        if recipe.batch_norm != "synchronised":
            raise ValueError(
                f"batch_norm = {recipe.batch_norm!r}, but Keras's norms on JAX see the batch of "
                "all devices: set batch_norm = 'synchronised' in the recipe, or train with "
                "backend='flax.nnx', 'tensorflow' or 'torch.nn'"
            )
        self._distribution = _EvenDataParallel(devices=_jax_devices(replicas))
        with self._distribution.scope():
            model = build()
        super().__init__(model, graph, recipe)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        with super()._settings(), self._distribution.scope():
            yield


def _jax_devices(count: int) -> list[str]:
    from densespec_jax.devices import devices

    devices(count)
    return keras.distribution.list_devices()[:count]


class TensorFlowParallelTrainer(KerasTrainer):
    """Trains a replica of the model on each device, in step by ``tf.distribute.MirroredStrategy``.

    Raises:
        ValueError: there are fewer devices.
    """

    def __init__(self, build: Build, graph: Graph, recipe: TrainingRecipe, replicas: int) -> None:
        import tensorflow as tf

        self._strategy = tf.distribute.MirroredStrategy(
            _tensorflow_devices(replicas),
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
        with self._strategy.scope():
            model = build(synchronised=recipe.batch_norm == "synchronised")
        super().__init__(model, graph, recipe)
        self._infer = tf.function(
            lambda x: model(x, training=False), reduce_retracing=True, autograph=False
        )

    def predict(self, x: np.ndarray) -> np.ndarray:
        self._average_statistics()
        with self._settings(), self._averaged():
            logits = self._infer(as_input(x, self._formats.outer, self._dtype))
        return variables.to_numpy(logits).astype(self._dtype, copy=False)

    def _new_average(self, **options: Any) -> WeightAverage:
        with self._settings():
            return super()._new_average(compute=self._strategy.run, **options)

    def weights(self) -> Arrays:
        self._average_statistics()
        return super().weights()

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        with super()._settings(), self._strategy.scope():
            yield

    def _compile(self, wanted: Compiled) -> None:
        if wanted == self._compiled_for:
            return
        super()._compile(wanted)
        import tensorflow as tf

        self._step = tf.function(self._on_every_replica, reduce_retracing=True, autograph=False)

    @property
    def _parts_of_optimizer(self) -> int:
        """Return one: Keras's accumulation takes no replicas, so gradients are added up here."""
        return 1

    def _run_parts(
        self, inputs: list[np.ndarray], labels: np.ndarray, gradients: bool
    ) -> tuple[float, int, Arrays]:
        import tensorflow as tf

        replicas, count = self._strategy.num_replicas_in_sync, self._recipe.accumulate
        *firsts, last = np.array_split(np.arange(len(labels)), count)
        if len(last) < replicas:
            raise ValueError(
                f"{len(last)} samples can't be split among {replicas} devices"
                f"{f': of {len(labels)} there are {count} parts' if count > 1 else ''}"
            )
        loss, correct, summed = 0.0, 0, ()
        for part in (*firsts, last):
            shards = [self._shards(array[part], replicas) for array in (*inputs, labels)]
            lost, right, summed = self._step(
                tf.constant(len(labels)), summed, part is last, *shards
            )
            loss, correct = loss + float(lost), correct + int(right)
        found = slots(self._optimizer, self._trained, "gradients") if gradients else {}
        return loss, correct, found

    def _shards(self, array: np.ndarray, count: int) -> Any:
        import tensorflow as tf

        parts = [tf.constant(part) for part in np.array_split(array, count)]
        return self._strategy.experimental_distribute_values_from_function(
            lambda replica: parts[replica.replica_id_in_sync_group]
        )

    def _on_every_replica(
        self, count: Any, summed: Any, is_last: bool, *shards: Any
    ) -> tuple[Any, Any, Any]:
        given = (count, summed, is_last, *shards)
        *sums, summed = self._strategy.run(self._on_one_replica, args=given)
        loss, correct = (self._strategy.reduce("sum", part, axis=None) for part in sums)
        return loss, correct, summed

    def _on_one_replica(
        self, count: Any, summed: Any, is_last: bool, *shard: Any
    ) -> tuple[Any, Any, Any]:
        """Compute a replica's part of the loss of the whole batch, and of the right answers.

        Its gradients are added to those of the parts before. After the last part a step is taken.
        """
        import tensorflow as tf

        *inputs, labels = shard
        model, optimizer = self._compiled, self._compiled.optimizer
        dtype = self._dtype
        with tf.GradientTape() as tape:
            logits = tf.cast(model(inputs if len(inputs) > 1 else inputs[0], training=True), dtype)
            loss = tf.reduce_sum(self._loss.call(labels, logits)) / tf.cast(count, dtype)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_weights)
        if summed:
            gradients = [a + b for a, b in zip(summed, gradients, strict=True)]
        if is_last:
            optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
            gradients = []
        if not self._counts:
            return loss, tf.constant(0), gradients
        classes = tf.argmax(labels, 1) if self._recipe.has_shares else tf.cast(labels, tf.int64)
        right = tf.argmax(logits, 1) == classes
        return loss, tf.reduce_sum(tf.cast(right, "int32")), gradients

    def _average_statistics(self) -> None:
        """Average the running statistics of the replicas: the recipe's statistics are the mean.

        Averaging when they are read is the same as at every step: updates are linear, and training
        reads none.
        """
        for variable in variables.running_statistics(self._model, self._graph):
            local = self._strategy.experimental_local_results(variable.value)
            mean = np.mean([replica.numpy() for replica in local], axis=0)
            variable.assign(mean.astype(local[0].dtype.as_numpy_dtype))


def _tensorflow_devices(count: int) -> list[str]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) >= count:
        return [f"GPU:{index}" for index in range(count)]
    one = tf.config.LogicalDeviceConfiguration()
    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):  # it has started, with the devices that it has
        tf.config.set_logical_device_configuration(cpu, [one] * count)
    found = len(tf.config.list_logical_devices("CPU"))
    if found < count:
        raise ValueError(
            f"{count} devices wanted, but TensorFlow has started with {found} on the CPU and "
            f"{len(gpus)} GPUs: ask for them before anything runs on TensorFlow, or call "
            "tf.config.set_logical_device_configuration first"
        )
    return [f"CPU:{index}" for index in range(count)]


PARALLEL: Mapping[str, Callable[[Build, Graph, TrainingRecipe, int], Any]] = {
    "jax": JaxParallelTrainer,
    "tensorflow": TensorFlowParallelTrainer,
}
