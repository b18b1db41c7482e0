"""Several processes of ``flax.nnx``: what starts them, and that they compute what one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from densespec.backends import get_backend
from tests.training.support import (
    RECIPE,
    command,
    data,
    environment,
    files,
    last,
    log,
    run,
)

pytest.importorskip("flax", reason="Flax is not installed")
pytest.importorskip("optax", reason="optax is not installed")

from densespec_flax.launching import TOLD, Place, meet

TOLERANCE = 1e-8
LAUNCHER = [sys.executable, "-m", "densespec_flax.launching", "--devices", "2"]


def free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_machines_are_numbered_and_meet_at_one_place() -> None:
    endpoint = free_endpoint()
    with ThreadPoolExecutor(3) as threads:
        found = [done.result() for done in [threads.submit(meet, 3, endpoint) for _ in range(3)]]
    assert sorted(number for number, _ in found) == [0, 1, 2]
    assert len({coordinator for _, coordinator in found}) == 1


@pytest.mark.parametrize("endpoint", ["host", ":1", "host:", "host:port"])
def test_an_endpoint_is_a_host_and_a_port(endpoint: str) -> None:
    with pytest.raises(ValueError, match="should be an address such as 'host:29400'"):
        meet(2, endpoint)


def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("flax.nnx")
    monkeypatch.delenv(TOLD, raising=False)
    assert backend.launched() is None  # type: ignore[attr-defined]
    place = Place(3, 4, 1, "first:1234")
    for name, value in place.told().items():
        monkeypatch.setenv(name, value)
    assert Place.of_this_process() == place
    assert backend.launched() == (3, 4)  # type: ignore[attr-defined]


def test_one_machine_needs_no_launcher_and_several_an_address() -> None:
    backend = get_backend("flax.nnx")
    assert backend.launcher(devices=2, nodes=1, endpoint=None) is None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="2 machines need the address of one of them"):
        backend.launcher(devices=2, nodes=2, endpoint=None)  # type: ignore[attr-defined]


def test_a_host_that_is_not_known_is_an_error_at_once() -> None:
    command = [*LAUNCHER, "--nodes", "2", "--endpoint", "no-such-host.invalid:1", "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no-such-host.invalid:1: ")


FIRST_FAILS = f"""
import os, signal, sys
if os.environ["{TOLD}"].startswith("0 "):
    sys.exit(3)
signal.pause()
"""


@pytest.mark.skipif(os.name != "posix", reason="the others wait by POSIX's means")
def test_where_one_process_fails_the_others_are_ended() -> None:
    assert subprocess.run([*LAUNCHER, "-c", FIRST_FAILS], check=False).returncode == 3


@pytest.mark.full
@pytest.mark.parametrize(
    ("batch_norm", "accumulate"), [("synchronised", 1), ("per-replica", 1), ("per-replica", 2)]
)
def test_two_processes_do_what_the_reference_says(
    tmp_path: Path, batch_norm: str, accumulate: int
) -> None:
    """As two machines for an epoch, and then as two devices of one; some batches do not divide, and
    some of their parts do not."""
    (tmp_path / "reference").mkdir()
    images = data(tmp_path, images=29)
    recipe = RECIPE.replace(epochs=2, batch_norm=batch_norm, accumulate=accumulate)
    run(tmp_path / "reference", data=images, recipe=recipe, devices=2)
    spec, path = files(tmp_path)
    changes = ("--set", f"batch_norm={batch_norm}", "--set", f"accumulate={accumulate}")
    new = (spec, "--recipe", path, *changes, "--epochs", 1)
    nodes = ("--data", images, "--backend", "flax.nnx", "--nodes", 2, "--endpoint", free_endpoint())
    first = command(*new, *nodes, "--out", tmp_path / "run")
    machines = [subprocess.Popen(first, env=environment()) for _ in range(2)]
    assert [machine.wait() for machine in machines] == [0, 0]
    again = command("--resume", tmp_path / "run", "--epochs", 2)
    subprocess.run([*LAUNCHER, *again[1:]], env=environment(), check=True)
    ours, theirs = log(tmp_path), log(tmp_path / "reference")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for key in ("loss", "validation_loss"):
        expected = [line.get(key) or 0 for line in theirs]
        found = [line.get(key) or 0 for line in ours]
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, err_msg=key)
    for name, array in last(tmp_path / "reference").arrays.items():
        np.testing.assert_allclose(
            last(tmp_path).arrays[name], array, rtol=0, atol=TOLERANCE, err_msg=name
        )
