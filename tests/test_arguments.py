"""What files can't say of activations and norms, as MONAI's: it is asked, or said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import densespec
from densespec import DenseNetSpec
from densespec.cli import main
from densespec.errors import SpecError, UnknownName, WeightsError
from densespec.weights.comparing import compare
from densespec.weights.convert import Conversion, convert
from densespec.weights.opening import open_weights

PLAIN = DenseNetSpec(
    blocks=(2, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    in_channels=1,
    classes=3,
    stem_kind="conv-norm-relu",
    stem_width=8,
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    dropout_place="layer",
)
ASSUMED = (
    "assumed, as no array tells: activation = 'relu' and batch_norm_epsilon = 1e-05 "
    "(--set activation=... says otherwise)"
)


def written(folder: Path, layout: str = "monai", **changes: Any) -> tuple[Path, Conversion]:
    """Write the state dict of a network as MONAI keeps it."""
    model = densespec.build(PLAIN.replace(**changes), backend="numpy", seed=0)
    source, target = folder / "source.safetensors", folder / f"{layout}.pth"
    densespec.save(model, source)
    return target, convert(source, target, to_layout=layout)


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 1, 40, 36))


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_what_is_assumed_is_said_once_in_one_line(tmp_path: Path, command: str) -> None:
    path, _ = written(tmp_path)
    target = [str(tmp_path / "again.safetensors")] if command == "convert" else []
    said = CliRunner().invoke(main, [command, str(path), *target]).output
    assert said.count(ASSUMED) == 1
    assert [line for line in said.splitlines() if ASSUMED in line] == [f"note: {ASSUMED}"]


@pytest.mark.parametrize(
    "told",
    [
        {"activation": "elu"},
        {"activation": "leaky-relu", "activation_slope": 0.2},
        {"activation": "gelu", "batch_norm_epsilon": 1e-3},
        {"norm": "instance"},
        {"norm": "group", "norm_groups": 4},
        {"norm": "none"},
    ],
    ids=str,
)
def test_what_is_told_is_read_and_goes_unsaid(tmp_path: Path, told: dict[str, Any]) -> None:
    path, done = written(tmp_path, **told)
    said = [name for name in told if name in ("activation", "norm", "batch_norm_epsilon")]
    assert all(f"{name} = {told[name]!r}" in "\n".join(done.notes) for name in said)
    with open_weights(path, assume=told) as found:
        assert found.spec == PLAIN.replace(**told)
        asked = {"activation", "batch_norm_epsilon"} - told.keys()
        if told.get("norm") == "none":
            asked -= {"batch_norm_epsilon"}  # which nothing has
        assert found.assumed.keys() == asked
    model = densespec.build(weights=path, backend="numpy", assume=told)
    wanted = densespec.build(weights=tmp_path / "source.safetensors", backend="numpy")
    np.testing.assert_array_equal(model(images()), wanted(images()))


def test_a_file_may_be_told_of_in_a_text(tmp_path: Path) -> None:
    path, _ = written(tmp_path, norm="group", norm_groups=2, norm_affine=False)
    with open_weights(path, assume="norm=group, norm_groups=2") as found:
        assert found.spec == PLAIN.replace(norm="group", norm_groups=2, norm_affine=False)
    arguments = ["inspect", str(path), "--set", "norm=group", "--set", "norm_groups=2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "changes", [{"norm": "instance"}, {"norm": "group", "norm_groups": 4, "norm_affine": False}]
)
def test_norms_without_running_statistics_are_asked_about(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path, _ = written(tmp_path, **changes)
    with pytest.raises(WeightsError, match=r"say it \(--set norm=instance"), open_weights(path):
        pass


@pytest.mark.parametrize(
    "changes", [{"activation": "prelu"}, {"norm_affine": False}, {"norm_affine": True}], ids=str
)
def test_what_arrays_tell_is_neither_asked_nor_assumed(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path, _ = written(tmp_path, **changes)
    with open_weights(path) as found:
        assert found.spec == PLAIN.replace(**changes)
        assert not found.assumed.keys() & changes.keys()


def test_the_spec_that_is_built_tells_too(tmp_path: Path, recwarn: Any) -> None:
    path, _ = written(tmp_path, activation="elu")
    spec = PLAIN.replace(activation="elu")
    model = densespec.build(spec, weights=path, backend="numpy")
    assert not [warning for warning in recwarn if "assumed" in str(warning.message)]
    assert model.densespec.graph.spec.activation == "elu"


def test_verify_says_what_it_assumed_of_both(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    same = CliRunner().invoke(main, ["verify", str(path), str(path)])
    assert same.exit_code == 0
    assert same.output.splitlines()[-1] == (
        "the same network, if both have activation = 'relu' and batch_norm_epsilon = 1e-05 as "
        "assumed"
    )
    source = tmp_path / "source.safetensors"
    stated = CliRunner().invoke(main, ["verify", str(path), str(source)])
    assert stated.output.splitlines()[-1] == "the same network"
    assert compare(path, source).assumed_of_both == {}


def test_verify_takes_what_is_told_of_each_file(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    arguments = ["verify", str(path), str(path), "--set", "activation=elu"]
    result = CliRunner().invoke(main, arguments)
    assert "different: activation is 'elu' in the first, but 'relu' in the second" in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        ("activation=swish", SpecError, "activation = 'swish', but should be 'relu' or"),
        ("activations=elu", UnknownName, "Did you mean activation"),
        ({"norm_groups": 0}, SpecError, "norm_groups = 0"),
    ],
)
def test_what_can_not_be_told_is_refused(
    tmp_path: Path, told: Any, error: type[Exception], words: str
) -> None:
    path, _ = written(tmp_path)
    with pytest.raises(error, match=words), open_weights(path, assume=told):
        pass


def test_torchvisions_program_has_no_such_arguments(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="activation is 'relu' there, but 'elu' here"):
        written(tmp_path, "torchvision", activation="elu", in_channels=3)
