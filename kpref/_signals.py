"""Signals that end a process, as exceptions: what was begun is cleaned up on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "orderly_ends", "signals_wait"]


class Terminated(BaseException):
    """SIGTERM or SIGHUP came; as with KeyboardInterrupt, no ``except Exception`` keeps it from ending the process."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


@contextmanager
def orderly_ends() -> Iterator[None]:
    """Raise `Terminated` for SIGTERM and SIGHUP while the block lasts.

    Only where they would end the process: one that ignores a signal, as ``nohup`` has it, or handles it in its own way
    goes on doing so. Handlers belong to the main thread; in any other nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    ours = [
        number for number in (getattr(signal, name) for name in names) if signal.getsignal(number) is signal.SIG_DFL
    ]
    try:
        for number in ours:
            signal.signal(number, _end)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP wait until the block has ended: for work that is short and must not stop halfway.

    What handles them otherwise handles them then. Handlers belong to the main thread; in any other nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    waiting = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    came: list[int] = []
    try:
        for number in waiting:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in waiting.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)
