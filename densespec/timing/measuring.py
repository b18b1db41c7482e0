"""Takes the measurements: candidates start one after another, and then take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densespec.deploy.formats import get_format
from densespec.timing.candidates import Candidate, Work
from densespec.timing.process import TimingFailed, TimingProcess

Progress = Callable[[str], None]
"""Is told what is being done."""


@dataclass(frozen=True)
class TimedNetwork:
    """Describes the network that is timed.

    Attributes:
        spec: A variant's name or the path of a spec file, which gets initial weights; None takes
            the spec of the weights.
        weights: A weight file, or the name of trained weights; None for initial ones.
        dtype: The dtype of the models; None takes each framework's default.
        reading: The options by which the weights are read, by name: fields of
            :class:`densespec.weights.reading.ReadingOptions` other than the spec.
    """

    spec: str | None = None
    weights: str | None = None
    dtype: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TimingPlan:
    """Says what is measured of each candidate.

    Attributes:
        work: The work that is timed: answers (inference) or training steps.
        batches: The numbers of samples that are computed together.
        sizes: The spatial sizes of inputs; None takes the network's own.
        threads: The numbers of processors that may be used; None stands for all.
        rounds: The number of turns of each candidate.
        warm_up: The number of calls before the first turn with inputs of a shape.
        starts: The number of times that each candidate is started.
        cpu: Whether GPUs are hidden.
    """

    work: Work = "inference"
    batches: Sequence[int] = (1, 8)
    sizes: Sequence[Sequence[int] | None] = (None,)
    threads: Sequence[int | None] = (None,)
    rounds: int = 7
    warm_up: int = 2
    starts: int = 3
    cpu: bool = False


def measure(
    network: TimedNetwork,
    candidates: Sequence[Candidate],
    plan: TimingPlan,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Time candidates, and give a record of JSON values.

    Of each it tells how long it takes from the start of its process to its first answer, the
    seconds of every timed call, and the most memory that it has needed by then. A candidate that
    fails is told of as well, with the reason.
    """
    figures = _Figures(plan, progress)
    with tempfile.TemporaryDirectory() as folder:
        for candidate in candidates:
            figures.add(candidate, _task(network, candidate, plan, Path(folder)))
        for threads in plan.threads:
            figures.take(threads)
    return {"starts": figures.starts, "timings": figures.timings, "failures": figures.failures}


def _task(
    network: TimedNetwork, candidate: Candidate, plan: TimingPlan, folder: Path
) -> dict[str, Any]:
    """Say in JSON values what a process is to run."""
    path = candidate.path
    if candidate.format is not None and path is None:
        path = str(folder / f"{candidate.format}{get_format(candidate.format).suffixes[0]}")
    told = {"backend": candidate.backend, "format": candidate.format, "path": path}
    return {**dataclasses.asdict(network), **told, "work": plan.work, "usual_size": None}


class _Figures:
    """Collects the measurements of several candidates."""

    def __init__(self, plan: TimingPlan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self._tasks: dict[str, dict[str, Any]] = {}
        self.starts: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []

    def add(self, candidate: Candidate, task: dict[str, Any]) -> None:
        """Add a candidate, which is exported first if it is a format."""
        with self._failing({"candidate": candidate.name}):
            if candidate.backend is None and candidate.path is None:
                self._progress(f"exporting to {candidate.name}")
                with contextlib.closing(TimingProcess(threads=None, cpu=True)) as process:
                    task["usual_size"] = process.ask("export", task=task)
            self._tasks[candidate.name] = task

    def take(self, threads: int | None) -> None:
        """Start all candidates, and have them take turns."""
        running: dict[str, TimingProcess] = {}
        try:
            self._start(running, threads)
            for size, batch in itertools.product(self._plan.sizes, sorted(self._plan.batches)):
                self._take_turns(running, {"threads": threads, "batch": batch, "size": size})
        finally:
            for process in running.values():
                process.close()

    def _start(self, running: dict[str, TimingProcess], threads: int | None) -> None:
        """Start every candidate several times, in turn; the last process of each goes on."""
        records: dict[str, dict[str, Any]] = {}
        for index in range(self._plan.starts):
            for name in tuple(running if index else self._tasks):
                self._progress(f"starting {name}")
                if index:
                    running.pop(name).close()
                about = records.setdefault(
                    name, {"candidate": name, "threads": threads, "seconds": []}
                )
                with self._failing(about):
                    running[name] = self._started(name, about)
        for name, process in running.items():
            middle = statistics.median(records[name]["seconds"])
            speed = process.ask("device_speed")
            self.starts.append(records[name] | {"median": middle, "device_gflops": speed})

    def _started(self, name: str, about: dict[str, Any]) -> TimingProcess:
        """Start a candidate, and take the time until it has answered once."""
        first = {"batch": min(self._plan.batches), "size": self._plan.sizes[0]}
        process = TimingProcess(threads=about["threads"], cpu=self._plan.cpu)
        with contextlib.ExitStack() as stack:
            stack.callback(process.close)
            about |= process.ask("start", task=self._tasks[name], **first)
            about["seconds"].append(time.perf_counter() - process.began)
            stack.pop_all()
        return process

    def _take_turns(self, running: Mapping[str, TimingProcess], cell: dict[str, Any]) -> None:
        """Time inputs of a shape, all candidates in turn."""
        records: dict[str, dict[str, Any]] = {}
        shape = {"batch": cell["batch"], "size": cell["size"]}
        for name, process in running.items():
            self._progress(f"warming up {name} for batches of {cell['batch']}")
            about = {"candidate": name, **cell}
            with self._failing(about):
                about |= process.ask("prepare", **shape, warm_up=self._plan.warm_up)
                records[name] = about | {"seconds": []}
        self._progress(f"timing batches of {cell['batch']}")
        for _ in range(self._plan.rounds):
            for name in tuple(records):
                with self._failing(records[name], records):
                    records[name]["seconds"] += running[name].ask("turn")
        for name, about in records.items():
            self.timings.append(about | _summary(about) | running[name].ask("memory"))

    @contextlib.contextmanager
    def _failing(
        self, about: Mapping[str, Any], records: dict[str, Any] | None = None
    ) -> Iterator[None]:
        """Note that a candidate failed, and go on; what is known of it is taken out of records."""
        try:
            yield
        except TimingFailed as error:
            where = {key: value for key, value in about.items() if key in _PLACE}
            self.failures.append({**where, "why": str(error), "missing": error.missing})
            (records or {}).pop(about["candidate"], None)


_PLACE = ("candidate", "threads", "batch", "size")
"""These fields of a record say what it measures."""


def _summary(about: Mapping[str, Any]) -> dict[str, Any]:
    """Sum up the seconds of calls: the median, the quartiles, and the samples a second."""
    seconds = about["seconds"]
    middle = statistics.median(seconds)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [middle] * 3
    return {
        "median": middle,
        "quartiles": [quartiles[0], quartiles[2]],
        "per_second": about["batch"] / middle,
    }
