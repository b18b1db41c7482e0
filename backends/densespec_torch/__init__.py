"""Native PyTorch: graphs as plain ``torch.nn`` modules, channels first, in torchvision's names."""

from densespec.installed import require

require("backend 'torch.nn'", "torch", extra="torch")

from densespec_torch.backend import BACKEND as BACKEND  # noqa: E402
from densespec_torch.modules import DenseNet as DenseNet  # noqa: E402
from densespec_torch.norms import synchronise_norms as synchronise_norms  # noqa: E402
