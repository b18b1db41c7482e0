"""Wrong networks and training loops in PyTorch, written as people write them.

A mutant changes the modules or the trainer of ``densespec_torch``; it knows nothing of the
reference or of the catalogue of deviations.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meta_tests.mutants.mutant import (
    ACCUMULATED,
    ADAMW,
    AVERAGE,
    CLIPPED,
    COUNTS,
    DECAY,
    DROP,
    KERNELS_ONLY,
    LABELS,
    LAYER_RATES,
    MASKS,
    MIXED_FLOAT16,
    NEGATIVE,
    NO_DROPOUT,
    RESUMED,
    RESUMED_ADAMW,
    RMSPROP,
    ROUND_TRIP,
    SEED,
    SHARES,
    SMOOTHING,
    SOFTMAX,
    STEM,
    WARMED_AVERAGE,
    WEIGHTS,
    Mutant,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Alter = Callable[[Any], Any]
"""Changes a built model in place, or gives another."""


def put(model: nn.Module, node: str, module: Any) -> None:
    from densespec.weights.layouts.torch_names import module_path

    parent, _, child = module_path(node).rpartition(".")
    model.get_submodule(parent)._modules[child] = module


def get(model: nn.Module, node: str) -> Any:
    from densespec.weights.layouts.torch_names import module_path

    return model.get_submodule(module_path(node))


def backend(
    alter: Alter = lambda model: None, trainer: str = "", module: str = "mutants.torch_trainers"
) -> Callable[[], Any]:
    """The torch backend with a model that is changed, or a trainer of a module of meta_tests."""
    return functools.partial(_make, alter, trainer, module)


def _make(alter: Alter, trainer: str, module: str) -> Any:
    from densespec_torch.backend import TorchBackend

    class Backend(TorchBackend):
        def build(self, *args: Any, **options: Any) -> Any:
            import torch

            model = super().build(*args, **options)
            model.densespec_graph = args[0]
            with torch.no_grad():
                return alter(model) or model

        def trainer(self, *args: Any) -> Any:
            if not trainer:
                return super().trainer(*args)
            return getattr(importlib.import_module(f"meta_tests.{module}"), trainer)(*args)

    return Backend()


def norms(model: nn.Module) -> list[Any]:
    from torch import nn

    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def convs(model: nn.Module) -> list[Any]:
    from torch import nn

    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def _every_norm(**attributes: Any) -> Alter:
    def alter(model: nn.Module) -> None:
        for norm in norms(model):
            for name, value in attributes.items():
                setattr(norm, name, value)

    return alter


def norms_by(forward: Callable[..., Tensor]) -> Alter:
    """Norms that compute by a function of themselves and their input."""

    def alter(model: nn.Module) -> None:
        for norm in norms(model):
            norm.forward = functools.partial(forward, norm)

    return alter


def _of_batch(norm: Any, x: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def _always_running(norm: Any, x: Tensor) -> Tensor:
    from torch.nn import functional

    mean, variance = norm.running_mean, norm.running_var
    return functional.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


def _accumulated(norm: Any, x: Tensor) -> Tensor:
    """Updates running statistics and normalises by them, in training too."""
    import torch
    from torch.nn import functional

    if norm.training:
        with torch.no_grad():
            norm.running_mean.lerp_(x.mean((0, 2, 3)), norm.momentum)
            norm.running_var.lerp_(x.var((0, 2, 3)), norm.momentum)
    mean, variance = norm.running_mean, norm.running_var
    return functional.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


def _by_hand(norm: Any, x: Tensor, *, detach: bool, unbiased: bool) -> Tensor:
    """A norm as tutorials write it."""
    import torch

    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=unbiased)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(x.var((0, 2, 3), unbiased=True), norm.momentum)
    if detach:
        mean, variance = mean.detach(), variance.detach()
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def _epsilon_beside_the_root(norm: Any, x: Tensor) -> Tensor:
    scale = norm.weight / (norm.running_var.sqrt() + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    return x * scale[:, None, None] + shift[:, None, None]


def _keras_port(model: nn.Module, *, conv: bool = True, pool: bool = True) -> None:
    """What keras-hub's stem does: it pads as TensorFlow."""
    from torch import nn

    if conv:
        stem = get(model, "stem.conv")
        stem.padding = (0, 0)
        put(model, "stem.conv", nn.Sequential(nn.ZeroPad2d((2, 3, 2, 3)), stem))
    if pool:
        padded = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), float("-inf")), nn.MaxPool2d(3, 2))
        put(model, "stem_pool", padded)


def _keras_hub(model: nn.Module) -> None:
    # state_dict names move with the wrapped convolution, which inference does not read.
    _keras_port(model)
    _every_norm(eps=1.001e-5)(model)


def _replaced(node: str, make: Callable[[Any], Any]) -> Alter:
    """One module in the place of another, which it may use."""

    def alter(model: nn.Module) -> None:
        from torch import nn

        put(model, node, make(nn))

    return alter


