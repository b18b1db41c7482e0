"""``densespec bench``: what is timed, in which order, and what is said where something fails."""

from __future__ import annotations

import itertools
import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import densespec
from densespec.backends import TimeableBackend, backends, get_backend
from densespec.cli import main
from densespec.errors import DensespecError, PackageMissing, UnknownName
from densespec.installed import is_installed
from densespec.network.files import spec_from_toml
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.timing import Candidate, candidates_of, machine
from densespec.timing.machine import gemm_speed, processor, speed_of
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import open_file, write_file
from densespec.weights.convert import convert
from densespec.weights.tensors import Tensor

SMALL = "blocks = [1, 1]\ngrowth_rate = 2\nstem_width = 4\nclasses = 3\n"

QUICK = ("--rounds", "2", "--starts", "1", "--warm-up", "1")

BACKENDS = """
    import os
    from pathlib import Path
    from densespec.errors import DensespecError
    from densespec.reference.backend import NumpyBackend

    class Noting(NumpyBackend):
        def __init__(self, name):
            self.name = name

        def forward(self, model, graph, x, taps):
            with Path(os.environ["NOTES"]).open("a") as notes:
                threads = os.environ.get("OMP_NUM_THREADS")
                print(self.name, *x.shape, threads, len(os.sched_getaffinity(0)), file=notes)
            return super().forward(model, graph, x, taps)

    class Device:
        name = "quantum:0 (Cat)"

        def peak_memory(self):
            return 123_000_000

        def product(self, side):
            return lambda: None

    class Quantum(NumpyBackend):
        def device(self):
            return Device()

        def place(self, model):
            return model

        def caller(self, model, x):
            return lambda: None

    class Small(NumpyBackend):
        def forward(self, model, graph, x, taps):
            if len(x) > 1:
                raise DensespecError("one at a time")
            return super().forward(model, graph, x, taps)

    class Dying(NumpyBackend):
        def forward(self, model, graph, x, taps):
            os._exit(7)

    ONE, TWO = Noting("one"), Noting("two")
    QUANTUM, SMALL, DYING = Quantum(), Small(), Dying()
"""


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SIDE", 64)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The backends above, which other processes can import, by what they are called there."""
    (tmp_path / "timed_backends.py").write_text(textwrap.dedent(BACKENDS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return lambda name: f"timed_backends:{name}"


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *QUICK, *map(str, arguments)])


def record(*arguments: str | Path) -> Any:
    result = bench(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_record_tells_what_was_timed_and_on_what(net: Path) -> None:
    found = record(net, "numpy", "--batch", "2,1", "--size", "8x8,16x8")
    shapes = [row["shape"] for row in found["timings"]]
    assert shapes == [[1, 3, 8, 8], [2, 3, 8, 8], [1, 3, 16, 8], [2, 3, 16, 8]]
    for row in found["timings"]:
        low, high = row["quartiles"]
        assert 0 < low <= row["median"] <= high
        assert len(row["seconds"]) >= 2
        assert row["per_second"] == pytest.approx(row["batch"] / row["median"])
        assert row["memory"] > 1e6
    (start,) = found["starts"]
    assert start["seconds"][0] > min(row["median"] for row in found["timings"])
    assert found["machine"]["processor"] == processor()
    assert found["machine"]["gemm_gflops"] > 0
    assert found["plan"]["work"] == "inference"


def test_the_table_names_targets_inputs_and_the_machine(net: Path) -> None:
    said = bench(net, "numpy", "--batch", "1").stdout
    assert "numpy" in said
    assert "1x3x32x32" in said
    assert "from the start of a process to the first answer" in said
    assert "float32 GEMM" in said


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
def test_targets_take_turns_on_the_processors_that_are_allowed(
    net: Path, named: Callable[[str], str], tmp_path: Path
) -> None:
    before = os.sched_getaffinity(0)
    arguments = ("--batch", "3", "--threads", "1", "--size", "8x8", "--starts", "2")
    record(net, named("ONE"), named("TWO"), *arguments)
    notes = (tmp_path / "notes").read_text().splitlines()
    order = [name for name, _ in itertools.groupby(line.split()[0] for line in notes)]
    assert order == ["one", "two"] * 5  # two starts, a warm-up, and two turns
    assert {line.partition(" ")[2] for line in notes} == {"3 3 8 8 1 1"}
    assert os.sched_getaffinity(0) == before


def test_training_steps_are_timed(net: Path) -> None:
    found = record(net, "numpy", "--work", "training", "--batch", "2", "--size", "8x8")
    assert found["timings"][0]["shape"] == [2, 3, 8, 8]


def test_a_device_is_named_and_measured(net: Path, named: Callable[[str], str]) -> None:
    found = record(net, named("QUANTUM"), "--batch", "1")
    (start,), (row,) = found["starts"], found["timings"]
    assert start["device"] == "quantum:0 (Cat)"
    assert start["device_gflops"] > 0
    assert row["device_memory"] == 123_000_000
    said = bench(net, named("QUANTUM"), "--batch", "1").stdout
    assert "quantum:0 (Cat), float32 GEMM" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SMALL", "with batches of 2: one at a time"),
        ("DYING", "its process ended with status 7"),
        ("ABSENT", "can't be loaded"),
    ],
)
def test_what_fails_is_told_of_and_the_others_go_on(
    net: Path, named: Callable[[str], str], name: str, said: str
) -> None:
    result = bench(net, named(name), "numpy", "--batch", "1,2", "--size", "8x8")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "2x3x8x8" in result.stdout


