"""A target's process answers requests until the suite hangs up."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from densespec_conformance.answering import environment
from densespec_conformance.answering.answers import handle
from densespec_conformance.asking.requests import Request, Unsupported
from densespec_conformance.asking.subject import Subject


def serve(subject: Subject, pipe: Connection, log: str, threads: int) -> None:
    """Answer requests until the other side hangs up. What the framework prints goes to ``log``.

    An answer is a pair: ``answer`` and the answer itself, or the status to report and the reason.
    """
    _lead_a_group()
    _redirect_output(log)
    environment.set_defaults(threads)
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(subject, request))
        environment.forget_programs()


def _answer(subject: Subject, request: Request) -> tuple[str, Any]:
    try:
        return "answer", handle(subject, request)
    except Unsupported as refusal:
        return "unsupported", str(refusal)
    except Exception as error:
        traceback.print_exc()
        kind = "out of memory" if environment.is_out_of_memory(error) else "error"
        return kind, f"{type(error).__name__}: {error}"


def _lead_a_group() -> None:
    """Make this process's children end with it, and it with its parent, whatever happens."""
    if not hasattr(os, "setpgid"):
        return
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _redirect_output(log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
    os.close(handle)