def _ceil_mode(model: nn.Module) -> None:
    get(model, "stem_pool").ceil_mode = True


def _transitions_take_the_maximum(model: nn.Module) -> None:
    from torch import nn

    put(model, "transition1.pool", nn.MaxPool2d(2, 2))


def _global_maximum(model: nn.Module) -> None:
    get(model, "global_pool").kind = "max"


def _leaky(model: nn.Module) -> None:
    from torch import nn

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.LeakyReLU())


def _activations(name: str, make: Callable[[Any], nn.Module]) -> Alter:
    """Put other modules in the place of all activations of a class."""

    def alter(model: nn.Module) -> None:
        from torch import nn

        for parent in list(model.modules()):
            for place, child in parent.named_children():
                if type(child).__name__ == name:
                    setattr(parent, place, make(nn))

    return alter


def _unscaled(model: nn.Module) -> None:
    from torch.nn import functional

    for module in model.modules():
        if type(module).__name__ == "InstanceNorm2d":
            module.forward = functools.partial(functional.instance_norm, eps=1e-5)


def _group_norms_of_epsilon(epsilon: float) -> Alter:
    def alter(model: nn.Module) -> None:
        for module in model.modules():
            if type(module).__name__ == "GroupNorm":
                module.eps = epsilon  # type: ignore[assignment]

    return alter


def _no_final_norm(model: nn.Module) -> None:
    from torch import nn

    norm = get(model, "final.norm")
    norm.forward = lambda x: x
    put(model, "final.relu", nn.Identity())


def _concats(model: nn.Module) -> list[Any]:
    from densespec_torch.layers import Concat

    return [module for module in model.modules() if isinstance(module, Concat)]


def _new_maps_first(model: nn.Module) -> None:
    import torch

    for concat in _concats(model):
        concat.forward = lambda *xs: torch.cat(xs[::-1], 1)


def _norms_computed_again(model: nn.Module) -> None:
    """Checkpoints that hold the first norm of each layer, as torchvision's memory_efficient has."""
    from torch.utils.checkpoint import checkpoint

    for node in model.densespec_graph.nodes:
        if node.name.endswith(".norm1"):
            norm = get(model, node.name)
            norm.forward = functools.partial(checkpoint, norm.forward, use_reentrant=False)


def _variable_used_twice(model: nn.Module) -> None:
    """x = relu(norm(x)); y = conv(x); return cat(x, y)."""
    import torch

    graph = model.densespec_graph
    for node in graph.nodes:
        if ".concat" in node.name:
            seen: list[Tensor] = []
            relu = get(model, f"{node.inputs[1].rpartition('.')[0]}.relu1")
            relu.register_forward_hook(lambda _m, _x, y, seen=seen: seen.append(y))
            concat = get(model, node.name)
            concat.forward = lambda x, new, seen=seen: torch.cat([seen.pop(), new], 1)


def _bgr(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda _model, inputs: (inputs[0].flip(1),))


def _probabilities(model: nn.Module) -> None:
    get(model, "classifier").register_forward_hook(lambda _m, _x, y: y.softmax(1))


def _dropout_stays_on(model: nn.Module) -> None:
    from torch import nn
    from torch.nn import functional

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = functools.partial(functional.dropout, p=module.p, training=True)


def _norm_weights_not_loaded(model: nn.Module) -> None:
    for norm in norms(model):
        norm.weight.fill_(1)


def _buffers_not_saved(model: nn.Module) -> None:
    for norm in norms(model):
        norm.reset_running_stats()


def _assigned_by_position(model: nn.Module) -> None:
    for norm in norms(model):
        norm.weight, norm.bias = norm.bias, norm.weight


def _kept_in(dtype: str) -> Alter:
    def alter(model: nn.Module) -> None:
        import torch

        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(getattr(torch, dtype)))

    return alter


def _computes_in(dtype: str) -> Alter:
    """A model that casts its input down, and everything with it."""

    def alter(model: nn.Module) -> None:
        import torch

        kind = getattr(torch, dtype)
        model.to(kind)
        model.register_forward_pre_hook(lambda _model, inputs: (inputs[0].to(kind),))
        for name, module in model.named_modules():
            if name:
                module.register_forward_hook(lambda _m, _x, y: y.to(kind))

    return alter


def _turned_kernels(model: nn.Module) -> None:
    for conv in convs(model):
        conv.weight.copy_(conv.weight.transpose(2, 3).clone())


def _reshaped_classifier(model: nn.Module) -> None:
    """Keras's (in, out) array, given PyTorch's shape without a transpose."""
    weight = get(model, "classifier").weight
    weight.copy_(weight.T.contiguous().reshape(weight.shape))


def _drawn_by(name: str, **options: Any) -> Alter:
    def alter(model: nn.Module) -> None:
        import torch
        from torch import nn

        torch.manual_seed(5)
        for conv in convs(model):
            getattr(nn.init, name)(conv.weight, **options)

    return alter


