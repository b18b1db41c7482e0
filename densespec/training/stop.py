"""Takes Ctrl-C and SIGTERM as a wish to stop, which the loop looks at between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Catches signals while it is entered, in the main thread; elsewhere it catches none.

    A second Ctrl-C ends the program at once, which loses what was done since the last checkpoint.

    Attributes:
        signal: the number of the one that came; None before.
    """

    def __init__(self, *, patient: bool = False) -> None:
        """
        Args:
            patient: whether to ignore a second Ctrl-C: a launcher may send one after the
                terminal's own.
        """
        self.signal: int | None = None
        self._patient = patient
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and not self._patient:
            raise KeyboardInterrupt
        self.signal = number
