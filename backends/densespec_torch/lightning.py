"""Makes a ``LightningModule`` from a network and a recipe.

    module = DenseNetModule("densenet121", recipe, classes=10)
    lightning.Trainer(**trainer_options(recipe)).fit(module, train_loader, validation_loader)

It needs the extra ``densespec[lightning]``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from densespec.installed import require

for _package in ("lightning", "torchmetrics"):
    require("DenseNetModule", _package, extra="lightning")

import lightning  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchmetrics.classification import MulticlassAccuracy  # noqa: E402

from densespec.building import Origin, build  # noqa: E402
from densespec.errors import DensespecError  # noqa: E402
from densespec.network.catalogue import SpecLike, resolve  # noqa: E402
from densespec.network.graph import Graph, freeze, lower  # noqa: E402
from densespec.network.spec import DenseNetSpec  # noqa: E402
from densespec.recipes.moments import OptimizerMoments  # noqa: E402
from densespec.recipes.recipe import TrainingRecipe  # noqa: E402
from densespec.weights.checkpoint import (  # noqa: E402
    TrainingState,
    read_checkpoint,
    write_checkpoint,
)
from densespec_torch.losses import loss_of  # noqa: E402
from densespec_torch.norms import synchronise_norms  # noqa: E402
from densespec_torch.tensors import unwrapped  # noqa: E402
from densespec_torch.training import (  # noqa: E402
    OWN_BUFFERS,
    average_statistics,
    clip_gradients,
    moments_of,
    optimizer_of,
    read_weights,
    restore_moments,
    trainable_parameters,
)

_PRECISION = {
    "float32": "32-true",
    "float64": "64-true",
    "mixed_bfloat16": "bf16-mixed",
    "mixed_float16": "16-mixed",
}
_STEPS = "densespec_steps"


def trainer_options(recipe: TrainingRecipe, *, devices: int = 1) -> dict[str, Any]:
    """Return what ``lightning.Trainer`` has to be told of a recipe: epochs, precision, devices.

    On several devices, each takes batches of the loader's ``batch_size``. So this should be the
    recipe's divided by ``devices`` and by ``accumulate``: a batch of Lightning is one part.
    """
    options: dict[str, Any] = {
        "max_epochs": recipe.epochs,
        "precision": _PRECISION[recipe.dtype],
        "devices": devices,
        "accumulate_grad_batches": recipe.accumulate,
    }
    if devices > 1:
        options["strategy"] = DDPStrategy(**OWN_BUFFERS)
    return options


class DenseNetModule(lightning.LightningModule):
    """Trains a network by a recipe: its loss, optimizer, schedule and kind of norm.

    Batches are ``(x, labels)``, x of shape (batch, channels, *spatial). It logs ``train_loss``,
    ``train_accuracy`` and ``learning_rate``, and figures of ``val_`` and ``test_`` in the same way.
    Frozen parts of the network stay frozen. ``predict`` gives logits.

    Args:
        model: a spec, or anything that :func:`densespec.build` takes for one, which is then built
            with the recipe's dropout rate and dtype; or a built module; or any other module that
            gives logits. Checkpoints do not know how to build such another module, so give
            ``model`` to ``load_from_checkpoint``.
        recipe: the recipe, whose names of parts are those of a densespec network, or those of the
            other module.
        options: options of :func:`densespec.build`, such as ``classes`` or ``trainable_from``.

    Raises:
        ValueError: the model gives no logits, has another dropout rate than the recipe wants, or
            options come with a module; or the recipe keeps averages.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module | SpecLike | Mapping[str, Any] | None = None,
        recipe: TrainingRecipe | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.recipe = _recipe(recipe)
        if self.recipe.average is not None:
            raise ValueError(
                "the module keeps no averages: take recipe.replace(average=None, average_warmup=0) "
                "and give Trainer the callback EMAWeightAveraging(decay=...), or train by "
                "densespec.train"
            )
        self.model = _model(model, self.recipe, options)
        self.graph = _graph_of(self.model, self.recipe)
        self.steps = 0
        self._resumed: TrainingState | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        for stage in ("train", "val", "test"):
            self.add_module(f"{stage}_accuracy", MulticlassAccuracy(average="micro"))
        self.save_hyperparameters(_plain(self.graph, self.recipe))

    @classmethod
    def from_checkpoint(
        cls, path: str | os.PathLike[str], recipe: TrainingRecipe | None = None
    ) -> DenseNetModule:
        """Make a module from a canonical checkpoint, which continues where a training run stopped.

        ``fit`` then begins at the run's next epoch. Give ``Trainer`` the number of all epochs, as
        :func:`trainer_options` does.

        Args:
            recipe: the recipe, for weights without a training run; with one, it replaces the
                run's own.

        Raises:
            WeightsError: there is no such checkpoint.
            ValueError: there is no recipe.
        """
        found = read_checkpoint(path)
        if recipe is None and found.training is None:
            raise ValueError(f"{path} holds weights without a training run: give a recipe")
        model = build(
            found.spec,
            backend="torch.nn",
            weights=found.arrays,
            include_top=found.include_top,
            trainable_from=found.training.trainable_from if found.training else None,
            dtype=next(iter(found.arrays.values())).dtype.name,
        )
        module = cls(model, recipe or (found.training.recipe if found.training else None))
        module._resumed = found.training
        module.steps = found.training.step if found.training else 0
        return module

    def to_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write a canonical checkpoint, with which any backend can go on.

        On several processes each must call it; the first one writes.

        Raises:
            DensespecError: densespec did not build the model.
        """
        if self.graph is None:
            raise DensespecError("only models that densespec built have canonical checkpoints")
        self._average_statistics()
        if self.global_rank == 0:
            state = TrainingState(
                self.steps, self.recipe, self._moments(self.graph), self.graph.trainable_from
            )
            write_checkpoint(path, self.graph, read_weights(self.model, self.graph), state)

    def _moments(self, graph: Graph) -> OptimizerMoments:
        if self._optimizer is None and self._resumed is not None:
            return self._resumed.moments
        optimizer = self._optimizer or self._new_optimizer()
        return moments_of(optimizer, trainable_parameters(self.model, graph), self.recipe)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: Any, index: int) -> Tensor:
        return self._step("val", batch)

    def test_step(self, batch: Any, index: int) -> Tensor:
        return self._step("test", batch)

    def predict_step(self, batch: Any, index: int) -> Tensor:
        return self(batch[0] if isinstance(batch, list | tuple) else batch)

    def _step(self, stage: str, batch: Any) -> Tensor:
        x, labels = batch
        logits = self(x)
        loss: Tensor = loss_of(self.recipe)(logits, labels)
        training = stage == "train"
        shown: dict[str, Any] = {"on_epoch": True, "prog_bar": True, "batch_size": len(x)}
        self.log(f"{stage}_loss", loss, on_step=training, sync_dist=not training, **shown)
        if self.recipe.loss == "softmax":
            accuracy = getattr(self, f"{stage}_accuracy")
            accuracy(logits, labels.argmax(1) if self.recipe.has_shares else labels)
            self.log(f"{stage}_accuracy", accuracy, on_step=False, **shown)
        return loss

    def configure_optimizers(self) -> Any:
        """Make the recipe's optimizer and its learning rates, from where the run stands."""
        recipe, done = self.recipe, self._epochs_done()
        optimizer = self._optimizer = self._new_optimizer()
        if self._resumed is not None and self.graph is not None:
            parameters = trainable_parameters(self.model, self.graph)
            restore_moments(optimizer, parameters, self._resumed.moments, self._resumed.step)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        per_epoch = self._steps_per_epoch() if recipe.rate_per == "step" else 1
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda at: recipe.rate_of_step(at, per_epoch) / recipe.learning_rate,
            last_epoch=done * per_epoch - 1,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": recipe.rate_per},
        }

    def _new_optimizer(self) -> torch.optim.Optimizer:
        if self.graph is not None:
            return optimizer_of(trainable_parameters(self.model, self.graph), self.recipe)
        own = {
            f"{name}.{'kernel' if parameter.dim() > 1 else 'vector'}": parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        return optimizer_of(own, self.recipe)

    def _epochs_done(self) -> int:
        if self._resumed is None:
            return 0
        steps = self._steps_per_epoch()
        if self._resumed.step % steps:
            raise ValueError(
                f"the run stopped at step {self._resumed.step}, within an epoch of {steps} steps, "
                "but Lightning begins with whole epochs: go on from the checkpoint of an epoch's "
                "end, or with the same batch size"
            )
        return self._resumed.step // steps

    def _steps_per_epoch(self) -> int:
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # otherwise the number of batches is not known yet
        return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

    def setup(self, stage: str) -> None:
        if self.recipe.batch_norm == "synchronised" and self.trainer.world_size > 1:
            synchronise_norms(self.model)

    def on_fit_start(self) -> None:
        if self._resumed is not None:
            done, at = self._epochs_done(), self.trainer.fit_loop.epoch_progress.current
            for count in ("ready", "started", "processed", "completed"):
                setattr(at, count, done)
        self._resumed = None

    def on_train_epoch_start(self) -> None:
        if self.recipe.rate_per == "epoch":
            self._log_rate()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.recipe.rate_per == "step":
            self._log_rate()

    def _log_rate(self) -> None:
        groups = self.trainer.optimizers[0].param_groups
        rate = next((group["lr"] / group["factor"] for group in groups if group["factor"]), 0.0)
        self.log("learning_rate", rate)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip, now that gradients are neither scaled nor waiting for others."""
        clip_gradients(self.model.parameters(), self.recipe)
        self.steps += 1

    def on_validation_start(self) -> None:
        self._average_statistics()

    def on_train_epoch_end(self) -> None:
        self._average_statistics()

    def _average_statistics(self) -> None:
        if self.recipe.batch_norm == "per-replica":
            average_statistics(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_STEPS] = self.steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps, self._resumed = checkpoint.get(_STEPS, 0), None
        kinds = [t.dtype for t in checkpoint["state_dict"].values() if t.is_floating_point()]
        self.model.to(kinds[0])  # otherwise loading would round them to the model's type


def _recipe(recipe: TrainingRecipe | Mapping[str, Any] | None) -> TrainingRecipe:
    if isinstance(recipe, Mapping):
        return TrainingRecipe.from_dict(recipe)
    return recipe or TrainingRecipe()


def _model(model: Any, recipe: TrainingRecipe, options: Mapping[str, Any]) -> nn.Module:
    if isinstance(model, nn.Module):
        if options:
            raise ValueError(f"{', '.join(options)}: options are for building a spec, not a module")
        return model
    if model is None:
        raise ValueError(
            "give a model: a spec, or a module; a checkpoint of a module that densespec did not "
            "build whole can be loaded with model=..."
        )
    spec = DenseNetSpec.from_dict(model) if isinstance(model, Mapping) else resolve(model)
    options = {"dtype": recipe.dtype} | dict(options)
    return build(recipe.applied_to(spec), backend="torch.nn", **options)


def _graph_of(model: nn.Module, recipe: TrainingRecipe) -> Graph | None:
    """Return the graph of a model that densespec built."""
    origin = getattr(unwrapped(model), "densespec", None)
    if not isinstance(origin, Origin):
        return None
    rate, wanted = origin.graph.spec.dropout_rate, recipe.dropout_rate
    if wanted not in (None, rate):
        raise ValueError(
            f"the recipe's dropout rate is {wanted}, but the model was built with {rate}: build it "
            "of recipe.applied_to(spec)"
        )
    return origin.graph


def _plain(graph: Graph | None, recipe: TrainingRecipe) -> dict[str, Any]:
    """Describe as plain data what builds the module again."""
    plain: dict[str, Any] = {"recipe": recipe.to_dict()}
    if graph is None:
        return plain
    sizes, start = graph.input_size, graph.trainable_from
    if len(sizes) != graph.spec.spatial_dims:
        return plain
    whole = lower(graph.spec, sizes)
    if (freeze(whole, start) if start else whole) != graph:
        return plain
    plain["model"] = graph.spec.to_dict()
    if any(sizes):
        plain["input_shape"] = [graph.spec.in_channels, *sizes]
    return plain | ({"trainable_from": start} if start else {})
