"""Is this one network? The cases are for a given spec, on any target: a backend, or a constructor.

They ask for what can be seen from outside: the counts, the shapes, the outputs, the training steps,
and of the ops in between whatever the target lets be seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import (
    batches,
    images,
    natural_size,
    random_weights,
)
from densespec_conformance.asking.requests import (
    About,
    Description,
    Forward,
    Inspect,
    NetworkToBuild,
    ReadWeights,
    Request,
    Train,
    Unsupported,
)
from densespec_conformance.case import Case, Tier
from densespec_conformance.cases.moments import CLAIM as MOMENTS
from densespec_conformance.cases.moments import RECIPES, assert_moments_are_held
from densespec_conformance.cases.structure import assert_structure
from densespec_conformance.judging.compare import (
    assert_close,
    assert_identical,
    assert_same_steps,
    shown,
)
from densespec_conformance.judging.expected import Reference, given_in
from densespec_conformance.judging.outcome import EXACT, Outcome
from densespec_conformance.judging.rounding import rounded

Size = tuple[int, ...]

IMAGENET = 224
BATCH = 2


@dataclass(frozen=True)
class Question:
    """Holds one network at one input size.

    Attributes:
        samples: The number of images in inference.
    """

    spec: DenseNetSpec
    size: Size
    samples: int = 2

    def network(self, target: Target, dtype: str) -> NetworkToBuild:
        """Return the network as the target has it, which may end in its features or a softmax."""
        network = NetworkToBuild(self.spec, input_size=self.size, dtype=dtype)
        about: Description = target.ask(About(network))
        return replace(network, options=about.options)

    def graph(self, network: NetworkToBuild) -> Graph:
        options: dict[str, Any] = dict(network.options)
        return lower(self.spec, self.size, **options)

    def key(self, network: NetworkToBuild, *more: object) -> str:
        """Name a request among all that the reference answers."""
        return f"{self.spec} {self.size} {network.dtype} {sorted(network.options.items())} {more}"


def _structure(question: Question, target: Target, reference: Reference) -> Outcome:
    network = question.network(target, "float32")
    assert_structure(target.ask(Inspect(network, question.size)), question.graph(network))
    return EXACT


def _weights_come_back(
    dtype: str, question: Question, target: Target, reference: Reference
) -> Outcome:
    network = question.network(target, dtype)
    given = random_weights(question.graph(network), "network")
    given = {name: array.astype(dtype) for name, array in given.items()}
    answer = target.ask(ReadWeights(replace(network, weights=given)))
    return assert_identical(actual=answer, expected=given)


def _forward(dtype: str, question: Question, target: Target, reference: Reference) -> Outcome:
    network = question.network(target, dtype)
    weights = random_weights(question.graph(network), "network")
    asked = given_in(dtype, _every_op(question, replace(network, weights=weights)))
    return _compare(question.key(network, "forward"), asked, target, reference)


def _forward_as_built(question: Question, target: Target, reference: Reference) -> Outcome:
    return compare_as_it_is(question, question.network(target, "float64"), target, reference)


def compare_as_it_is(
    question: Question, network: NetworkToBuild, target: Target, reference: Reference
) -> Outcome:
    """Compare the weights that are the target's own: the reference gets them from it."""
    own: Mapping[str, np.ndarray] = target.ask(ReadWeights(network))
    asked = _every_op(question, replace(network, weights=own))
    asked = replace(asked, x=rounded(asked.x, network.dtype))
    digest = zlib.crc32(b"".join(array.tobytes() for array in own.values()))
    return _compare(
        question.key(network, "as built", digest, question.samples), asked, target, reference
    )


def _features(question: Question, target: Target, reference: Reference) -> Outcome:
    """Compare the last feature map, as what follows it reads it or as it is before its ReLU."""
    network = question.network(target, "float64")
    graph = question.graph(network)
    maps = [node.name for node in graph.nodes if len(node.shape) > 1][-2:]
    asked = _every_op(question, replace(network, weights=random_weights(graph, "network")))
    answer = target.ask(replace(asked, taps=tuple(maps)))
    if not answer:
        raise Unsupported("its last feature map can't be seen from outside")
    expected = reference.expect(question.key(network, "forward"), lambda: asked)
    return assert_close(actual=answer, expected=expected, order=list(answer)[-1:])


def _every_op(question: Question, network: NetworkToBuild) -> Forward:
    taps = tuple(node.name for node in question.graph(network).nodes[1:])
    x = images(question.spec, question.size, question.samples, "network")
    return Forward(network, x, taps)


def _compare(key: str, asked: Forward, target: Target, reference: Reference) -> Outcome:
    """Compare what the target shows of the ops, and its output in any case."""
    answer = target.ask(asked)
    expected = reference.expect(key, lambda: asked)
    return assert_close(actual=answer, expected=expected, order=shown(answer, asked.taps))


def _training(
    recipe_of: Callable[[Graph], TrainingRecipe],
    question: Question,
    target: Target,
    reference: Reference,
) -> Outcome:
    network, graph = _trainable(question, target)
    recipe = recipe_of(graph)
    given = batches(graph, recipe, steps=recipe.epochs, batch=BATCH, label="network")
    weights = random_weights(graph, "network")
    asked: Request = Train(replace(network, weights=weights), recipe, given)
    expected = reference.expect(question.key(network, "training", recipe), lambda: asked)
    return assert_same_steps(actual=target.ask(asked), expected=expected)


def _moments(question: Question, target: Target, reference: Reference) -> Outcome:
    return assert_moments_are_held(target, *_trainable(question, target), RECIPES["sgd"])


