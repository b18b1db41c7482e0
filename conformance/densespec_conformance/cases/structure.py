"""Every named variant has the right shapes and counts, as the framework itself sees them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from densespec.backends import LAYERS, split_mode
from densespec.network.catalogue import Variant, catalogue
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.requests import Inspect, Inspected, NetworkToBuild
from densespec_conformance.case import Case
from densespec_conformance.judging.compare import Mismatch, assert_equal
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import EXACT, Outcome

# densenet169-bc at 224x224 as first published: output, parameters with running statistics.
PUBLISHED_STAGES = {
    "stem": ((64, 112, 112), 9_484),
    "stem_pool": ((64, 56, 56), 0),
    "block1": ((256, 56, 56), 339_264),
    "transition1": ((128, 28, 28), 33_920),
    "block2": ((512, 28, 28), 931_968),
    "transition2": ((256, 14, 14), 133_376),
    "block3": ((1280, 14, 14), 4_377_600),
    "transition3": ((640, 7, 7), 824_960),
    "block4": ((1664, 7, 7), 5_999_616),
    "global_pool": ((1664,), 0),
    "classifier": ((1000,), 1_665_000),
}
PUBLISHED_TOTALS = (14_160_238, 154_950)


def assert_structure(found: Inspected, graph: Graph) -> None:
    """Check that the framework sees the graph's stage shapes and parameter counts."""
    for name, shape in found.shapes.items():
        assert_equal(
            where=f"shape of {name}", actual=shape, expected=graph[name].shape, source="the graph"
        )
    assert_equal(
        where="trainable parameters",
        actual=found.trainable,
        expected=graph.parameters.trainable,
        source="the graph",
    )
    assert_equal(
        where="running statistics",
        actual=found.non_trainable,
        expected=graph.parameters.non_trainable,
        source="the graph",
    )


def _check(variant: Variant, target: Target, reference: Reference) -> Outcome:
    size = sample_size(variant)
    network = NetworkToBuild(variant.spec, input_size=size, dtype="float32")
    found: Inspected = target.ask(Inspect(network, size))
    assert_structure(found, lower(variant.spec, size))
    _check_published(variant, found.trainable)
    return EXACT


def sample_size(variant: Variant) -> tuple[int, ...]:
    """Return the input size that the variant was published for: ImageNet's or CIFAR's.

    Volumes, for which none was published, are small.
    """
    spec = variant.spec
    side = 64 if spec.spatial_dims == 3 else 224 if spec.shrinks_early else 32
    return (side,) * spec.spatial_dims


def _kind(variant: Variant) -> tuple[DenseNetSpec, int]:
    """Return what a variant has in common with those that differ from it in size alone."""
    spec = variant.spec
    return replace(spec, blocks=(1,), growth_rate=12, stem_width=24), len(spec.blocks)


def _parameters(variant: Variant) -> int:
    return lower(variant.spec).parameters.trainable


def _smallest_of_each_kind() -> set[str]:
    by_size = sorted(catalogue().items(), key=lambda item: _parameters(item[1]), reverse=True)
    return set({_kind(variant): name for name, variant in by_size}.values())


def _check_published(variant: Variant, trainable: int) -> None:
    published = variant.parameters
    if published is None:
        return
    actual: int | str = trainable
    if isinstance(published, str):
        digits = len(published.rstrip("M").partition(".")[2])
        actual = f"{trainable / 1e6:.{digits}f}M"
    assert_equal(
        where="published parameters", actual=actual, expected=published, source=variant.source
    )


def _check_published_stages(target: Target, reference: Reference) -> Outcome:
    spec = catalogue()["densenet169-bc"].spec
    network = NetworkToBuild(spec, input_size=(224, 224), dtype="float32")
    found: Inspected = target.ask(Inspect(network, (224, 224)))
    stages = {stage.name: stage for stage in lower(spec, (224, 224)).stages()}
    shapes = {name.partition(".")[0]: shape for name, shape in found.shapes.items()}
    for name, (shape, parameters) in PUBLISHED_STAGES.items():
        if name not in shapes and split_mode(target.name)[1] == LAYERS:
            raise Mismatch(name, "is a stage that the target does not have")
        source = "the published table"
        actual = shapes.get(name, shape)  # ops that a mode fuses are not seen
        assert_equal(where=name, actual=actual, expected=shape, source=source)
        assert_equal(
            where=f"parameters of {name}",
            actual=stages[name].parameters.total,
            expected=parameters,
            source=source,
        )
    totals = (found.trainable, found.non_trainable)
    assert_equal(
        where="totals", actual=totals, expected=PUBLISHED_TOTALS, source="the published table"
    )
    return EXACT


SMALLEST = _smallest_of_each_kind()
CASES = (
    *(
        Case(
            id=f"structure/{name}",
            claim=f"{name} has the graph's stage shapes and the published number of parameters",
            check=partial(_check, variant),
            tier="quick" if name in SMALLEST else "full",
            tier_in_modes="full",
            cost=2 + _parameters(variant) / 4e6,
        )
        for name, variant in catalogue().items()
    ),
    Case(
        id="structure/published-table-of-densenet169-bc",
        claim="densenet169-bc has 14,160,238 trainable parameters, stage by stage as published",
        check=_check_published_stages,
        tier_in_modes="full",
        cost=4,
    ),
)
