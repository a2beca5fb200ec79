"""Pictures drawn by two processes: matplotlib holds the GIL, so that two threads would draw one after the other."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from kpref.analysis.exhibits import Panel
from kpref.threads import get_num_threads

__all__ = ["may_fork", "second_drawer"]

#: Bytes that the pipe between the two holds, so that nobody waits while the other draws: a picture has some 30,000.
_PIPE = 1 << 20


def may_fork() -> bool:
    """Whether a second process helps, and a fork of this one is safe, if all its threads are kpref's own."""
    alone = multiprocessing.current_process().daemon  # such a process may have no children
    return sys.platform == "linux" and get_num_threads() > 1 and not alone


@contextmanager
def second_drawer(panels: Sequence[Panel]) -> Iterator[Callable[[], object]]:
    """A forked copy of this process draws the panels from the last on, as the caller does from the first on.

    Yields a function that takes over the pictures which that process has ended, as `Panel.png`. The same picture is the
    same bytes, whoever drew it. Nothing waits for that process: whatever becomes of it, who draws all panels of which
    there is no picture yet has them all. It is gone when the block is left.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    _widen(writer)
    drawer = context.Process(target=_draw_backward, args=(panels, reader, writer), daemon=True)
    try:
        started = _started(drawer)
        writer.close()  # the other process has its own: with it ends the pipe

        def take() -> None:
            with suppress(EOFError, OSError):  # it has ended, early or not
                while started and reader.poll():
                    index = int.from_bytes(reader.recv_bytes(), "little")
                    panels[index].__dict__.setdefault("png", reader.recv_bytes())  # where `cached_property` looks

        yield take
    finally:
        if drawer.pid is not None:
            drawer.kill()
            drawer.join()
        drawer.close()
        reader.close()


def _started(drawer: multiprocessing.process.BaseProcess) -> bool:
    """False where the system refuses another process: one alone draws them all."""
    try:
        drawer.start()
    except OSError:
        return False
    return True


def _draw_backward(panels: Sequence[Panel], reader: Connection, writer: Connection) -> None:
    """In the forked process: an interrupt is for the first one, and so is what there is to warn of or to raise."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader.close()  # else this process would never learn that the first one has gone
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in reversed(range(len(panels))):
            picture = panels[index].picture("png")
            writer.send_bytes(index.to_bytes(4, "little"))
            writer.send_bytes(picture)


def _widen(writer: Connection) -> None:
    import fcntl

    with suppress(AttributeError, OSError):  # not on this system, or not so much
        fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
