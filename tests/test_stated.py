"""What files state of their networks: a model is read as it is, or refused by what no spec says.

Keras saves small models in a process of its own; each is read back from the three kinds of file
that it has, and computes what Keras computed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import densespec
from densespec.errors import WeightsError
from densespec.network.catalogue import get
from densespec.network.spec import GLOBAL_POOLS
from densespec.weights.comparing import compare
from densespec.weights.convert import convert
from densespec.weights.opening import IdentifiedWeights, open_weights
from densespec.weights.stated.keras_layers import DEEPEST, model_of, read_config
from densespec.weights.stated.keras_network import stated_network
from densespec.weights.stated.timm import timm_network
from tests.fuzz.configs import changed
from tests.test_convert import assert_same

WHOLE, WEIGHTS = (".keras", ".h5"), (".weights.h5",)

READ = {
    "plain": None,
    "no-bias": None,
    "max-pool": None,
    "grey": None,
    "softmax": "softmax",
    "softmax-in-float32": "softmax",
    "softmax-apart": "softmax",
    "sigmoid": "sigmoid",
    "sigmoid-apart": "sigmoid",
    "hidden": None,
    "hidden-relu-apart": None,
    "hidden-relu-object": None,
    "noise": None,
    "flatten-after-pool": None,
    "features": None,
    "features-average": None,
    "features-maximum": None,
    "nested": None,
    "nested-sequential": "softmax",
    "nested-head": "softmax",
    "nested-twice": None,
    "augmented": None,
    "flipped": None,
    "relu-layers": None,
    "silu": None,
    "leaky": None,
    "relu6": None,
    "no-scale": None,
    "instance": None,
    "groups": None,
    "epsilon": None,
    "stride": None,
    "two-heads": None,
    "two-heads-hidden": None,
    "head-and-features": None,
    "head-and-mask": None,
}
"""Models that a spec can say, with what follows their classifiers."""

REFUSED = {
    "hidden-linear": "has no ReLU after it as its activation",
    "hidden-gelu": "has no ReLU after it as its activation",
    "hidden-selu": "has the activation 'selu'",
    "hidden-relu6": "(ReLU) has no ReLU after it as its activation",
    "hidden-leaky": "(LeakyReLU)",
    "hidden-norm": "stands in the head, where a spec has no norms",
    "flatten": "(Flatten) stands where a spec has a global pool",
    "rescaled": "rescales its input, or computes on it, by layer 'rescaling'",
    "rescaled-outside": "rescales its input, or computes on it, by layer 'rescaling'",
    "normalised": "rescales its input, or computes on it, by layer 'normalization'",
    "divided": "rescales its input, or computes on it, by layer 'true_divide'",
    "resized": "(Resizing)",
    "selu": "layer 'conv1_relu' (Activation) has the activation 'selu'",
    "one-elu": "layer 'conv1_relu' (Activation)",
    "one-epsilon": "layer 'pool2_bn' (BatchNormalization) has epsilon = 0.001",
    "no-center": "(BatchNormalization) has center = False",
    "dilation": "(Conv2D) has dilation_rate = [2, 2]",
    "max-transition": "layer 'pool2_pool' (MaxPooling2D) stands where",
    "twice": "is used 2 times",
    "always-training": "is called with training=True",
    "masks": "no spec has such a layer or activation as layer 'up_sampling2d'",
}
"""Models that no spec can say, with the words of the refusals."""

SEEN_IN_WEIGHTS = {
    "hidden-leaky": "(leaky_re_lu)",
    "leaky": "(leaky_re_lu)",
    "rescaled": "(rescaling)",
    "rescaled-outside": "(rescaling)",
    "normalised": "(normalization)",
    "max-pool": "(global_max_pooling2d)",
}
"""Models of which even the weights alone tell that no spec can say them."""

NOTED = {
    "noise": "(GaussianNoise) acts only in training",
    "augmented": "(RandomFlip) acts only in training",
    "flipped": "(RandomFlip) acts only in training",
    "features-average": "pooling='avg'",
    "features-maximum": "pooling='max'",
    "two-heads": "a model of 2 outputs: its network is the one that ends in layer 'average'",
    "two-heads-hidden": "the head is left out",
    "head-and-features": "its network is the one that ends in layer 'kind'",
    "head-and-mask": "its network is the one that ends in layer 'kind'",
}


SAID: dict[str, dict[str, object]] = {
    "hidden": {"head_dropout_rate": 0.3, "head_units": (5,)},
    "no-bias": {"classifier_bias": False},
    "max-pool": {"global_pool": "max"},
}
"""What models have otherwise than a plain head."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("keras", "torch", "h5py"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    folder = tmp_path_factory.mktemp("stated")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("stated_side.py"), folder],
        env=os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def check_output(found: IdentifiedWeights, expected: Path) -> None:
    """Check that a file's network gives what Keras's model gave."""
    with np.load(expected) as stored:
        x, y = np.moveaxis(stored["x"], -1, 1).astype(np.float64), stored["y"]
    top = found.has_classifier
    model = densespec.build(
        None,
        weights=found.path,
        backend="numpy",
        include_top=top,
        pooling=None if top else found.graph.pooling,
    )
    given = model(x)
    given = np.moveaxis(given, 1, -1) if given.ndim == 4 else given
    assert given.shape == y.shape
    assert np.abs(given - y).max() <= 1e-5 * np.abs(y).max()


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("name", READ)
def test_a_model_computes_what_it_computed_in_keras(folder: Path, name: str, suffix: str) -> None:
    with open_weights(folder / f"{name}{suffix}") as found:
        assert found.graph.classifier_activation == READ[name]
        assert NOTED.get(name, "") in "\n".join(found.notes)
        check_output(found, folder / f"{name}.npz")
        for field, value in SAID.get(name, {}).items():
            assert getattr(found.spec, field) == value


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_spec_says_is_refused_by_name(folder: Path, name: str, suffix: str) -> None:
    with pytest.raises(WeightsError) as refusal, open_weights(folder / f"{name}{suffix}"):
        pass
    assert REFUSED[name] in str(refusal.value)


