"""Infers which network arrays belong to, by what is stated, given, and evident from shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from densespec.errors import WeightsError
from densespec.network.catalogue import SpecLike, catalogue, resolve
from densespec.network.differences import TRAINING_ONLY, fields_of, variant_of
from densespec.network.spec import DenseNetSpec
from densespec.weights.evidence import (
    Evidence,
    body_fields,
    check_implemented,
    head_fields,
    spec_from,
)
from densespec.weights.layouts import Layout
from densespec.weights.naming import say_norm
from densespec.weights.stated.network import StatedNetwork, check_agreement
from densespec.weights.tensors import Tensors

NOT_IN_SHAPES = frozenset(
    {
        "activation",
        "stem_stride",
        "stem_pool",
        "stem_pool_kind",
        "padding",
        "batch_norm_epsilon",
        "transition_relu",
        "transition_pool_kind",
    }
)
"""These fields change what given weights compute, but shapes do not tell them."""

ASKED = ("activation", "batch_norm_epsilon")
"""These fields are named as assumed if a program asks its users for the norm, as MONAI does."""

STEM = frozenset({"stem_kind", "stem_kernel", "conv_bias", "final_norm"})
"""Shapes tell these fields, and they tell the catalogue's families apart."""

OPEN = ("classes", "in_channels")
"""Users change these fields, and still call the network the same."""


@dataclass(frozen=True)
class InferredBody:
    """Describes a network that was worked out, except for its head.

    Attributes:
        spec: The network's spec. Its head is right only if ``stated`` is true.
        stated: Whether a file or a user states the spec, the head included.
        ends: The arguments of ``lower`` that say how it ends, besides ``include_top``.
        assumptions: Sentences that say what was assumed.
        notes: Sentences that say what else a user should know of how it was worked out.
        assumed: The fields of the spec that were assumed.
    """

    spec: DenseNetSpec
    stated: bool = False
    ends: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=dict)


def infer_body(
    layout: Layout,
    tensors: Tensors,
    stated: StatedNetwork | None,
    evidence: Evidence,
    *,
    given: SpecLike | None,
    otherwise: SpecLike | None,
    known: Mapping[str, Any],
) -> InferredBody:
    """Work out the network of a layout's arrays, except for its head.

    A stated network decides, and a given spec has to agree with it. Without one, a given spec
    decides, and then the layout's implementation with the shapes of the arrays. If these leave
    something open, ``otherwise`` decides, or what all of the catalogue's networks with such shapes,
    or at least such a stem, have in common. The arrays decide the channels.

    Args:
        tensors: The network's, by the layout's names.
        stated: What the file states, or what is beside it.
        evidence: What the shapes of the tensors say.
        known: Fields of the spec that a user or the network's modules tell.

    Raises:
        WeightsError: Another network is stated than was given, or than the arrays are of;
            or the arrays belong to no DenseNet, or to several that shapes can't tell apart.
    """
    decided = {**layout.usual, **layout.implements}.keys() >= NOT_IN_SHAPES
    if stated is not None:
        _check_extent(stated.spec, tensors)
        spec = stated.spec if given is None else _with_evident_ends(resolve(given), evidence)
        spec = spec.replace(**known)
        check_agreement(stated, spec)
        return InferredBody(spec, stated=True, ends=stated.other_ends, notes=stated.notes)
    if given is None and not decided:
        given = otherwise
    if given is not None:
        return _as_given(given, evidence, known)
    fields = {**body_fields(evidence), **known}
    if evidence.head:  # in names that the layout has for one
        check_implemented(head_fields(evidence), layout.implements)
    told = evidence.told.keys() | known.keys()
    if "stem_pool_kind" in known:  # of a stem whose shapes alone would not tell its pool
        told |= STEM
    fixed = {name: value for name, value in layout.implements.items() if name not in known}
    check_implemented(fields, fixed)
    usual = (item for item in layout.usual.items() if item[0] not in told)
    if decided and all(fields.get(name, value) == value for name, value in usual):
        fields = _with_arguments(layout, fields, evidence, known, otherwise)
        spec = _named(spec_from(fields, {**layout.implements, **known}))
        assumed = {} if otherwise else _assumed(layout, fields, told)
        return InferredBody(spec, assumed=assumed)
    if otherwise is not None:
        return _as_given(otherwise, evidence, known)
    lasting = {k: v for k, v in layout.implements.items() if k not in TRAINING_ONLY}
    spec, assumption = _from_catalogue(lasting | fields)
    assumed = {name: value for name, value in _unseen(spec).items() if name not in known}
    return InferredBody(spec, assumptions=(assumption,), assumed=assumed)


