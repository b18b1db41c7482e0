"""The torch.nn trainer and frozen parts, against the reference and as PyTorch's users train."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec.errors import WeightsError
from densespec.network.graph import Graph, freeze, lower, split
from densespec.network.initial import initial_weights
from densespec.network.ops import Dropout
from densespec.recipes.moments import flat_moments

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

SPEC = DenseNetSpec(
    blocks=(2, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_width="2k",
    stem_kind="conv-norm-relu",
    dropout_rate=0.3,
    head_units=(6,),
)
BIASED = SPEC.replace(running_variance="biased")
SIZE = (8, 8)

both_variances = pytest.mark.parametrize("spec", [SPEC, BIASED], ids=["unbiased", "biased"])


def batches(graph: Graph, count: int, seed: int = 0) -> list[Any]:
    """x, labels and masks of some steps."""
    draw = np.random.default_rng(seed)
    classes = graph.output.shape[0]
    return [
        (
            draw.normal(size=(4, *graph.input.shape)),
            draw.integers(0, classes, 4),
            {
                node.name: (draw.random((4, *node.shape)) > 0.3).astype(float)
                for node in graph.nodes
                if isinstance(node.op, Dropout)
            },
        )
        for _ in range(count)
    ]


def random_weights(graph: Graph) -> dict[str, np.ndarray]:
    """Initial weights with running statistics of some course."""
    draw = np.random.default_rng(5)
    return {
        name: array.astype(float) + (draw.random(array.shape) if "running" in name else 0)
        for name, array in initial_weights(graph, 0).items()
    }


class Run:
    """A training on one backend, from the same weights."""

    def __init__(self, graph: Graph, recipe: TrainingRecipe, backend: str = "torch.nn") -> None:
        self.engine, self.graph, self.recipe = get_backend(backend), graph, recipe
        self.taken = 0
        self.start(random_weights(graph))

    def start(self, weights: dict[str, np.ndarray]) -> None:
        self.model = self.engine.build(
            self.graph, weights, dtype="float64", data_format="channels_first", name="net"
        )
        self.trainer = self.engine.trainer(self.model, self.graph, self.recipe)

    def stop_and_go_on(self) -> None:
        """What a checkpoint holds, taken up by a new model and trainer."""
        moments, weights = self.trainer.moments(), self.weights()
        self.start(weights)
        self.trainer.restore(moments, step=self.taken)

    def weights(self) -> dict[str, np.ndarray]:
        return self.engine.read_weights(self.model, self.graph)

    def step(self, batch: Any, rate: float = 0.1, **options: Any) -> Any:
        x, labels, masks = batch
        self.taken += 1
        return self.trainer.step(x, labels, masks=masks, learning_rate=rate, **options)


def assert_close(actual: Any, expected: Any) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=1e-12, err_msg=name)


# The trainer

RECIPES = {
    "rates by layer": {"layer_rates": {"block1": 0.1, "block1.layer2": 0.5, "stem": 0.0}},
    "smoothing": {"label_smoothing": 0.2, "weight_decay": 0.01, "decay_kernels_only": True},
    "no momentum": {"momentum": 0.0},
    "adam": {"optimizer": "adam", "weight_decay": 0.1, "learning_rate": 1e-3},
    "rmsprop": {"optimizer": "rmsprop", "weight_decay": 0.1, "beta2": 0.9, "epsilon": 1e-3},
    "adamw, clipped": {
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "decay_kernels_only": True,
        "layer_rates": {"block1": 0.1, "stem": 0.0},
        "clip_norm": 0.1,
        "accumulate": 2,
        "average": 0.8,
        "average_warmup": 2,
    },
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("start", [None, "block1.layer2", "block2", "head1", "classifier"])
@both_variances
def test_steps_are_the_references(
    spec: DenseNetSpec, start: str | None, changes: dict[str, Any]
) -> None:
    graph, recipe = lower(spec, SIZE), TrainingRecipe(**changes)
    graph = freeze(graph, start) if start else graph
    ours, reference = Run(graph, recipe), Run(graph, recipe, "numpy")
    for index, batch in enumerate(batches(graph, 3)):
        actual, expected = (run.step(batch, 0.1 / (index + 1)) for run in (ours, reference))
        assert actual.loss == pytest.approx(expected.loss, abs=1e-12)
        assert_close(actual.gradients, expected.gradients)
        assert_close(ours.weights(), reference.weights())
        kept, known = (flat_moments(run.trainer.moments()) for run in (ours, reference))
        assert_close(kept, known)
    x = batches(graph, 1, seed=9)[0][0]
    np.testing.assert_allclose(ours.trainer.predict(x), reference.trainer.predict(x), atol=1e-12)


def test_without_gradients_nothing_else_differs() -> None:
    graph = lower(SPEC, SIZE)
    one, other = Run(graph, TrainingRecipe()), Run(graph, TrainingRecipe())
    for batch in batches(graph, 2):
        full, bare = one.step(batch), other.step(batch, gradients=False)
        assert (full.loss, full.correct) == (bare.loss, bare.correct)
        assert full.gradients
        assert bare.gradients == {}
    for name, array in one.weights().items():
        np.testing.assert_array_equal(array, other.weights()[name], err_msg=name)


def test_correct_counts_the_training_logits_that_are_highest_at_the_label() -> None:
    graph = lower(SPEC.replace(dropout_rate=0.0), SIZE)
    run = Run(graph, TrainingRecipe())
    x, _, masks = batches(graph, 1)[0]
    logits = copy.deepcopy(run.model).train()(torch.tensor(x)).detach().numpy()
    labels = logits.argmax(1)
    labels[0] = (labels[0] + 1) % 5
    assert run.step((x, labels, masks)).correct == 3


def test_a_stopped_run_goes_on_as_if_it_had_not_after_every_step() -> None:
    graph = freeze(lower(SPEC, SIZE), "block1.layer2")
    unbroken, broken = Run(graph, TrainingRecipe()), Run(graph, TrainingRecipe())
    for rate, batch in zip([0.1, 0.1, 0.01, 0.01, 0.001], batches(graph, 5), strict=True):
        broken.stop_and_go_on()  # the first time before any step
        assert broken.step(batch, rate).loss == unbroken.step(batch, rate).loss
    for name, array in unbroken.weights().items():
        np.testing.assert_array_equal(array, broken.weights()[name], err_msg=name)


def test_momentum_of_other_weights_is_refused_and_changes_nothing() -> None:
    graph = freeze(lower(SPEC, SIZE), "classifier")
    run = Run(graph, TrainingRecipe())
    run.step(batches(graph, 1)[0])
    before = run.trainer.moments()
    assert before["velocity"].keys() == {"classifier.kernel", "classifier.bias"}
    with pytest.raises(WeightsError, match=r"classifier\.bias has shape None"):
        run.trainer.restore({"velocity": {"classifier.kernel": np.zeros((5, 6))}}, step=1)
    assert_close(flat_moments(run.trainer.moments()), flat_moments(before))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 5, 0], "label 5 of sample 2, but labels of this network lie in \\[0, 5\\)"),
        ([0, -1, 0, 0], "label -1 of sample 1"),
        ([0, 1], "4 samples with labels of shape \\(2,\\)"),
        ([0.0, 1.0, 2.0, 3.0], "type float64"),
    ],
)
def test_labels_that_are_no_classes_are_refused_and_change_nothing(
    labels: list[Any], message: str
) -> None:
    run = Run(lower(SPEC, SIZE), TrainingRecipe())
    before = run.weights()
    x, _, masks = batches(run.graph, 1)[0]
    with pytest.raises(ValueError, match=message):
        run.step((x, np.array(labels), masks))
    assert_close(run.weights(), before)


def test_a_loss_that_is_not_a_number_is_told_not_raised() -> None:
    run = Run(lower(SPEC, SIZE), TrainingRecipe())
    x, labels, masks = batches(run.graph, 1)[0]
    assert np.isnan(run.step((x * np.nan, labels, masks)).loss)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_weights_in_float32_and_follows_the_curve(dtype: str) -> None:
    spec = SPEC.replace(dropout_rate=0.0)
    kinds: dict[str, list[Any]] = {"float32": [], dtype: []}
    for kind, losses in kinds.items():
        model = densespec.build(spec, backend="torch.nn", dtype=kind)
        seen: set[Any] = set()
        model.features.conv0.register_forward_hook(lambda _m, _x, y, seen=seen: seen.add(y.dtype))
        recipe = TrainingRecipe(dtype=kind)
        trainer = get_backend("torch.nn").trainer(model, model.densespec.graph, recipe)
        x, labels, _ = batches(lower(spec, SIZE), 1)[0]
        for _ in range(12):
            losses.append(trainer.step(x, labels, learning_rate=0.02).loss)
        assert trainer.predict(x).dtype == np.float32
        assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
        narrow = kind.removeprefix("mixed_")
        assert seen == {getattr(torch, narrow)}
    # float16 leaves out its first steps, until the scale of the loss fits.
    assert kinds[dtype][0] == pytest.approx(kinds["float32"][0], rel=0.02)
    assert kinds[dtype][-1] < 0.9 * kinds[dtype][0]


def test_a_compiled_model_trains() -> None:
    graph = lower(SPEC.replace(dropout_rate=0.0), SIZE)
    plain, compiled = Run(graph, TrainingRecipe()), Run(graph, TrainingRecipe())
    model = torch.compile(compiled.model, backend="eager")
    compiled.trainer = compiled.engine.trainer(model, graph, TrainingRecipe())
    batch = batches(graph, 1)[0]
    assert compiled.step(batch).loss == pytest.approx(plain.step(batch).loss, abs=1e-12)
    assert_close(compiled.weights(), plain.weights())


# Parts of a network


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("block2", (8, 8, 8)),
        ("block2.layer2", (12, 8, 8)),
        ("final", (16, 8, 8)),
        ("global_pool", (16, 8, 8)),
        ("head1", (16,)),
        ("classifier", (6,)),
    ],
)
def test_a_network_that_begins_in_the_middle_trains(part: str, shape: tuple[int, ...]) -> None:
    spec = SPEC.replace(compression=0.5, dropout_rate=0.0)
    _, rest = split(lower(spec, SIZE), part)
    ours, reference = (Run(rest, TrainingRecipe(), backend) for backend in ("torch.nn", "numpy"))
    assert len(rest.input.shape) == len(shape)
    for batch in batches(rest, 2):
        ours.step(batch)
        reference.step(batch)
    assert_close(ours.weights(), reference.weights())


# Frozen parts


def frozen_model(spec: DenseNetSpec = SPEC, start: str = "block2") -> Any:
    return densespec.build(spec, backend="torch.nn", trainable_from=start)


def retrained(model: Any) -> Any:
    return model.eval().train()


def all_told_to_train(model: Any) -> Any:
    for module in model.modules():
        module.train()
    return model


def all_set_to_train(model: Any) -> Any:
    for module in model.modules():
        module.training = True
    return model


def converted(model: Any) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model).train()


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager").train()


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model)).train()


TRIALS: list[Callable[[Any], Any]] = [
    retrained,
    all_told_to_train,
    all_set_to_train,
    copy.deepcopy,
    pickled,
    converted,
    compiled,
]


@both_variances
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_nothing_thaws_what_is_frozen(trial: Any, spec: DenseNetSpec) -> None:
    spec = spec.replace(dropout_place="every-conv", batch_norm_momentum=0.5)
    original = frozen_model(spec)
    model = trial(copy.deepcopy(original))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
        optimizer.step()
    inner = getattr(model, "_orig_mod", model)
    before, after = original.state_dict(), inner.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    frozen = ("features.conv0", "features.norm0", "features.denseblock1", "features.transition1")
    assert [name for name in changed if name.startswith(frozen)] == []
    assert "features.denseblock2.denselayer1.norm1.running_mean" in changed
    assert "features.denseblock2.denselayer1.norm1.num_batches_tracked" in changed
    features = inner.features.transition1
    seen: list[Any] = []
    features.register_forward_hook(lambda _m, _x, y: seen.append(y))
    inner(x), inner(x)
    assert torch.equal(*seen), "a frozen dropout draws"
    assert not seen[0].requires_grad, "a graph is built for the frozen part"


@pytest.mark.parametrize("start", ["block1.layer2", "block2", "head1", "classifier"])
def test_what_trains_is_what_the_graph_says(start: str) -> None:
    model = frozen_model(start=start)
    count = model.densespec.graph.parameters
    counted = get_backend("torch.nn").count_parameters(model)
    assert counted == (count.trainable, count.non_trainable)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == count.trainable
    trainer = get_backend("torch.nn").trainer(model, model.densespec.graph, TrainingRecipe())
    x, labels, _ = batches(lower(SPEC, SIZE), 1)[0]
    trainer.step(x, labels, learning_rate=0.1)
    held = sum(s["momentum_buffer"].numel() for s in trainer._optimizer.state.values())
    assert held == count.trainable


def test_a_frozen_network_keeps_torchvisions_keys_and_exports() -> None:
    model = frozen_model(start="classifier").eval()
    assert list(model.state_dict()) == list(densespec.build(SPEC, backend="torch.nn").state_dict())
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


# Norms


@both_variances
def test_norms_without_momentum_keep_plain_means(spec: DenseNetSpec) -> None:
    """As torch.optim.swa_utils.update_bn sets them to."""
    model = densespec.build(spec.replace(dropout_rate=0.0), backend="torch.nn", dtype="float64")
    norm = model.features.norm0
    loader = [torch.randn(4, 3, 8, 8, dtype=torch.float64) for _ in range(3)]
    seen: list[Any] = []
    norm.register_forward_hook(lambda _m, x, _y: seen.append(x[0]))
    torch.optim.swa_utils.update_bn(loader, model)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    correction = 1 if spec is SPEC else 0
    variances = torch.stack([x.var((0, 2, 3), correction=correction) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)


@both_variances
def test_a_converted_network_alone_computes_what_it_did(spec: DenseNetSpec) -> None:
    plain = densespec.build(spec.replace(dropout_rate=0.0), backend="torch.nn", dtype="float64")
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    assert "SynchronisedNorm" in repr(synchronised)
    again = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(synchronised))
    x, labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4)
    for model in (plain, synchronised, again):
        nn.functional.cross_entropy(model(x), labels).backward()
    for model in (synchronised, again):
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-13)
        for name, parameter in plain.named_parameters():
            gradient = model.get_parameter(name).grad
            torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-13)
        torch.testing.assert_close(model.eval()(x), plain.eval()(x))
        model.train(), plain.train()


def test_the_synchronised_gradient_is_that_of_finite_differences() -> None:
    from densespec_torch.norms import SynchronisedNorm

    norm = SynchronisedNorm.of(nn.BatchNorm1d(3).double())
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    weights = [torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def normalised(x: Any, weight: Any, bias: Any) -> Any:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(normalised, (x, *weights))


def test_a_synchronised_norm_alone_wants_more_than_one_value() -> None:
    from densespec_torch.norms import SynchronisedNorm

    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SynchronisedNorm.of(nn.BatchNorm2d(3))(torch.zeros(1, 3, 1, 1))