def _transition_bias(model: nn.Module) -> None:
    import torch
    from torch import nn

    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d) and name.split(".")[-2].startswith("transition"):
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels, dtype=conv.weight.dtype))


def _no_affine(model: nn.Module) -> None:
    """Norms without gamma and beta of their own, as far as a count sees them."""
    for norm in norms(model):
        norm.weight.requires_grad_(False)
        norm.bias.requires_grad_(False)


MUTANTS: Mapping[str, Mutant] = {
    "TORCH_KERAS_EPSILON": Mutant(
        "eps=1e-3 in every BatchNorm2d",
        STEM,
        "stem.norm",
        ("eps-keras",),
        backend(_every_norm(eps=1e-3)),
    ),
    "TORCH_TINY_EPSILON": Mutant(
        "eps=1e-12 in every BatchNorm2d",
        STEM,
        "stem.norm",
        ("eps-1e-12",),
        backend(_every_norm(eps=1e-12)),
    ),
    "TORCH_EPSILON_OF_KERAS_CONTRIB": Mutant(
        "eps=1.1e-5 in every BatchNorm2d",
        STEM,
        "stem.norm",
        ("eps-1.1e-5",),
        backend(_every_norm(eps=1.1e-5)),
    ),
    "TORCH_EPSILON_BESIDE_THE_ROOT": Mutant(
        "a hand-written norm that adds eps to the deviation",
        STEM,
        "stem.norm",
        ("eps-outside-the-root",),
        backend(norms_by(_epsilon_beside_the_root)),
    ),
    "TORCH_KERAS_HUB": Mutant(
        "keras-hub's network: 'same' padding in the stem and eps=1.001e-5",
        STEM,
        "stem.conv",
        ("same-padding", "eps-keras-applications"),
        backend(_keras_hub),
    ),
    "TORCH_SAME_CONV": Mutant(
        "'same' padding of the stem's convolution alone",
        STEM,
        "stem.conv",
        ("same-padding-of-conv",),
        backend(functools.partial(_keras_port, pool=False)),
    ),
    "TORCH_SAME_POOL": Mutant(
        "'same' padding of the max pool alone",
        STEM,
        "stem_pool",
        ("same-padding-of-pool",),
        backend(functools.partial(_keras_port, conv=False)),
    ),
    "TORCH_NO_EVAL": Mutant(
        "model.eval() is forgotten",
        STEM,
        "stem.norm",
        ("batch-statistics-in-inference",),
        backend(norms_by(_of_batch)),
    ),
    "TORCH_CEIL_MODE": Mutant(
        "MaxPool2d(ceil_mode=True)",
        STEM,
        "stem_pool",
        ("ceil-mode-in-stem",),
        backend(_ceil_mode),
    ),
    "TORCH_AVERAGE_POOL": Mutant(
        "AvgPool2d in the stem, which counts its padding",
        STEM,
        "stem_pool",
        ("average-pool-in-stem-with-padding",),
        backend(_replaced("stem_pool", lambda nn: nn.AvgPool2d(3, 2, 1))),
    ),
    "TORCH_AVERAGE_POOL_WITHOUT_PADDING": Mutant(
        "AvgPool2d(count_include_pad=False) in the stem",
        STEM,
        "stem_pool",
        ("average-pool-in-stem",),
        backend(_replaced("stem_pool", lambda nn: nn.AvgPool2d(3, 2, 1, count_include_pad=False))),
    ),
    "TORCH_ZERO_PAD": Mutant(
        "ZeroPad2d before the max pool of negative numbers",
        NEGATIVE,
        "stem_pool",
        ("zero-padded-max-pool",),
        backend(
            _replaced("stem_pool", lambda nn: nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)))
        ),
    ),
    "TORCH_MAX_POOL_IN_TRANSITION": Mutant(
        "MaxPool2d in the transition",
        STEM,
        "transition1.pool",
        ("max-pool-in-transition",),
        backend(_transitions_take_the_maximum),
    ),
    "TORCH_GLOBAL_MAXIMUM": Mutant(
        "adaptive_max_pool2d before the classifier",
        STEM,
        "global_pool",
        ("global-maximum",),
        backend(_global_maximum),
    ),
    "TORCH_LEAKY_RELU": Mutant(
        "LeakyReLU for ReLU", STEM, "stem.relu", ("leaky-relu-0.01",), backend(_leaky)
    ),
    "TORCH_GELU_BY_THE_TANGENT": Mutant(
        'GELU(approximate="tanh") for GELU',
        "forward/gelu",
        "stem.relu",
        ("gelu-by-the-tangent",),
        backend(_activations("GELU", lambda nn: nn.GELU("tanh"))),
    ),
    "TORCH_LEAKY_RELU_WITHOUT_ITS_SLOPE": Mutant(
        "LeakyReLU() without its slope",
        "forward/leaky-relu",
        "stem.relu",
        ("leaky-slope-0.01",),
        backend(_activations("LeakyReLU", lambda nn: nn.LeakyReLU())),
    ),
    "TORCH_INSTANCE_NORM_WITHOUT_SCALE": Mutant(
        "InstanceNorm2d(channels), which has no scale unless told otherwise",
        "forward/instance-norm",
        "stem.norm",
        ("norms-of-samples-without-scale",),
        backend(_unscaled),
    ),
    "TORCH_GROUP_NORM_WITH_KERAS_EPSILON": Mutant(
        "Keras's epsilon in group norms",
        "forward/group-norm",
        "stem.norm",
        ("group-norm-epsilon-1e-3",),
        backend(_group_norms_of_epsilon(1e-3)),
    ),
    "TORCH_GROUP_NORM_WITH_FLAX_EPSILON": Mutant(
        "Flax's epsilon in group norms",
        "forward/group-norm",
        "stem.norm",
        ("group-norm-epsilon-1e-6",),
        backend(_group_norms_of_epsilon(1e-6)),
    ),
    "TORCH_NO_FINAL_RELU": Mutant(
        "F.relu before the global pool is forgotten",
        STEM,
        "final.relu",
        ("no-final-relu",),
        backend(_replaced("final.relu", lambda nn: nn.Identity())),
    ),
    "TORCH_NO_FINAL_NORM": Mutant(
        "neither norm nor ReLU before the global pool",
        STEM,
        "final.norm",
        ("no-final-norm",),
        backend(_no_final_norm),
    ),
    "TORCH_NEW_MAPS_FIRST": Mutant(
        "torch.cat([new, old])",
        STEM,
        "block1.concat1",
        ("concat-reversed",),
        backend(_new_maps_first),
    ),
    "TORCH_VARIABLE_USED_TWICE": Mutant(
        "what is concatenated has gone through the layer's norm and ReLU",
        STEM,
        "block1.concat1",
        ("concat-activated",),
        backend(_variable_used_twice),
    ),
    "TORCH_BGR": Mutant(
        "images are taken as BGR",
        STEM,
        "stem.conv",
        ("input-channels-reversed",),
        backend(_bgr),
    ),
    "TORCH_PROBABILITIES": Mutant(
        "the classifier gives probabilities",
        STEM,
        "classifier",
        ("softmax-in-classifier",),
        backend(_probabilities),
    ),
    "TORCH_SIGMOID": Mutant(
        "Sigmoid for Softmax",
        SOFTMAX,
        "softmax",
        ("sigmoid",),
        backend(_replaced("softmax", lambda nn: nn.Sigmoid())),
    ),
    "TORCH_LOG_SOFTMAX": Mutant(
        "LogSoftmax for Softmax",
        SOFTMAX,
        "softmax",
        ("log-softmax",),
        backend(_replaced("softmax", lambda nn: nn.LogSoftmax(1))),
    ),
    "TORCH_SOFTMAX_OVER_THE_BATCH": Mutant(
        "Softmax(dim=0)",
        SOFTMAX,
        "softmax",
        (),
        backend(_replaced("softmax", lambda nn: nn.Softmax(0))),
        says=("it goes over the batch, not over the classes",),
    ),
    "TORCH_DROPOUT_STAYS_ON": Mutant(
        "F.dropout(x, p) without training=self.training",
        NO_DROPOUT,
        "stem.dropout",
        (),
        backend(_dropout_stays_on),
    ),
    "TORCH_GAMMA_NOT_LOADED": Mutant(
        "gammas keep their initial value",
        STEM,
        "stem.norm",
        ("gamma-not-loaded",),
        backend(_norm_weights_not_loaded),
    ),
    "TORCH_BUFFERS_NOT_SAVED": Mutant(
        "running statistics keep their initial values",
        STEM,
        "stem.norm",
        ("statistics-not-loaded",),
        backend(_buffers_not_saved),
    ),
    "TORCH_ASSIGNED_BY_POSITION": Mutant(
        "gamma and beta are loaded into each other",
        STEM,
        "stem.norm",
        ("gamma-and-beta-swapped",),
        backend(_assigned_by_position),
    ),
    "TORCH_TURNED_KERNELS": Mutant(
        "kernels are loaded with height and width exchanged",
        STEM,
        "stem.conv",
        ("kernels-turned",),
        backend(_turned_kernels),
    ),
    "TORCH_RESHAPED_CLASSIFIER": Mutant(
        "the classifier's kernel is reshaped, not transposed",
        STEM,
        "classifier",
        ("classifier-reshaped",),
        backend(_reshaped_classifier),
    ),
    "TORCH_HALF_CHECKPOINT": Mutant(
        "weights come from a float16 file",
        ROUND_TRIP,
        "stem.conv.kernel",
        ("weights-in-float16",),
        backend(_kept_in("float16")),
    ),
    "TORCH_BFLOAT16_CHECKPOINT": Mutant(
        "weights come from a bfloat16 file",
        STEM,
        "stem.conv",
        ("weights-in-bfloat16",),
        backend(_kept_in("bfloat16")),
    ),
    "TORCH_FLOAT32_INSIDE": Mutant(
        "the model casts its input to float32",
        STEM,
        "stem.conv",
        ("float32-inside",),
        backend(_computes_in("float32")),
    ),
    "TORCH_BFLOAT16_INSIDE": Mutant(
        "the model casts its input to bfloat16",
        STEM,
        "stem.conv",
        ("bfloat16-inside",),
        backend(_computes_in("bfloat16")),
    ),
    "TORCH_XAVIER": Mutant(
        "xavier_uniform_",
        SEED,
        "stem.conv.kernel",
        ("init-xavier-uniform",),
        backend(_drawn_by("xavier_uniform_")),
    ),
    "TORCH_DEFAULT_INIT": Mutant(
        "PyTorch's default initial weights",
        SEED,
        "stem.conv.kernel",
        ("init-torch-default",),
        backend(_drawn_by("kaiming_uniform_", a=5**0.5)),
    ),
    "TORCH_FAN_OUT": Mutant(
        "kaiming_normal_(mode='fan_out')",
        SEED,
        "stem.conv.kernel",
        ("init-he-fan-out",),
        backend(_drawn_by("kaiming_normal_", mode="fan_out", nonlinearity="relu")),
    ),
    "TORCH_OWN_SEED": Mutant(
        "kaiming_normal_ by torch.manual_seed",
        SEED,
        "stem.conv.kernel",
        ("init-other-seed",),
        backend(_drawn_by("kaiming_normal_", nonlinearity="relu")),
    ),
    "TORCH_TRANSITION_BIAS": Mutant(
        "bias=False is forgotten in transitions",
        COUNTS,
        "trainable parameters",
        ("transition-bias",),
        backend(_transition_bias),
    ),
    "TORCH_MOMENTUM_INVERTED": Mutant(
        "BatchNorm2d(momentum=0.9)",
        DROP,
        "step 1, running statistic stem.norm.running_mean",
        (),
        backend(_every_norm(momentum=0.9)),
        says=("the new value's weight in its running statistics is 0.9, not 0.1",),
    ),
    "TORCH_MOMENTUM_OF_KERAS": Mutant(
        "BatchNorm2d(momentum=0.01)",
        DROP,
        "step 1, running statistic stem.norm.running_mean",
        (),
        backend(_every_norm(momentum=0.01)),
        says=("the new value's weight in its running statistics is 0.01, not 0.1",),
    ),
    "TORCH_CUMULATIVE_AVERAGE": Mutant(
        "BatchNorm2d(momentum=None)",
        DROP,
        "step 1, running statistic stem.norm.running_mean",
        (),
        backend(_every_norm(momentum=None)),
        says=("running statistics is 1, not 0.1", "running statistics is 0.5, not 0.1"),
    ),
    "TORCH_FROZEN_NORMS": Mutant(
        "norms in inference mode while training",
        DROP,
        "step 1, loss",
        (),
        backend(norms_by(_always_running)),
        says=("it normalises by running statistics and leaves them",),
    ),
    "TORCH_DETACHED_STATISTICS": Mutant(
        "a hand-written norm that detaches its statistics",
        DROP,
        "step 1, gradient stem.conv.kernel",
        (),
        backend(norms_by(functools.partial(_by_hand, detach=True, unbiased=False))),
        says=("all 13 norms: no gradient flows through its mean and variance",),
    ),
    "TORCH_ACCUMULATED_STATISTICS": Mutant(
        "a norm that averages over steps in training too, such as AccBatchNorm",
        DROP,
        "step 1, loss",
        (),
        backend(norms_by(_accumulated)),
        says=("it updates running statistics, and normalises by them",),
    ),
    "TORCH_UNBIASED_NORM": Mutant(
        "a hand-written norm that normalises by x.var()",
        DROP,
        "step 1, loss",
        (),
        backend(norms_by(functools.partial(_by_hand, detach=False, unbiased=True))),
        says=("it normalises by the variance over n - 1",),
    ),
    "TORCH_NO_NESTEROV": Mutant(
        "SGD without nesterov=True",
        DROP,
        "step 1, weight stem.conv.kernel",
        (),
        backend(trainer="NoNesterov"),
        says=("optimizer of all 40 weights: momentum does not look ahead",),
    ),
    "TORCH_DAMPENING": Mutant(
        "SGD(dampening=0.9)",
        DROP,
        "step 2, velocity",
        (),
        backend(trainer="Dampened"),
        says=("momentum is dampened by 0.9",),
    ),
    "TORCH_LOSS_NOT_SCALED": Mutant(
        "mixed float16 without a GradScaler",
        MIXED_FLOAT16,
        "step 1, gradient stem.conv.kernel",
        (),
        backend(trainer="LossNotScaled"),
    ),
    "TORCH_ADAMW_DECAY": Mutant(
        "weights decay before the step, as in AdamW",
        DECAY,
        "step 1, velocity",
        (),
        backend(trainer="Decoupled"),
        says=("weight decay is decoupled from the gradient",),
    ),
    "TORCH_UNSCALED_DECAY": Mutant(
        "weights decay without the learning rate",
        DECAY,
        "step 1, velocity",
        (),
        backend(trainer="DecoupledUnscaled"),
        says=("weight decay is decoupled and not scaled",),
    ),
    "TORCH_NO_DECAY": Mutant(
        "SGD without weight_decay",
        DECAY,
        "step 1, velocity",
        (),
        backend(trainer="NoDecay"),
        says=("there is no weight decay",),
    ),
    "TORCH_ONE_GROUP": Mutant(
        "all parameters in one group, where norms and biases should be spared",
        KERNELS_ONLY,
        "step 1, velocity",
        (),
        backend(trainer="OneGroup"),
        says=("optimizer of every bias, gamma and beta: norms and biases have weight decay too",),
    ),
    "TORCH_L2_PENALTY": Mutant(
        "a decay twice as large, as keras.regularizers.l2 makes it",
        DECAY,
        "step 1, velocity",
        (),
        backend(trainer="DoubledDecay"),
        says=("weight decay counts twice",),
    ),
    "TORCH_DECAY_WITHOUT_NESTEROV": Mutant(
        "decoupled decay and no nesterov=True",
        DECAY,
        "step 1, velocity",
        (),
        backend(trainer="DecoupledWithoutNesterov"),
        says=(
            "optimizer of all 8 weights: momentum does not look ahead",
            "weight decay is decoupled from the gradient",
        ),
    ),
    "TORCH_NO_ZERO_GRAD": Mutant(
        "optimizer.zero_grad() is forgotten",
        DROP,
        "step 2, gradient",
        (),
        backend(trainer="NoZeroGrad"),
        says=("the gradients of earlier steps are added up",),
    ),
    "TORCH_LATE_SCHEDULER": Mutant(
        "scheduler.step() a step too late",
        DROP,
        "step 7, weight",
        (),
        backend(trainer="LateScheduler"),
        says=("learning rate: the learning rate drops one step late",),
    ),
    "TORCH_NO_SCHEDULER": Mutant(
        "scheduler.step() is forgotten",
        DROP,
        "step 7, weight",
        (),
        backend(trainer="NoScheduler"),
        says=("learning rate: the learning rate does not drop",),
    ),
    "TORCH_TWO_SCHEDULERS": Mutant(
        "the learning rate drops twice at once",
        DROP,
        "step 7, weight",
        (),
        backend(trainer="TwoSchedulers"),
        says=("learning rate: the learning rate drops twice",),
    ),
    "TORCH_SUMMED_LOSS": Mutant(
        "cross_entropy(reduction='sum')",
        DROP,
        "step 1, loss",
        (),
        backend(trainer="SummedLoss"),
        says=("loss: the loss is summed over the batch, and so are gradients",),
    ),
    "TORCH_DOUBLE_SOFTMAX": Mutant(
        "cross_entropy of probabilities",
        DROP,
        "step 1, loss",
        (),
        backend(trainer="DoubleSoftmax"),
        says=("loss: the loss takes probabilities for logits",),
    ),
    "TORCH_BINARY_CROSS_ENTROPY": Mutant(
        "binary_cross_entropy_with_logits of one-hot labels",
        DROP,
        "step 1, loss",
        (),
        backend(trainer="BinaryLoss"),
        says=("loss: each class has a binary cross-entropy",),
    ),
    "TORCH_NO_SMOOTHING": Mutant(
        "cross_entropy without label_smoothing",
        SMOOTHING,
        "step 1, loss",
        (),
        backend(trainer="NoSmoothing"),
        says=("loss: labels are not smoothed",),
    ),
    "TORCH_SMOOTHING_OVER_THE_OTHERS": Mutant(
        "hand-written label smoothing over the other classes",
        SMOOTHING,
        "step 1, loss",
        (),
        backend(trainer="SmoothingOverTheOthers"),
        says=("loss: the smoothed share goes to the other classes alone",),
    ),
    "TORCH_MEMORY_EFFICIENT": Mutant(
        "memory_efficient=True of torchvision: checkpoints with norms in them",
        DROP,
        "step 1, running statistic block1.layer1.norm1.running_mean",
        (),
        backend(_norms_computed_again),
        says=("its running statistics are updated twice in a step",),
    ),
    "TORCH_TWO_FORWARD_PASSES": Mutant(
        "a second forward pass in training mode, for the accuracy",
        DROP,
        "step 1, running statistic stem.norm.running_mean",
        (),
        backend(trainer="TwoForwardPasses"),
        says=("all 13 norms: its running statistics are updated twice in a step",),
    ),
    "TORCH_CLIPPED": Mutant(
        "clip_grad_norm_(1.0)",
        DROP,
        "step 1, gradient",
        (),
        backend(trainer="Clipped"),
        says=("clipped to a norm of 1",),
    ),
    "TORCH_GAMMA_FROZEN": Mutant(
        "gammas have no gradient",
        DROP,
        "step 1, gradient stem.norm.gamma",
        (),
        backend(trainer="GammaFrozen"),
        says=("gradient of every gamma: it is not trained",),
    ),
    "TORCH_DROPOUT_2D": Mutant(
        "Dropout2d for Dropout",
        MASKS,
        "step 1, loss",
        (),
        backend(trainer="DropsMaps"),
        says=("all 7 dropouts: whole feature maps are dropped",),
    ),
    "TORCH_KEEP_RATE": Mutant(
        "what is kept is divided by the rate",
        MASKS,
        "step 1, loss",
        (),
        backend(trainer="DividesByRate"),
        says=("all 7 dropouts: the rate is taken for the one that is kept",),
    ),
    "TORCH_DROPOUT_AT_ENDS": Mutant(
        "dropout at the end of dense layers alone, as torchvision's drop_rate",
        MASKS,
        "step 1, loss",
        (),
        backend(trainer="DropsAtLayerEnds"),
        says=("it drops nothing",),
    ),
    "TORCH_MASK_OF_WHAT_TO_DROP": Mutant(
        "masks are taken for what to drop",
        MASKS,
        "step 1, loss",
        (),
        backend(trainer="DropsTheOthers"),
        says=("all 7 dropouts: what a mask marks is dropped",),
    ),
    "TORCH_OPTIMIZER_NOT_RESTORED": Mutant(
        "optimizer.load_state_dict() is forgotten",
        RESUMED,
        "step 26, velocity",
        (),
        backend(trainer="ForgetsMomentum"),
        says=("a resumed run starts without the optimizer's moments",),
    ),
    "TORCH_UNKNOWN_LABELS_ABSENT": Mutant(
        "labels that are not known are taken for 0",
        LABELS,
        "step 1, loss",
        (),
        backend(trainer="UnknownAsAbsent"),
        says=("loss: labels that are not known count as absent",),
    ),
    "TORCH_OVER_KNOWN_LABELS": Mutant(
        "the loss is a mean over what is known",
        LABELS,
        "step 1, loss",
        (),
        backend(trainer="OverKnownLabels"),
        says=("loss: the loss is a mean over the labels that are known",),
    ),
    "TORCH_LABELS_SUMMED": Mutant(
        "the losses of labels are summed",
        LABELS,
        "step 1, loss",
        (),
        backend(trainer="LabelsSummed"),
        says=("loss: the losses of a sample's labels are added up",),
    ),
    "TORCH_CLASS_WEIGHTS_IGNORED": Mutant(
        "class weights are ignored",
        WEIGHTS,
        "step 1, loss",
        (),
        backend(trainer="WeightsIgnored"),
        says=("loss: classes have no weights",),
    ),
    "TORCH_CLASS_WEIGHTS_NORMALISED": Mutant(
        "CrossEntropyLoss(weight=...), which divides by the sum of weights",
        WEIGHTS,
        "step 1, loss",
        (),
        backend(trainer="WeightsNormalised"),
        says=("loss: the loss is divided by the sum of the weights of its labels",),
    ),
    "TORCH_STEPS_COUNTED_ANEW": Mutant(
        "Adam's step is not restored, but its moments are",
        RESUMED_ADAMW,
        "step 26, average",
        (),
        backend(trainer="CountsAnew"),
        says=("corrects the bias of its moments as if it had just begun",),
    ),
    "TORCH_ADAM_KERAS_EPSILON": Mutant(
        "epsilon where keras.optimizers.AdamW has it",
        ADAMW,
        "step 1, weight",
        (),
        backend(trainer="KerasEpsilon"),
        says=("epsilon is added to the root of the second moment before its bias",),
    ),
    "TORCH_ADAM_EPSILON_WITHIN_ROOT": Mutant(
        "epsilon within the root, as optax's eps_root",
        ADAMW,
        "step 1, weight",
        (),
        backend(trainer="EpsilonWithinRoot"),
        says=("epsilon is added to the second moment, within the root",),
    ),
    "TORCH_NO_BIAS_CORRECTION": Mutant(
        "AdamW with correct_bias=False",
        ADAMW,
        "step 1, weight",
        (),
        backend(trainer="NoCorrection"),
        says=("the bias of the moments is not corrected",),
    ),
    "TORCH_COUPLED_ADAM": Mutant(
        "torch.optim.Adam for AdamW",
        ADAMW,
        "step 1, first moment",
        (),
        backend(trainer="Coupled"),
        says=("weight decay is part of the gradient, and so of the moments",),
    ),
    "TORCH_RMSPROP": Mutant(
        "torch.optim.RMSprop for that of TensorFlow",
        RMSPROP,
        "step 1, mean square",
        (),
        backend(trainer="RMSPropOfTorch"),
        says=(
            "epsilon is added to the root of the mean square",
            "the mean square starts at 0",
            "velocity holds no learning rate",
        ),
    ),
    "TORCH_NOT_CLIPPED": Mutant(
        "gradients are not clipped",
        CLIPPED,
        "step 1, velocity",
        (),
        backend(trainer="NotClipped"),
        says=("the norm of the gradients is not clipped",),
    ),
    "TORCH_CLIPPED_WITH_MARGIN": Mutant(
        "gradients clipped by torch.nn.utils.clip_grad_norm_",
        CLIPPED,
        "step 1, velocity",
        (),
        backend(trainer="ClippedByTorch"),
        says=("clipped by a factor of norm / (length + 1e-6)",),
    ),
    "TORCH_CLIPPED_EACH": Mutant(
        "each gradient clipped by itself, as Keras's clipnorm",
        CLIPPED,
        "step 1, velocity",
        (),
        backend(trainer="ClippedEach"),
        says=("the gradient of each weight is clipped by itself",),
    ),
    "TORCH_CLIPPED_VALUES": Mutant(
        "clip_grad_value_ for the norm",
        CLIPPED,
        "step 1, velocity",
        (),
        backend(trainer="ClippedValues"),
        says=("each value of the gradients is clipped by itself",),
    ),
    "TORCH_FACTORS_ON_GRADIENTS": Mutant(
        "factors of layers multiply gradients, by hooks",
        LAYER_RATES,
        "step 1, velocity",
        (),
        backend(trainer="FactorsOnGradients"),
        says=("factors of layers multiply their gradients, not their learning rates",),
    ),
    "TORCH_AVERAGED_MODEL": Mutant(
        "averages by torch.optim.swa_utils.AveragedModel, without buffers",
        AVERAGE,
        "step 1, average",
        (),
        backend(trainer="AveragedByTorch"),
        says=(
            "it starts with what the first step came to",
            "averages of every running_mean and running_variance: it is the array itself",
        ),
    ),
    "TORCH_AVERAGED_EVERY_FOURTH_STEP": Mutant(
        "averages every fourth step, by torchvision's reference",
        AVERAGE,
        "step 1, average",
        (),
        backend(trainer="AveragedByTorchvision"),
        says=("arrays: it is updated in every 4th step alone",),
    ),
    "TORCH_AVERAGED_PARAMETERS": Mutant(
        "averages of model.parameters() alone",
        AVERAGE,
        "step 1, average",
        (),
        backend(trainer="AveragedByHand"),
        says=(
            "averages of every running_mean and running_variance: it stays what it was at first",
        ),
    ),
    "TORCH_AVERAGE_NOT_WARMED_UP": Mutant(
        "averages keep as much from the first step on",
        WARMED_AVERAGE,
        "step 1, average",
        (),
        backend(trainer="NotWarmedUp"),
        says=("arrays: it keeps as much from the first step on",),
    ),
    "TORCH_AVERAGED_EARLY": Mutant(
        "averages are updated before the step",
        AVERAGE,
        "step 1, average",
        (),
        backend(trainer="AveragedEarly"),
        says=("arrays: it takes up the array before the step",),
    ),
    "TORCH_WEIGHTS_OF_PROBABILITIES": Mutant(
        "nn.CrossEntropyLoss(weight=...) of shares",
        SHARES,
        "step 1, loss",
        (),
        backend(trainer="WeightsOfProbabilities"),
        says=("loss: each class of the smoothed target is weighed",),
    ),
    "TORCH_LARGEST_SHARE": Mutant(
        "a loss of the class with the largest share",
        SHARES,
        "step 1, loss",
        (),
        backend(trainer="LargestShare"),
        says=("loss: a label of several classes counts as the one with the largest share",),
    ),
    "TORCH_PARTS_SUMMED": Mutant(
        "the losses of a batch's parts are not divided by their number",
        ACCUMULATED,
        "step 1, loss",
        (),
        backend(trainer="PartsSummed"),
        says=("parts: gradients of parts are added up, and so are their losses",),
    ),
    "TORCH_PARTS_ALIKE": Mutant(
        "the losses of a batch's parts are divided by their number, whatever their size",
        ACCUMULATED,
        "step 1, loss",
        (),
        backend(trainer="PartsAlike"),
        says=("parts: parts count alike, whatever their size",),
    ),
    "TORCH_LAST_PART_ALONE": Mutant(
        "optimizer.zero_grad() before each part",
        ACCUMULATED,
        "step 1, loss",
        (),
        backend(trainer="LastPartAlone"),
        says=("parts: gradients are those of the last part alone",),
    ),
    "TORCH_NOT_ACCUMULATED": Mutant(
        "a batch is not split into parts",
        ACCUMULATED,
        "step 1, loss",
        (),
        backend(trainer="NotAccumulated"),
        says=("parts: a batch is not split, so norms see all of it",),
    ),
}
