"""A cell in a process of its own, which ends with it: its time is limited from outside, its memory from inside."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Protocol, cast

from kpref._processes import has_ended, kill_group, status_in_words
from kpref._terminal import one_line

__all__ = ["CellProcess", "Outcome", "Running"]

#: What the libraries of linear algebra and compilation, and ours, read at their start.
_THREADS = (
    *("KPREF_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
)
#: What libraries print that end the process where they get no memory.
_NO_MEMORY = re.compile(r"out of memory|bad_alloc|memory allocation|cannot allocate", re.IGNORECASE)
_LONGEST = 1 << 16  # bytes that are read of what a process has printed

Outcome = dict[str, Any]


class Running(Protocol):
    """A cell that has been started, here or elsewhere."""

    def outcome(self) -> Outcome | None:
        """What came of it: ``metrics``, or ``failed`` and ``error``; None as long as it runs."""

    def stop(self) -> None:
        """End it, and all that it has started."""


class CellProcess:
    """A process that runs a cell, started at once.

    `settings`, `metrics`: as `kpref.sweeps.cell.run_cell` takes them. `seconds`, `memory`: limits, or None.
    `alone`: whether it may use all cores.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        metrics: tuple[str, ...],
        seconds: float | None,
        memory: int | None,
        alone: bool,
    ) -> None:
        self._seconds, self._memory = seconds, memory
        # Files, not pipes: a process never waits for somebody to read them, and their ends are where they are.
        self._answer, self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        environment = {**os.environ, **({} if alone else dict.fromkeys(_THREADS, "1"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kpref.sweeps.cell_worker"], stdin=subprocess.PIPE, stdout=self._answer,
            stderr=self._said, env=environment, process_group=0,
        )  # fmt: skip
        self._end = time.monotonic() + (math.inf if seconds is None else seconds)
        request = {"settings": dict(settings), "metrics": list(metrics), "memory": memory}
        with suppress(BrokenPipeError):  # it has ended already, which is told below
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()

    @property
    def _input(self) -> BinaryIO:
        return cast(BinaryIO, self._process.stdin)

    def outcome(self) -> Outcome | None:
        """See `Running`."""
        if not has_ended(self._process):
            if time.monotonic() < self._end:
                return None
            self.stop()
            return {"failed": "time", "error": f"it took longer than the {self._seconds:g} s of [limits]"}
        kill_group(self._process)  # what it may have left behind
        self._process.wait()
        try:
            answer = json.loads(_read(self._answer))
        except ValueError:
            answer = self._crash()
        self.stop()
        if answer.get("failed") == "memory":  # a sentence that is the same on every day; the library's own beside it
            limit = "there is" if self._memory is None else f"the {self._memory / 2**30:g} GiB of [limits]"
            answer["detail"], answer["error"] = answer["error"], f"it needed more memory than {limit}"
        return cast(Outcome, answer)

    def stop(self) -> None:
        """See `Running`."""
        kill_group(self._process)
        self._process.wait()
        for file in (self._input, self._answer, self._said):
            with suppress(OSError):
                file.close()

    def _crash(self) -> Outcome:
        said = _read(self._said).decode(errors="replace")
        if self._memory is not None and _NO_MEMORY.search(said):
            return {"failed": "memory", "error": one_line(_last_line(said))}
        return {"failed": "crashed", "error": f"its process ended{status_in_words(self._process.returncode)}",
                "detail": one_line(_last_line(said))}  # fmt: skip


def _read(file: Any) -> bytes:
    """The end of a file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LONGEST))
    return bytes(file.read())


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