def _trainable(question: Question, target: Target) -> tuple[NetworkToBuild, Graph]:
    """Return a network that can be trained, and its graph.

    Raises:
        Unsupported: The target gives no logits.
    """
    network = question.network(target, "float64")
    if network.options:
        ends = ", ".join(f"{name}={value!r}" for name, value in network.options.items())
        raise Unsupported(f"it gives no logits to train by ({ends})")
    return network, question.graph(network)


def _everything(graph: Graph) -> TrainingRecipe:
    """Return a drop, smoothed labels, and rates of their own for the first and the last part."""
    return replace(_by_layer(graph), epochs=2, milestones=(0.5,), label_smoothing=0.1)


def _smoothing(graph: Graph) -> TrainingRecipe:
    return TrainingRecipe(epochs=1, learning_rate=0.05, label_smoothing=0.1)


def _by_layer(graph: Graph) -> TrainingRecipe:
    """Give the first and the last part that train learning rates of their own."""
    parts = [stage.name for stage in graph.stages() if stage.parameters.trainable]
    rates = ((parts[0], 0.5), (parts[-1], 2.0))
    return TrainingRecipe(epochs=1, learning_rate=0.05, layer_rates=rates)


def odd(size: Size) -> Size:
    """Return another size, whose sides are odd and differ, so that no padding works out evenly."""
    return tuple(side + 3 + 4 * index for index, side in enumerate(size))


@dataclass(frozen=True)
class _NetworkRow:
    """Describes one case: what it claims, and the question that it asks."""

    id: str
    claim: str
    check: Callable[[Question, Target, Reference], Outcome]
    question: Question
    tier: Tier = "quick"
    cost: float = 2.0

    @property
    def case(self) -> Case:
        check = partial(self.check, self.question)
        return Case(self.id, self.claim, check, self.tier, cost=self.cost)


def network_cases(spec: DenseNetSpec, input_size: Size | None = None) -> tuple[Case, ...]:
    """Return the cases that say whether a target is the network of a spec.

    Args:
        input_size: The only size to use; None stands for several.

    Raises:
        SpecError: The network does not accept that size.
    """
    here = Question(spec, input_size or natural_size(spec))
    lower(spec, here.size)
    sizes = [] if input_size else _rows_of_sizes(here)
    rows = [*_rows(here), *_rows_of_training(here), *_rows_of_dtypes(here), *sizes]
    return tuple(row.case for row in sorted(rows, key=lambda row: row.cost))


def _rows(here: Question) -> list[_NetworkRow]:
    return [
        _NetworkRow(
            "structure/counts-and-stages",
            "it has the parameters and stage shapes of the spec",
            _structure,
            here,
            cost=1,
        ),
        _NetworkRow(
            "forward/float64",
            "every op that can be seen computes what the reference does, in float64",
            partial(_forward, "float64"),
            here,
        ),
        _NetworkRow(
            "forward/weights-as-built",
            "so does every op with the weights that it is built with, or has from a file",
            _forward_as_built,
            here,
            cost=4,
        ),
        _NetworkRow(
            "features/last-feature-map",
            "the last feature map is that of the reference, whatever comes before",
            _features,
            here,
        ),
    ]


def _rows_of_training(here: Question) -> list[_NetworkRow]:
    return [
        _NetworkRow(
            "training/moments-before-the-first-step",
            MOMENTS,
            _moments,
            here,
        ),
        _NetworkRow(
            "training/label-smoothing",
            "a float64 training step with smoothed labels is that of the reference",
            partial(_training, _smoothing),
            here,
            "full",
            cost=12,
        ),
        _NetworkRow(
            "training/learning-rates-by-layer",
            "a float64 training step with learning rates by layer is that of the reference",
            partial(_training, _by_layer),
            here,
            "full",
            cost=12,
        ),
        _NetworkRow(
            "training/two-steps-with-a-learning-rate-drop",
            "two float64 training steps are those of the reference, with smoothed labels and "
            "learning rates by layer: loss, gradients, moments, weights and running statistics",
            partial(_training, _everything),
            here,
            cost=20,
        ),
    ]


def _rows_of_dtypes(here: Question) -> list[_NetworkRow]:
    comes_back = [
        _NetworkRow(
            f"weights/come-back-in-{dtype}",
            f"weights given are weights read in {dtype}, bit for bit",
            partial(_weights_come_back, dtype),
            here,
            cost=1.5,
        )
        for dtype in ("float32", "float64")
    ]
    tiers: dict[str, Tier] = {"float32": "quick", "bfloat16": "full", "float16": "full"}
    forward = [
        _NetworkRow(
            f"forward/{dtype}",
            f"every op that can be seen is within reach of {dtype} of the reference",
            partial(_forward, dtype),
            here,
            tier,
            cost=3,
        )
        for dtype, tier in tiers.items()
    ]
    return [*comes_back, *forward]


def _rows_of_sizes(here: Question) -> list[_NetworkRow]:
    spec, dims = here.spec, here.spec.spatial_dims
    rows = [
        _NetworkRow(
            "forward/odd-input-size",
            "every op that can be seen computes what the reference does at an odd size",
            partial(_forward, "float64"),
            Question(spec, odd(here.size), samples=1),
            "quick" if dims < 3 else "full",
            cost=5,
        )
    ]
    if dims == 2 and spec.shrinks_early:
        row = _NetworkRow(
            "forward/imagenet-size",
            f"every op that can be seen computes what the reference does at {IMAGENET}x{IMAGENET}",
            partial(_forward, "float64"),
            Question(spec, (IMAGENET, IMAGENET), samples=1),
            "full",
            cost=30,
        )
        rows.append(row)
    return rows
