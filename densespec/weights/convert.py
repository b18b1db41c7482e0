"""Weights from any layout to any other: what a file holds, whether a target can mean the same, and
the conversion itself, tensor by tensor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from densespec.errors import DensespecError, WeightsError
from densespec.network.arrays import SHOWN, Arrays
from densespec.network.catalogue import SpecLike, catalogue, resolve
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.containers import container_of, open_file, write_file
from densespec.weights.containers.base import byte_size, numpy_dtype
from densespec.weights.evidence import Evidence, inferred_fields, spec_from
from densespec.weights.layouts import Layout, from_canonical, get_layout, layouts, to_canonical
from densespec.weights.tensors import OpenFile, Tensor, Tensors

DEFAULT_LAYOUTS = {
    "safetensors": "densespec",
    "torch": "torchvision",
    "keras-weights": "densespec-keras",
    "keras": "densespec-keras",
    "keras-legacy": "keras-applications",
    "msgpack": "flax",
}
"""Layout that is written into a container where none is asked for."""

TRAINING_ONLY = frozenset(
    {"dropout_rate", "dropout_place", "batch_norm_momentum", "running_variance"}
)
"""Fields that change training, but nothing that given weights compute in inference."""


NOT_IN_SHAPES = frozenset(
    {"stem_stride", "stem_pool", "padding", "batch_norm_epsilon", "transition_relu"}
)
"""Fields that change what given weights compute, but that their shapes do not tell."""


class DifferentNetwork(WeightsError):
    """The target's implementation is another network than the source's."""


@dataclass(frozen=True)
class Found:
    """What a file turned out to hold.

    Attributes:
        container: kind of file.
        spec: of the network; where shapes leave something open, by the layout's implementation.
        variant: name of the spec in the catalogue, classes and channels aside.
        graph: the network, with a classifier only where the file has one.
        tensors: by canonical name, with canonical axes, read when needed.
        metadata: of the file.
        extra: what else is in the file, such as optimizer state, by its name there.
        notes: what a user should know of how the file was read.
    """

    path: Path
    container: str
    layout: Layout
    spec: DenseNetSpec
    variant: str | None
    graph: Graph
    tensors: Tensors
    metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Tensors = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_classifier(self) -> bool:
        return "classifier.kernel" in self.tensors

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.dtype for tensor in self.tensors.values()}))

    def arrays(self) -> Arrays:
        """Every array, read now."""
        return {name: tensor.read() for name, tensor in self.tensors.items()}


@contextlib.contextmanager
def open_weights(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    spec: SpecLike | None = None,
    otherwise: SpecLike | None = None,
) -> Iterator[Found]:
    """Open a weight file of any layout; its tensors can be read until the block ends.

    Args:
        layout: its layout; found by inspection otherwise.
        spec: of its network; worked out from its metadata, its shapes and its layout otherwise.
        otherwise: the spec, where it can't be worked out.

    Raises:
        WeightsError: it can't be read, or its arrays do not fit the network; names the file and the
            first arrays that are missing, unexpected or of another shape.
    """
    path = Path(path)
    with contextlib.closing(open_file(path)) as file:
        try:
            found = _inspect(path, file, layout, spec, otherwise)
        except WeightsError as error:
            raise type(error)(_with_path(path, error)) from error
        yield found


def _with_path(path: Path, error: WeightsError) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def _inspect(
    path: Path,
    file: OpenFile,
    name: str | None,
    given: SpecLike | None,
    otherwise: SpecLike | None,
) -> Found:
    layout = get_layout(name) if name else _recognise(file)
    normal = layout.normalise(file.tensors)
    tensors = {key: tensor for key, tensor in normal.items() if not layout.ignored(key)}
    spec, has_classifier, notes = _network(file, layout, tensors, given, otherwise)
    graph = lower(spec, include_top=has_classifier)
    found = _canonical(layout, file.container, graph, tensors)
    if "unwrapped" in file.metadata:
        notes = (f"read from under {file.metadata['unwrapped']!r}", *notes)
    return Found(
        path=path,
        container=file.container,
        layout=layout,
        spec=spec,
        variant=_variant_of(spec),
        graph=graph,
        tensors=found,
        metadata=file.metadata,
        extra={key: tensor for key, tensor in normal.items() if key not in tensors},
        notes=notes,
    )


def _recognise(file: OpenFile) -> Layout:
    claiming = [
        layout for layout in layouts().values() if layout.claims(file.tensors, file.metadata)
    ]
    if len(claiming) == 1:
        return claiming[0]
    if claiming:
        names = ", ".join(layout.name for layout in claiming)
        raise WeightsError(f"the layout could be any of {names}: say which")
    first = ", ".join(list(file.tensors)[:3]) or "none"
    raise WeightsError(
        f"no known layout (known: {', '.join(layouts())}). Its first arrays: {first}"
    )


def _network(
    file: OpenFile,
    layout: Layout,
    tensors: Tensors,
    given: SpecLike | None,
    otherwise: SpecLike | None,
) -> tuple[DenseNetSpec, bool, tuple[str, ...]]:
    """The spec, whether there is a classifier, and notes."""
    evidence = layout.evidence(tensors)
    has_classifier = evidence.classifier is not None
    decided = layout.implements.keys() >= NOT_IN_SHAPES
    if given is None:
        stated = layout.stated_spec(file.metadata)
        if stated is not None:
            _check_extent(stated, tensors)
            return stated, has_classifier, ()
        if not decided:
            given = otherwise
    if given is not None:
        spec = _with_evident_head(resolve(given), evidence)
        return spec, has_classifier, ()
    fields = inferred_fields(evidence)
    if decided:
        return _named(spec_from(fields, layout.implements)), has_classifier, ()
    lasting = {k: v for k, v in layout.implements.items() if k not in TRAINING_ONLY}
    return _from_catalogue(lasting | fields), has_classifier, ("the spec is the catalogue's",)


def _check_extent(stated: DenseNetSpec, tensors: Tensors) -> None:
    """A few bytes of metadata can state a network that no memory holds: refuse to lower it."""
    layers = sum(stated.blocks)
    if layers > len(tensors):
        raise WeightsError(
            f"its metadata states a network of {layers} dense layers, but it has only "
            f"{len(tensors)} arrays"
        )


def _with_evident_head(spec: DenseNetSpec, evidence: Evidence) -> DenseNetSpec:
    """The spec with the classes and channels that the arrays have, as users expect of a name."""
    changes = {"in_channels": evidence.convs[0].shape[1]}
    if evidence.classifier is not None:
        changes["classes"] = evidence.classifier.shape[0]
    return spec.replace(**changes)


def _plain(spec: DenseNetSpec) -> DenseNetSpec:
    """The spec without what a variant leaves open, and the 2k rule worked out."""
    return spec.replace(stem_width=spec.stem_channels, classes=1, in_channels=1)


def _variant_of(spec: DenseNetSpec) -> str | None:
    names = (name for name, v in catalogue().items() if _plain(v.spec) == _plain(spec))
    return next(names, None)


def nearest_variant(spec: DenseNetSpec) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
    """The variant that differs least, classes and channels aside, and in what: (ours, its own).

    None where no variant has these blocks and this growth rate.
    """
    alike = {
        name: spec_differences(_plain(spec), _plain(variant.spec))
        for name, variant in catalogue().items()
        if (variant.spec.blocks, variant.spec.growth_rate) == (spec.blocks, spec.growth_rate)
    }
    if not alike:
        return None, {}
    name = min(alike, key=lambda name: len(alike[name]))
    return name, alike[name]


def _named(spec: DenseNetSpec) -> DenseNetSpec:
    """The catalogue's spec where the network is a variant's: its stem width may be a rule."""
    variant = _variant_of(spec)
    if variant is None:
        return spec
    return catalogue()[variant].spec.replace(classes=spec.classes, in_channels=spec.in_channels)


def spec_differences(first: DenseNetSpec, second: DenseNetSpec) -> dict[str, tuple[Any, Any]]:
    """Fields that differ: (the first's, the second's). A stem width by rule is worked out."""
    ours, theirs = (spec.to_dict() | _resolved(spec) for spec in (first, second))
    apart = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    if not first.dropout_rate and not second.dropout_rate:
        apart.pop("dropout_place", None)
    return apart


def _from_catalogue(fields: Mapping[str, Any]) -> DenseNetSpec:
    """The one variant whose shapes these are.

    Raises:
        WeightsError: none, or several that shapes can't tell apart.
    """
    open_fields = {name: v for name, v in fields.items() if name in ("classes", "in_channels")}
    fixed = {name: v for name, v in fields.items() if name not in open_fields}
    fitting = {
        name: variant.spec
        for name, variant in catalogue().items()
        if fixed.items() <= (variant.spec.to_dict() | _resolved(variant.spec)).items()
    }
    if len(fitting) == 1:
        return next(iter(fitting.values())).replace(**open_fields)
    which = f"fit {' and '.join(fitting)}" if fitting else "fit no named variant"
    raise WeightsError(
        f"its shapes {which}, and this layout says nothing of padding, epsilon and the like: "
        "give the spec"
    )


def _resolved(spec: DenseNetSpec) -> dict[str, Any]:
    return {
        "stem_width": spec.stem_channels,
        "blocks": spec.blocks,
        "head_units": spec.head_units,
    }


def _canonical(layout: Layout, container: str, graph: Graph, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors by canonical name.

    Raises:
        WeightsError: some are missing, unexpected, or of another shape.
    """
    keys = layout.keys(graph, container)
    shapes = {weight.name: weight.shape for weight in graph.weights}
    found, problems = {}, []
    for name, key in keys.items():
        if key not in tensors:
            problems.append(f"{key} is missing")
            continue
        found[name] = to_canonical(name, tensors[key], layout.axes)
        if found[name].shape != shapes[name]:
            problems.append(
                f"{key} has shape {found[name].shape} ({name}), but should have {shapes[name]}"
            )
    expected = set(keys.values())
    problems += [f"{key} is unexpected" for key in tensors if key not in expected]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        shown = "; ".join(problems[:SHOWN])
        raise WeightsError(f"its arrays do not fit the network ({layout.name}): {shown}{more}")
    return found


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        differences: fields in which the target's implementation is another network.
        consequence: what they change: largest relative difference at the feature map.
        training_differences: fields in which only training there is another.
        not_finite: arrays with NaN or infinite values.
    """

    source: Found
    path: Path
    container: str
    layout: Layout
    differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    consequence: float | None = None
    training_differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    not_finite: tuple[str, ...] = ()


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    from_layout: str | None = None,
    to_layout: str | None = None,
    spec: SpecLike | None = None,
    dtype: str | None = None,
    allow_different: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert a weight file to another layout; the target is written whole or not at all.

    Args:
        from_layout: of the source; found by inspection otherwise.
        to_layout: of the target; by its suffix otherwise.
        spec: of the network; worked out otherwise.
        dtype: that floating-point arrays are cast to; as they are otherwise.
        allow_different: write even where the target's implementation computes something else.
        progress: called with bytes written and bytes in all.

    Raises:
        WeightsError: the source can't be read or does not fit.
        DifferentNetwork: the target's implementation is another network; says in what, and what it
            changes, measured.
    """
    target = Path(target)
    container = container_of(target)
    layout = get_layout(to_layout or DEFAULT_LAYOUTS.get(container, "densespec"))
    if container not in layout.containers:
        raise WeightsError(
            f"{target}: layout {layout.name!r} lives in {' or '.join(layout.containers)} files, "
            f"not in {container} ones"
        )
    if container == "keras" and layout.name != DEFAULT_LAYOUTS["keras"]:
        raise WeightsError(
            f"{target}: a .keras file holds a whole model, and densespec can only build its own; "
            f"write a .weights.h5 in layout {layout.name!r}, and let its model load that"
        )
    with open_weights(source, layout=from_layout, spec=spec) as found:
        differences = layout.differences(found.spec)
        lasting = {k: v for k, v in differences.items() if k not in TRAINING_ONLY}
        consequence = _consequence(found, lasting) if lasting else None
        if lasting and not allow_different:
            raise DifferentNetwork(_refusal(layout, lasting, consequence))
        bad: list[str] = []
        tensors = {
            name: _watched(name, _cast(tensor, dtype), bad)
            for name, tensor in found.tensors.items()
        }
        _write(target, container, layout, found, tensors, lasting, progress)
        return Conversion(
            source=found,
            path=target,
            container=container,
            layout=layout,
            differences=lasting,
            consequence=consequence,
            training_differences={k: v for k, v in differences.items() if k in TRAINING_ONLY},
            not_finite=tuple(dict.fromkeys(bad)),
        )


