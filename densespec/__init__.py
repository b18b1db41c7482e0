"""Describes DenseNets once, as data, and builds the same network in every framework.

    import densespec

    densespec.variants()                                     # names
    spec = densespec.get("densenet169-bc")                   # a DenseNetSpec
    model = densespec.build(spec, backend="torch.nn")        # a torch.nn.Module
    densespec.save(model, "net.safetensors")
    same = densespec.build(spec, backend="jax", weights="net.safetensors")   # a keras.Model
    densespec.convert("densenet121.pth", "densenet121.keras")   # from torchvision to Keras

Importing densespec imports no framework.
"""

# ruff: noqa: E402  what Ctrl-C does is settled before the imports that take long

from typing import TYPE_CHECKING, Any

from densespec.interrupts import end_at_once as _end_at_once

_end_at_once()

from densespec.backends import Backend as Backend
from densespec.backends import Trainer as Trainer
from densespec.backends import backends as backends
from densespec.backends import get_backend as get_backend
from densespec.errors import DensespecError as DensespecError
from densespec.network.catalogue import catalogue as catalogue
from densespec.network.catalogue import get as get
from densespec.network.catalogue import variants as variants
from densespec.network.files import read_spec as read_spec
from densespec.network.files import write_spec as write_spec
from densespec.network.graph import Graph as Graph
from densespec.network.graph import lower as lower
from densespec.network.initial import initial_weights as initial_weights
from densespec.network.spec import DenseNetSpec as DenseNetSpec
from densespec.recipes.presets import get_recipe as get_recipe
from densespec.recipes.presets import presets as presets
from densespec.recipes.presets import read_recipe as read_recipe
from densespec.recipes.presets import write_recipe as write_recipe
from densespec.recipes.recipe import TrainingRecipe as TrainingRecipe
from densespec.version import __version__ as __version__

if TYPE_CHECKING:
    from densespec.building import build as build
    from densespec.building import feature_maps as feature_maps
    from densespec.building import in_mode as in_mode
    from densespec.building import load_weights as load_weights
    from densespec.building import optimize as optimize
    from densespec.building import preprocessing as preprocessing
    from densespec.building import read_weights as read_weights
    from densespec.building import save as save
    from densespec.deploy import export as export
    from densespec.hub import from_pretrained as from_pretrained
    from densespec.hub import push_to_hub as push_to_hub
    from densespec.hub import save_pretrained as save_pretrained
    from densespec.predicting import evaluate as evaluate
    from densespec.predicting import predict as predict
    from densespec.pretrained.preprocessing import Preprocessing as Preprocessing
    from densespec.training import train as train
    from densespec.transfer_learning import train_from as train_from
    from densespec.transfer_learning import transfer as transfer
    from densespec.weights.comparing import compare as compare
    from densespec.weights.convert import convert as convert
    from densespec.weights.opening import open_weights as open_weights


# Imported on first use, to keep ``import densespec`` fast.
_LATE = {
    "build": "densespec.building",
    "feature_maps": "densespec.building",
    "in_mode": "densespec.building",
    "load_weights": "densespec.building",
    "optimize": "densespec.building",
    "preprocessing": "densespec.building",
    "evaluate": "densespec.predicting",
    "predict": "densespec.predicting",
    "Preprocessing": "densespec.pretrained.preprocessing",
    "read_weights": "densespec.building",
    "save": "densespec.building",
    "export": "densespec.deploy",
    "from_pretrained": "densespec.hub",
    "push_to_hub": "densespec.hub",
    "save_pretrained": "densespec.hub",
    "train": "densespec.training",
    "train_from": "densespec.transfer_learning",
    "transfer": "densespec.transfer_learning",
    "compare": "densespec.weights.comparing",
    "convert": "densespec.weights.convert",
    "open_weights": "densespec.weights.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATE[name]), name)
