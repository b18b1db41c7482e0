"""Which network a set of arrays belongs to, by what is stated, given, and evident from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densespec.errors import WeightsError
from densespec.network.catalogue import SpecLike, catalogue, resolve
from densespec.network.differences import TRAINING_ONLY, fields_of, variant_of
from densespec.network.spec import DenseNetSpec
from densespec.weights.evidence import Evidence, inferred_fields, spec_from
from densespec.weights.layouts import Layout
from densespec.weights.tensors import Tensors

NOT_IN_SHAPES = frozenset(
    {"stem_stride", "stem_pool", "padding", "batch_norm_epsilon", "transition_relu"}
)
"""Fields that change what given weights compute, but that their shapes do not tell."""

OPEN = ("classes", "in_channels")
"""Fields that users change without calling the network another one."""


@dataclass(frozen=True)
class InferredNetwork:
    """A network that was worked out.

    Attributes:
        notes: What a user should know of how it was worked out, in sentences.
    """

    spec: DenseNetSpec
    has_classifier: bool
    notes: tuple[str, ...] = ()


def infer_network(
    layout: Layout,
    tensors: Tensors,
    metadata: Mapping[str, str],
    *,
    given: SpecLike | None,
    otherwise: SpecLike | None,
) -> InferredNetwork:
    """Work out the network of a layout's arrays.

    A given spec decides, then what the metadata states, then the layout's implementation with the
    shapes of the arrays; where that leaves something open, the spec to take otherwise, or the one
    variant of the catalogue that fits. Classes and channels are those of the arrays.

    Args:
        tensors: The network's, by the layout's names.

    Raises:
        WeightsError: The arrays belong to no DenseNet, or to several that shapes can't tell apart.
    """
    evidence = layout.evidence(tensors)
    has_classifier = evidence.classifier is not None
    decided = layout.implements.keys() >= NOT_IN_SHAPES
    if given is None:
        stated = layout.stated_spec(metadata)
        if stated is not None:
            _check_extent(stated, tensors)
            return InferredNetwork(stated, has_classifier)
        if not decided:
            given = otherwise
    if given is not None:
        return InferredNetwork(_with_evident_ends(resolve(given), evidence), has_classifier)
    fields = inferred_fields(evidence)
    if decided:
        return InferredNetwork(_named(spec_from(fields, layout.implements)), has_classifier)
    lasting = {k: v for k, v in layout.implements.items() if k not in TRAINING_ONLY}
    note = "the spec is the catalogue's"
    return InferredNetwork(_from_catalogue(lasting | fields), has_classifier, (note,))


def _check_extent(stated: DenseNetSpec, tensors: Tensors) -> None:
    """A few bytes of metadata can state a network that no memory holds: refuse to lower it."""
    layers = sum(stated.blocks)
    if layers > len(tensors):
        raise WeightsError(
            f"its metadata states a network of {layers} dense layers, but it has only "
            f"{len(tensors)} arrays"
        )


def _with_evident_ends(spec: DenseNetSpec, evidence: Evidence) -> DenseNetSpec:
    """The spec with the classes and channels that the arrays have, as users expect of a name."""
    changes = {"in_channels": evidence.convs[0].shape[1]}
    if evidence.classifier is not None:
        changes["classes"] = evidence.classifier.shape[0]
    return spec.replace(**changes)


def _named(spec: DenseNetSpec) -> DenseNetSpec:
    """The catalogue's spec where the network is a variant's: its stem width may be a rule."""
    variant = variant_of(spec)
    if variant is None:
        return spec
    return catalogue()[variant].spec.replace(**{name: getattr(spec, name) for name in OPEN})


def _from_catalogue(fields: Mapping[str, Any]) -> DenseNetSpec:
    """The one variant whose shapes these are.

    Raises:
        WeightsError: There is none, or there are several that shapes can't tell apart.
    """
    fixed = {name: value for name, value in fields.items() if name not in OPEN}
    fitting = {
        name: variant.spec
        for name, variant in catalogue().items()
        if fixed.items() <= fields_of(variant.spec).items()
    }
    if len(fitting) == 1:
        (spec,) = fitting.values()
        return spec.replace(**{name: fields[name] for name in OPEN if name in fields})
    which = f"fit {' and '.join(fitting)}" if fitting else "fit no named variant"
    raise WeightsError(
        f"its shapes {which}, and this layout says nothing of padding, epsilon and the like: "
        "give the spec"
    )
