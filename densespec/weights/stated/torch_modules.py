"""Reads what the modules of a whole PyTorch model say of what it computes.

A state dict has only arrays. A model that was saved or given whole also has its modules, with their
epsilon, strides, pools and activations. No file says what the program that calls them does.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from densespec.errors import bare, listed, shown
from densespec.network.graph import CLASSIFIER, Graph, Node, in_head
from densespec.network.ops import Activation, BatchNorm, Conv, GroupNorm, MaxPool, Padding, PRelu
from densespec.texts import JsonError, parsed_json
from densespec.weights.stated.network import StatedOtherwise
from densespec.weights.stated.timm import POOLS

KEY = "modules"
"""The metadata key that holds the modules, as JSON."""

TORCH = "torch.nn.modules."
PROGRAMS = ("torchvision.", "timm.", "monai.", "torchxrayvision.", "densespec_torch.")
"""The networks of these packages call their modules as their layouts say."""

ATTRIBUTES = (
    *("eps", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    *("ceil_mode", "output_size", "track_running_stats", "pool_type", "kind", "apply_sigmoid"),
    *("forward", "filt_size", "pad_mode"),
    *("_forward_hooks", "_forward_pre_hooks"),
    *("negative_slope", "alpha", "approximate", "num_groups", "affine"),
)
"""These attributes of a module are kept."""

LARGEST = 2**31
"""Larger whole numbers in a module are not kept as they are."""

OTHER = "something else"
"""This stands for an attribute that is no number, no text and no tuple of such."""

FINAL_POOL = "final_pool"
"""Pytorchcv's name for the pool over a whole last map, whose size it states."""

BLURS = ("BlurPool", "BlurPool2d")
"""These classes of densespec and timm are pools that blur."""

ENDS = {"Sigmoid": "sigmoid", "Softmax": "softmax"}
SILENT = ("Sequential", "ModuleList", "ModuleDict", "Identity", "Flatten", "ReLU", "Linear")
SILENT_STARTS = ("Conv", "BatchNorm", "SyncBatchNorm", "Dropout", "AlphaDropout", "DataParallel")
"""These classes of PyTorch change nothing, or their arrays tell what they do."""

ACTIVATIONS: Mapping[str, str] = {
    "ReLU": "relu",
    "LeakyReLU": "leaky-relu",
    "ELU": "elu",
    "SiLU": "silu",
    "GELU": "gelu",
    "ReLU6": "relu6",
    "PReLU": "prelu",
}
"""Maps PyTorch's classes to the activations of a spec."""
OTHER_ACTIVATIONS: Mapping[str, str] = {
    "monai.networks.blocks.activation.Swish": "silu",
    "monai.networks.blocks.activation.MemoryEfficientSwish": "silu",
    "timm.layers.activations.GELU": "gelu",
    "timm.layers.activations.GELUTanh": "gelu-tanh",
    "timm.layers.activations.PReLU": "prelu",
}
"""Maps other packages' classes, by full names, to the activations of a spec; others are refused."""
NORMS: Mapping[str, str] = {
    "BatchNorm": "batch",
    "SyncBatchNorm": "batch",
    "InstanceNorm": "instance",
    "GroupNorm": "group",
}
"""Maps what PyTorch's classes start with to the norms of a spec."""
OTHER_NORMS: Mapping[str, str] = {
    "densespec_torch.norms.GroupNorm": "group",
    "timm.layers.norm_act.BatchNormAct2d": "batch",
    "timm.layers.norm_act.SyncBatchNormAct": "batch",
    "timm.layers.norm_act.GroupNormAct": "group",
    "timm.layers.norm_act.GroupNorm1Act": "group",
}
"""Maps other packages' classes, by full names, to the norms of a spec."""
NORM_PATH = re.compile(r"(?:.*\.)?norm\d*")

