"""Kill a run again and again at random moments, and compare its end with that of a whole one.

python -m tests.training.killing --backend torch.nn --kills 20
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.training.support import assert_same_end, command, data, environment, files, log

QUIET: dict[str, Any] = {
    "env": environment(),
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
}


STEPS = 15
"""Of an epoch."""


def killed_until_done(folder: Path, *, backend: str, kills: int, seed: int, epochs: int) -> None:
    """Kill a run and resume it, and check its end.

    Each process is killed after a random number of steps and a random moment more. The number is
    such that all of them together can't be the whole run.

    Raises:
        AssertionError: the run ended in other weights, or another log, than one left alone.
    """
    spec, recipe = files(folder)
    draw = random.Random(seed)
    new = (spec, "--recipe", recipe, "--set", "milestones=[0.5]", "--backend", backend)
    new += ("--data", data(folder, images=120), "--epochs", epochs)
    whole, hurt = folder / "whole", folder / "hurt"
    subprocess.run(command(*new, "--out", whole / "run"), **QUIET, check=True)
    most = epochs * STEPS // (kills + 2)
    for _ in range(kills):
        begun = (hurt / "run" / "run.toml").exists()
        arguments = ("--resume", hurt / "run") if begun else (*new, "--out", hurt / "run")
        process = subprocess.Popen(command(*arguments), **QUIET)
        _wait_for_lines(process, hurt / "run" / "log.jsonl", draw.randint(0, most))
        time.sleep(draw.uniform(0, 0.05))
        assert process.poll() is None, f"it ended by itself, with status {process.returncode}"
        process.kill()
        process.wait()
    subprocess.run(command("--resume", hurt / "run"), **QUIET, check=True)
    assert_same_end(hurt, whole)


def _wait_for_lines(process: subprocess.Popen[bytes], path: Path, count: int) -> None:
    """Until a process has added so many lines to a log, or has ended."""
    before = path.stat().st_size if path.exists() else 0
    while process.poll() is None and count:
        time.sleep(0.001)
        if path.exists():
            with path.open("rb") as file:
                file.seek(min(before, path.stat().st_size))
                if file.read().count(b"\n") >= count:
                    return


def main() -> None:
    import click

    @click.command()
    @click.option("--backend", default="torch.nn", show_default=True)
    @click.option("--kills", default=20, show_default=True)
    @click.option("--seed", default=0, show_default=True)
    @click.option("--epochs", default=60, show_default=True)
    def kill(backend: str, kills: int, seed: int, epochs: int) -> None:
        """Kill a run at random moments, and resume it each time."""
        with tempfile.TemporaryDirectory() as name:
            began, folder = time.monotonic(), Path(name)
            killed_until_done(folder, backend=backend, kills=kills, seed=seed, epochs=epochs)
            click.echo(
                f"{backend}: killed {kills} times in {time.monotonic() - began:.0f} s; weights, "
                f"momentum and all {len(log(folder / 'hurt'))} lines of the log are the same"
            )

    kill()


if __name__ == "__main__":
    main()
