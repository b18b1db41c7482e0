"""Batches of image files, decoded, cut at random, resized and normalised: ours, and a DataLoader's,
with as many workers, of what torchvision's transforms do by Pillow and PyTorch."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import Figures, take_turns

from densespec import data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, SIDE = 32, 224


def write_photographs(folder: Path, count: int) -> None:
    """Write parts of scikit-learn's two photographs, 375x500, as JPEG files of two classes."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    photographs = load_sample_images().images
    for number in range(count):
        whole = photographs[number % 2]
        top, left = draw.integers(0, [whole.shape[0] - 374, whole.shape[1] - 499])
        part = folder / f"class{number % 2}"
        part.mkdir(exist_ok=True)
        Image.fromarray(whole[top : top + 375, left : left + 500]).save(part / f"{number}.jpg")


class Photographs:
    """What torchvision's ImageFolder gives with RandomResizedCrop, RandomHorizontalFlip, ToTensor
    and Normalize."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*/*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import torch
        from PIL import Image

        with Image.open(self.paths[index]) as file:
            picture = file.convert("RGB")
        left, top, width, height = random_box(*picture.size)
        part = picture.crop((left, top, left + width, top + height))
        part = part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.array(part)).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return x.sub_(mean).div_(std), int(self.paths[index].parent.name[-1])


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """A part of 8 to 100 % of an image, of an aspect from 3/4 to 4/3, or else all of it."""
    for _ in range(10):
        area = random.uniform(0.08, 1) * width * height
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    return 0, 0, width, height


def dataloader(folder: Path, workers: int) -> Iterator[Any]:
    """Batches without end of a DataLoader that keeps its workers."""
    import torch

    torch.set_num_threads(1)
    photographs: Any = Photographs(folder)
    loader: Any = torch.utils.data.DataLoader(
        photographs,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def ours(folder: Path, workers: int) -> Iterator[Any]:
    """Batches without end of ours, of the same work."""
    found = data.load(f"folder:{folder}")
    batches = data.Batches(
        found.train,
        found.normalisation,
        batch_size=BATCH,
        size=(SIDE, SIDE),
        augmentation="imagenet",
        drop_last=True,
    )
    return batches.stream(workers=workers)


def batches(rounds: int, *, workers: int, count: int = 640, each: int = 20) -> Figures:
    """Milliseconds of ``each`` batches from the one and from the other."""
    with tempfile.TemporaryDirectory() as name:
        write_photographs(Path(name), count)
        sides = {
            "ours": ours(Path(name), workers),
            "DataLoader": dataloader(Path(name), workers),
        }
        calls = {
            side: lambda stream=stream: [next(stream) for _ in range(each)]
            for side, stream in sides.items()
        }
        return take_turns(calls, rounds, warm_up=1)
