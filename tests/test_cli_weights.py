"""``densespec inspect``, ``convert``, ``verify`` and ``layouts``, as they are used."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

from densespec import get
from densespec.cli import main
from densespec.network.files import write_spec
from densespec.network.graph import lower
from densespec.weights.checkpoint import read_checkpoint, write_checkpoint
from densespec.weights.layouts import layouts
from densespec.weights.opening import open_weights
from tests.strategies import tiny
from tests.test_convert import SPEC, assert_same, checkpoint, random_weights


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def output(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def record(*arguments: str | Path) -> Any:
    return json.loads(output(*arguments, "--json"))


def failure(*arguments: str | Path) -> str:
    """What a command says when it fails: one line on stderr, nothing on stdout, exit code 1."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "net.safetensors")


@pytest.fixture
def theirs(net: Path, tmp_path: Path) -> Path:
    """The same in torchvision's layout."""
    path = tmp_path / "theirs.safetensors"
    output("convert", net, path, "--to", "torchvision")
    return path


# layouts


def test_layouts_lists_each_with_its_kinds_of_file() -> None:
    lines = output("layouts").splitlines()
    assert {line.split()[0] for line in lines} == set(layouts())
    (monai,) = (line for line in lines if line.startswith("monai "))
    assert monai.endswith(
        "monai.networks.nets.DenseNet*, in one to three dimensions (torch, safetensors)"
    )


# inspect


def test_inspect_says_what_a_file_holds(tmp_path: Path) -> None:
    net = checkpoint(tmp_path / "net.safetensors", get("densenet121").replace(classes=14))
    theirs = tmp_path / "chexnet.safetensors"
    output("convert", net, theirs, "--to", "torchvision")
    assert output("inspect", theirs) == (
        f"{theirs}: densenet121, 3 channels in, 14 classes, float32\n"
        "layout torchvision (torchvision.models.densenet*, timm's densenet*, CheXNet-like "
        "checkpoints), in a safetensors file\n"
    )


def test_inspect_names_the_nearest_variant_and_what_differs(tmp_path: Path) -> None:
    spec = get("densenet-40-12").replace(padding="same", batch_norm_epsilon=1e-3)
    net = checkpoint(tmp_path / "net.safetensors", spec, include_top=False)
    assert output("inspect", net).startswith(
        f"{net}: densenet-40-12 with padding = 'same', batch_norm_epsilon = 0.001, "
        "3 channels in, no classifier, float32\n"
    )


def test_inspect_describes_a_network_of_no_name_by_its_blocks(net: Path) -> None:
    assert output("inspect", net).startswith(f"{net}: DenseNet-12 of blocks 1 2 1, 3 channels in")


def test_inspect_as_json(theirs: Path) -> None:
    assert record("inspect", theirs) == {
        "path": str(theirs),
        "container": "safetensors",
        "layout": "torchvision",
        "variant": None,
        "spec": json.loads(json.dumps(SPEC.replace(stem_width=64).to_dict())),
        "classifier": True,
        "classifier_activation": None,
        "dtypes": ["float32"],
        "notes": [],
    }


def test_inspect_takes_a_spec_where_the_file_says_nothing(tmp_path: Path) -> None:
    tree, spec = tmp_path / "net.msgpack", tmp_path / "spec.toml"
    small_stem = SPEC.replace(stem_kernel=5)
    output("convert", checkpoint(tmp_path / "net.safetensors", small_stem), tree)
    write_spec(small_stem, spec)
    assert "give the spec" in failure("inspect", tree)
    assert "layout flax" in output("inspect", tree, "--spec", spec)


def test_inspect_takes_a_layout(theirs: Path) -> None:
    assert "layout timm" in output("inspect", theirs, "--from", "timm")
    assert failure("inspect", theirs, "--from", "monai").startswith(f"{theirs}: ")


# convert