def test_names_are_backends_formats_or_files(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    path = str(tmp_path / "net.onnx")
    assert candidates_of(["numpy", "torch.nn+fast", "onnx", path], "inference") == (
        Candidate("numpy", backend="numpy"),
        Candidate("torch.nn+fast", backend="torch.nn+fast"),
        Candidate("onnx", format="onnx"),
        Candidate(path, path=path, format="onnx"),
    )
    with pytest.raises(UnknownName, match="Did you mean numpy"):
        candidates_of(["nunpy"], "inference")
    with pytest.raises(DensespecError, match=r"of the format mlir can't be run"):
        candidates_of(["mlir"], "inference")
    with pytest.raises(DensespecError, match=r"onnx: exported files can't be trained"):
        candidates_of(["onnx"], "training")


def test_without_targets_it_is_everything_but_the_reference() -> None:
    found = candidates_of((), "training")
    assert all(each.backend and each.backend != "numpy" for each in found)
    assert all(each.backend.endswith("+fast") for each in found if each.backend)


def test_what_cannot_be_drawn_or_is_not_there_is_refused_before_anything_runs(net: Path) -> None:
    assert "a figure ends in .png" in bench(net, "numpy", "--figure", "times.txt").stderr
    assert "unknown backend, format or exported file 'nothing'" in bench(net, "nothing").stderr
    assert "NET has weights already" in bench("a.pth", "--weights", "b.pth", "numpy").stderr


def test_a_figure_is_drawn(net: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "times.svg"
    result = bench(net, "numpy", "--size", "8x8", "--batch", "1,2", "--figure", path)
    assert result.exit_code == 0, result.output
    assert "samples a second" in path.read_text() or path.stat().st_size > 1000


def test_an_exported_file_is_timed_at_what_it_takes(net: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    fixed, free = tmp_path / "fixed.onnx", tmp_path / "free.onnx"
    densespec.export(net, fixed, seed=0, size=(8, 12), batch=2, check=False)
    densespec.export(net, free, seed=0, check=False)
    assert record(fixed, "--batch", "2")["timings"][0]["shape"] == [2, 3, 8, 12]
    assert record(net, "onnx", "--batch", "1")["timings"][0]["shape"] == [1, 3, 32, 32]
    assert "takes 2 x 3 x 8 x 12, not 1 x 3 x 8 x 12" in bench(fixed, "--batch", "1").stderr
    assert "inputs of any size: say which (--size)" in bench(free).stderr


def test_speeds_are_of_two_operations_for_each_product() -> None:
    assert gemm_speed() > 0
    assert speed_of(lambda: None, 1000) > speed_of(lambda: sum(range(10_000)), 1000)


FRAMEWORKS = tuple(name for name in backends() if name != "numpy")


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_every_framework_runs_models_on_its_device(backend: str, net: Path) -> None:
    package = backend.partition(".")[0]
    if not is_installed(package):
        pytest.skip(f"needs {package}")
    try:
        assert isinstance(get_backend(backend), TimeableBackend)
    except PackageMissing as missing:
        pytest.skip(str(missing))
    found = record(net, f"{backend}+inference", "--cpu", "--batch", "2")
    assert found["starts"][0]["device"] == "cpu"
    assert found["timings"][0]["shape"] == [2, 3, 32, 32]


def test_options_of_reading_say_which_network_of_a_file_is_timed(net: Path, tmp_path: Path) -> None:
    """Of two, under prefixes; formats are exported from the same one."""
    alone, pair = tmp_path / "alone.pth", tmp_path / "pair.safetensors"
    spec = spec_from_toml(SMALL)
    write_checkpoint(tmp_path / "net.safetensors", lower(spec), initial_weights(lower(spec)))
    convert(tmp_path / "net.safetensors", alone, to_layout="densespec-torch")
    with open_file(alone) as file:
        both = {f"student.{name}": tensor for name, tensor in file.tensors.items()}
        both |= {f"teacher.{n}": Tensor.of(t.read() + 1) for n, t in file.tensors.items()}
        write_file(pair, both, {})
    told = ("--prefix", "student.")
    refused = bench(pair, "numpy", "--batch", "1", "--size", "8x8")
    assert refused.exit_code == 1
    assert "choose one by its prefix" in refused.output + refused.stderr
    found = record(pair, "numpy", "--batch", "1", "--size", "8x8", *told, "--in-channels", "1")
    assert found["timings"][0]["shape"] == [1, 1, 8, 8]
    again = record(net, "--weights", pair, "numpy", "--batch", "1", "--size", "8x8", *told)
    assert again["timings"][0]["shape"] == [1, 3, 8, 8]


def test_options_of_reading_are_not_for_exported_files(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    assert "options of reading are for weights" in bench(path, "--prefix", "a.").stderr
