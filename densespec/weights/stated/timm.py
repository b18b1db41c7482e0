"""Reads and writes timm's ``config.json`` of a DenseNet: its architecture and its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from densespec.errors import SpecError, WeightsError, listed, shown
from densespec.network.catalogue import catalogue
from densespec.network.differences import variant_of
from densespec.network.graph import Graph, lower
from densespec.network.spec import GLOBAL_POOLS, DenseNetSpec
from densespec.weights.stated.network import StatedNetwork, StatedOtherwise

ARCHITECTURE, ARGUMENTS = "architecture", "model_args"

ARCHITECTURES = (
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("densenet264d", "densenetblur121d"),
)
"""The architectures that specs have; the first stands for any other with its arguments."""

FIELDS = {
    "growth_rate": "growth_rate",
    "block_config": "blocks",
    "bn_size": "bottleneck_width",
    "num_classes": "classes",
    "in_chans": "in_channels",
    "drop_rate": "head_dropout_rate",
    "proj_drop_rate": "dropout_rate",
}
"""Maps those arguments that are fields of a spec to the fields' names."""

POOLS = {"fast": "avg"} | {name: kind for kind in GLOBAL_POOLS for name in (kind, f"fast{kind}")}
"""Maps timm's names of global pools to their kinds."""

SAYABLE: Mapping[str, tuple[Any, ...]] = {
    "global_pool": tuple(POOLS),
    "aa_layer": (None, ""),
    "aa_stem_only": (True, False),
    "stem_type": ("", None, "deep"),
}
"""A spec can state these values of arguments that are no fields."""

ACTIVATIONS: Mapping[Any, Mapping[str, Any]] = {
    None: {},
    "relu": {},
    "leaky_relu": {"activation": "leaky-relu"},
    **{name: {"activation": name} for name in ("elu", "silu", "gelu", "relu6", "prelu")},
    "gelu_tanh": {"activation": "gelu-tanh"},
    "swish": {"activation": "silu"},
}
NORMS: Mapping[Any, Mapping[str, Any]] = {
    **{name: {} for name in (None, "batchnorm2d", "batchnorm", "bn")},
    "groupnorm": {"norm": "group", "norm_groups": 32},
    "groupnorm1": {"norm": "group", "norm_groups": 1},
}
CHOICES = {"act_layer": ACTIVATIONS, "norm_layer": NORMS}
"""Lists the values of an argument among a spec's fields, by the argument's name."""

IMMATERIAL = (
    "cache_dir",
    "checkpoint_path",
    "exportable",
    "memory_efficient",
    "no_jit",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "scriptable",
)
"""These arguments change nothing in inference."""


def states_network(config: Mapping[str, Any]) -> bool:
    """Say whether a config is one of timm's."""
    return isinstance(config.get(ARCHITECTURE), str)


def timm_network(config: Mapping[str, Any]) -> StatedNetwork:
    """Read the network that a config of timm's states.

    Raises:
        WeightsError: It is no DenseNet, or none that a spec says; the message names the argument.
    """
    arguments = config.get(ARGUMENTS) or {}
    if not isinstance(arguments, dict):
        raise WeightsError(f"{ARGUMENTS} should be a JSON object, but is {shown(arguments)}")
    stated = {
        **{name: config[name] for name in ("global_pool", "num_classes") if name in config},
        **arguments,
    }
    base = _architecture(config[ARCHITECTURE])
    headless = stated.get("num_classes") == 0
    for name, value in stated.items():
        _check(name, value, headless)
    return StatedNetwork(_spec(base, stated, headless), _ends(stated, headless))


def _architecture(name: str) -> DenseNetSpec:
    plain = name.partition(".")[0].removeprefix("tv_")
    known = {known: variant.spec for known, variant in catalogue().items() if known == plain}
    if not plain.startswith("densenet") or not known:
        raise StatedOtherwise(
            f"its {ARCHITECTURE} is timm's {shown(name)}, which is no DenseNet that a spec says"
        )
    return known[plain]


def _check(name: str, value: Any, headless: bool) -> None:
    if name in FIELDS or name in IMMATERIAL:
        return
    allowed = SAYABLE.get(name) or tuple(CHOICES.get(name, ()))
    if name == "global_pool" and headless:
        allowed = (*POOLS, "")
    if isinstance(value, list | dict) or value not in allowed:
        can = " or ".join(repr(one) for one in allowed) if allowed else "nothing of it"
        raise StatedOtherwise(f"it has {name} = {shown(value)}, but a spec can say {can}")


def _spec(base: DenseNetSpec, stated: Mapping[str, Any], headless: bool) -> DenseNetSpec:
    changes = {FIELDS[name]: value for name, value in stated.items() if name in FIELDS}
    for name in CHOICES.keys() & stated.keys():
        changes |= CHOICES[name][stated[name]]
    if headless:
        del changes["classes"]
    else:
        changes["global_pool"] = POOLS[stated.get("global_pool", "avg")]
    changes |= _stem(base, stated)
    if changes.get("growth_rate", base.growth_rate) != base.growth_rate:
        changes["stem_width"] = "2k"
    try:
        return base.replace(**changes)
    except SpecError as error:
        raise WeightsError(f"its {ARGUMENTS} make no valid spec: {error}") from error


