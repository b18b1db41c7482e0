"""Names arrays as in densespec's own checkpoints, with the spec in the metadata."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from densespec.errors import DensespecError, WeightsError, bare, shown
from densespec.network.files import spec_from_json, to_json
from densespec.network.graph import ACTIVATIONS, CLASSIFIER, Graph
from densespec.network.spec import DenseNetSpec
from densespec.recipes.moments import names_a_moment
from densespec.weights.evidence import Evidence, KernelShape, evidence_by_name
from densespec.weights.layouts import Layout
from densespec.weights.stated.network import StatedNetwork
from densespec.weights.tensors import Tensors

VERSION = "1"
"""States the version of the layout, under the metadata key ``densespec``."""

ACTIVATION = "classifier_activation"
"""The metadata key of the activation after the classifier; without it, there is none."""


OUTPUTS = "outputs"
"""The metadata key of the stages whose values the network gives, joined by commas.

Without it, the network gives its last value.
"""


def metadata(graph: Graph, container: str = "safetensors") -> dict[str, str]:
    """Write the metadata with which a checkpoint describes itself."""
    activation = graph.classifier_activation
    return {
        "format": "np",
        "densespec": VERSION,
        "spec": to_json(graph.spec),
        "classifier": "yes" if graph.has_classifier else "no",
        **({ACTIVATION: activation} if activation else {}),
        **({OUTPUTS: ",".join(graph.outputs)} if graph.outputs else {}),
    }


def stated_network(metadata: Mapping[str, str], without: Collection[str] = ()) -> StatedNetwork:
    """Read the network that a checkpoint's metadata state; it has no layers besides.

    Raises:
        WeightsError: it is none of our checkpoints, has another version, or states no spec.
    """
    version = metadata.get("densespec")
    if version != VERSION:
        raise WeightsError(
            f"not a densespec checkpoint of version {VERSION}: its metadata says "
            f"{bare(version or 'nothing')}"
        )
    try:
        spec = spec_from_json(metadata.get("spec", ""))
    except DensespecError as error:
        raise WeightsError(f"the spec in its metadata: {error}") from error
    activation = metadata.get(ACTIVATION)
    if activation not in (None, *ACTIVATIONS):
        raise WeightsError(
            f"its metadata has {ACTIVATION} = {shown(activation)}, but should have "
            f"{' or '.join(ACTIVATIONS)}, or none"
        )
    ends: dict[str, Any] = {ACTIVATION: activation} if activation else {}
    if outputs := tuple(filter(None, metadata.get(OUTPUTS, "").split(","))):
        ends[OUTPUTS] = _checked(outputs, spec)
    return StatedNetwork(spec, ends)


def _checked(outputs: tuple[str, ...], spec: DenseNetSpec) -> tuple[str, ...]:
    """Check names of stages without lowering a spec, which may be of any size."""
    numbered = (
        f"{kind}{n + 1}" for kind in ("block", "transition") for n in range(len(spec.blocks))
    )
    known = {"stem", "stem_pool", *numbered, "final", "global_pool", CLASSIFIER, *ACTIVATIONS}
    for name in outputs:
        if name not in known or outputs.count(name) > 1:
            raise WeightsError(f"its metadata has {shown(name)} among {OUTPUTS}, which can't be")
    return outputs


_NAME = re.compile(
    r"(stem|block\d+|transition\d+|final|head\d+|classifier)\.(.+\.)?"
    r"(kernel|gamma|beta|running_variance)"
)


def is_canonical(names: Collection[object]) -> bool:
    """Say whether names of arrays seem to be canonical. No names at all count as canonical."""
    return not names or any(isinstance(name, str) and _NAME.fullmatch(name) for name in names)


def _keys(graph: Graph, container: str) -> dict[str, str]:
    return {weight.name: weight.name for weight in graph.weights}


def _evidence(tensors: Tensors) -> Evidence:
    return evidence_by_name(
        lambda name: KernelShape(name, tensors[name].shape) if name in tensors else None
    )


LAYOUT = Layout(
    name="densespec",
    about="densespec's canonical checkpoint",
    containers=("safetensors",),
    keys=_keys,
    axes="out_in_window",
    claims=lambda tensors, metadata: "stem.conv.kernel" in tensors,
    evidence=_evidence,
    ignored=names_a_moment,
    metadata=metadata,
    stated_network=stated_network,
)
