"""Timm's ``config.json`` of a DenseNet: the architecture, and the arguments it had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from densespec.errors import SpecError, WeightsError, listed, shown
from densespec.network.catalogue import catalogue
from densespec.network.differences import variant_of
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.stated.network import StatedNetwork, StatedOtherwise

ARCHITECTURE, ARGUMENTS = "architecture", "model_args"

ARCHITECTURES = ("densenet121", "densenet161", "densenet169", "densenet201")
"""Those that are a spec's; the first stands for any other, whose arguments say what it is."""

FIELDS = {
    "growth_rate": "growth_rate",
    "block_config": "blocks",
    "bn_size": "bottleneck_width",
    "num_classes": "classes",
    "in_chans": "in_channels",
    "proj_drop_rate": "dropout_rate",
}
"""The arguments that are fields of a spec, and the fields' names."""

AVERAGES = ("avg", "fast", "fastavg")
MAXIMA = ("max", "fastmax")

SAYABLE: Mapping[str, tuple[Any, ...]] = {
    "global_pool": AVERAGES,
    "aa_layer": (None, ""),
    "stem_type": ("", None),
}
"""The values that a spec can say of arguments that are no fields."""

ACTIVATIONS: Mapping[Any, Mapping[str, Any]] = {
    None: {},
    "relu": {},
    "leaky_relu": {"activation": "leaky-relu"},
    **{name: {"activation": name} for name in ("elu", "silu", "gelu", "relu6")},
    "gelu_tanh": {"activation": "gelu-tanh"},
    "swish": {"activation": "silu"},
}
NORMS: Mapping[Any, Mapping[str, Any]] = {
    **{name: {} for name in (None, "batchnorm2d", "batchnorm", "bn")},
    "groupnorm": {"norm": "group", "norm_groups": 32},
    "groupnorm1": {"norm": "group", "norm_groups": 1},
}
CHOICES = {"act_layer": ACTIVATIONS, "norm_layer": NORMS}
"""What values of an argument are in fields of a spec, by the argument's name."""

IMMATERIAL = (
    "aa_stem_only",
    "cache_dir",
    "checkpoint_path",
    "drop_rate",
    "exportable",
    "memory_efficient",
    "no_jit",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "scriptable",
)
"""Arguments that change nothing in inference."""


def states_network(config: Mapping[str, Any]) -> bool:
    """Say whether a config is one of timm's."""
    return isinstance(config.get(ARCHITECTURE), str)


def timm_network(config: Mapping[str, Any]) -> StatedNetwork:
    """Read the network that a config of timm's states.

    Raises:
        WeightsError: It is no DenseNet, or none that a spec says; names the argument.
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
    return StatedNetwork(_spec(base, stated, headless), _ends(stated, headless), _notes(stated))


def _architecture(name: str) -> DenseNetSpec:
    plain = name.partition(".")[0].removeprefix("tv_")
    known = {known: variant.spec for known, variant in catalogue().items() if known == plain}
    if not plain.startswith("densenet") or not known:
        raise StatedOtherwise(
            f"its {ARCHITECTURE} is timm's {shown(name)}, which is no DenseNet that a spec says "
            "(deep stems and blurred pools are none)"
        )
    return known[plain]


def _check(name: str, value: Any, headless: bool) -> None:
    if name in FIELDS or name in IMMATERIAL:
        return
    allowed = SAYABLE.get(name) or tuple(CHOICES.get(name, ()))
    if name == "global_pool" and headless:
        allowed = (*AVERAGES, *MAXIMA, "")
    if isinstance(value, list | dict) or value not in allowed:
        can = " or ".join(repr(one) for one in allowed) if allowed else "nothing of it"
        raise StatedOtherwise(f"it has {name} = {shown(value)}, but a spec can say {can}")


def _spec(base: DenseNetSpec, stated: Mapping[str, Any], headless: bool) -> DenseNetSpec:
    changes = {FIELDS[name]: value for name, value in stated.items() if name in FIELDS}
    for name in CHOICES.keys() & stated.keys():
        changes |= CHOICES[name][stated[name]]
    if headless:
        del changes["classes"]
    if changes.get("growth_rate", base.growth_rate) != base.growth_rate:
        changes["stem_width"] = "2k"
    try:
        return base.replace(**changes)
    except SpecError as error:
        raise WeightsError(f"its {ARGUMENTS} make no valid spec: {error}") from error


def _ends(stated: Mapping[str, Any], headless: bool) -> dict[str, Any]:
    if not headless:
        return {"include_top": True}
    kind = stated.get("global_pool", "avg")
    pooling = "avg" if kind in AVERAGES else "max" if kind in MAXIMA else None
    return {"include_top": False, "pooling": pooling}


def _notes(stated: Mapping[str, Any]) -> tuple[str, ...]:
    if not stated.get("drop_rate"):
        return ()
    return (
        f"drop_rate = {stated['drop_rate']!r}, a dropout before the classifier, acts in training "
        "alone, and is left out",
    )


# Writing


def timm_config(graph: Graph) -> dict[str, Any]:
    """Write down a network as timm does, so that it builds the same one.

    The number of classes stands beside the arguments alone: transformers gives timm both.

    Raises:
        WeightsError: Timm's architecture can't be that network; names the fields.
    """
    spec = graph.spec
    if problems := list(_unsayable(graph)):
        raise WeightsError(f"timm's architecture has no such network: {listed(problems)}")
    classes = spec.classes if graph.has_classifier else 0
    pool = "avg" if graph.has_classifier else graph.pooling or ""
    variant = variant_of(spec.replace(dropout_rate=0.0))
    return {
        ARCHITECTURE: variant if variant in ARCHITECTURES else ARCHITECTURES[0],
        "num_classes": classes,
        "num_features": lower(spec, include_top=False).output.shape[0],
        "global_pool": pool,
        ARGUMENTS: {
            **{name: getattr(spec, FIELDS[name]) for name in FIELDS if name != "num_classes"},
            "global_pool": pool,
            **{name: _chosen(spec, name) for name in CHOICES if _chosen(spec, name)},
        },
    }


def _chosen(spec: DenseNetSpec, argument: str) -> str | None:
    """The value of an argument that says what a spec has; None for timm's default."""
    fields = {"act_layer": ("activation",), "norm_layer": ("norm", "norm_groups")}[argument]
    for value, chosen in CHOICES[argument].items():
        if chosen and all(chosen.get(name) == getattr(spec, name) for name in fields):
            return str(value)
    return None


def _unsayable(graph: Graph) -> Iterator[str]:
    """What timm's arguments can't say, beside what its implementation can't do otherwise."""
    spec = graph.spec
    if spec.activation != "relu" and not _chosen(spec, "act_layer"):
        yield f"activation is {spec.activation!r}"
    if spec.activation == "leaky-relu" and spec.activation_slope != 0.01:
        yield f"activation_slope is {spec.activation_slope!r}, but should be 0.01"
    if spec.norm != "batch" and not _chosen(spec, "norm_layer"):
        yield f"norm is {spec.norm!r}, but should be 'batch', or 'group' of 1 or 32 groups"
    if spec.stem_channels != 2 * spec.growth_rate:
        yield f"stem_width is {spec.stem_channels}, but should be twice the growth rate"
    if spec.bottleneck_width is None:
        yield "bottleneck_width is None, but should be a number"
