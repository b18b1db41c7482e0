"""PyTorch's files: read as torch.save writes them, written so that it reads them, never run."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from densespec.errors import WeightsError
from densespec.weights.containers import open_file, torch_pickle, write_file
from tests.containers.samples import (
    assert_holds,
    bits,
    network,
    read_all,
    refusal,
    tensors,
    torch_state,
)
from tests.dtypes import DTYPES

formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


def save(value: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.dense = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.norm(self.conv(x)).mean((2, 3)))


# Reading


@formats
def test_the_state_of_a_module_is_read(path: Path, zipped: bool) -> None:
    state = Net().state_dict()
    with open_file(save(state, path, zipped)) as opened:
        assert list(opened.tensors) == list(state)
        assert_holds(opened, {name: tensor.numpy() for name, tensor in state.items()})
        assert opened.tensors["norm.num_batches_tracked"].shape == ()
        assert "unwrapped" not in opened.metadata


@formats
def test_types_are_read(path: Path, zipped: bool) -> None:
    names = (*DTYPES, "complex64", *(("float8_e4m3fn", "uint16") if zipped else ()))
    state = {name: torch.arange(4).to(getattr(torch, name)) for name in names}
    with open_file(save(state, path, zipped)) as opened:
        for name, tensor in state.items():
            found = opened.tensors[name].read()
            assert found.dtype.name == name
            assert found.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


@formats
def test_memory_layout_parameters_and_shared_storage(path: Path, zipped: bool) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {
        "whole": base,
        "part": base[1, 1:],
        "turned": base.permute(2, 0, 1),
        "expanded": torch.ones(1).expand(1000),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    with open_file(save(state, path, zipped)) as opened:
        found = {name: tensor.detach().contiguous().numpy() for name, tensor in state.items()}
        assert_holds(opened, found)


def test_archives_that_were_compressed_afterwards(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(torch_state(network()), path)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with open_file(packed) as opened:
        assert_holds(opened, network())
    monkeypatch.setattr(torch_pickle, "LARGEST_PICKLE", 100)
    assert "its compressed pickle claims" in refusal(packed)


def test_archives_of_the_other_byte_order(tmp_path: Path, path: Path) -> None:
    save({"a": torch.tensor([1.0, 2.0])}, path)
    swapped = tmp_path / "swapped.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(swapped, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            if name.endswith("data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, content)
    with open_file(swapped) as opened:
        assert opened.tensors["a"].read().tolist() == [1, 2]


STATE = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("value", "unwrapped"),
    [
        ({"state_dict": STATE}, "state_dict"),
        (
            {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}},
            "state_dict",
        ),
        ({"model_state_dict": OrderedDict(STATE), "loss": torch.ones(())}, "model_state_dict"),
        ({"model": STATE, "args": None}, "model"),
        ({"net": STATE, "acc": 90.1, "epoch": 9}, "net"),
        ({"weights": STATE}, "weights"),
        ({"module": STATE}, "module"),
        ({"params": STATE}, "params"),
        ({"params_ema": STATE}, "params_ema"),
        ({"model": {"state_dict": STATE, "epoch": 3}}, "model.state_dict"),
    ],
)
@formats
def test_wrappers_are_opened(path: Path, value: Any, unwrapped: str, zipped: bool) -> None:
    with open_file(save(value, path, zipped)) as opened:
        assert_holds(opened, {name: tensor.numpy() for name, tensor in STATE.items()})
        assert opened.metadata["unwrapped"] == unwrapped


def test_modules_may_be_called_like_wrappers(path: Path) -> None:
    state = {"model.weight": torch.ones(2), "module": torch.ones(3)}
    with open_file(save(state, path)) as opened:
        assert set(opened.tensors) == set(state)


def test_entries_that_are_not_tensors_are_named(path: Path) -> None:
    with open_file(save(STATE | {"_extra_state": None, "version": 2}, path)) as opened:
        assert opened.metadata["skipped"] == '["_extra_state", "version"]'
        assert len(opened.tensors) == 2


SELF: dict[str, Any] = {"weight": torch.ones(1)}
SELF["model"] = SELF


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"model": STATE, "module": STATE}, "a state_dict under each of model and module"),
        (torch.ones(3), "but is a tensor"),
        ([torch.ones(3)], "but is a list"),
        ({"epoch": 3, "other": STATE}, "has ['epoch', 'other'] and none of them is a tensor"),
        ({"epoch": 3, "other": STATE}, "Choose one by its key (--key other)"),
        ({"params_ema": STATE, "ema": STATE}, "under each of params_ema and ema; choose one"),
        ({1: torch.ones(3)}, "the key 1, but keys should be texts"),
        ({"a": torch.eye(3).to_sparse()}, "sparse, quantized or without values"),
        ({"a": torch.ones(2, device="meta")}, "sparse, quantized or without values"),
        ({"a": torch.ones(1).expand(10**12)}, "it claims 4000000000000 bytes"),
        (SELF, "lies too deep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_state_dict_is_refused(path: Path, value: Any, said: str) -> None:
    assert said in refusal(save(value, path))


@pytest.mark.filterwarnings("ignore::UserWarning")
@formats
def test_types_that_are_not_read_are_refused(path: Path, zipped: bool) -> None:
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    complex_half = torch.ones(2, dtype=torch.complex32)
    said = "'a' is sparse, quantized or without values" if zipped else "QInt8Storage, which is not"
    assert said in refusal(save({"a": quantized}, path, zipped))
    assert "'a' is of type 'complex32'" in refusal(save({"a": complex_half}, path, zipped))


@pytest.mark.parametrize("name", ["keys", "values", "get", "metadata"])
def test_state_dicts_with_attributes_of_their_own(path: Path, name: str) -> None:
    state = OrderedDict(STATE)
    state.__dict__[name] = {"a": 1}
    save(state, path)
    assert set(read_all(path)) == set(STATE)


# Beside the tensors


BESIDE = {
    "epoch": np.int64(3),
    "loss": np.float32(0.5),
    "args": argparse.Namespace(lr=0.1, data=Path("/data")),
    "date": datetime.datetime(2020, 1, 2),
    "history": defaultdict(list, {"loss": [1.0]}),
    "counts": Counter("aab"),
    "transform": torch.nn.functional.relu,
    "rng": np.random.default_rng(0),
    "table": np.arange(6.0).reshape(2, 3),
    "objects": np.array([{}, None], dtype=object),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@formats
def test_objects_beside_the_state_are_named(path: Path, zipped: bool, protocol: int) -> None:
    torch.save(
        {**BESIDE, "state_dict": STATE},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with open_file(path) as opened:
        assert_holds(opened, {name: tensor.numpy() for name, tensor in STATE.items()})
        assert json.loads(opened.metadata["skipped"]) == list(BESIDE)
        assert list(opened.notes) == []


def test_numpy_arrays_in_a_state_are_read(path: Path) -> None:
    save({**BESIDE, **STATE}, path)
    with open_file(path) as opened:
        arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
        assert_holds(opened, arrays | {"table": BESIDE["table"]})
        assert "left out what is no array: 'epoch' (what numpy" in opened.notes[0]


def test_tensors_of_unknown_kinds_are_no_objects_to_leave_out(path: Path) -> None:
    save({**STATE, "odd": torch.Size([1, 2])}, path)
    assert "'odd' is what torch.Size would make, but should be a dense tensor" in refusal(path)


# Averaged weights, and keys


AVERAGED = {name: tensor + 1 for name, tensor in STATE.items()}


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "params_ema", "swa"])
def test_averages_are_named_and_chosen_by_their_key(path: Path, averaged: str) -> None:
    save({"epoch": 1, "state_dict": STATE, averaged: AVERAGED, "optimizer": {0: STATE}}, path)
    with open_file(path) as opened:
        assert_holds(opened, {name: tensor.numpy() for name, tensor in STATE.items()})
        assert opened.notes[0].startswith(f"it has other values of these arrays under '{averaged}'")
        assert f"(--key {averaged})" in opened.notes[0]
    with open_file(path, key=averaged) as opened:
        assert_holds(opened, {name: tensor.numpy() for name, tensor in AVERAGED.items()})
        assert opened.metadata["unwrapped"] == averaged
        assert "'state_dict'" in opened.notes[0]


def test_keys_within_keys(path: Path) -> None:
    save({"ema.1": {"inner": {"module": STATE}}, "b": {"model": AVERAGED}}, path)
    for key in ("ema.1.inner", "ema.1.inner.module", "ema.1.inner."):
        with open_file(path, key=key) as opened:
            assert_holds(opened, {name: tensor.numpy() for name, tensor in STATE.items()})
            assert opened.metadata["unwrapped"] == "ema.1.inner.module"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("state", "there is nothing under the key 'state'; there are ['state_dict', 'n']"),
        ("state_dict.conv", "there are ['conv.weight', 'conv.bias']"),
        ("n", "it should be a state_dict, but is 3"),
        ("state_dict.conv.bias", "it should be a state_dict, but is a tensor"),
    ],
)
def test_keys_that_lead_nowhere(path: Path, key: str, said: str) -> None:
    save({"state_dict": STATE, "n": 3}, path)
    with pytest.raises(WeightsError) as failure:
        open_file(path, key=key)
    assert str(failure.value).startswith(f"{path}: ")
    assert said in str(failure.value)


def test_only_pytorch_files_have_keys(path: Path) -> None:
    write_file(path.with_suffix(".npz"), tensors(network()))
    with pytest.raises(WeightsError, match="no key 'a': only PyTorch files have keys"):
        open_file(path.with_suffix(".npz"), key="a")


# Code is not run


class Trap:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def traps(mark: Path) -> dict[str, Trap]:
    return {
        "posix.system": Trap(os.system, f"touch {mark}"),
        "builtins.exec": Trap(exec, f"open({str(mark)!r}, 'w')"),
        "builtins.open": Trap(open, str(mark), "w"),
    }


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@formats
@pytest.mark.parametrize("name", traps(Path()))
@pytest.mark.parametrize("where", ["whole", "value", "key", "beside"])
def test_pickles_with_code_are_not_run(
    tmp_path: Path, mark: Path, zipped: bool, name: str, where: str
) -> None:
    trap = traps(mark)[name]
    value = {
        "whole": trap,
        "value": STATE | {"conv.weight": trap},
        "key": {trap: torch.ones(1)},
        "beside": {"state_dict": STATE, "epoch": trap},
    }[where]
    path = save(value, tmp_path / "trap.pth", zipped)
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap should work where code is run"
    mark.unlink()
    function = name.replace("builtins.open", "io.open")
    if where == "whole":
        said = refusal(path)
        assert f"it should be a state_dict, but is what {function} would make" in said
        assert "Nothing in it was run" in said
    elif where == "key":
        assert f"has the key what {function} would make, but keys should be texts" in refusal(path)
    else:
        with open_file(path) as opened:
            left = {"value": "conv.weight", "beside": "epoch"}[where]
            assert json.loads(opened.metadata["skipped"]) == [left]
            assert set(opened.tensors) == set(STATE) - {left}
            noted = f"left out what is no array: 'conv.weight' (what {function} would make)"
            assert list(opened.notes) == ([noted] if where == "value" else [])
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".ckpt"])
def test_pickles_of_other_programs_are_not_opened(
    tmp_path: Path, mark: Path, protocol: int, suffix: str
) -> None:
    path = tmp_path / f"trap{suffix}"
    path.write_bytes(pickle.dumps(Trap(open, str(mark), "w"), protocol))
    said = refusal(path)
    assert "a pickle that torch.save did not write" in said
    assert not mark.exists()


def test_a_state_dict_under_keys_of_any_name_is_led_to(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"run": {"network": {"best": {"w": torch.ones(2)}}}, "lr": 0.1}, path)
    assert refusal(path).endswith("Choose one by its key (--key run.network.best)")
    with open_file(path, key="run.network.best") as opened:
        assert list(opened.tensors) == ["w"]


def test_a_pickle_under_another_suffix_is_not_run(tmp_path: Path, mark: Path) -> None:
    for suffix in (".h5", ".npz", ".safetensors", ".msgpack", ".keras", ""):
        path = tmp_path / f"trap{suffix}"
        save({"a": Trap(open, str(mark), "w")}, path)
        assert "Nothing in it was run" in refusal(path)
        path.write_bytes(pickle.dumps(Trap(open, str(mark), "w")))
        assert refusal(path)
    assert not mark.exists()


def test_a_tar_archive_with_code_is_not_run(tmp_path: Path, mark: Path) -> None:
    """PyTorch's oldest format; its first member's name may look like a pickle."""
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        member = tarfile.TarInfo("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
        content = pickle.dumps(Trap(open, str(mark), "w"))
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    assert path.read_bytes().startswith(b"\x80\x02\x8a\nl")
    assert "a tar archive" in refusal(path)
    assert not mark.exists()


class Buffers(torch.nn.Module):
    """It has parts of every kind, some of which its state dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("left", torch.arange(4), persistent=False)
        self.register_buffer("nothing", None)
        self.scale = torch.nn.Parameter(torch.ones(2, 3))
        self.net = Net()
        self.again = self.net
        self.rest = torch.nn.ModuleDict({"a": torch.nn.Identity(), "b": torch.nn.PReLU()})
        self.listed = torch.nn.ParameterList([torch.ones(1), torch.zeros(2)])
        self.absent = None
        self.function = torch.nn.functional.relu
        self.options = argparse.Namespace(rate=0.1, place=Path("/data"))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrapped", [False, True])
