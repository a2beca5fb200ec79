"""Child processes that lead a group of their own: whether one has ended, and how, and the end of the whole group."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

__all__ = ["has_ended", "kill_group", "status_in_words"]


def has_ended(process: subprocess.Popen[Any]) -> bool:
    """Whether a process is over; its number stays its own, so that its group can still be named."""
    if process.returncode is None and hasattr(os, "waitid"):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all others of its group."""
    if process.returncode is not None:
        return
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # nothing is left of it that runs
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def status_in_words(status: int) -> str:
    """How a process ended, by what `subprocess` returns, as the end of a sentence."""
    if status >= 0:
        return f" with exit status {status}"
    try:
        return f" by signal {signal.Signals(-status).name}"
    except ValueError:
        return f" by signal {-status}"
