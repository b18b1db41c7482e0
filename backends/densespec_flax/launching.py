"""``python -m densespec_flax.launching``: starts a command once for each device of each machine.

JAX has no launcher of its own. This one finds out how the machines are numbered, by the first that
has the endpoint's address, and tells each process what :func:`densespec_flax.distributed.join` has
to know. It imports no JAX.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Self

import click

TOLD = "DENSESPEC_JAX_PROCESS"
"""The launcher sets this in the environment of each process that it starts."""

PATIENCE = 600.0
"""How many seconds a machine waits for the one that has the endpoint's address."""


@dataclass(frozen=True)
class Place:
    """What a process is told.

    Attributes:
        rank: Its number, from 0.
        size: How many processes there are.
        local: Its number on its machine, which is that of its device.
        coordinator: ``host:port`` where JAX's processes meet.
    """

    rank: int
    size: int
    local: int
    coordinator: str

    def told(self) -> Mapping[str, str]:
        """Return the environment by which a process knows it."""
        return {TOLD: f"{self.rank} {self.size} {self.local} {self.coordinator}"}

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Read what this process was told; None where no launcher started it."""
        if TOLD not in os.environ:
            return None
        rank, size, local, coordinator = os.environ[TOLD].split(" ")
        return cls(int(rank), int(size), int(local), coordinator)


def command(devices: int, nodes: int, endpoint: str) -> list[str]:
    """Return the command that runs the Python arguments after it once for each device."""
    options = [f"--devices={devices}", f"--nodes={nodes}", f"--endpoint={endpoint}"]
    return [sys.executable, "-m", "densespec_flax.launching", *options]


def meet(nodes: int, endpoint: str) -> tuple[int, str]:
    """Return the number of this machine and where processes meet, once all machines are here.

    Args:
        nodes: How many machines there are.
        endpoint: ``host:port`` of one of them that all can reach.

    Raises:
        OSError: Nobody answers there.
        ValueError: The endpoint is of another form, or something else answers there.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{endpoint!r} should be an address such as 'host:29400'")
    try:
        server = socket.create_server((host, int(port)))
    except OSError:  # the address is another machine's, or taken by the first here
        return _asked(host, int(port))
    with server, contextlib.ExitStack() as stack:
        others = [stack.enter_context(server.accept()[0]) for _ in range(nodes - 1)]
        coordinator = f"{host}:{_free_port(host)}"
        for number, other in enumerate(others, start=1):
            other.sendall(f"{number} {coordinator}".encode())
        return 0, coordinator


def _asked(host: str, port: int) -> tuple[int, str]:
    """Ask the first machine, which may not be there yet."""
    last = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection((host, port)) as first, first.makefile("rb") as answer:
                number, _, coordinator = answer.read().decode().partition(" ")
                return int(number), coordinator
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > last:
                raise
            time.sleep(0.2)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def run(arguments: Sequence[str], devices: int, nodes: int, endpoint: str) -> int:
    """Run Python with some arguments once for each device of this machine; return the exit status.

    Where one process fails, the others would wait for it for ever: they are ended.
    """
    number, coordinator = meet(nodes, endpoint)
    places = [
        Place(number * devices + local, devices * nodes, local, coordinator)
        for local in range(devices)
    ]
    processes = [
        subprocess.Popen([sys.executable, *arguments], env=os.environ | place.told())
        for place in places
    ]

    def end(*_: object) -> None:
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    status = 0
    with ThreadPoolExecutor(devices) as threads:
        for done in as_completed([threads.submit(process.wait) for process in processes]):
            if (code := done.result()) and not status:
                status = code if code > 0 else 128 - code
                end()
    return status


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--devices", default=1, show_default=True, help="Processes on each machine.")
@click.option("--nodes", default=1, show_default=True, help="Machines; run this on each.")
@click.option(
    "--endpoint", default="127.0.0.1:0", help="host:port of one of them that all can reach."
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(devices: int, nodes: int, endpoint: str, arguments: Sequence[str]) -> None:
    """Run Python with ARGUMENTS, a script or -m and a module, once for each device."""
    try:
        status = run(arguments, devices, nodes, endpoint)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{endpoint}: {error}") from error
    sys.exit(status)


if __name__ == "__main__":
    main()