@formats
def test_whole_modules_are_read_as_their_state(
    path: Path, zipped: bool, protocol: int, wrapped: bool
) -> None:
    module = Buffers()
    torch.save(
        {"model": module, "epoch": 3} if wrapped else module,
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with open_file(path) as opened:
        state = module.state_dict()
        assert list(opened.tensors) == list(state)
        assert_holds(opened, {name: tensor.numpy() for name, tensor in state.items()})
        assert opened.metadata.get("unwrapped") == ("model" if wrapped else None)


def test_modules_that_lead_back_to_themselves_are_refused(path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    module._modules["inner"] = module
    assert "its modules are nested deeper than 64" in refusal(save(module, path))


def test_modules_that_are_there_many_times_over_are_refused(path: Path) -> None:
    module: torch.nn.Module = torch.nn.Linear(1, 1)
    for _ in range(60):
        module = torch.nn.Sequential(module, module)
    assert "its modules have more parts than any network" in refusal(save(module, path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules_are_refused(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "a TorchScript program" in refusal(path)


# Writing


@pytest.mark.parametrize("mapped", [True, False])
def test_pytorch_reads_what_is_written(path: Path, mapped: bool) -> None:
    arrays = {name: bits(name, shape) for name in DTYPES for shape in [(2, 3)]}
    arrays |= {"scalar": bits("float32", ()), "empty": bits("int64", (0, 3)), "ключ": np.ones(1)}
    arrays |= {"big": np.ones((70_000,), np.float32), "flags": bits("complex128", (2,))}
    write_file(path, tensors(arrays), {"spec": "{}"})
    state = torch.load(path, weights_only=True, mmap=mapped)
    assert type(state) is OrderedDict
    assert list(state) == list(arrays)
    for name, array in arrays.items():
        assert state[name].shape == array.shape
        assert state[name].is_contiguous()
        assert state[name].reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()


def test_metadata_may_be_long(path: Path) -> None:
    metadata = {"long": "я" * 70_000, "short": "x"}
    write_file(path, tensors(network()), metadata)
    with open_file(path) as opened:
        assert metadata.items() <= opened.metadata.items()


def test_pytorch_reads_without_restrictions_too(path: Path) -> None:
    write_file(path, tensors(network()), {"spec": "{}"})
    state = torch.load(path, weights_only=False)
    assert list(state) == list(network())


def test_modules_load_what_is_written(path: Path) -> None:
    first, second = Net().eval(), Net().eval()
    state = {name: tensor.numpy() for name, tensor in first.state_dict().items()}
    write_file(path, tensors(state), {"note": "x"})
    second.load_state_dict(torch.load(path, weights_only=True), strict=True)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(first(x), second(x), rtol=0, atol=0)


def test_records_are_aligned_and_sound(path: Path) -> None:
    write_file(path, tensors({f"w{n}": np.ones(n, np.int8) for n in range(100)}))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    reader = torch._C.PyTorchFileReader(str(path))
    assert all(reader.get_record_offset(f"data/{n}") % 64 == 0 for n in range(100))


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        write_file(tmp_path / name, tensors(network()))
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
