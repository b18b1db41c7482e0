"""The native JAX backend, as users of flax.nnx use their modules."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec.data import dropout_masks
from densespec.errors import DensespecError, ModelChanged, Untrainable
from densespec.network.graph import lower

jax = pytest.importorskip("jax", reason="JAX is not installed")
nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")

import densespec_flax  # noqa: E402

jnp = jax.numpy

SPEC = DenseNetSpec(
    blocks=(1, 2),
    growth_rate=3,
    bottleneck_width=2,
    compression=0.5,
    classes=4,
    stem_kind="conv-norm-relu",
    stem_width="2k",
    stem_pool=3,
    dropout_rate=0.2,
)
PLAIN = SPEC.replace(dropout_rate=0.0)
TRAINING_MODES = ("layers", "fast", "efficient")
MODES = (*TRAINING_MODES, "inference")
every_mode = pytest.mark.parametrize("mode", MODES)
every_training_mode = pytest.mark.parametrize(
    "mode", ["layers", "efficient", pytest.param("fast", marks=pytest.mark.full)]
)
"""Mode ``fast`` is ``efficient`` that keeps more; with --full it is asked as well."""
layers_first = pytest.mark.parametrize(
    "mode",
    ["layers", *(pytest.param(mode, marks=pytest.mark.full) for mode in ("fast", "efficient"))],
)
"""What modes have from mode ``layers``, unless something overrides it."""


def build(spec: Any = SPEC, **options: Any) -> Any:
    return densespec.build(spec, backend="flax.nnx", **options)


def images(count: int = 2, *size: int, channels: int = 3) -> np.ndarray:
    draw = np.random.default_rng(7)
    return draw.standard_normal((count, *(size or (12, 12)), channels)).astype(np.float32)


def test_rmsprop_is_optaxs_with_mean_squares_of_one() -> None:
    recipe = TrainingRecipe(
        optimizer="rmsprop", weight_decay=0.0, learning_rate=0.1, beta2=0.8, epsilon=0.1
    )
    ours = densespec_flax.optimizer_of(recipe)
    theirs = optax.rmsprop(0.1, 0.8, 0.1, initial_scale=1.0, momentum=recipe.momentum)
    weights = {"classifier": {"kernel": jnp.asarray([1.0, -2.0, 3.0])}}
    states = ours.init(weights), theirs.init(weights)
    for gradient in ([0.5, -2.0, 0.1], [-1.0, 0.25, 3.0]):
        given = {"classifier": {"kernel": jnp.asarray(gradient)}}
        (one, first), (other, second) = (
            each.update(given, state, weights)
            for each, state in zip((ours, theirs), states, strict=True)
        )
        states = first, second
        np.testing.assert_allclose(
            one["classifier"]["kernel"], other["classifier"]["kernel"], rtol=1e-6
        )


def random_weights(spec: DenseNetSpec = SPEC) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(11)
    return {
        weight.name: draw.uniform(0.5, 2, weight.shape)
        if weight.short == "running_variance"
        else draw.standard_normal(weight.shape) / 3
        for weight in lower(spec).weights
    }


LABELS = np.array([1, 3])


@nnx.jit
def called(model: Any, x: Any) -> Any:
    """What a model gives; compiled as one, which takes less time than op by op."""
    return model(x)


def loss_of(model: Any, x: Any) -> Any:
    return densespec_flax.loss_of(TrainingRecipe())(model(x), LABELS)


def flat(state: Any) -> dict[str, np.ndarray]:
    return {
        "/".join(map(str, path)): np.asarray(variable.get_value())
        for path, variable in nnx.to_flat_state(state)
    }


def first(x: np.ndarray) -> np.ndarray:
    """The same images, channels first."""
    return np.moveaxis(x, -1, 1)


def trainer_of(model: Any, recipe: TrainingRecipe | None = None) -> Any:
    origin = model.densespec
    return get_backend(origin.backend).trainer(model, origin.graph, recipe or TrainingRecipe())


def different(arrays: Mapping[str, Any], others: Mapping[str, Any]) -> set[str]:
    return {name for name, array in arrays.items() if not np.array_equal(array, others[name])}


def assert_close(actual: Any, expected: Any, rtol: float = 2e-4) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(
            actual[name], array, rtol=rtol, atol=rtol * np.abs(array).max(initial=1e-3)
        )


# As a user of nnx has it


def test_names_are_densespecs_and_modules_are_flaxs_own() -> None:
    model = build()
    kinds = {
        "stem.conv": nnx.Conv,
        "block1.layer1.norm1": densespec_flax.norms.BatchNorm,
        "block2.layer2.conv2": nnx.Conv,
        "block1.layer1.dropout1": nnx.Dropout,
        "transition1.conv": nnx.Conv,
        "classifier": nnx.Linear,
    }
    assert {name: type(model.module(name)) for name in kinds} == kinds
    assert isinstance(model.stem.norm, nnx.BatchNorm)
    assert type(build(SPEC.replace(running_variance="biased")).stem.norm) is nnx.BatchNorm
    paths = flat(nnx.state(model, nnx.Param, nnx.BatchStat)[0])
    assert paths["block1/layer1/conv1/kernel"].shape == (1, 1, 6, 6)
    assert {"stem/norm/scale", "classifier/bias"} <= paths.keys()
    counts = lower(SPEC).parameters
    assert get_backend("flax.nnx").count_parameters(model) == (
        counts.trainable,
        counts.non_trainable,
    )
    assert "block2=Part" in str(model)


@every_mode
def test_splits_merges_and_is_compiled_and_differentiated(mode: str) -> None:
    model = build(mode=mode, weights=random_weights())
    model.eval()
    x = images()
    y = called(model, x)
    assert y.shape == (2, 4)
    np.testing.assert_allclose(called(nnx.merge(*nnx.split(model)), x), y, rtol=1e-5)
    assert nnx.clone(model).densespec == model.densespec
    gradients = flat(nnx.jit(nnx.grad(loss_of))(model, x))
    assert gradients.keys() == flat(nnx.state(model, nnx.Param)).keys()


def test_training_moves_statistics_and_inference_does_not() -> None:
    model, x = build(PLAIN, weights=random_weights(PLAIN)), images()
    before = flat(nnx.state(model, nnx.BatchStat))
    model.eval()
    y = called(model, x)
    assert_close(flat(nnx.state(model, nnx.BatchStat)), before, 0)
    model.train()
    assert not np.allclose(called(model, x), y)
    assert different(flat(nnx.state(model, nnx.BatchStat)), before) == before.keys()


def test_a_plain_loop_does_what_the_trainer_does() -> None:
    recipe = TrainingRecipe(
        weight_decay=0.01, decay_kernels_only=True, layer_rates=(("block2", 0.5),), epochs=2
    )
    model, x = build(PLAIN), images()
    rate = densespec_flax.schedule_of(recipe, steps_per_epoch=2)
    optimizer = nnx.Optimizer(model, densespec_flax.optimizer_of(recipe, rate), wrt=nnx.Param)
    loss = densespec_flax.loss_of(recipe)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, labels: Any) -> Any:
        value, gradients = nnx.value_and_grad(lambda model: loss(model(x), labels))(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(model, optimizer, x, LABELS)) for _ in range(3)]
    other = build(PLAIN)
    trainer = trainer_of(other, recipe)
    for index, expected in enumerate(losses):
        rate = recipe.learning_rate_at(index // 2)
        result = trainer.step(first(x), LABELS, learning_rate=rate, gradients=False)
        assert result.loss == pytest.approx(expected, rel=1e-5)
    assert_close(trainer.weights(), densespec.read_weights(model))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_takes_images_of_any_dimensions_in_either_layout(dims: int) -> None:
    spec, features = PLAIN.replace(spatial_dims=dims), nnx.jit(lambda model, x: model.features(x))
    x = images(2, *(9, 8, 10)[:dims])
    last, other = (build(spec, data_format=f"channels_{name}") for name in ("last", "first"))
    for model in (last, other):
        model.eval()
    np.testing.assert_allclose(called(other, first(x)), called(last, x), rtol=1e-5)
    maps, expected = features(other, first(x)), features(last, x)
    np.testing.assert_allclose(np.moveaxis(maps, 1, -1), expected, rtol=1e-5)
    body = build(spec, include_top=False, pooling="max")
    body.eval()
    np.testing.assert_allclose(called(body, x), expected.max(range(1, dims + 1)), rtol=1e-5)


def test_another_shape_than_it_was_built_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 12, 12\), but .* \(batch, any, any, 3\)"):
        build()(np.zeros((2, 3, 12, 12)))
    model = build(input_shape=(3, 8, None), data_format="channels_first")
    with pytest.raises(ValueError, match=r"\(batch, 3, 8, any\)"):
        model(np.zeros((2, 3, 9, 9)))


def test_the_same_network_as_in_another_framework(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    other = densespec.build(SPEC, backend="torch.nn", weights=random_weights()).eval()
    torch.save(other.state_dict(), tmp_path / "net.pth")
    model = build(SPEC, weights=tmp_path / "net.pth")
    model.eval()
    with torch.no_grad():
        expected = other(torch.from_numpy(first(images()).copy())).numpy()
    np.testing.assert_allclose(called(model, images()), expected, rtol=1e-4, atol=1e-5)
    twin = densespec.build(backend="torch.nn", weights=model)
    assert_close(densespec.read_weights(twin), densespec.read_weights(other), 0)


def test_a_state_in_memory_is_recognised() -> None:
    model = build(weights=random_weights())
    expected = densespec.read_weights(model)
    state = nnx.state(model)
    for given in (state, nnx.to_pure_dict(state), nnx.state(model, (nnx.Param, nnx.BatchStat))):
        for backend in ("numpy", "flax.nnx"):
            twin = densespec.build(SPEC, backend=backend, weights=given)
            assert_close(densespec.read_weights(twin), expected, 1e-6)


def test_orbax_keeps_a_network_and_any_backend_takes_it(tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")
    model = build(weights=random_weights())
    with ocp.StandardCheckpointer() as checkpointer:
        state = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        checkpointer.save(tmp_path / "net", state)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "net")
    twin = densespec.build(SPEC, backend="numpy", weights=restored)
    assert_close(densespec.read_weights(twin), densespec.read_weights(model), 1e-6)


@every_mode
def test_outputs_are_the_values_of_stages(mode: str) -> None:
    names, weights = ("block1", "transition1", "stem"), random_weights(PLAIN)
    model = build(PLAIN, mode=mode, outputs=names, weights=weights)
    whole = build(PLAIN, weights=weights)
    for each in (model, whole):
        each.eval()
    maps = called(model, images())
    values = nnx.jit(lambda model, x: model.values(x))(whole, images())
    nodes = [node.name for node in model.densespec.graph.given]
    for given, name in zip(maps, nodes, strict=True):
        np.testing.assert_allclose(given, values[name], rtol=1e-4, atol=1e-5)


# Types


@pytest.mark.parametrize(
    ("name", "dtype", "param_dtype"),
    [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        pytest.param("float32", "float32", "float32", marks=pytest.mark.full),
    ],
)
def test_types_are_flaxs_dtype_and_param_dtype(name: str, dtype: str, param_dtype: str) -> None:
    model = build(dtype=name)
    assert called(model, images()).dtype == dtype
    assert {v.dtype.name for v in flat(nnx.state(model, nnx.Param)).values()} == {param_dtype}
    assert {v.dtype.name for v in flat(nnx.state(model, nnx.BatchStat)).values()} == {"float32"}
    assert (model.stem.conv.dtype, model.stem.conv.param_dtype) == (dtype, param_dtype)


def test_float64_is_refused_where_jax_would_make_it_float32() -> None:
    if jax.config.read("jax_enable_x64"):
        pytest.skip("JAX is told to compute in float64 here")
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        build(dtype="float64")
    with pytest.raises(ValueError, match="'int8', but should be one of float16"):
        build(dtype="int8")


# Dropout


@layers_first
def test_dropout_draws_from_streams_of_its_own_or_given_ones(mode: str) -> None:
    model, x = build(mode=mode), images()
    one, other = (np.asarray(called(model, x)) for _ in range(2))
    assert not np.array_equal(one, other)
    drawing = nnx.jit(lambda model, rngs: model(x, rngs=rngs))
    twins = [np.asarray(drawing(build(mode=mode), nnx.Rngs(dropout=3))) for _ in range(2)]
    np.testing.assert_array_equal(*twins)
    assert not np.array_equal(twins[0], one)


@every_training_mode
def test_dropout_takes_the_projects_masks(mode: str) -> None:
    masks = dropout_masks(lower(SPEC, (12, 12)), seed=1, step=0, batch=2)
    model, x = build(mode=mode, weights=random_weights()), images()
    with_masks = np.asarray(nnx.jit(lambda model, masks: model(x, masks=masks))(model, masks))
    reference = densespec.build(SPEC, backend="numpy", weights=random_weights())
    trainer = get_backend("numpy").trainer(reference, lower(SPEC), TrainingRecipe())
    expected = trainer.step(first(x).astype(float), LABELS, learning_rate=0.1, masks=masks)
    loss = densespec_flax.loss_of(TrainingRecipe())(jnp.asarray(with_masks), LABELS)
    assert float(loss) == pytest.approx(expected.loss, rel=1e-4)
    with pytest.raises(ValueError, match="there should be one of each dropout"):
        model(x, masks={name: masks[name] for name in list(masks)[1:]})


# Frozen parts


@layers_first
def test_frozen_parts_are_no_params_and_stay_as_they_are(mode: str) -> None:
    model, x = build(mode=mode, trainable_from="block2"), images()
    frozen = flat(nnx.state(model, densespec_flax.Frozen))
    assert all(not name.startswith(("block2", "final", "classifier")) for name in frozen)
    assert "stem/conv/kernel" in frozen
    gradients = flat(nnx.jit(nnx.grad(loss_of))(model, x))
    assert {name.partition("/")[0] for name in gradients} == {"block2", "final", "classifier"}
    before = densespec.read_weights(model)
    trainer = trainer_of(model)
    trainer.step(first(x), LABELS, learning_rate=0.1)
    changed = {
        n for n, a in densespec.read_weights(model).items() if not np.array_equal(a, before[n])
    }
    assert {name.partition(".")[0] for name in changed} == {"block2", "final", "classifier"}
    assert trainer.moments()["velocity"].keys() == {
        weight.name for weight in model.densespec.graph.weights if weight.trainable
    }


# Modes


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(PLAIN, id="torchvision-like"),
        pytest.param(
            PLAIN.replace(
                stem_kind="norm-relu-conv",
                conv_bias=True,
                padding="same",
                running_variance="biased",
            ),
            id="keras-like",
            marks=pytest.mark.full,
        ),
    ],
)
def test_every_mode_computes_the_same(spec: DenseNetSpec) -> None:
    x, weights = images(), random_weights(spec)
    models = {mode: build(spec, mode=mode, weights=weights) for mode in MODES}
    gradients = {mode: flat(nnx.jit(nnx.grad(loss_of))(models[mode], x)) for mode in TRAINING_MODES}
    for mode in ("fast", "efficient"):
        assert_close(gradients[mode], gradients["layers"], 2e-3)
        assert_close(
            flat(nnx.state(models[mode], nnx.BatchStat)),
            flat(nnx.state(models["layers"], nnx.BatchStat)),
        )
    densespec.load_weights(models["inference"], densespec.read_weights(models["layers"]))
    for model in models.values():
        model.eval()
    outputs = {mode: called(models[mode], x) for mode in MODES}
    for mode in MODES:
        np.testing.assert_allclose(outputs[mode], outputs["layers"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["efficient", pytest.param("fast", marks=pytest.mark.full)])
def test_fused_networks_have_second_derivatives_but_no_forward_mode(mode: str) -> None:
    def curvature(mode: str) -> Any:
        graphdef, state = nnx.split(build(PLAIN, mode=mode, weights=random_weights(PLAIN)))

        def loss(x: Any) -> Any:
            return loss_of(nnx.merge(graphdef, state, copy=True), x)

        def slope(x: Any) -> Any:
            return (jax.grad(loss)(x) ** 2).sum()

        return loss, jax.jit(jax.grad(slope))(jnp.asarray(images(2, 6, 6)))

    loss, found = curvature(mode)
    np.testing.assert_allclose(found, curvature("layers")[1], rtol=5e-3, atol=1e-4)
    x = jnp.asarray(images(2, 6, 6))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (x,))


@pytest.mark.parametrize("mode", ["fast", "efficient", "inference"])
def test_a_replaced_module_is_called_in_every_mode(mode: str) -> None:
    calls = []

    class Watching(nnx.Conv):
        def __call__(self, x: Any) -> Any:
            calls.append(x.shape)
            return super().__call__(x)

    model = build(PLAIN, mode=mode)
    model.eval()
    conv = model.block2.layer1.conv1
    model.block2.layer1.conv1 = Watching(
        conv.in_features, conv.out_features, conv.kernel_size, use_bias=False, rngs=nnx.Rngs(0)
    )
    called(model, images())
    assert calls == [(2, 3, 3, conv.in_features)]


def test_a_network_for_inference_cannot_be_trained() -> None:
    model = build(PLAIN, mode="inference")
    assert model.final.norm.use_running_average
    with pytest.raises(Untrainable):
        get_backend("flax.nnx+inference").trainer(model, model.densespec.graph, TrainingRecipe())
    model.train()
    with pytest.raises(Untrainable):
        model(images())


def test_another_mode_has_the_same_state() -> None:
    model = build(trainable_from="block2", dtype="mixed_bfloat16")
    model.eval()
    model.classifier.bias = densespec_flax.Frozen(model.classifier.bias.get_value())
    other = densespec.in_mode(model, "fast")
    assert other.final.norm.use_running_average
    for kind in (nnx.Param, densespec_flax.Frozen, nnx.BatchStat, nnx.RngCount):
        assert_close(flat(nnx.state(other, kind)), flat(nnx.state(model, kind)), 0)
    back = densespec.in_mode(densespec.optimize(model), "layers")
    assert_close(densespec.read_weights(back), densespec.read_weights(model), 0)


# Changed models


def head(classes: int, *, bias: bool = True) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        features = model.classifier.in_features
        model.classifier = nnx.Linear(features, classes, use_bias=bias, rngs=nnx.Rngs(1))

    return change


SAYABLE: Mapping[str, tuple[Callable[[Any], Any], Mapping[str, Any]]] = {
    "another number of classes": (head(7), {"classes": 7}),
    "no bias": (head(7, bias=False), {"classes": 7, "classifier_bias": False}),
    "another epsilon": (lambda m: m.set_attributes(epsilon=0.01), {"batch_norm_epsilon": 0.01}),
    "another momentum": (
        lambda m: m.set_attributes(momentum=0.7),
        {"batch_norm_momentum": 0.3},
    ),
    "another rate": (lambda m: m.set_attributes(rate=0.5), {"dropout_rate": 0.5}),
    "nothing": (lambda m: m.eval(), {}),
}


@pytest.mark.parametrize(("change", "says"), SAYABLE.values(), ids=SAYABLE)
def test_what_a_spec_can_say_of_a_changed_model_is_kept(
    tmp_path: Path, change: Callable[[Any], Any], says: Mapping[str, Any]
) -> None:
    model = build()
    change(model)
    model.eval()
    densespec.save(model, tmp_path / "net.safetensors")
    again = build(None, weights=tmp_path / "net.safetensors")
    again.eval()
    assert again.densespec.graph.spec == SPEC.replace(**says)
    np.testing.assert_allclose(
        called(again, images()), called(model, images()), rtol=1e-4, atol=1e-5
    )


REFUSED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "a pool": ("stem_pool", lambda m: setattr(m, "stem_pool", lambda x: x)),
    "another activation": ("final.relu", lambda m: setattr(m.final, "relu", jax.nn.gelu)),
    "one epsilon": ("final.norm", lambda m: setattr(m.final.norm, "epsilon", 0.1)),
    "another stride": ("stem.conv", lambda m: setattr(m.stem.conv, "strides", 2)),
    "a part": ("block1", lambda m: setattr(m, "block1", nnx.Linear(2, 2, rngs=nnx.Rngs(0)))),
    "a module more": ("more", lambda m: setattr(m, "more", nnx.Linear(2, 2, rngs=nnx.Rngs(0)))),
    "no head": ("classifier", lambda m: setattr(m, "classifier", lambda x: x)),
}


@pytest.mark.parametrize(("part", "change"), REFUSED.values(), ids=REFUSED)
def test_what_no_spec_can_say_is_refused_by_name(
    tmp_path: Path, part: str, change: Callable[[Any], Any]
) -> None:
    model = build()
    change(model)
    with pytest.raises(ModelChanged, match=f"^{part} is "):
        densespec.save(model, tmp_path / "net.safetensors")
    with pytest.raises(ModelChanged):
        densespec.optimize(model)


# Training


def test_labels_that_are_no_classes_change_nothing() -> None:
    model = build(PLAIN)
    trainer = trainer_of(model)
    before = densespec.read_weights(model)
    x = first(images())
    for labels in (np.array([0, 4]), np.array([0.0, 1.0]), np.array([0])):
        with pytest.raises(ValueError, match="label"):
            trainer.step(x, labels, learning_rate=0.1)
    assert_close(densespec.read_weights(model), before, 0)


def test_momentum_goes_on_where_it_stood() -> None:
    x = first(images())

    def steps(trainer: Any, count: int) -> list[float]:
        return [trainer.step(x, LABELS, learning_rate=0.1).loss for _ in range(count)]

    whole = steps(trainer_of(build(PLAIN)), 4)
    model = build(PLAIN)
    before = trainer_of(model)
    assert steps(before, 2) == whole[:2]
    after = trainer_of(build(PLAIN, weights=before.weights()))
    after.restore(before.moments(), step=2)
    assert steps(after, 2) == whole[2:]
    kept = before.moments()["velocity"]
    with pytest.raises(DensespecError, match="moments of the optimizer do not fit"):
        after.restore({"velocity": dict(itertools.islice(kept.items(), 3))}, step=2)


@pytest.mark.parametrize(
    "dtype", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.full)]
)
def test_mixed_precision_keeps_weights_in_float32_and_follows_the_curve(dtype: str) -> None:
    x, losses = first(images()), {}
    for kind in ("float32", dtype):
        model = build(PLAIN, dtype=kind)
        trainer = trainer_of(model, TrainingRecipe(dtype=kind))
        losses[kind] = [
            trainer.step(x, LABELS, learning_rate=0.02, gradients=False).loss for _ in range(4)
        ]
        assert {array.dtype.name for array in trainer.weights().values()} == {"float32"}
    np.testing.assert_allclose(losses[dtype], losses["float32"], rtol=0.03)
    assert losses[dtype][-1] < losses[dtype][0]


def test_steps_whose_gradients_overflow_are_left_out() -> None:
    model = build(PLAIN, dtype="mixed_float16")
    trainer = trainer_of(model, TrainingRecipe(dtype="mixed_float16"))
    before = {w: a for w, a in trainer.weights().items() if "running" not in w}
    trainer.step(first(images()) * np.float32(np.inf), LABELS, learning_rate=0.1)
    assert_close({name: trainer.weights()[name] for name in before}, before, 0)


def test_the_model_may_be_in_any_mode_while_it_is_trained() -> None:
    model = build(PLAIN)
    model.eval()
    trainer = trainer_of(model)
    before = flat(nnx.state(model, nnx.BatchStat))
    trainer.step(first(images()), LABELS, learning_rate=0.1)
    assert model.stem.norm.use_running_average
    assert any(
        not np.array_equal(a, before[n]) for n, a in flat(nnx.state(model, nnx.BatchStat)).items()
    )


def test_the_examples_network_is_fine_tuned() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from examples import flax_finetuning as example

    backbone, model = example.main(example.SPEC.replace(blocks=(1, 1)), epochs=1)
    before, after = densespec.read_weights(backbone), densespec.read_weights(model)
    assert after["classifier.kernel"].shape[0] == 3
    kept = {name for name in before if name.startswith(("stem", "block1", "transition1"))}
    assert kept
    assert not {name for name in kept if not np.array_equal(before[name], after[name])}
    assert not np.array_equal(
        before["block2.layer1.conv1.kernel"], after["block2.layer1.conv1.kernel"]
    )


# Without Flax


def test_without_flax_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["flax"] = None
import densespec
try:
    densespec.build("densenet121", backend="flax.nnx")
except densespec.errors.PackageMissing as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "backend 'flax.nnx' needs the package 'flax'" in run.stdout
    assert "pip install 'densespec[flax]'" in run.stdout