def _cast(tensor: Tensor, dtype: str | None) -> Tensor:
    if dtype is None or tensor.dtype == dtype:
        return tensor
    return Tensor(tensor.shape, dtype, lambda: tensor.read().astype(numpy_dtype(dtype)))


def _watched(name: str, tensor: Tensor, bad: list[str]) -> Tensor:
    def read() -> np.ndarray:
        array = tensor.read()
        if not np.isfinite(array).all():
            bad.append(name)
        return array

    return Tensor(tensor.shape, tensor.dtype, read)


def _write(
    target: Path,
    container: str,
    layout: Layout,
    found: Found,
    tensors: Tensors,
    differences: Mapping[str, tuple[Any, Any]],
    progress: Callable[[int, int], None] | None,
) -> None:
    if container == "keras":
        from densespec.weights.keras_archive import write_keras_archive

        write_keras_archive(target, found, {name: t.read() for name, t in tensors.items()})
        return
    named = {
        key: from_canonical(name, tensors[name], layout.axes)
        for name, key in layout.keys(found.graph, container).items()
    }
    named |= layout.constants(found.graph)
    metadata = dict(layout.metadata(found.graph, container))
    if differences:
        metadata["densespec.differences"] = "; ".join(_in_words(differences))
    total = sum(byte_size(tensor.shape, tensor.dtype) for tensor in named.values())
    written = 0

    def advance(count: int) -> None:
        nonlocal written
        written += count
        if progress:
            progress(written, total)

    write_file(target, named, metadata, container=container, progress=advance)