@pytest.mark.parametrize("name", SEEN_IN_WEIGHTS)
def test_weights_alone_are_refused_by_the_layers_that_they_name(folder: Path, name: str) -> None:
    with pytest.raises(WeightsError) as refusal, open_weights(folder / f"{name}.weights.h5"):
        pass
    assert SEEN_IN_WEIGHTS[name] in str(refusal.value)


@pytest.mark.parametrize("name", ["hidden", "nested", "nested-sequential", "nested-head"])
def test_a_model_and_its_weights_alone_hold_the_same(folder: Path, name: str) -> None:
    spec = {"stem_width": 8, "growth_rate": 4}
    with open_weights(folder / f"{name}.keras") as whole:
        given = whole.spec
        assert (given.stem_channels, given.growth_rate) == tuple(spec.values())
        with open_weights(folder / f"{name}.weights.h5", spec=given) as weights:
            assert_same(weights.arrays(), whole.arrays())


def test_verify_and_check_compare_what_follows_the_classifier(folder: Path, tmp_path: Path) -> None:
    logits, softmax = folder / "plain.keras", folder / "softmax.keras"
    done = compare(logits, softmax)
    assert done.same_tensors
    assert done.activations == (None, "softmax")
    assert done.output_difference is not None
    assert done.output_difference > 0.1
    assert not done.same_network
    assert compare(softmax, folder / "softmax-apart.h5").same_network


def test_a_softmax_is_kept_where_the_target_can_say_it(folder: Path, tmp_path: Path) -> None:
    source = folder / "softmax.keras"
    kept = convert(source, tmp_path / "net.safetensors")
    assert kept.notes == ()
    assert compare(source, kept.path).output_difference == 0.0
    left_out = convert(source, tmp_path / "net.weights.h5", to_layout="densespec-keras")
    (note,) = left_out.notes
    assert "build it with classifier_activation='softmax'" in note


def test_build_takes_what_the_file_states_unless_it_is_told(folder: Path) -> None:
    source = folder / "sigmoid.keras"
    built = densespec.build(None, weights=source, backend="numpy")
    assert built.graph.classifier_activation == "sigmoid"
    logits = densespec.build(None, weights=source, backend="numpy", classifier_activation="linear")
    assert logits.graph.gives_logits


def test_a_given_spec_has_to_agree_with_the_file(folder: Path) -> None:
    with open_weights(folder / "epsilon.keras") as found:
        assert found.spec.batch_norm_epsilon == 0.02
        other = found.spec.replace(batch_norm_epsilon=1e-5, batch_norm_momentum=0.5)
    with (
        pytest.raises(WeightsError, match=r"batch_norm_epsilon is 0\.02 in the file, but 1e-05 in"),
        open_weights(folder / "epsilon.keras", spec=other),
    ):
        pass


# Configs that no model has


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "its config is no JSON"),
        ("[" * 100_000, "is nested deeper than JSON"),
    ],
)
def test_text_that_is_no_config_is_refused(text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_config(text)


def nested(depth: int) -> dict[str, object]:
    entry: dict[str, object] = {"class_name": "Dense", "config": {"name": "dense"}}
    for level in range(depth):
        entry = {"class_name": "Sequential", "config": {"name": f"m{level}", "layers": [entry]}}
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"class_name": "Functional", "config": None},
        {"class_name": "Functional", "config": {"layers": [], "input_layers": 1}},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}},
        {"class_name": "Sequential", "config": [1]},
        nested(DEEPEST + 2),
    ],
)
def test_a_config_of_no_model_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(WeightsError):
        model_of(entry)


def test_a_config_that_keras_would_not_write_is_read_or_refused() -> None:
    path = Path(__file__).with_name("cases") / "keras_softmax" / "model.keras"
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json")
    refused = []
    for number in range(150):
        text = changed(config, random.Random(number)).decode()
        try:
            stated_network({"config": text})
        except WeightsError as error:
            refused.append(str(error))
    assert [said for said in refused if len(said) > 3000 or not said.isprintable()] == []
    assert 20 < len(refused) < 130