def _as_given(given: SpecLike, evidence: Evidence, known: Mapping[str, Any]) -> InferredBody:
    spec = _with_evident_ends(resolve(given), evidence).replace(**known)
    return InferredBody(spec, stated=bool(spec.head_units))


def _with_arguments(
    layout: Layout,
    fields: Mapping[str, Any],
    evidence: Evidence,
    known: Mapping[str, Any],
    otherwise: SpecLike | None,
) -> dict[str, Any]:
    """Complete fields by those that a layout's implementation leaves to whoever builds a network:
    the spec's to take otherwise, or what is assumed.

    Raises:
        WeightsError: Nothing tells which norm it is.
    """
    wanted = fields_of(resolve(otherwise)) if otherwise is not None else {}
    found = {name: wanted.get(name, value) for name, value in layout.usual.items()}
    found |= fields
    if found.get("norm") in ("instance", "group") and "norm_affine" not in known:
        found["norm_affine"] = evidence.scaled
    if found.get("norm", "batch") is None or (found.get("norm") == "batch" != fields.get("norm")):
        raise WeightsError(
            "its norms keep no running statistics, so that they are no batch norms, and no array "
            f"tells what they are: say it ({say_norm(scaled=evidence.scaled)})"
        )
    return found


def _assumed(layout: Layout, fields: Mapping[str, Any], told: Collection[str]) -> dict[str, Any]:
    """Return the fields that nothing states, of those that users of the program are asked for."""
    if layout.usual.get("norm", "") is not None:
        return {}
    idle = {"batch_norm_epsilon"} if fields.get("norm") == "none" else set[str]()
    return {name: fields[name] for name in ASKED if name not in told and name not in idle}


def said_of(assumed: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence about the fields of a spec that were assumed."""
    if assumed:
        values = " and ".join(f"{name} = {value!r}" for name, value in assumed.items())
        yield (
            f"assumed, as no array tells: {values} (--set {next(iter(assumed))}=... says otherwise)"
        )


def _check_extent(stated: DenseNetSpec, tensors: Tensors) -> None:
    """Refuse to lower a stated network that no memory holds: a few bytes can state one."""
    layers = sum(stated.blocks)
    if layers > len(tensors):
        raise WeightsError(
            f"its metadata states a network of {layers} dense layers, but it has only "
            f"{len(tensors)} arrays"
        )


def _with_evident_ends(spec: DenseNetSpec, evidence: Evidence) -> DenseNetSpec:
    """Set the classes and channels that the arrays have, as users expect of a variant's name."""
    changes = {"in_channels": evidence.convs[0].shape[1]}
    if evidence.classifier is not None:
        changes["classes"] = evidence.classifier.shape[0]
    return spec.replace(**changes)


def _named(spec: DenseNetSpec) -> DenseNetSpec:
    """Return the catalogue's spec if the network is a variant: its stem width may be a rule."""
    variant = variant_of(spec)
    if variant is None:
        return spec
    return catalogue()[variant].spec.replace(**{name: getattr(spec, name) for name in OPEN})


def _from_catalogue(fields: Mapping[str, Any]) -> tuple[DenseNetSpec, str]:
    """Complete these fields as the catalogue has them, and make a note that says so.

    Raises:
        WeightsError: The catalogue has no such network, or several that shapes can't tell apart.
    """
    fitting = _variants_with(fields, fields.keys() - OPEN)
    kin = fitting or _variants_with(fields, fields.keys() & (STEM | NOT_IN_SHAPES))
    assumptions = [_unseen(spec) for spec in kin.values()]
    if not kin or any(other != assumptions[0] for other in assumptions):
        which = f"fit {' and '.join(fitting)}" if fitting else "fit no named variant"
        raise WeightsError(
            f"its shapes {which}, and this layout says nothing of padding, epsilon and the like: "
            "give the spec (--spec NAME or FILE)"
        )
    spec = spec_from({**fields_of(next(iter(kin.values()))), **fields}, {})
    if fitting:
        return _named(spec), "the spec is the catalogue's"
    assumed = ", ".join(f"{name} {value!r}" for name, value in assumptions[0].items())
    return spec, f"as named variants with such a stem have it, and shapes do not tell: {assumed}"


def _variants_with(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, DenseNetSpec]:
    return {
        name: variant.spec
        for name, variant in catalogue().items()
        if all(fields_of(variant.spec)[field] == fields[field] for field in names)
    }


def _unseen(spec: DenseNetSpec) -> dict[str, Any]:
    fields = fields_of(spec)
    return {name: fields[name] for name in fields if name in NOT_IN_SHAPES | {"global_pool"}}