def test_convert_says_what_it_read_and_wrote(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "theirs.safetensors"
    lines = output("convert", net, target, "--to", "torchvision").splitlines()
    assert lines[0].startswith(f"{net}: DenseNet-12")
    assert lines[1].startswith("layout densespec ")
    assert lines[2:] == [f"written {target} in layout torchvision"]


def test_convert_back_gives_the_same_checkpoint(net: Path, theirs: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    output("convert", theirs, back)
    assert_same(read_checkpoint(back).arrays, read_checkpoint(net).arrays)


def test_convert_with_a_check_runs_both(net: Path, tmp_path: Path) -> None:
    said = output("convert", net, tmp_path / "a.safetensors", "--to", "torchvision", "--check")
    assert said.endswith("checked: largest relative difference at the output 0.0e+00\n")


def test_the_check_sees_what_a_cast_costs(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "half.safetensors"
    done = record("convert", net, target, "--dtype", "float16", "--check")
    assert 1e-6 < done["checked"] < 1e-2
    assert record("inspect", target)["dtypes"] == ["float16"]


def test_the_check_knows_the_spec_of_files_that_say_nothing(net: Path, tmp_path: Path) -> None:
    assert record("convert", net, tmp_path / "net.msgpack", "--check")["checked"] == 0.0


def test_convert_as_json(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "theirs.safetensors"
    done = record("convert", net, target, "--to", "torchvision")
    assert done.pop("source")["layout"] == "densespec"
    assert done == {
        "target": {"path": str(target), "layout": "torchvision", "container": "safetensors"},
        "differences": {},
        "consequence": None,
        "rounding": None,
        "training_differences": {},
        "not_finite": [],
        "notes": [],
        "checked": None,
    }


def test_another_network_is_refused_with_the_measured_effect(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.weights.h5"
    message = failure("convert", net, target, "--to", "keras-hub")
    assert "padding is 'same' there, but 'symmetric' here" in message
    assert re.search(r"feature map differs by \d\.\de-0\d of the largest value", message)
    assert message.endswith("(--allow-different)")
    assert not target.exists()


def test_another_network_is_written_where_it_is_allowed(net: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    target = tmp_path / "net.weights.h5"
    said = output("convert", net, target, "--to", "keras-hub", "--allow-different", "--check")
    lines = said.splitlines()
    assert "different: padding is 'symmetric' in the source, but 'same' in the target" in lines
    assert (
        "note: only training differs: running_variance is 'unbiased' in the source, but 'biased' "
        "in the target" in lines
    )
    (effect,) = re.findall(r"different: the feature map, by (\S+) of its largest value", said)
    (checked,) = re.findall(r"checked: .* at the output (\S+)", said)
    assert 0 < float(checked) < float(effect) < 1  # of which the global pool takes the mean
    with open_weights(target) as found:
        assert "padding is 'same' there" in found.metadata["densespec.differences"]


def test_nan_is_warned_of_on_stderr(tmp_path: Path) -> None:
    weights = random_weights(tiny())
    weights["final.norm.gamma"][0] = np.nan
    source = tmp_path / "net.safetensors"
    write_checkpoint(source, lower(tiny()), weights)
    result = run("convert", source, tmp_path / "net.msgpack")
    assert result.exit_code == 0
    assert result.stderr == "warning: NaN or infinite values in final.norm.gamma\n"
    done = run("convert", source, tmp_path / "net.msgpack", "--json")
    assert json.loads(done.stdout)["not_finite"] == ["final.norm.gamma"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "torchvison"], 1, "unknown layout 'torchvison'. Did you mean torchvision"),
        (["--from", "flax"], 1, "no stem convolution"),
        (["--spec", "densenet12"], 1, "unknown variant 'densenet12'. Did you mean"),
        (["--to", "flax", "--dtype", "int8"], 2, "Invalid value for '--dtype'"),
        (["--layout", "flax"], 2, "No such option"),
    ],
    ids=[
        "an unknown layout",
        "a layout that it is not of",
        "an unknown variant",
        "a dtype that is none",
        "an unknown option",
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    arguments: list[str], code: int, message: str, net: Path, tmp_path: Path
) -> None:
    result = run("convert", net, tmp_path / "target.safetensors", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == [net]


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_a_folder_or_a_missing_file_is_refused(command: str, net: Path, tmp_path: Path) -> None:
    more = [] if command == "inspect" else [tmp_path / "other.safetensors"]
    result = run(command, tmp_path, *more)
    assert result.exit_code == 1
    assert "a folder, but should be a weight file; give the weight file in it: net.safetensors" in (
        result.stderr
    )
    missing = tmp_path / "missing.pth"
    assert failure(command, missing, *more) == f"{missing}: no such file"


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hostile-was-here",)


GARBAGE = {
    "random bytes": np.random.default_rng(0).bytes(4096),
    "nothing": b"",
    "a web page": b"<!doctype html><title>404</title>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a pickle that runs code": pickle.dumps(Hostile(), protocol=2),
    "a safetensors header that lies": (2**40).to_bytes(8, "little") + b"{}" + bytes(100),
    "a damaged archive": b"PK\3\4" + bytes(200),
    "a damaged HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(200),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".weights.h5", ".keras", ".msgpack"])
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_gives_one_clear_error(
    content: bytes, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    for arguments in (["inspect", path], ["convert", path, tmp_path / "target.safetensors"]):
        assert failure(*arguments).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(), (3,), (0, 3, 7, 7), (64, 3, 7), (1,) * 7], ids=str)
def test_kernels_of_absurd_shapes_give_one_clear_error(
    shape: tuple[int, ...], theirs: Path
) -> None:
    arrays = safetensors.numpy.load_file(theirs)
    for name in ("features.conv0.weight", "features.norm0.weight", "classifier.weight"):
        safetensors.numpy.save_file(arrays | {name: np.zeros(shape, "float32")}, theirs)
        message = failure("inspect", theirs)
        assert message.startswith(f"{theirs}: ")
        assert str(shape) in message or "reads" in message or "kernel" in message


# verify


def test_verify_finds_the_same_network_in_two_layouts(net: Path, theirs: Path) -> None:
    lines = output("verify", net, theirs).splitlines()
    count = len(lower(SPEC).weights)
    assert lines[-3:] == [
        f"{count} of {count} arrays are identical",
        "largest relative difference at the output: 0.0e+00",
        "the same network",
    ]
    assert not any(line.startswith("different") for line in lines)


def test_verify_finds_what_differs(net: Path, theirs: Path) -> None:
    arrays = safetensors.numpy.load_file(theirs)
    arrays["features.norm5.bias"][2] += 4
    safetensors.numpy.save_file(arrays, theirs)
    result = run("verify", net, theirs)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "different: final.norm.beta by up to 4\n" in result.stdout
    assert result.stdout.endswith("not the same network\n")
    found = run("verify", net, theirs, "--json")
    assert found.exit_code == 1
    said = json.loads(found.stdout)
    assert not said["same"]
    assert said["tensor_differences"] == {"final.norm.beta": pytest.approx(4)}
    assert said["output_difference"] > 1e-4


def test_verify_tells_the_same_arrays_from_the_same_network(net: Path, tmp_path: Path) -> None:
    other = tmp_path / "same.safetensors"
    write_checkpoint(other, lower(SPEC.replace(padding="same")), read_checkpoint(net).arrays)
    result = run("verify", net, other)
    assert result.exit_code == 1
    assert "different: padding is 'symmetric' in the first, but 'same' in the second\n" in (
        result.stdout
    )
    count = len(lower(SPEC).weights)
    assert f"{count} of {count} arrays are identical\n" in result.stdout


def test_verify_names_what_only_one_has(net: Path, tmp_path: Path) -> None:
    headless = checkpoint(tmp_path / "headless.safetensors", include_top=False)
    result = run("verify", net, headless)
    assert result.exit_code == 1
    assert "different: only the first has classifier.kernel, classifier.bias\n" in result.stdout


def test_verify_as_json(net: Path, theirs: Path) -> None:
    said = record("verify", net, theirs)
    assert said["same"]
    assert said["output_difference"] == 0.0
    assert (said["first"]["layout"], said["second"]["layout"]) == ("densespec", "torchvision")


def test_verify_takes_a_spec_and_layouts(net: Path, tmp_path: Path) -> None:
    trees = [tmp_path / name for name in ("a.msgpack", "b.msgpack")]
    spec = tmp_path / "spec.json"
    write_spec(SPEC, spec)
    for tree in trees:
        output("convert", net, tree)
    said = output("verify", *trees, "--spec", spec, "--from", "flax", "--from", "flax")
    assert said.endswith("the same network\n")


# What is said of files


@pytest.fixture
def wrapped(theirs: Path) -> Path:
    """The network twice in a file, the second one with other numbers."""
    arrays = safetensors.numpy.load_file(theirs)
    first = {f"first.{name}": array for name, array in arrays.items()}
    second = {f"second.{name}": np.asarray(array + 1) for name, array in arrays.items()}
    safetensors.numpy.save_file(first | second, theirs)
    return theirs


def test_a_part_of_a_file_is_read_by_every_command(net: Path, wrapped: Path) -> None:
    assert "--prefix first." in failure("inspect", wrapped)
    assert "layout torchvision" in output("inspect", wrapped, "--prefix", "first.")
    back = wrapped.with_name("back.safetensors")
    said = output("convert", wrapped, back, "--prefix", "first.", "--check")
    assert said.endswith("checked: largest relative difference at the output 0.0e+00\n")
    assert_same(read_checkpoint(back).arrays, read_checkpoint(net).arrays)
    built = run("build", "--backend", "numpy", "--weights", wrapped, "--prefix", "second")
    assert built.exit_code == 0, built.stderr


def test_verify_is_told_of_the_first_file_and_again_of_the_second(net: Path, wrapped: Path) -> None:
    assert output("verify", wrapped, net, "--prefix", "first.").endswith("the same network\n")
    both = ["--prefix", "first.", "--prefix", "second."]
    assert run("verify", wrapped, wrapped, *both).exit_code == 1
    thrice = run("verify", wrapped, wrapped, *both, "--prefix", "third.")
    assert (thrice.exit_code, "say it of the first file" in thrice.stderr) == (2, True)


def test_other_channels_are_noted_by_every_command(net: Path, tmp_path: Path) -> None:
    note = "note: the kernel of its first convolution, for 3 channels, is summed for 1"
    assert note in output("inspect", net, "--in-channels", "1")
    target = tmp_path / "grey.safetensors"
    assert note in output("convert", net, target, "--in-channels", "1", "--check")
    assert read_checkpoint(target).spec.in_channels == 1
    built = run("build", "--backend", "numpy", "--weights", net, "--in-channels", "1")
    assert f"note: {net}: the kernel of its first convolution" in built.stderr


def test_what_stands_in_a_head_can_be_said(theirs: Path) -> None:
    arrays = safetensors.numpy.load_file(theirs)
    classes = len(arrays["classifier.bias"])
    more = {"last.weight": np.ones((2, classes), "float32"), "last.bias": np.ones(2, "float32")}
    safetensors.numpy.save_file(arrays | more, theirs)
    assert "a ReLU is assumed between" in output("inspect", theirs)
    said = record("inspect", theirs, "--head-activation", "relu")
    assert (said["spec"]["head_units"], said["notes"]) == ([classes], [])
    said = record("inspect", theirs, "--head-activation", "none")
    assert (said["spec"]["head_units"], said["spec"]["classes"]) == ([], 2)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    assert failure("inspect", tmp_path / "saved") == (
        f"{tmp_path / 'saved'}: a folder, but should be a weight file; it has none"
    )


# As a process


def test_stdout_has_the_record_alone_even_where_keras_writes(net: Path, tmp_path: Path) -> None:
    for package in ("torch", "keras", "h5py"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "densespec", "convert", net, tmp_path / "net.keras", "--json"],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"]["container"] == "keras"
    with open_weights(tmp_path / "net.keras") as found:
        assert found.spec == SPEC.replace(stem_width=64, dropout_place="conv")