def test_layers_that_read_each_other_are_refused() -> None:
    def layer(name: str, source: str) -> dict[str, object]:
        calls = [[[source, 0, 0, {}]]]
        return {"class_name": "ReLU", "config": {"name": name}, "inbound_nodes": calls}

    config = {
        "layers": [layer("a", "b"), layer("b", "a")],
        "input_layers": [["a", 0, 0]],
        "output_layers": [["b", 0, 0]],
    }
    with pytest.raises(WeightsError, match="cycle"):
        model_of({"class_name": "Model", "config": config})


# timm


def timm(**arguments: object) -> dict[str, object]:
    return {"architecture": "densenet121", "model_args": arguments}


def test_the_arguments_of_timm_are_those_of_the_spec() -> None:
    arguments = {"growth_rate": 8, "block_config": [2, 3], "bn_size": 2, "in_chans": 1}
    stated = timm_network(timm(**arguments, num_classes=7, proj_drop_rate=0.1, act_layer="relu"))
    spec = stated.spec
    assert (spec.blocks, spec.growth_rate, spec.stem_channels) == ((2, 3), 8, 16)
    assert (spec.bottleneck_width, spec.in_channels, spec.classes) == (2, 1, 7)
    assert spec.dropout_rate == 0.1
    assert stated.include_top


@pytest.mark.parametrize(
    ("pool", "kind"), [("avg", "avg"), ("max", "max"), ("catavgmax", "catavgmax"), ("", None)]
)
def test_a_network_of_timm_without_classes_ends_in_its_pool(pool: str, kind: str | None) -> None:
    stated = timm_network(timm(num_classes=0, global_pool=pool))
    assert stated.ends == {"include_top": False, "pooling": kind}


def test_dropout_before_the_classifier_is_a_field() -> None:
    assert timm_network(timm(drop_rate=0.2)).spec.head_dropout_rate == 0.2


@pytest.mark.parametrize("name", ["densenetblur121d", "densenet264d.untrained"])
def test_the_deep_networks_of_timm_are_the_catalogues(name: str) -> None:
    assert timm_network({"architecture": name}).spec == get(name.partition(".")[0])


@pytest.mark.parametrize(
    ("architecture", "arguments", "fields"),
    [
        ("densenet121", {"stem_type": "deep"}, ("deep", 3, "max", "avg")),
        ("densenetblur121d", {"stem_type": ""}, ("conv-norm-relu", 7, "max-blur", "avg")),
        ("densenetblur121d", {"aa_stem_only": False}, ("deep", 3, "max-blur", "blur")),
        ("densenetblur121d", {"aa_layer": None}, ("deep", 3, "max", "avg")),
        ("densenet121", {"aa_stem_only": False}, ("conv-norm-relu", 7, "max", "avg")),
    ],
)
def test_the_stem_of_timm_is_told_by_its_arguments(
    architecture: str, arguments: dict[str, object], fields: tuple[object, ...]
) -> None:
    spec = timm_network({"architecture": architecture, "model_args": arguments}).spec
    names = ("stem_kind", "stem_kernel", "stem_pool_kind", "transition_pool_kind")
    assert tuple(getattr(spec, name) for name in names) == fields


@pytest.mark.parametrize("fast", ["", "fast"])
@pytest.mark.parametrize("kind", GLOBAL_POOLS)
def test_the_pool_before_the_classifier_is_a_field(kind: str, fast: str) -> None:
    assert timm_network(timm(global_pool=fast + kind)).spec.global_pool == kind
    assert timm_network(timm() | {"global_pool": fast + kind}).spec.global_pool == kind


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (timm(global_pool="median"), "global_pool = 'median'"),
        (timm() | {"global_pool": ""}, "global_pool = ''"),
        (timm(act_layer="mish"), "act_layer = 'mish'"),
        (timm(act_layer={"name": "relu"}), "act_layer"),
        (timm(norm_layer="layernorm2d"), "norm_layer = 'layernorm2d'"),
        (timm(aa_layer="blurpool"), "aa_layer = 'blurpool'"),
        (timm(stem_type="deep_tiered"), "stem_type = 'deep_tiered'"),
        (timm(dilations=2), "dilations = 2"),
        (timm(growth_rate=-1), "growth_rate = -1"),
        ({"architecture": "densenet264d_iabn"}, "'densenet264d_iabn'"),
        ({"architecture": "resnet50.a1_in1k"}, "'resnet50.a1_in1k'"),
        ({"architecture": "densenet121", "model_args": [1]}, "model_args should be"),
    ],
)
def test_what_no_spec_says_of_timm_is_refused_by_name(
    config: dict[str, object], words: str
) -> None:
    with pytest.raises(WeightsError) as refusal:
        timm_network(config)
    assert words in str(refusal.value)
