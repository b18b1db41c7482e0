"""Times weight conversions against copying the file through memory twice, and weighs their memory.

    python benchmarks/weights.py

Each run is a process of its own; copies and conversions take turns. A conversion should take at
most twice as long as the copies, and need at most 1.5 times the file's size in memory, beyond what
Python and the libraries need before it starts.
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

# From, to, and the layout of the target where its suffix does not say.
CONVERSIONS = (
    ("net.safetensors", "copy.safetensors", None),
    ("net.safetensors", "tree.safetensors", "flax"),
    ("net.safetensors", "net.weights.h5", None),
    ("net.safetensors", "net.msgpack", None),
    ("net.pth", "from_torch.safetensors", None),
    ("net.safetensors", "to_torch.pth", None),
)


LIBRARIES = {
    "safetensors": "safetensors.numpy",
    "torch": "torch",
    "keras-weights": "h5py",
    "msgpack": "msgpack",
}
"""What reads and writes each container: importing it is not part of a conversion."""


def copy_twice(source: Path, target: Path) -> None:
    """Read a file into memory and write it, twice."""
    for _ in range(2):
        target.write_bytes(source.read_bytes())


def run_once(work: str, source: Path, target: Path, layout: str | None) -> None:
    """Do the work in this process; print seconds, and bytes of memory beyond the start's."""
    if work == "convert":
        from densespec.weights.containers import container_of
        from densespec.weights.convert import convert

        for path in (source, target):
            importlib.import_module(LIBRARIES[container_of(path)])
        call: Callable[[], object] = partial(convert, source, target, to_layout=layout)
    else:
        call = partial(copy_twice, source, target)
    before = _peak()
    start = time.perf_counter()
    call()
    print(time.perf_counter() - start, _peak() - before)


def _peak() -> int:
    """Largest resident memory so far. Unlike ``ru_maxrss``, it does not count the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


def measure(work: str, source: Path, target: Path, layout: str | None) -> tuple[float, float]:
    """Seconds and bytes of one run."""
    command = [sys.executable, __file__, "--once", work, str(source), str(target), layout or ""]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, size = done.stdout.split()[-2:]
    return float(seconds), float(size)


@click.command()
@click.option("--variant", default="densenet201", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--once", nargs=4, hidden=True)
def main(variant: str, rounds: int, once: tuple[str, str, str, str] | None) -> None:
    """Time weight conversions and weigh their memory."""
    if once:
        work, *paths, given = once
        run_once(work, Path(paths[0]), Path(paths[1]), given or None)
        return
    import densespec
    from densespec.weights.convert import convert

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = folder / "net.safetensors"
        densespec.save(densespec.build(variant, backend="numpy", dtype="float32"), net)
        convert(net, folder / "net.pth")
        table = Table("conversion", "time over two copies", "memory over file", title=variant)
        for source, target, layout in CONVERSIONS:
            runs: dict[str, list[tuple[float, float]]] = {"copy": [], "convert": []}
            for _ in range(rounds):
                for work, results in runs.items():
                    results.append(measure(work, folder / source, folder / target, layout))
            seconds = {w: statistics.median(t for t, _ in r) for w, r in runs.items()}
            memory = statistics.median(size for _, size in runs["convert"])
            label = f"{source} to {target}{f' ({layout})' if layout else ''}"
            size = (folder / source).stat().st_size
            table.add_row(
                label, f"{seconds['convert'] / seconds['copy']:.2f}", f"{memory / size:.2f}"
            )
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