GIVE_SPEC = "give the spec that says so (--spec FILE)"
SAVE_STATE = (
    "if the network's own program does not use it, save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


@dataclass(frozen=True)
class ModuleFacts:
    """Describes what is known of a module.

    Attributes:
        kind: The full name of its class.
        attributes: Some of its attributes by name: numbers, texts, None, and lists of such.
    """

    kind: str
    attributes: Mapping[str, Any]

    @property
    def torch_class(self) -> str:
        """Return the name of its class, if that is one of PyTorch's; empty otherwise."""
        return self.kind.rpartition(".")[2] if self.kind.startswith(TORCH) else ""

    @property
    def has_own_program(self) -> bool:
        """Say whether more than its class says what it computes: hooks, or another forward."""
        names = ("_forward_hooks", "_forward_pre_hooks", "forward")
        return any(self.attributes.get(name) for name in names)


Modules = Mapping[str, ModuleFacts]
"""Holds the modules of a model by dotted paths, in order; the model's own path is empty."""


def facts(kind: str, attributes: Mapping[str, Any]) -> ModuleFacts:
    """Keep what matters of a module, of whose attributes nothing is known."""
    kept = {name: _plain(attributes[name]) for name in ATTRIBUTES if name in attributes}
    return ModuleFacts(kind, kept)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | float():
            return value
        case Mapping() if not value:
            return None
        case int() if abs(value) < LARGEST:
            return value
        case str():
            return value[:100]
        case tuple() | list() if len(value) <= 3:
            return [_plain(one) if isinstance(one, int) else OTHER for one in value]
    return OTHER


def as_text(modules: Modules) -> str:
    """Write modules as the text that :func:`modules_in` reads."""
    return json.dumps({path: [one.kind, one.attributes] for path, one in modules.items()})


def modules_in(metadata: Mapping[str, str]) -> Modules:
    """Return the modules that metadata hold; none if they hold none."""
    try:
        table = parsed_json(metadata.get(KEY, "{}"), "the text of its modules")
        if not isinstance(table, dict):
            raise JsonError(f"{shown(table)} is no table of modules")
        modules = {path: _facts_in(entry) for path, entry in table.items()}
    except JsonError as error:
        raise StatedOtherwise(f"what it says of its modules can't be read: {error}") from error
    if modules and "" not in modules:
        raise StatedOtherwise("what it says of its modules lacks the model itself")
    return modules


def _facts_in(entry: Any) -> ModuleFacts:
    match entry:
        case [str(kind), dict(attributes)]:
            return facts(kind, attributes)
    raise JsonError(f"{shown(entry)} is no module")


# The head


def activation_between(modules: Modules, linears: Sequence[str]) -> Literal["relu", "none"] | None:
    """Say what stands between the linear layers of a head, if they are in one ``Sequential``.

    Args:
        linears: Their paths in order.

    Returns:
        ``"relu"`` or ``"none"``; None where modules do not tell.

    Raises:
        StatedOtherwise: Something else stands there.
    """
    between = [_between(modules, *pair) for pair in itertools.pairwise(linears)]
    if not between or None in between:
        return None
    have_relu = {_has_relu(modules, paths or ()) for paths in between}
    if len(have_relu) > 1:
        raise StatedOtherwise("its head has a ReLU between only some of its linear layers")
    return "relu" if have_relu.pop() else "none"


def _between(modules: Modules, first: str, last: str) -> list[str] | None:
    home = _parent(first)
    if _parent(last) != home or not _is_sequential(modules, home):
        return None
    siblings = _children(modules, home)
    return siblings[siblings.index(first) + 1 : siblings.index(last)]


def _has_relu(modules: Modules, paths: Iterable[str]) -> bool:
    return any(modules[path].torch_class == "ReLU" for path in paths)


# Fields of a spec that modules tell


def fields_of_modules(modules: Modules, prefix: str) -> dict[str, Any]:
    """Read which activation and which norm a network's modules are, where they are all one.

    Raises:
        StatedOtherwise: They are set as no spec says.
    """
    own = {
        path: module
        for path, module in modules.items()
        if path.startswith(prefix) and not _behind_linear(modules, path)
    }
    kinds = [_activation_fields(path, module) for path, module in own.items()]
    norms = [_norm_fields(path, module) for path, module in own.items()]
    return {**_only(kinds), **_only(norms)}


def _only(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields that all modules state; none if they differ, which is refused later."""
    told = [fields for fields in found if fields]
    return told[0] if told and all(fields == told[0] for fields in told) else {}


def _activation_fields(path: str, module: ModuleFacts) -> dict[str, Any]:
    kind = _activation_of(module)
    if kind is None:
        return {}
    attributes = module.attributes
    if kind == "leaky-relu":
        return {"activation": kind, "activation_slope": attributes.get("negative_slope", 0.01)}
    if attributes.get("alpha", 1.0) != 1.0:
        raise StatedOtherwise(
            f"{bare(path)} has alpha = {shown(attributes['alpha'])}, but a spec can say 1.0"
        )
    if kind == "gelu" and attributes.get("approximate") == "tanh":
        kind = "gelu-tanh"
    return {"activation": kind}


def _activation_of(module: ModuleFacts) -> str | None:
    return OTHER_ACTIVATIONS.get(module.kind) or ACTIVATIONS.get(module.torch_class)


def _norm_fields(path: str, module: ModuleFacts) -> dict[str, Any]:
    if _is_no_norm(path, module):
        return {"norm": "none"}
    kind = _norm_of(module)
    if kind == "instance" and module.attributes.get("track_running_stats"):
        raise StatedOtherwise(
            f"{bare(path)} is an instance norm with running statistics, which no spec says"
        )
    if kind == "batch" and module.attributes.get("track_running_stats") is False:
        raise StatedOtherwise(
            f"{bare(path)} is a batch norm without running statistics, which no spec says"
        )
    if kind is None:
        return {}
    told = {"affine": "norm_affine", "num_groups": "norm_groups"}
    known = {told[name]: value for name, value in module.attributes.items() if name in told}
    return {"norm": kind, **known}


def _norm_of(module: ModuleFacts) -> str | None:
    starts = (start for start in NORMS if module.torch_class.startswith(start))
    return OTHER_NORMS.get(module.kind) or next((NORMS[start] for start in starts), None)


def _is_no_norm(path: str, module: ModuleFacts) -> bool:
    """Say whether a module stands for a norm that is left out."""
    return module.torch_class == "Identity" and NORM_PATH.fullmatch(path) is not None


def _behind_linear(modules: Modules, path: str) -> bool:
    """Say whether a linear layer stands before a module in the same part, as in a head."""
    siblings = _children(modules, _parent(path)) if path else []
    before = siblings[: siblings.index(path)] if path in siblings else []
    return any(modules[sibling].torch_class == "Linear" for sibling in before)


# The whole network


@dataclass(frozen=True)
class Told:
    """Holds what modules say of a network whose arrays are known.

    Attributes:
        epsilon: The epsilon of its norms; None if no module states it.
        activation: The activation after its classifier, ``"softmax"`` or ``"sigmoid"``; None if
            there is none.
        global_pool: The kind of its global pool; None if no module states it.
        assumptions: Sentences that say what was assumed.
    """

    epsilon: float | None = None
    activation: str | None = None
    global_pool: str | None = None
    assumptions: tuple[str, ...] = ()


def told_by(modules: Modules, graph: Graph, paths: Mapping[str, str], prefix: str) -> Told:
    """Read what modules say of a network, and check that they are what a spec can say.

    Args:
        graph: The network as its arrays tell it.
        paths: The path of the module of each node that has arrays, by the node's name.
        prefix: What stands before the paths of the network's modules.

    Raises:
        StatedOtherwise: A module computes what no spec says, or not this one; the message names it.
    """
    if not modules:
        return Told()
    nodes = {path: graph[name] for name, path in paths.items() if path in modules}
    epsilon = _epsilon(modules, nodes, prefix)
    for path, module in modules.items():
        if path.startswith(prefix):
            _check_program(path, module)
    for path, node in nodes.items():
        _check_conv(path, modules[path], node)
    _check_activations(modules, graph, prefix)
    activation, ending = _end(modules, paths.get(CLASSIFIER, ""))
    body = {_first(path, prefix) for path, node in nodes.items() if not in_head(node.name)}
    ends = {path: kind for path, one in modules.items() if (kind := _global_pool(path, one))}
    known = (*nodes, ending, *ends)
    for path, module in modules.items():
        if path.startswith(prefix) and path not in known and _parent(path) not in ends:
            _check(path, module, graph, in_body=_first(path, prefix) in body)
    pool = next(iter(ends.values()), None)
    return Told(epsilon, activation, pool, tuple(_assumed(modules, prefix)))


def pools_of_modules(modules: Modules, prefix: str) -> dict[str, str]:
    """Return the fields that say which pools blur, as far as modules state them.

    Raises:
        StatedOtherwise: They blur as no spec says.
    """
    if not modules:
        return {}
    inside = {p.removeprefix(prefix): one for p, one in modules.items() if p.startswith(prefix)}
    blurs = [path for path, one in inside.items() if one.kind.rpartition(".")[2] in BLURS]
    for path in blurs:
        plain = {"filt_size": (3,), "stride": (2,), "pad_mode": ("reflect",)}
        _check_attributes(path, inside[path], plain)
    in_transitions = [path for path in blurs if "transition" in path]
    if not blurs and not _home(modules, prefix).kind.startswith(PROGRAMS):
        return {}
    return {
        "stem_pool_kind": "max-blur" if len(blurs) > len(in_transitions) else "max",
        "transition_pool_kind": "blur" if in_transitions else "avg",
    }


def _global_pool(path: str, module: ModuleFacts) -> str | None:
    """Return the kind of a global pool of timm's or densespec's own; None for another module."""
    named = path.rpartition(".")[2] == "global_pool"
    kind = module.attributes.get("pool_type") or module.attributes.get("kind")
    return POOLS.get(kind) if named and isinstance(kind, str) else None


def _first(path: str, prefix: str) -> str:
    return path.removeprefix(prefix).partition(".")[0]


def _check_activations(modules: Modules, graph: Graph, prefix: str) -> None:
    """Check that modules are all activations there are: functions that a program calls are not."""
    if graph.spec.activation == "relu":
        return
    told = [
        path
        for path, module in modules.items()
        if path.startswith(prefix)
        and _activation_of(module) not in (None, "relu")
        and not _behind_linear(modules, path)
    ]
    wanted = len(graph.nodes_of(Activation, PRelu))
    if len(told) != wanted:
        raise StatedOtherwise(
            f"{len(told)} of its modules compute {graph.spec.activation}, but the network has "
            f"{wanted} activations: the others are in its program, which is in no file: {GIVE_SPEC}"
        )


def _epsilon(modules: Modules, nodes: Mapping[str, Node], prefix: str) -> float | None:
    norms = [path for path, node in nodes.items() if isinstance(node.op, BatchNorm | GroupNorm)]
    norms += [
        path
        for path, module in modules.items()
        if path.startswith(prefix) and path not in nodes and _norm_of(module)
    ]
    values = {_epsilon_of(modules[path], path): path for path in norms}
    if len(values) > 1:
        told = " and ".join(f"{bare(path)} has {value!r}" for value, path in values.items())
        raise StatedOtherwise(f"its norms have several epsilons: {told}; a spec can say one")
    return next(iter(values), None)


def _epsilon_of(module: ModuleFacts, path: str) -> float | None:
    epsilon = module.attributes.get("eps")
    if epsilon is not None and type(epsilon) not in (int, float):
        raise StatedOtherwise(f"{bare(path)} has eps = {shown(epsilon)}, but should have a number")
    return epsilon


def _check_program(path: str, module: ModuleFacts) -> None:
    if module.has_own_program:
        raise StatedOtherwise(
            f"{bare(path) or 'the model'} has hooks, or a forward of its own, which no spec says: "
            f"{SAVE_STATE}"
        )


def _check_conv(path: str, module: ModuleFacts, node: Node) -> None:
    if not isinstance(node.op, Conv):
        return
    if module.attributes.get("stride") not in (None, [node.op.stride] * len(node.op.window)):
        raise StatedOtherwise(
            f"{bare(path)} has stride = {shown(module.attributes['stride'])}, but in the network "
            f"of these names it is {node.op.stride}: {GIVE_SPEC}"
        )
    plain = {"dilation": (1,), "groups": (1,), "padding_mode": ("zeros",)}
    _check_attributes(path, module, {**plain, "padding": _pads(node.op.padding)})


def _pads(padding: Padding) -> tuple[int, ...]:
    """Return the pads of each side; none if a dimension's two sides differ."""
    if padding == "same" or any(before != after for before, after in padding):
        return ()
    return tuple(before for before, _ in padding)


def _check_attributes(
    path: str, module: ModuleFacts, wanted: Mapping[str, tuple[Any, ...]]
) -> None:
    for name, values in wanted.items():
        found = module.attributes.get(name)
        each = found if isinstance(found, list) else [found]
        if found is not None and values and set(each) != set(values):
            raise StatedOtherwise(
                f"{bare(path)} has {name} = {shown(found)}, but in the network of these names it "
                f"is {values[0]!r}, and no spec says otherwise: {SAVE_STATE}"
            )


def _end(modules: Modules, classifier: str) -> tuple[str | None, str]:
    """Find the activation after the classifier, and the path of the module that computes it."""
    for path in _behind(modules, classifier):
        if (kind := modules[path].torch_class) in ENDS:
            return ENDS[kind], path
    if modules[""].attributes.get("apply_sigmoid") is True:
        return "sigmoid", ""
    return None, ""


def _behind(modules: Modules, path: str) -> list[str]:
    home = _parent(path)
    if path not in modules or not path or not _is_sequential(modules, home):
        return []
    siblings = _children(modules, home)
    return siblings[siblings.index(path) + 1 :]


def _check(path: str, module: ModuleFacts, graph: Graph, *, in_body: bool) -> None:
    """Check a module without arrays of the network: one that no spec says is refused."""
    kind = module.torch_class
    if kind == "Identity" and in_body and not _is_part_of_none(path, module, graph):
        raise StatedOtherwise(
            f"{bare(path)} is an Identity within the network, which no spec says: {SAVE_STATE}"
        )
    if kind.startswith("MaxPool"):
        _check_max_pool(path, module, graph)
    elif kind.startswith("AvgPool") and in_body and not path.endswith(FINAL_POOL):
        _check_attributes(path, module, {"kernel_size": (2,), "stride": (2,), "padding": (0,)})
    elif kind.startswith("AdaptiveAvgPool"):
        _check_attributes(path, module, {"output_size": (1,)})
    elif module.attributes.get("pool_type"):
        raise StatedOtherwise(f"{bare(path)} pools by {shown(module.attributes['pool_type'])}")
    elif _is_said(graph, module):
        return
    elif ".activation" in module.kind and not kind:
        name = module.kind.rpartition(".")[2]
        raise StatedOtherwise(f"{bare(path)} is a {bare(name)}, which no spec says: {SAVE_STATE}")
    elif kind and kind not in SILENT and not kind.startswith((*SILENT_STARTS, "AvgPool")):
        raise StatedOtherwise(f"{bare(path)} is a {bare(kind)}, which no spec says: {SAVE_STATE}")


def _is_part_of_none(path: str, module: ModuleFacts, graph: Graph) -> bool:
    """Say whether an Identity stands for a dropout, or for norms that the network lacks."""
    return path.endswith("drop") or (graph.spec.norm == "none" and _is_no_norm(path, module))


def _is_said(graph: Graph, module: ModuleFacts) -> bool:
    """Say whether a module is the activation or the norm of the spec."""
    spec = graph.spec
    said, activation = (
        (name or "").removesuffix("-tanh") for name in (spec.activation, _activation_of(module))
    )
    return (activation, _norm_of(module) or "") in ((said, ""), ("", spec.norm))


def _check_max_pool(path: str, module: ModuleFacts, graph: Graph) -> None:
    pools = [node.op for node in graph.nodes if isinstance(node.op, MaxPool)]
    if not pools:
        raise StatedOtherwise(
            f"{bare(path)} is a maximum pool, but in the network of these names there is none: "
            f"{GIVE_SPEC}"
        )
    op = pools[0]
    wanted = {"kernel_size": op.window[:1], "stride": (op.stride,), "padding": _pads(op.padding)}
    _check_attributes(path, module, {**wanted, "dilation": (1,), "ceil_mode": (False,)})


def _assumed(modules: Modules, prefix: str) -> Iterator[str]:
    """Yield what neither modules nor the layout tell: other people's programs, and code around."""
    home = _home(modules, prefix)
    if not home.kind.startswith((*PROGRAMS, TORCH)):
        yield (
            f"the program of {bare(home.kind)} is in no file: it is taken to call its modules as "
            "the program does whose names they have"
        )
    outside = [
        f"{bare(path)} ({bare(module.torch_class)})"
        for path, module in modules.items()
        if not path.startswith(prefix) and _changes_outputs(module)
    ]
    if outside:
        yield f"left out, as they lie around the network: {listed(outside)}"


def _home(modules: Modules, prefix: str) -> ModuleFacts:
    """Return the network itself, or else the whole model."""
    return modules.get(prefix.rstrip("."), modules[""])


def _changes_outputs(module: ModuleFacts) -> bool:
    kind = module.torch_class
    return bool(kind) and kind not in (*SILENT, "ReLU") and not kind.startswith(SILENT_STARTS)


# Paths


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _children(modules: Modules, home: str) -> list[str]:
    return [path for path in modules if path and _parent(path) == home]


def _is_sequential(modules: Modules, path: str) -> bool:
    return path in modules and modules[path].torch_class == "Sequential"
