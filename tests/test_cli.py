"""The command line: what each command prints and writes, its errors, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import densespec
from densespec.cli import COMMANDS as TABLE
from densespec.cli import main
from densespec.network.files import schema
from densespec.reference.backend import NumpyBackend
from densespec.weights.checkpoint import read_checkpoint

COMMANDS = ("list", "describe", "build", "draw", "spec", "schema")

STAGES_169_BC = {
    "stem": ([64, 112, 112], 9_484),
    "stem_pool": ([64, 56, 56], 0),
    "block1": ([256, 56, 56], 339_264),
    "transition1": ([128, 28, 28], 33_920),
    "block2": ([512, 28, 28], 931_968),
    "transition2": ([256, 14, 14], 133_376),
    "block3": ([1280, 14, 14], 4_377_600),
    "transition3": ([640, 7, 7], 824_960),
    "block4": ([1664, 7, 7], 5_999_616),
    "global_pool": ([1664], 0),
    "classifier": ([1000], 1_665_000),
}
"""Output shape and parameters, running statistics included, as published."""

COUNTS_169_BC = {"total": 14_315_188, "trainable": 14_160_238, "non_trainable": 154_950}
COUNTS_40_12 = {"total": 1_037_818, "trainable": 1_019_722, "non_trainable": 18_096}

SMALL = "blocks = [2, 1]\ngrowth_rate = 4\nclasses = 5\n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def output(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def record(*arguments: str | Path) -> Any:
    return json.loads(output(*arguments, "--json"))


def process(
    *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m densespec`` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "densespec", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
        check=False,
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


# Ctrl-C

INTERRUPTED_AT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == os.environ["INTERRUPTED_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
"""A sitecustomize by which Ctrl-C comes at a certain import."""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("module", ["densespec.backends", "numpy", "densespec.cli", "click"])
@pytest.mark.parametrize("command", [["-m", "densespec"], ["{}/densespec"]], ids=" ".join)
def test_ctrl_c_while_it_imports_ends_it_without_a_traceback(
    tmp_path: Path, command: list[str], module: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_AT)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "densespec"
    script.write_text("from densespec.__main__ import main\nmain()\n")
    paths = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    result = subprocess.run(
        [sys.executable, *(word.format(script.parent) for word in command), "list"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths, "INTERRUPTED_AT": module},
        check=False,
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, b"")


def test_a_program_that_imports_densespec_keeps_its_ctrl_c() -> None:
    code = (
        "import signal, densespec\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# list


def test_list_shows_every_variant_with_its_count() -> None:
    lines = output("list").splitlines()
    for name, variant in densespec.catalogue().items():
        row = next(line for line in lines if line.split()[:1] == [name])
        assert f"{densespec.lower(variant.spec).parameters.trainable:,}" in row
        assert row.rstrip().endswith(variant.source)


def test_list_shows_published_errors_to_the_published_decimals() -> None:
    row = next(line for line in output("list").splitlines() if line.startswith("densenet-40-12"))
    assert "C10 7.00, C10+ 5.24, C100 27.55, C100+ 24.42" in row


def test_list_as_json() -> None:
    rows = {row["name"]: row for row in record("list")}
    assert tuple(rows) == densespec.variants()
    row = rows["densenet169-bc"]
    assert row["parameters"] == COUNTS_169_BC
    assert row["depth"] == 169
    assert densespec.DenseNetSpec.from_dict(row["spec"]) == densespec.get("densenet169-bc")
    assert rows["densenet121"]["published"] == {
        "parameters": 7_978_856,
        "errors": {"imagenet": 25.0},
    }


def test_list_and_describe_import_no_framework_and_nothing_slow() -> None:
    code = (
        "import sys\n"
        "from densespec.cli import main\n"
        "for command in (['list'], ['describe', 'densenet121']):\n"
        "    main(command, standalone_mode=False)\n"
        "slow = {'torch', 'keras', 'tensorflow', 'jax', 'matplotlib', 'safetensors'}\n"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# describe


def test_describe_as_json_gives_the_published_stages() -> None:
    described = record("describe", "densenet169-bc")
    assert described["name"] == "densenet169-bc"
    assert described["input"] == [3, 224, 224]
    stages = {s["name"]: (s["shape"], s["parameters"]["total"]) for s in described["stages"]}
    assert stages == STAGES_169_BC
    assert described["parameters"] == COUNTS_169_BC
    assert densespec.DenseNetSpec.from_dict(described["spec"]) == densespec.get("densenet169-bc")


def test_totals_are_the_sums_of_the_stages() -> None:
    described = record("describe", "densenet121")
    for key, total in described["parameters"].items():
        assert total == sum(stage["parameters"][key] for stage in described["stages"])
    assert described["multiply_adds"] == sum(s["multiply_adds"] for s in described["stages"])
    assert described["multiply_adds"] == 2_834_161_664


def test_describe_shows_stages_totals_and_the_spec() -> None:
    text = output("describe", "densenet169-bc")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["block3"] == ["1280x14x14", "4,377,600", "834,928,640"]
    assert rows["total"] == ["14,315,188", "3,359,843,328"]
    assert rows["trainable"] == ["14,160,238"]
    assert rows["non-trainable"] == ["154,950"]
    assert "FLOPs" in text
    for field in densespec.get("densenet169-bc").to_dict():
        assert field in text


@pytest.mark.parametrize(
    ("name", "shape"), [("densenet121", [3, 224, 224]), ("densenet-40-12", [3, 32, 32])]
)
def test_the_default_input_size_depends_on_the_stem(name: str, shape: list[int]) -> None:
    assert record("describe", name)["input"] == shape


def test_a_stem_that_only_strides_has_a_large_default_input(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(SMALL + "stem_stride = 2\n", encoding="utf-8")
    assert record("describe", path)["input"] == [3, 224, 224]


def test_describe_at_a_rectangular_input() -> None:
    stages = record("describe", "densenet121", "--input", "3x224x320")["stages"]
    assert stages[0]["shape"] == [64, 112, 160]


@pytest.mark.parametrize("sizes", ["64", "64x32", "16x8x8"])
def test_describe_in_one_two_and_three_dimensions(tmp_path: Path, sizes: str) -> None:
    path = tmp_path / "net.toml"
    dims = sizes.count("x") + 1
    path.write_text(SMALL + f"spatial_dims = {dims}\nin_channels = 2\n", encoding="utf-8")
    described = record("describe", path, "--input", f"2x{sizes}")
    assert described["input"] == [2, *map(int, sizes.split("x"))]
    assert f"at 2x{sizes}" in output("describe", path, "--input", f"2x{sizes}")
    assert len(record("describe", path)["input"]) == 1 + dims


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_describe_names_a_file_by_its_stem(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    densespec.write_spec(densespec.get("densenet-40-12"), path)
    assert record("describe", path)["name"] == "mine"
    assert record("describe", path)["parameters"] == COUNTS_40_12


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "[red]net :smile:.toml"
    path.write_text(SMALL, encoding="utf-8")
    assert "[red]net :smile: at 3x32x32" in output("describe", path)


# build


def test_build_counts_on_the_numpy_model() -> None:
    built = record("build", "densenet-40-12", "--backend", "numpy")
    assert built["parameters"] == COUNTS_40_12
    assert built["backend"] == "numpy"
    assert built["model"] == "densespec.reference.model.ReferenceModel"
    assert built["input"] == [3, None, None]
    assert built["seconds"] >= 0


def test_build_counts_on_the_torch_module() -> None:
    pytest.importorskip("torch")
    built = record("build", "densenet169-bc", "--backend", "torch.nn", "--input", "3x224x224")
    assert built["parameters"] == COUNTS_169_BC
    assert built["model"] == "densespec_torch.modules.DenseNet"
    assert built["input"] == [3, 224, 224]


def test_build_shows_what_it_built(small: Path) -> None:
    built = record("build", small, "--backend", "numpy")["parameters"]
    text = output("build", small, "--backend", "numpy")
    assert "small on numpy" in text
    assert "densespec.reference.model.ReferenceModel" in text
    for count in built.values():
        assert f"{count:,}" in text


def test_a_model_that_lacks_an_array_is_refused_and_not_counted(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = NumpyBackend.read_weights

    def read_fewer(self: NumpyBackend, model: Any, graph: Any) -> dict[str, np.ndarray]:
        arrays = read(self, model, graph)
        return {name: arrays[name] for name in arrays if name != "classifier.bias"}

    monkeypatch.setattr(NumpyBackend, "read_weights", read_fewer)
    refused = run("build", small, "--backend", "numpy")
    assert refused.exit_code == 1
    assert "classifier.bias is missing" in refused.output


def test_build_options_reach_the_network(small: Path, tmp_path: Path) -> None:
    plain = record("build", small, "--backend", "numpy")["parameters"]["total"]
    wider = record("build", small, "--backend", "numpy", "--classes", "6")["parameters"]["total"]
    features = densespec.lower(densespec.read_spec(small))["global_pool"].shape[0]
    assert features is not None
    assert wider - plain == features + 1
    headless = record("build", small, "--backend", "numpy", "--no-top", "--pooling", "avg")
    assert plain - headless["parameters"]["total"] == 5 * (features + 1)


def test_weights_are_saved_and_loaded(small: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    result = run("build", small, "--backend", "numpy", "--seed", "7", "--save", one)
    assert result.exit_code == 0
    assert f"wrote {one}" in result.stderr
    output("build", small, "--backend", "numpy", "--weights", one, "--save", two)
    expected = densespec.initial_weights(densespec.lower(densespec.read_spec(small)), seed=7)
    for path in (one, two):
        arrays = read_checkpoint(path).arrays
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)


def test_weights_are_fitted_to_other_classes_and_channels_and_notes_say_so(
    small: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    output("build", small, "--backend", "numpy", "--save", path)
    words = ("--weights", path, "--classes", "9", "--in-channels", "1", "--input", "1x32x32")
    result = run("build", small, "--backend", "numpy", *words, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["input"] == [1, 32, 32]
    notes = [line for line in result.stderr.splitlines() if "note: " in line]
    assert ["is summed for 1" in notes[0], "the head is new" in notes[1]] == [True, True]


def test_a_dtype_reaches_the_backend(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    output("build", small, "--backend", "numpy", "--dtype", "float32", "--save", path)
    assert {a.dtype for a in read_checkpoint(path).arrays.values()} == {np.dtype("float32")}


class ChannelsLast(NumpyBackend):
    """A backend that prefers channels last, and talks."""

    def data_format(self, requested: Any) -> Any:
        return "channels_last"

    def build(self, *args: Any, **options: Any) -> Any:
        print("framework chatter")
        return super().build(*args, **options)


@pytest.fixture
def channels_last(monkeypatch: pytest.MonkeyPatch) -> str:
    module = types.ModuleType("channels_last_backend")
    module.BACKEND = ChannelsLast()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:BACKEND"


def test_input_is_channels_first_whatever_the_backend_prefers(
    small: Path, channels_last: str
) -> None:
    built = record("build", small, "--backend", channels_last, "--input", "3x16x24")
    assert built["input"] == [3, 16, 24]


def test_what_a_framework_prints_does_not_mix_with_json(small: Path, channels_last: str) -> None:
    result = run("build", small, "--backend", channels_last, "--json")
    assert json.loads(result.stdout)["name"] == "small"
    assert "framework chatter" in result.stderr


# draw


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_draw_writes_a_figure(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"net{suffix}"
    result = run("draw", "densenet-40-12", "-o", path)
    assert result.exit_code == 0, result.output
    assert path.stat().st_size > 0
    assert (result.stdout, result.stderr) == ("", f"wrote {path}\n")


def test_draw_takes_an_input_shape(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "net.svg"
    output("draw", small, "-o", path, "--input", "3x40x24")
    text = path.read_text(encoding="utf-8")
    assert "40\N{MULTIPLICATION SIGN}24" in text
    assert ">small<" in text


def test_draw_without_matplotlib_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("draw", "densenet-40-12", "-o", tmp_path / "net.svg")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: drawing needs the package 'matplotlib', which is not installed: "
        "pip install 'densespec[draw]'\n"
    )


# spec and schema


def test_spec_prints_toml_that_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(output("spec", "densenet-bc-100-12"), encoding="utf-8")
    assert densespec.read_spec(path) == densespec.get("densenet-bc-100-12")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_spec_writes_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    assert output("spec", "densenet169-bc", "-o", path) == ""
    assert densespec.read_spec(path) == densespec.get("densenet169-bc")


def test_spec_converts_a_file(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    output("spec", small, "-o", path)
    assert densespec.read_spec(path) == densespec.read_spec(small)


def test_schema_prints_the_schema() -> None:
    assert json.loads(output("schema")) == schema()


# help


def test_version() -> None:
    assert output("--version") == f"densespec {densespec.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    text = output(command, "--help")
    assert f"  densespec {command}" in text.partition("Examples:")[2]


def test_top_level_help_tours_the_commands() -> None:
    text = output("--help")
    tour, commands = text.split("Commands:")
    assert all(f"  {command} " in commands for command in COMMANDS)
    assert "..." not in commands
    assert all(f"densespec {name} " in tour for name in COMMANDS if name != "schema")


@pytest.mark.parametrize("name", TABLE)
def test_every_row_of_the_table_has_its_command(name: str) -> None:
    if name == "conformance":
        pytest.importorskip("hypothesis")
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help


def test_listing_and_completing_commands_imports_none_of_them() -> None:
    code = (
        "import sys\n"
        "import click\n"
        "from densespec.cli import COMMANDS, main\n"
        "context = click.Context(main)\n"
        "assert main.get_help(context)\n"
        "found = {item.value for item in main.shell_complete(context, 'de')}\n"
        "assert found == {name for name in COMMANDS if name.startswith('de')} >= {'describe'}\n"
        "assert not {'densespec.cli.networks', 'densespec.cli.weights'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_default_input_sizes_are_in_the_help() -> None:
    text = " ".join(output("describe", "--help").split())
    assert "224 in each spatial dimension" in text
    assert "else 32" in text


# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "densenet12"], "Did you mean densenet121"),
        (["describe", ""], "unknown variant ''"),
        (["describe", "gone.toml"], "gone.toml: No such file"),
        (["describe", "densenet121", "--input", "1x224x224"], "takes 3 channels and 2 sizes"),
        (["describe", "densenet121", "--input", "224x224"], "such as 3x224x224"),
        (["describe", "densenet121", "--input", "3x8x8x8"], "does not fit"),
        (["describe", "densenet121", "--input", "3x2x2"], "nothing is left of it"),
        (["build", "densenet12", "--backend", "numpy"], "unknown variant"),
        (["build", "", "--backend", "numpy"], "unknown variant"),
        (["build", "densenet-40-12", "--backend", "numpi"], "Did you mean numpy?"),
        (["build", "densenet-40-12", "--backend", "no.such:thing"], "can't be loaded"),
        (["build", "densenet-40-12", "--backend", "numpy", "--pooling", "max"], "pooling"),
        (["build", "densenet-40-12", "--backend", "numpy", "--input", "1x9x9"], "does not fit"),
        (["build", "densenet-40-12", "--backend", "numpy", "--save", "a.npz"], ".safetensors"),
        (
            ["build", "densenet-40-12", "--backend", "numpy", "--save", "gone/a.safetensors"],
            "no folder gone",
        ),
        (
            ["build", "densenet-40-12", "--backend", "numpy", "--weights", "gone.safetensors"],
            "gone.safetensors: no such file",
        ),
        (
            ["build", "densenet-40-12", "--backend", "numpy", "--weights", "imagenet"],
            "no weights called 'imagenet'",
        ),
        (["draw", "densenet-40-12", "-o", "a.gif"], "a.gif: a figure ends in .svg, .png or .pdf"),
        (["spec", "densenet-40-12", "-o", "a.yaml"], "a.yaml"),
        (["spec", "densenet-40-12", "-o", "gone/a.toml"], "no folder"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_1(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "draw":
        pytest.importorskip("matplotlib")
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [("\x1b[31mred", r"\x1b[31mred"), ("\u202e", r"\u202e"), ("x" * 10**5, "... ")],
)
def test_errors_neither_command_a_terminal_nor_fill_it(given: str, shown: str) -> None:
    said = run("inspect", f"{given}.pth").stderr
    assert shown in said
    assert said.removesuffix("\n").isprintable()
    assert len(said) < 4000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks = [2", "not TOML"),
        ("blocks = [2]\n", "growth_rate"),
        ("blocks = [2]\ngrowth_rate = 0\n", "[S2]"),
        ("blocks = [2]\ngrowth_rat = 4\n", "Did you mean growth_rate"),
    ],
)
def test_a_bad_spec_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "net.toml"
    path.write_text(text, encoding="utf-8")
    result = run("describe", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {path}: ")
    assert message in result.stderr


def test_system_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied", "net.toml")

    monkeypatch.setattr("densespec.cli.networks.write_spec", refuse)
    result = run("spec", "densenet121", "-o", tmp_path / "net.toml")
    assert (result.exit_code, result.stderr) == (1, "error: net.toml: Permission denied\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["describe"],
        ["describe", "densenet121", "--input", "large"],
        ["describe", "densenet121", "--input", "3"],
        ["describe", "densenet121", "--input", "3x0x224"],
        ["describe", "densenet121", "--input", "3x-1x224"],
        ["build", "densenet121"],
        ["build", "densenet121", "--backend", "numpy", "--classes", "0"],
        ["build", "densenet121", "--backend", "numpy", "--seed", "-1"],
        ["build", "densenet121", "--backend", "numpy", "--dtype", "int32"],
        ["draw", "densenet121"],
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


# As a process


def test_the_module_is_the_command() -> None:
    result = process("--version")
    assert (result.returncode, result.stdout) == (0, f"densespec {densespec.__version__}\n")
    assert process("--help").stdout.startswith("Usage: densespec [OPTIONS]")


def test_a_process_prints_json_and_nothing_else() -> None:
    result = process("describe", "densenet169-bc", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["parameters"] == COUNTS_169_BC


def test_a_process_ends_in_an_error_without_a_traceback(tmp_path: Path) -> None:
    result = process("describe", tmp_path / "gone.toml")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_output_that_is_no_terminal_is_not_cut() -> None:
    result = process("list", env={"COLUMNS": "40", "FORCE_COLOR": "1"})
    for variant in densespec.catalogue().values():
        assert variant.source in result.stdout
    assert process("list").stdout == output("list")


def test_output_without_unicode_falls_back_to_ascii() -> None:
    result = process("describe", "densenet121", env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert "8,062,504" in result.stdout
    assert result.stdout.isascii()


@pytest.mark.skipif(os.name != "posix", reason="no shell pipes")
@pytest.mark.parametrize("arguments", ["list", "list --json", "schema", "--help"])
def test_a_closed_pipe_is_quiet(arguments: str) -> None:
    command = f"'{sys.executable}' -m densespec {arguments} | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals")
@pytest.mark.parametrize("columns", [30, 80, 200])
def test_a_terminal_of_any_width_shows_every_cell(columns: int) -> None:
    text = _on_terminal(["list"], columns)
    words = set(text.split())
    for name, variant in densespec.catalogue().items():
        assert name in words
        assert f"{densespec.lower(variant.spec).parameters.trainable:,}" in words
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals")
def test_the_catalogue_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, _on_terminal(["list"], 80).splitlines())) <= 80


def _on_terminal(arguments: list[str], columns: int) -> str:
    import pty

    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "densespec", *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=env) as running:
        os.close(slave)
        chunks = []
        try:
            while chunk := os.read(master, 65536):
                chunks.append(chunk)
        except OSError:  # Linux reports the end of a closed terminal as an error
            pass
        assert running.wait() == 0
    os.close(master)
    return b"".join(chunks).decode()