def _in_words(differences: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"{name} is {theirs!r} there, but {ours!r} here"
        for name, (ours, theirs) in differences.items()
    ]


def _refusal(
    layout: Layout, differences: Mapping[str, tuple[Any, Any]], consequence: float | None
) -> str:
    effect = (
        f"With these weights its feature map differs by {consequence:.1e} of the largest value"
        if consequence is not None
        else "It cannot hold these weights"
    )
    return (
        f"{layout.name} ({layout.about}) computes another network: "
        f"{'; '.join(_in_words(differences))}. {effect}. To write it all the same, allow "
        "differences (--allow-different)"
    )


PROBE_SIZE = 64
"""Side of the seeded input on which networks are compared."""


def features(spec: DenseNetSpec, arrays: Arrays, backend: str = "numpy") -> np.ndarray:
    """What a backend computes before the global pool, on two seeded inputs.

    Computes in the backend's default dtype, which for numpy, the reference, is float64.
    """
    from densespec.backends import get_backend
    from densespec.building import build

    model = build(spec, backend=backend, include_top=False, weights=arrays)
    graph = lower(spec, include_top=False)
    shape = (2, spec.in_channels, *(PROBE_SIZE,) * spec.spatial_dims)
    x, name = np.random.default_rng(0).standard_normal(shape), graph.output.name
    return get_backend(backend).forward(model, graph, x, [name])[name]


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _consequence(found: Found, differences: Mapping[str, tuple[Any, Any]]) -> float | None:
    """Measured effect of differences; None where the other network can't hold the weights."""
    try:
        other = found.spec.replace(**{name: theirs for name, (_, theirs) in differences.items()})
        arrays = {name: np.asarray(a, np.float64) for name, a in found.arrays().items()}
        return largest_difference(features(other, arrays), features(found.spec, arrays))
    except DensespecError:
        return None


