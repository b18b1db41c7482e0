"""Finds which network a model's modules are now, whatever was changed since they were made.

Numbers that a spec has (epsilon, momentum, the rate of dropouts, the layers of the head) are read
from the modules. Everything else has to be what this package makes of the graph.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from densespec.errors import ModelChanged, shown
from densespec.network.graph import CLASSIFIER, Graph, Pooling, in_head, lower
from densespec.network.ops import Activation, BatchNorm, Dropout, GroupNorm, PRelu, Relu
from densespec.network.spec import GLOBAL_POOLS, DenseNetSpec
from densespec.weights.layouts.torch_names import key_of, module_path, state_keys
from densespec.weights.stated.network import StatedOtherwise
from densespec.weights.stated.torch_modules import facts, fields_of_modules
from densespec_torch import norms
from densespec_torch.as_built import DROPOUTS, patched, untouched
from densespec_torch.modules import Part
from densespec_torch.norms import NORM, FrozenDropout, FrozenNorm, SynchronisedNorm

_ACTIVATIONS = {nn.Softmax: "softmax", nn.Sigmoid: "sigmoid"}
"""Maps the modules that may end a network behind its head to the names of their nodes."""

NORMS = (BatchNorm, GroupNorm)

_OTHERWISE_CALLED: dict[type[nn.Module], type[nn.Module]] = {norms.GroupNorm: nn.GroupNorm}
"""Maps classes to those that compute the same."""

IGNORED = frozenset(
    {"training", "inplace", "process_group", "biased", "turns", "taken", "fuses_from"}
)
"""These attributes of modules change no value that is computed, but at most how."""


def graph_of(model: nn.Module, graph: Graph, kind: Callable[[Graph], nn.Module]) -> Graph:
    """Return the graph that a model of some kind, which was built of another graph, is of now.

    Raises:
        ModelChanged: A module is not what any spec says.
    """
    if not model._modules:  # prepared for inference: nothing of it can be changed
        _compare("", model, kind(graph))
        return graph
    now = _restated(model, graph)
    with torch.device("meta"):
        expected = kind(now)
    children = {module_path(node.name).partition(".")[0] for node in graph.nodes[1:]}
    _compare_names(model._modules, {name: model._modules.get(name) for name in children})
    wanted = dict(_backbone(expected))
    found = _backbone(model)
    _compare_all({n: m for n, m in found if n in wanted or type(m) is not nn.Identity}, wanted)
    _compare_heads(model, expected)
    return now


def check_infers(model: nn.Module) -> None:
    """Check that no part of a model in inference mode trains, as dropouts do that go on dropping.

    Raises:
        ModelChanged: A norm or a dropout does; a network for inference could not say so.
    """
    for name, module in model.named_modules():
        frozen = isinstance(module, FrozenNorm | FrozenDropout)
        acts = isinstance(module, _BatchNorm | _DropoutNd) and not frozen
        if acts and module.training and not model.training and not _does_nothing(module):
            _refuse(name, f"{_described(module)} in training mode", "what the whole model is in")


def keys_of(model: nn.Module, graph: Graph) -> dict[str, str]:
    """Return the key in a model's ``state_dict`` of every array of its graph, by canonical name."""
    paths = _head_paths(model, graph)
    return state_keys(graph, key_of(lambda node: paths.get(node) or module_path(node)))


# What a spec can say


def _restated(model: nn.Module, graph: Graph) -> Graph:
    """Lower the graph anew, with the numbers that the modules have."""
    spec = graph.spec.replace(**_kinds(model, graph)).replace(**_numbers(model, graph))
    options, pool = graph.ends, _kind_of(_found(model, "global_pool"))
    if graph.has_classifier:
        spec = spec.replace(global_pool=pool or spec.global_pool)
        spec, options = _with_head(model, spec, options)
    elif pool and graph.pooling:
        options["pooling"] = pool
    now = lower(spec, graph.input_size, **options)
    frozen = {node.name for node in graph.nodes if node.frozen}
    return replace(now, nodes=tuple(replace(n, frozen=n.name in frozen) for n in now.nodes))


def _kind_of(pool: nn.Module | None) -> Pooling | None:
    kind = getattr(pool, "kind", None)
    return kind if kind in GLOBAL_POOLS else None


def _kinds(model: nn.Module, graph: Graph) -> dict[str, Any]:
    """Read which activation and which norm the modules are, where they are all one."""
    nodes = (n for n in graph.nodes_of(Relu, Activation, PRelu, *NORMS) if not in_head(n.name))
    found = ((path := module_path(node.name), _found(model, path)) for node in nodes)
    try:
        return fields_of_modules(
            {path: facts(_class_of(m), vars(m)) for path, m in found if m is not None}, ""
        )
    except StatedOtherwise:
        return {}


def _class_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _numbers(model: nn.Module, graph: Graph) -> dict[str, float]:
    """Read what modules of one kind share: what most of them have, and the others should have.

    Values of another type than a spec's are left to the comparison of modules.
    """
    numbers = {}
    for op, field, attribute in (
        (NORMS, "batch_norm_epsilon", "eps"),
        ((BatchNorm,), "batch_norm_momentum", "momentum"),
        ((Dropout,), "dropout_rate", "p"),
    ):
        nodes = (node for node in graph.nodes_of(*op) if not in_head(node.name))
        modules = (_found(model, module_path(node.name)) for node in nodes)
        values = [getattr(module, attribute, None) for module in modules]
        value = statistics.mode(values) if values else None
        if isinstance(value, float) and (0 < value < 1 or (op == (Dropout,) and value == 0)):
            numbers[field] = value
    return numbers


def _found(model: nn.Module, path: str) -> nn.Module | None:
    module: Any = model
    for name in path.split("."):
        module = module._modules.get(name) if isinstance(module, nn.Module) else None
    return module