def _stem(base: DenseNetSpec, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stem and the pools, as timm's arguments change those of an architecture."""
    deep = stated.get("stem_type", "deep" if base.stem_kind == "deep" else "")
    blurs = bool(stated.get("aa_layer", base.stem_pool_kind == "max-blur"))
    everywhere = blurs and stated.get("aa_stem_only", True) is False
    return {
        "stem_kind": "deep" if deep else "conv-norm-relu",
        "stem_kernel": 3 if deep else 7,
        "stem_pool_kind": "max-blur" if blurs else "max",
        "transition_pool_kind": "blur" if everywhere else "avg",
    }


def _ends(stated: Mapping[str, Any], headless: bool) -> dict[str, Any]:
    if not headless:
        return {"include_top": True}
    return {"include_top": False, "pooling": POOLS.get(stated.get("global_pool", "avg"))}


# Writing


def timm_config(graph: Graph) -> dict[str, Any]:
    """Write down a network as timm does, so that it builds the same one.

    The number of classes stands beside the arguments alone: transformers gives timm both.

    Raises:
        WeightsError: Timm's architecture can't be that network; the message names the fields.
    """
    spec = graph.spec
    if problems := list(_unsayable(graph)):
        raise WeightsError(f"timm's architecture has no such network: {listed(problems)}")
    classes = spec.classes if graph.has_classifier else 0
    pool = spec.global_pool if graph.has_classifier else graph.pooling or ""
    plain = spec.replace(dropout_rate=0.0, head_dropout_rate=0.0, global_pool="avg")
    variant = variant_of(plain)
    architecture = variant if variant in ARCHITECTURES else ARCHITECTURES[0]
    if spec.stem_pool_kind == "max-blur" and variant not in ARCHITECTURES:
        architecture = "densenetblur121d"
    return {
        ARCHITECTURE: architecture,
        "num_classes": classes,
        "num_features": lower(spec, include_top=False).output.shape[0],
        "global_pool": pool,
        ARGUMENTS: {
            **{name: getattr(spec, FIELDS[name]) for name in FIELDS if name != "num_classes"},
            "global_pool": pool,
            **{name: _chosen(spec, name) for name in CHOICES if _chosen(spec, name)},
            **_stem_arguments(spec, architecture),
        },
    }


def _chosen(spec: DenseNetSpec, argument: str) -> str | None:
    """Return the value of an argument that says what a spec has; None for timm's default."""
    fields = {"act_layer": ("activation",), "norm_layer": ("norm", "norm_groups")}[argument]
    for value, chosen in CHOICES[argument].items():
        if chosen and all(chosen.get(name) == getattr(spec, name) for name in fields):
            return str(value)
    return None


def _stem_arguments(spec: DenseNetSpec, architecture: str) -> dict[str, Any]:
    """Return the arguments for a stem and pools that are not the architecture's own.

    Timm takes no name for the layer that blurs, so it has to be the architecture's own.
    """
    base = catalogue()[architecture].spec
    stem_type = {"stem_type": "deep" if spec.stem_kind == "deep" else ""}
    everywhere = {"aa_stem_only": False} if spec.transition_pool_kind == "blur" else {}
    return (stem_type if spec.stem_kind != base.stem_kind else {}) | everywhere


def _unsayable(graph: Graph) -> Iterator[str]:
    """Yield what timm's arguments can't state, beyond what its implementation fixes."""
    spec = graph.spec
    if spec.activation != "relu" and not _chosen(spec, "act_layer"):
        yield f"activation is {spec.activation!r}"
    if spec.activation == "leaky-relu" and spec.activation_slope != 0.01:
        yield f"activation_slope is {spec.activation_slope!r}, but should be 0.01"
    if spec.norm != "batch" and not _chosen(spec, "norm_layer"):
        yield f"norm is {spec.norm!r}, but should be 'batch', or 'group' of 1 or 32 groups"
    if spec.stem_channels != 2 * spec.growth_rate:
        yield f"stem_width is {spec.stem_channels}, but should be twice the growth rate"
    if spec.stem_kernel != (3 if spec.stem_kind == "deep" else 7):
        yield f"stem_kernel is {spec.stem_kernel}, but should be 7, or 3 in a deep stem"
    if spec.stem_kind not in ("conv-norm-relu", "deep"):
        yield f"stem_kind is {spec.stem_kind!r}, but should be 'conv-norm-relu' or 'deep'"
    if spec.transition_pool_kind == "blur" and spec.stem_pool_kind != "max-blur":
        yield "transitions blur, but the stem does not"
    if spec.bottleneck_width is None:
        yield "bottleneck_width is None, but should be a number"
