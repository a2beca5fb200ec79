"""A line that says what a first process waits for: the compiler, once for each version on each machine.

It comes after two seconds of compiling, on standard error, and only where somebody looks on: the other processes find
the compiled code on disk.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from numba.core import event

from kpref._terminal import watched

__all__ = ["CompilationNotice"]

_PATIENCE = 2.0  # seconds
_WORDS = "kpref: compiling for this machine, which takes up to a minute, once"


class CompilationNotice(event.Listener):  # type: ignore[misc]
    """Counts the time that Numba compiles, and says so once when it is long.

    `patience`: seconds of compiling, of all functions together, before it says so.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._left, self._depth, self._since = patience, 0, 0.0
        self._timer: threading.Timer | None = None

    def on_start(self, _: Any) -> None:
        """A function is compiled, perhaps one inside another."""
        self._depth += 1
        if self._depth == 1 and self._left > 0:
            self._since = time.monotonic()
            self._timer = threading.Timer(self._left, self._speak)
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, _: Any) -> None:
        """It is compiled, or could not be."""
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer, self._left = None, self._left - (time.monotonic() - self._since)

    def _speak(self) -> None:
        self._left = 0.0
        if watched(sys.stderr):
            try:
                print(
                    "kpref: compiling for this machine, which takes up to a minute, once", file=sys.stderr, flush=True
                )
            except (OSError, ValueError):  # nobody is told, and nothing is lost
                pass


event.register("numba:compile", CompilationNotice())
