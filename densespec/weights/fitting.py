"""Fits named arrays into a network: its body by names, its head by shapes, the rest with notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from densespec.errors import WeightsError, bare, listed
from densespec.network.catalogue import SpecLike, resolve
from densespec.network.differences import fields_of
from densespec.network.graph import ACTIVATIONS, CLASSIFIER, Graph, Pooling, in_head, lower
from densespec.weights.evidence import Evidence, head_fields
from densespec.weights.finding import Claim
from densespec.weights.heads import FoundHead, HeadTensors, find_head, head_tensors
from densespec.weights.inferring import InferredBody, infer_body, said_of
from densespec.weights.layer_arrays import layers_of
from densespec.weights.naming import canonical_tensors
from densespec.weights.reading import ReadingOptions
from densespec.weights.stated.keras_parts import arrays_of
from densespec.weights.stated.network import StatedNetwork, StatedOtherwise
from densespec.weights.stated.torch_modules import (
    Told,
    activation_between,
    fields_of_modules,
    modules_in,
    pools_of_modules,
    told_by,
)
from densespec.weights.tensors import Tensor, Tensors


@dataclass(frozen=True, kw_only=True)
class FittedNetwork:
    """Describes a network whose arrays were found.

    Attributes:
        graph: The network; it has a classifier only if the arrays have one.
        tensors: Its arrays by canonical name, with canonical axes.
        extra: The other arrays that were there.
        assumptions: Sentences that say what was assumed because nothing states it.
        remarks: Sentences that say what else a user should know.
        headless: The reason why no classifier was recognised although there are linear layers;
            empty otherwise.
        assumed: The fields of the spec that were assumed.
    """

    graph: Graph
    tensors: Tensors
    extra: Tensors
    assumptions: tuple[str, ...]
    remarks: tuple[str, ...]
    headless: str
    assumed: Mapping[str, Any]


@dataclass(frozen=True)
class _Body:
    """Holds a network up to its features.

    Attributes:
        keys: The layout's name of each array by its canonical name. A head's names are included if
            arrays have such names.
        tensors: The arrays by canonical name.
        ignored: Arrays that are nobody's weights, such as counters.
        rest: The other arrays, by their full names.
        inside: The names of these other arrays that are under the network's prefix.
    """

    inferred: InferredBody
    evidence: Evidence
    keys: Mapping[str, str]
    tensors: Tensors
    ignored: Tensors
    rest: Tensors
    inside: frozenset[str]

    @property
    def channels(self) -> int:
        return lower(self.inferred.spec, include_top=False).output.channels

    @property
    def pooled(self) -> tuple[int, ...]:
        """Return the possible numbers of features after the global pool, the likeliest first."""
        return self.channels, 2 * self.channels


def fit(
    claim: Claim,
    container: str,
    metadata: Mapping[str, str],
    *,
    options: ReadingOptions,
    otherwise: SpecLike | None,
    stated: StatedNetwork | None,
) -> FittedNetwork:
    """Fit what a layout takes for a network into the network that it is.

    Args:
        container: The kind of file that the arrays have their names in.
        metadata: Texts that come with the arrays.
        options: What a user says of them.
        otherwise: The spec to take if it can't be worked out.
        stated: The network that is stated beside the arrays; what metadata state otherwise.

    Raises:
        WeightsError: The arrays belong to no DenseNet, or do not fit it.
    """
    stated = stated or claim.layout.stated_network(metadata, options.without or ())
    if stated and stated.aside:
        claim = claim.without(arrays_of(stated.aside, claim.tensors, metadata))
    modules = modules_in(metadata)
    by_modules = fields_of_modules(modules, claim.prefix) | pools_of_modules(modules, claim.prefix)
    known = _known(by_modules, options)
    body = _body(claim, container, stated, options.spec, otherwise, known)
    named = frozenset(claim.prefix + key for name, key in body.keys.items() if in_head(name))
    is_bare = stated is not None and stated.aside and stated.include_top is False
    head = FoundHead() if is_bare else _head(claim, body, named)
    _check_top(stated, bool(head.layers))
    activation = options.head_activation or activation_between(
        modules, [layer.path for layer in head.layers]
    )
    tell_relu = body.inferred.stated or not claim.layout.implements
    telling = named if tell_relu else frozenset[str]()
    found = head_tensors(head, body.rest, claim.layout.axes, telling, activation)
    left = {name: tensor for name, tensor in body.rest.items() if name not in head.names}
    _check_no_kernel_is_lost(claim, container, body, head)
    doubled = head.features == 2 * body.channels
    graph = _graph(body.inferred, found, {"global_pool": "catavgmax"} if doubled else {})
    told = told_by(modules, graph, _module_paths(claim, body, head, graph), claim.prefix)
    graph = _as_told(graph, told, stated=stated is not None or options.spec is not None)
    told_too = {"batch_norm_epsilon"} if told.epsilon else set[str]()
    assumed = {n: value for n, value in body.inferred.assumed.items() if n not in told_too}
    return FittedNetwork(
        graph=graph,
        tensors=_of_graph(graph, {**body.tensors, **found.tensors}),
        extra={**body.ignored, **left},
        assumptions=(
            *claim.layout.notes(metadata),
            *(body.inferred.assumptions or said_of(assumed)),
            *found.assumptions,
            *told.assumptions,
            *(_DOUBLED if doubled and not body.inferred.stated else ()),
        ),
        remarks=(*claim.notes, *body.inferred.notes, *found.notes, *_left_out(left, claim.others)),
        headless=head.missing,
        assumed=assumed,
    )


def _known(told: Mapping[str, Any], options: ReadingOptions) -> dict[str, Any]:
    """Return the spec's fields that modules or a user state.

    Raises:
        StatedOtherwise: Modules state other values than the user.
    """
    given = fields_of(resolve(options.spec)) if options.spec is not None else {}
    said = given | dict(options.assume or ())
    for name, value in told.items():
        if said.get(name, value) != value:
            raise StatedOtherwise(
                f"its modules have {name} = {value!r}, but {said[name]!r} was said of it"
            )
    return {**told, **dict(options.assume or ())}


def _body(
    claim: Claim,
    container: str,
    stated: StatedNetwork | None,
    given: SpecLike | None,
    otherwise: SpecLike | None,
    known: Mapping[str, Any],
) -> _Body:
    layout = claim.layout
    normal = layout.normalise(claim.tensors)
    own = {name: tensor for name, tensor in normal.items() if not layout.ignored(name)}
    evidence = layout.evidence(own)
    inferred = infer_body(
        layout, own, stated, evidence, given=given, otherwise=otherwise, known=known
    )
    keys = layout.keys(_as_named(inferred, evidence), container)
    graph = _graph_of_body(inferred)
    tensors = canonical_tensors(layout, keys, graph, own)
    taken = {keys[weight.name] for weight in graph.weights}
    rest = {claim.prefix + name: tensor for name, tensor in own.items() if name not in taken}
    outside = {name: t for name, t in claim.outside.items() if not layout.ignored(name)}
    return _Body(
        inferred,
        evidence,
        keys,
        tensors,
        {name: tensor for name, tensor in normal.items() if name not in own},
        {**rest, **outside},
        frozenset(rest),
    )


def _as_named(inferred: InferredBody, evidence: Evidence) -> Graph:
    """Lower the network with as much of a head as the arrays name in the layout's own way."""
    if evidence.classifier is None:
        return lower(inferred.spec, include_top=False)
    if inferred.stated:
        return lower(inferred.spec)
    units = tuple(kernel.shape[0] for kernel in evidence.head)
    classes = evidence.classifier.shape[0]
    return lower(inferred.spec.replace(classes=classes, head_units=units))


