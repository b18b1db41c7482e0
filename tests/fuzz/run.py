"""Making and reading the files on all processors, and the table of their endings."""

from __future__ import annotations

import argparse
import collections
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.fuzz.corpus import seeds
from tests.fuzz.endings import ENDINGS, Ending
from tests.fuzz.faults import wrong_endings
from tests.fuzz.grammars import GRAMMARS
from tests.fuzz.share import Share, read_share

PART = 200
"""Files of one kind that a process reads before it reports."""
SHOWN = 20


def main() -> int:
    """Read the files and print the table.

    Returns:
        The exit status: 1 where an ending came that is promised never to happen.
    """
    options = _options()
    warnings.simplefilter("ignore")
    began = time.monotonic()
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    bad: list[tuple[str, int, Ending]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(options.processes, get_context("spawn")) as pool,
    ):
        shares = list(_shares(Path(folder), options.files, options.seed, options.kind))
        done = pool.map(read_share, shares)
        for share, endings in track(
            zip(shares, done, strict=True), "files", len(shares), console=Console(stderr=True)
        ):
            counts[share.kind].update(ending.name for _, ending in endings)
            bad += [(share.kind, n, one) for n, one in endings if one.is_bad(share.kind)]
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    _show(counts, options)
    for kind, number, ending in bad[:SHOWN]:
        print(f"{kind}, number {number}: {ending.name}: {ending.said}")
    wrong = _faults()
    return 1 if bad or wrong else 0


def _faults() -> list[tuple[str, str]]:
    """Hinder the writers of files, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        wrong = list(wrong_endings(Path(folder)))
    print(f"faults while files are written: {len(wrong)} that left something wrong")
    for fault, left in wrong[:SHOWN]:
        print(f"{fault}: {left}")
    return wrong


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Read damaged and hostile weight files, each in a process with limits, and "
        "show what came of them. The exit status is 1 if something did that must not.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    option("--files", type=_count, default=2000, metavar="N", help="files in all")
    option("--kind", default="", help="kinds that have this in their names alone")
    option("--minutes", type=float, metavar="M", help="stop after so many minutes")
    option("--seed", type=int, default=0, help="other files for another number")
    option("--processes", type=_count, default=os.cpu_count(), metavar="N", help="at a time")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, but should be at least 1")
    return number


def _shares(folder: Path, files: int, seed: int, only: str) -> Iterator[Share]:
    """The work in parts, all kinds in turn, so that a run that is cut short has seen every kind."""
    kinds = [
        Share(s.kind, s.name, s.content, s.arrays, s.is_network, seed, 0, s.beside, s.opened)
        for s in seeds(folder)
        if only in s.kind
    ]
    kinds += [
        Share(kind, name, None, {}, False, seed, 0)
        for kind, (name, _) in GRAMMARS.items()
        if only in kind
    ]
    each = -(-files // len(kinds))
    for start in range(0, each, PART):
        for kind in kinds:
            count = min(PART, each - start)
            yield replace(kind, seed=seed * 10**9 + start, count=count)


def _show(counts: Mapping[str, collections.Counter[str]], options: argparse.Namespace) -> None:
    seen = [name for name in ENDINGS if any(kind[name] for kind in counts.values())]
    total = sum(kind.total() for kind in counts.values())
    table = Table("kind", *seen, title=f"{total:,} files, seed {options.seed}")
    for kind, endings in counts.items():
        table.add_row(kind, *(f"{endings[name]:,}" for name in seen))
    table.add_row("all", *(f"{sum(k[name] for k in counts.values()):,}" for name in seen))
    Console(width=200).print(table)
