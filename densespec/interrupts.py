"""Lets Ctrl-C end the command ``densespec`` while it is still importing.

Python alone would print a traceback. Nothing changes for a program that imports densespec.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

COMMAND = "densespec"


def end_at_once() -> None:
    """Let Ctrl-C end the command as it ends any program, until Python is to see to it."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    """Say whether this process runs the command, rather than a program that imports densespec."""
    script = sys.argv[0].rpartition(os.sep)[2].partition(".")[0]
    words = sys.orig_argv
    as_module = f"-m{COMMAND}" in words or ("-m", COMMAND) in itertools.pairwise(words)
    return script == COMMAND or as_module