def _with_head(
    model: nn.Module, spec: DenseNetSpec, options: dict[str, Any]
) -> tuple[DenseNetSpec, dict[str, Any]]:
    """Read the head from its modules; one that no spec can say is left to the comparison."""
    leaves = [module for _, module in _head(model)]
    if not leaves and isinstance(_found(model, CLASSIFIER), nn.Identity) and not spec.head_units:
        ends = {
            "include_top": False,
            "pooling": spec.global_pool,
            "classifier_activation": None,
        }
        return spec, options | ends
    activation = _ACTIVATIONS.get(type(leaves[-1])) if leaves else None
    linear = leaves[:-1] if activation else leaves
    dropout = linear.pop(-2) if isinstance(linear[-2:][0], DROPOUTS) else None
    pattern = [nn.ReLU if place % 2 else nn.Linear for place in range(len(linear))]
    if len(linear) % 2 == 0 or [type(module) for module in linear] != pattern:
        return spec, options
    *units, classes = [module.out_features for module in linear[::2]]
    return spec.replace(
        classes=classes,
        head_units=units,
        classifier_bias=linear[-1].bias is not None,
        head_dropout_rate=dropout.p if dropout else 0.0,
    ), options | {"classifier_activation": activation}


def _head(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers of the head, in order, with their paths; a Sequential counts as its own."""
    for name, module in model.named_children():
        if _in_head(name):
            yield from _flat(name, module)


def _flat(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    if type(module) is nn.Identity:
        return
    if not module._modules:
        yield path, module
    for name, child in module.named_children():
        yield from _flat(f"{path}.{name}", child)


def _head_paths(model: nn.Module, graph: Graph) -> dict[str, str]:
    """Return the path of the module of each node of the head."""
    nodes = [node.name for node in graph.nodes if _in_head(node.name)]
    return dict(zip(nodes, (path for path, _ in _head(model)), strict=False))


# Whether modules are what the spec says


def _backbone(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model itself and all modules before the head, by name, which may be shared.

    Dropouts that drop nothing are left out: no spec has them.
    """
    for name, module in model.named_modules(remove_duplicate=False):
        if not _in_head(name) and not _does_nothing(module):
            yield name, module


def _does_nothing(module: nn.Module) -> bool:
    return type(module) in DROPOUTS and vars(module)["p"] == 0 and _as_its_class(module)


def _in_head(name: str) -> bool:
    return in_head(name) or name in _ACTIVATIONS.values()


def _compare_names(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, module in actual.items():
        if name not in expected:
            _refuse(name, _described(module), "nothing there")
    for name, module in expected.items():
        if actual.get(name) is None:
            _refuse(name, "not there", _described(module))


def _compare_all(actual: Mapping[str, nn.Module], expected: Mapping[str, nn.Module]) -> None:
    _compare_names(actual, expected)
    seen: dict[nn.Module, str] = {}
    for name, module in actual.items():
        _compare(name, module, expected[name])
        if module._buffers and (other := seen.setdefault(module, name)) != name:
            _refuse(name, f"the module {other}", f"one of its own, {_described(expected[name])}")


def _compare_heads(model: nn.Module, expected: nn.Module) -> None:
    """Compare the layers of the head in order; they may stand in a Sequential."""
    for name, module in model.named_modules():
        if _in_head(name) and (module._modules or type(module) is nn.Identity):
            kinds_fit = type(module) in (nn.Sequential, nn.Identity, Part)
            if not kinds_fit or not _as_its_class(module):
                _refuse(name, _described(module), "a head of dense layers")
    layers, wanted = list(_head(model)), list(_head(expected))
    for (name, own), (_, module) in zip(layers, wanted, strict=False):
        _compare(name, own, module)
    for name, module in layers[len(wanted) :]:
        _refuse(name, _described(module), "nothing there")
    for name, module in wanted[len(layers) :]:
        _refuse(name, "not there", _described(module))


def _compare(name: str, actual: nn.Module, expected: nn.Module) -> None:
    if not _as_its_class(actual):
        methods = " or ".join(patched(actual)) or "forward"
        _refuse(name, f"{_described(actual)} with hooks or another {methods}", _described(expected))
    if not (_same_kind(actual, expected) and _same_settings(actual, expected)):
        _refuse(name, _described(actual), _described(expected))
    for held in ("_parameters", "_buffers"):
        own, wanted = _shapes(getattr(actual, held)), _shapes(getattr(expected, held))
        if own != wanted:
            _refuse(name, f"{_described(actual)} with arrays {own}", f"arrays {wanted}")


def _as_its_class(module: nn.Module) -> bool:
    return untouched(module) and not patched(module)


def _same_kind(actual: nn.Module, expected: nn.Module) -> bool:
    if isinstance(actual, SynchronisedNorm):
        unbiased = type(expected) in NORM.values()
        return isinstance(expected, _BatchNorm) and actual.biased != unbiased
    return type(actual) in (type(expected), _OTHERWISE_CALLED.get(type(expected)))


def _same_settings(actual: nn.Module, expected: nn.Module) -> bool:
    own = vars(actual)
    return all(
        name in own and _plain(own[name]) == _plain(value)
        for name, value in vars(expected).items()
        if not name.startswith("_") and name not in IGNORED
    )


def _plain(value: Any) -> Any:
    """Return one number for a tuple of the same ones: PyTorch takes either."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return _plain(value[0])
    return value


def _shapes(held: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in held.items() if tensor is not None}


def _described(module: nn.Module) -> str:
    return shown(module) if not module._modules else type(module).__name__


def _refuse(name: str, actual: str, expected: str) -> NoReturn:
    raise ModelChanged(name or "the model itself", actual, expected)
