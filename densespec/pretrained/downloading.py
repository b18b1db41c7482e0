"""Downloads one file with a progress bar, and resumes where a transfer broke."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from densespec.errors import DensespecError
from densespec.installed import require

RETRIES = 2
"""A broken transfer is tried again this often, each time after a longer pause."""

CHUNK = 1 << 16
PARTIAL = 206
"""A server answers with this status when it sends the part that was asked for."""

FINAL = range(400, 500)
"""With these statuses a server says that trying again will not help."""


class TransferFailed(DensespecError):
    """A file could not be downloaded; the message is the reason."""


def download(address: str, place: Path, *, resumes: bool) -> bool:
    """Download a file, which is at its place when it is whole.

    What a transfer has brought that broke lies beside it as ``.part``.

    Args:
        resumes: Whether to go on with what an earlier transfer has brought.

    Returns:
        Whether it went on with some of that.

    Raises:
        TransferFailed: It can't be downloaded; the message says why.
        PackageMissing: pooch is not installed.
    """
    require("fetching trained weights", "pooch", extra="pretrained")
    import pooch
    import requests

    transfer = _Transfer(place.with_name(f"{place.name}.part"), resumes)
    store = pooch.create(
        path=place.parent,
        base_url="",
        registry={place.name: None},
        urls={place.name: address},
        retry_if_failed=RETRIES,
    )
    try:
        with _quiet(pooch.get_logger()):
            store.fetch(place.name, downloader=transfer)
    except (requests.exceptions.RequestException, OSError) as error:
        raise TransferFailed(_reason(error)) from error
    return transfer.went_on


@dataclass
class _Transfer:
    """Downloads a file for pooch, which calls it.

    Attributes:
        part: What it has downloaded so far.
        resumes: Whether to resume after that.
        went_on: Whether it has resumed.
    """

    part: Path
    resumes: bool
    went_on: bool = False

    def __call__(self, address: str, output: str, pooch: Any) -> None:
        if not self.resumes:
            self.part.unlink(missing_ok=True)
        with self.part.open("ab") as file:
            self._receive(address, file)
        self.part.replace(output)

    def _receive(self, address: str, file: BinaryIO) -> None:
        import pooch

        start = file.tell()

        def begin(response: Any, *args: Any, **options: Any) -> None:
            if response.status_code in FINAL:
                file.truncate(0)
                raise TransferFailed(f"{response.status_code} {response.reason}")
            if response.status_code == PARTIAL:
                self.went_on = True
            elif start and not response.is_redirect:
                file.truncate(0)

        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with _bar(self.part.stem, start) as bar:
            pooch.HTTPDownloader(
                progressbar=bar, chunk_size=CHUNK, headers=headers, hooks={"response": begin}
            )(address, file, None)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a library from telling what is told here."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Say what went wrong, without the errors that wrap it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    inner = getattr(error, "reason", None) or next(
        (one for one in error.args if isinstance(one, Exception)), None
    )
    if isinstance(inner, Exception):
        return _reason(inner)
    return str(error).rpartition(">: ")[2] or type(error).__name__


@contextlib.contextmanager
def _bar(name: str, start: int) -> Iterator[Any]:
    """Provide a bar on a terminal's stderr, as pooch uses it; elsewhere nothing is shown."""
    if not sys.stderr.isatty():
        yield False
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"fetching {name}", total=None, completed=start)
        yield _Bar(progress, task, start)


class _Bar:
    """Lets pooch set the bar's total and tell it what has come."""

    def __init__(self, progress: Any, task: Any, start: int) -> None:
        self._progress, self._task, self._start, self._came = progress, task, start, 0

    def _set_total(self, size: int) -> None:
        self._progress.update(self._task, total=self._start + size)

    total = property(fset=_set_total)

    def update(self, size: int) -> None:
        self._came += size
        self._progress.update(self._task, completed=self._start + self._came)

    def reset(self) -> None:
        self._came = 0

    def close(self) -> None:
        """Do nothing: pooch closes bars, but this one ends with its block."""
