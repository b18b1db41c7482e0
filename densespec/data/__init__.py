"""Loads data to train on, puts them in an order, and prepares them.

    from densespec import data

    digits = data.load("digits")                    # or "cifar10:/data", "folder:...", "arrays:..."
    graph = data.fits(digits, spec)                 # says what to change if they do not fit
    batches = data.Batches.for_training(digits, recipe)
    for x, y in batches.epoch(0):                   # numpy, channels first
        ...
    masks = data.dropout_masks(graph, seed=0, step=0, batch=len(y))

Everything that is random follows from a seed and is drawn by numpy on the host. So every framework
trains on the same numbers, and a run that is continued anywhere goes on with them.
"""

from densespec.data.augment import AUGMENTATIONS as AUGMENTATIONS
from densespec.data.batches import Batches as Batches
from densespec.data.dataset import DataError as DataError
from densespec.data.dataset import Dataset as Dataset
from densespec.data.dataset import LazyImages as LazyImages
from densespec.data.dataset import Normalisation as Normalisation
from densespec.data.dataset import Split as Split
from densespec.data.dataset import fits as fits
from densespec.data.items import of_items as of_items
from densespec.data.masks import dropout_masks as dropout_masks
from densespec.data.sources import SOURCES as SOURCES
from densespec.data.sources import load as load