@dataclass(frozen=True)
class Comparison:
    """Two weight files, side by side.

    Attributes:
        spec_differences: fields that differ: (first's, second's).
        only_first: canonical names of arrays that only the first has.
        only_second: likewise.
        tensor_differences: largest absolute difference of each array that both have.
        output_difference: largest relative difference at the feature map; None where they can't be
            compared.
    """

    first: Found
    second: Found
    spec_differences: Mapping[str, tuple[Any, Any]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tensor_differences: Mapping[str, float]
    output_difference: float | None

    @property
    def same_tensors(self) -> bool:
        identical = not any(self.tensor_differences.values())
        return identical and not self.only_first and not self.only_second


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    specs: tuple[SpecLike | None, SpecLike | None] = (None, None),
    layouts: tuple[str | None, str | None] = (None, None),
    backend: str = "numpy",
) -> Comparison:
    """Compare two weight files of any layouts: their specs, their arrays, and what they compute.

    Args:
        backend: that computes it; numpy is the float64 reference.
    """
    with (
        open_weights(first, layout=layouts[0], spec=specs[0]) as a,
        open_weights(second, layout=layouts[1], spec=specs[1]) as b,
    ):
        arrays_a, arrays_b = (
            {name: np.asarray(array, np.float64) for name, array in found.arrays().items()}
            for found in (a, b)
        )
        both = [name for name in arrays_a if name in arrays_b]
        same_shapes = all(arrays_a[name].shape == arrays_b[name].shape for name in both)
        comparable = same_shapes and len(both) >= max(len(arrays_a), len(arrays_b)) - 2
        return Comparison(
            first=a,
            second=b,
            spec_differences=spec_differences(a.spec, b.spec),
            only_first=tuple(name for name in arrays_a if name not in arrays_b),
            only_second=tuple(name for name in arrays_b if name not in arrays_a),
            tensor_differences={name: _apart(arrays_a[name], arrays_b[name]) for name in both},
            output_difference=largest_difference(
                features(b.spec, arrays_b, backend), features(a.spec, arrays_a, backend)
            )
            if comparable
            else None,
        )


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    return 0.0 if equal.all() else float(np.nanmax(np.abs(a - b)[~equal], initial=0.0)) or np.inf
