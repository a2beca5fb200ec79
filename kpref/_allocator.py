"""What the C library does with memory that has been freed: it is kept for the next array of a command.

By default the GNU C library asks the system for each large array anew and returns it when it is freed, and the system
fills each page with zeros before it is used: a tenth of the processor time of a report. Other libraries do as they do.
"""

from __future__ import annotations

import ctypes
import sys

from kpref.reused_memory import let_go

__all__ = ["give_back", "keep_freed_memory"]

# Of mallopt, as <malloc.h> numbers them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_MOST, _PAD = (1 << 31) - 1, 1 << 26


def keep_freed_memory() -> bool:
    """From now on, memory that this process frees stays with it, in one place for all threads; False if that fails.

    For a process that is one command: it holds the most that it ever needed until it ends, or gives it back.
    """
    library = _library()
    if library is None:
        return False
    options = (_ARENA_MAX, 1), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _PAD), (_MMAP_THRESHOLD, _MOST)
    return all([library.mallopt(option, value) == 1 for option, value in options])


def give_back() -> None:
    """Return to the system what this process has freed, as far as that can be."""
    let_go()
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """The GNU C library, if this process runs on it."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim")) else None
