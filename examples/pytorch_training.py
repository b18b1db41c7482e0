"""A DenseNet trained on handwritten digits in PyTorch, in a plain loop and with Lightning.

    python examples/pytorch_training.py plain
    python examples/pytorch_training.py lightning

Both take scikit-learn's digits (1,797 real images of 8x8), follow the same recipe and give the same
network, and so do ``fit`` in Keras and ``densespec train``. Needs ``densespec[torch,data]``, and
``densespec[lightning]`` for the second.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data

SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    in_channels=1,
    classes=10,
    stem_width="2k",
)
RECIPE = TrainingRecipe(epochs=6, batch_size=64)  # SGD, 0.1, drops at half and three quarters


def loader(batches: data.Batches, epoch: int = 0) -> DataLoader[Any]:
    """Its items are whole batches, in the order of the epoch."""
    return DataLoader(batches.as_torch_dataset(epoch), batch_size=None)


def plain(spec: DenseNetSpec = SPEC, recipe: TrainingRecipe = RECIPE) -> torch.nn.Module:
    """A loop as in any PyTorch program: the model is a module, the recipe's SGD is torch's."""
    digits = data.load("digits")
    batches = data.Batches.for_training(digits, recipe)
    model = densespec.build(spec, backend="torch.nn")
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, recipe.drop_epochs(), recipe.gamma)
    for epoch in range(recipe.epochs):
        model.train()
        for x, labels in loader(batches, epoch):
            loss = functional.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}, {_accuracy(model, digits):.2%} right")
    return model


@torch.no_grad()
def _accuracy(model: torch.nn.Module, dataset: data.Dataset) -> float:
    model.eval()
    test = loader(data.Batches.for_test(dataset))
    right = [model(x).argmax(1) == labels for x, labels in test]
    return torch.cat(right).double().mean().item()


def with_lightning(
    spec: DenseNetSpec = SPEC, recipe: TrainingRecipe = RECIPE, **options: Any
) -> torch.nn.Module:
    """The same with Lightning; ``options`` are for its Trainer."""
    import lightning

    from densespec_torch.lightning import DenseNetModule, trainer_options

    class Digits(lightning.LightningDataModule):
        """Every epoch has its own order, so its loader is made anew."""

        dataset = data.load("digits")

        def train_dataloader(self) -> DataLoader[Any]:
            epoch = self.trainer.current_epoch if self.trainer else 0
            return loader(data.Batches.for_training(self.dataset, recipe), epoch)

        def val_dataloader(self) -> DataLoader[Any]:
            return loader(data.Batches.for_test(self.dataset))

    module = DenseNetModule(spec, recipe)
    settings = trainer_options(recipe) | {"reload_dataloaders_every_n_epochs": 1} | options
    trainer = lightning.Trainer(**settings)
    trainer.fit(module, datamodule=Digits())
    trainer.validate(module, datamodule=Digits())
    return module.model


if __name__ == "__main__":
    ways = {"plain": plain, "lightning": with_lightning}
    if len(sys.argv) != 2 or sys.argv[1] not in ways:
        sys.exit(f"say how: {' or '.join(ways)}")
    ways[sys.argv[1]]()
