"""What a command says: results on standard output, progress on standard error, and text that is fit for both."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, TextIO

__all__ = ["Progress", "one_line", "output_named", "say", "watched"]

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_LONGEST = 1200  # characters of a message: what is longer is somebody's data
_BETWEEN_DRAWINGS = 0.2  # seconds


def say(text: str) -> None:
    """Print a result.

    Raises OSError if it cannot be written; the error names standard output. BrokenPipeError if nobody reads any more.
    """
    with output_named():
        print(text, flush=True)


@contextmanager
def output_named() -> Iterator[None]:
    """Errors of standard output name it, but for that nobody reads any more."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def one_line(text: str) -> str:
    """Make one line of a text from anywhere: its first paragraph, without colours, what cannot be printed escaped."""
    paragraph = _ESCAPES.sub("", text).strip().split("\n\n")[0]
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(paragraph.split())
    )
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def watched(stream: TextIO | None) -> bool:
    """Whether somebody looks on: the stream is a terminal, or we run in a notebook."""
    try:
        terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False
    return terminal or (stream is not None and "ipykernel" in sys.modules)


class Progress:
    """What a long command is doing: one line that is drawn anew where somebody looks on, else one line a phase.

    Progress is no result: a stream that cannot be written to is given up without a word.

    With `show` False it says nothing.
    """

    def __init__(self, show: bool = True) -> None:
        self._stream: TextIO | None = sys.stderr if show else None
        self._live = watched(self._stream)
        self._started = time.monotonic()
        self._drawn = 0.0
        self._width = 0
        self._phase = ""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._width:
            self._write(f"\r{' ' * self._width}\r")

    @property
    def live(self) -> bool:
        """Whether the line is drawn anew, and may change often."""
        return self._live

    def phase(self, text: str) -> None:
        """A new phase of the work begins."""
        with self._lock:
            self._phase = one_line(text)
            self._draw()

    def tick(self, _: object = None) -> None:
        """The phase lasts: the clock goes on. May be called from several threads, as often as one likes."""
        if self._live and time.monotonic() - self._drawn > _BETWEEN_DRAWINGS and self._lock.acquire(blocking=False):
            try:
                self._draw()
            finally:
                self._lock.release()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        line = f"[{self._drawn - self._started:.0f} s] {self._phase}"
        if self._live:
            line = line[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r{line:<{self._width}}")
            self._width = len(line)
        else:
            self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None