def _head(claim: Claim, body: _Body, named: frozenset[str]) -> FoundHead:
    """Find the head by the shapes of the arrays under the network's prefix, or else of all arrays.

    Raises:
        WeightsError: It has the layout's own names, but does not fit the body.
    """
    layers = layers_of(body.rest, claim.layout.axes)
    inside = [layer for layer in layers if body.inside.issuperset(layer.all_names)]
    head = find_head([inside, layers], body.pooled, claim.prefix)
    kernels = {layer.names["kernel"] for layer in layers if layer.kind == "linear"}
    if not head.layers and kernels <= named:
        head_fields(body.evidence)
    return head


def _check_top(stated: StatedNetwork | None, has_classifier: bool) -> None:
    if stated and stated.include_top not in (None, has_classifier):
        there, here = ("a", "none") if stated.include_top else ("no", "one")
        raise WeightsError(
            f"it states a network with {there} classifier, but its arrays have {here}: it is "
            "damaged, or was put together of two"
        )


def _check_no_kernel_is_lost(claim: Claim, container: str, body: _Body, head: FoundHead) -> None:
    """Refuse what has the bias of a classifier, in the layout's own name, but not its kernel."""
    if head.layers:
        return
    keys = claim.layout.keys(lower(body.inferred.spec), container)
    kernel, bias = (keys.get(f"{CLASSIFIER}.{leaf}", "") for leaf in ("kernel", "bias"))
    if claim.prefix + bias in body.rest and claim.prefix + kernel not in body.rest:
        layer = claim.prefix + kernel.rpartition(".")[0]
        split = any(
            name.startswith((f"{layer}.parametrizations", f"{layer}.weight_")) for name in body.rest
        )
        advice = (
            "; it is kept in parts, as weight norm keeps it: save the model without that "
            "(torch.nn.utils.parametrize.remove_parametrizations)"
        )
        raise WeightsError(
            f"its arrays do not fit the network: {claim.prefix}{kernel} is missing{advice * split}"
        )


_DOUBLED = (
    "its classifier reads twice as many features as there are feature maps: their means and then "
    "their maxima are assumed (global_pool 'catavgmax')",
)


def _graph(inferred: InferredBody, head: HeadTensors, evident: Mapping[str, Any]) -> Graph:
    """Lower the network with its head.

    Args:
        evident: The other fields that the shapes of the head tell.
    """
    if head.classes is None:
        return _graph_of_body(inferred)
    spec = inferred.spec
    if not inferred.stated:
        own = {"classes": head.classes, "head_units": head.units, "classifier_bias": head.bias}
        spec = spec.replace(**own, **evident)
    return lower(spec, **{**inferred.ends, "pooling": None})


def _module_paths(claim: Claim, body: _Body, head: FoundHead, graph: Graph) -> dict[str, str]:
    """Find the path of the module of each node that has arrays, by the node's name."""
    own = {weight.name: claim.prefix + body.keys.get(weight.name, "") for weight in graph.weights}
    paths = {name.rpartition(".")[0]: key.rpartition(".")[0] for name, key in own.items()}
    linears = [node.name for node in graph.nodes if node.weights and in_head(node.name)]
    return paths | dict(zip(reversed(linears), [la.path for la in head.layers[::-1]], strict=False))


def _as_told(graph: Graph, told: Told, *, stated: bool) -> Graph:
    """Change the network to what modules say of it.

    Args:
        stated: Whether a file or a user states the epsilon.

    Raises:
        StatedOtherwise: Modules have another epsilon than was stated.
    """
    spec, activation = graph.spec, told.activation or graph.classifier_activation
    epsilon = told.epsilon or spec.batch_norm_epsilon
    pool = told.global_pool or spec.global_pool
    if stated and epsilon != spec.batch_norm_epsilon:
        raise StatedOtherwise(
            f"its norms have the epsilon {epsilon!r}, but the spec says {spec.batch_norm_epsilon!r}"
        )
    ends = graph.ends | {"classifier_activation": activation if graph.has_classifier else None}
    return lower(spec.replace(batch_norm_epsilon=epsilon, global_pool=pool), **ends)


def _graph_of_body(inferred: InferredBody) -> Graph:
    """Lower the network without a head, but with the stated outputs, if none is in a head."""
    outputs = inferred.ends.get("outputs", ())
    behind = any(in_head(name) or name in ACTIVATIONS for name in outputs)
    pooled: Pooling | None = inferred.spec.global_pool if "global_pool" in outputs else None
    pooling = inferred.ends.get("pooling", pooled)
    return lower(
        inferred.spec, include_top=False, pooling=pooling, outputs=() if behind else outputs
    )


def _of_graph(graph: Graph, tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors of a graph, in its order.

    Raises:
        WeightsError: Some are missing, or have another shape.
    """
    problems = []
    for weight in graph.weights:
        if weight.name not in tensors:
            problems.append(f"{weight.name} is missing")
        elif (shape := tensors[weight.name].shape) != weight.shape:
            problems.append(f"{weight.name} has shape {shape}, but should have {weight.shape}")
    if problems:
        raise WeightsError(f"its arrays do not fit the network: {listed(problems)}")
    return {weight.name: tensors[weight.name] for weight in graph.weights}


def _left_out(names: Iterable[str], networks: tuple[str, ...]) -> tuple[str, ...]:
    """Make a note of what is part of no network, by the outermost parts of the names."""
    names = [name for name in names if not name.startswith(networks)]
    parts = Counter(_outermost(name) for name in names)
    told = [bare(name) for name in names if parts[_outermost(name)] == 1]
    told += [f"{bare(part)} ({count} arrays)" for part, count in parts.items() if count > 1]
    return (f"left out, as no part of the network: {listed(told)}",) if told else ()


def _outermost(name: str) -> str:
    return name.partition("/" if "/" in name else ".")[0]
