"""Locks that tell what a living process is writing from what a dead one has left.

A lock on an open file (``flock``) vanishes with the last process that has it open, however that ends. Temporary files
and folders have names that say whose they are, and are locked as long as they are written: who can lock one that he
did not make has found what a dead process left.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there, since nothing tells a dead process from a living one
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = True

__all__ = ["create_temporary", "siblings", "sweep_temporaries", "take", "temporary_name"]


def take(descriptor: int) -> bool | None:
    """Lock an open file; False if another process holds it, None if there are no locks here."""
    if not _HAS_LOCKS:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def temporary_name(prefix: str) -> str:
    """A name that nobody has, and that `siblings` finds by its prefix."""
    return f"{prefix}{secrets.token_hex(4)}"


def siblings(folder: Path, prefix: str) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder whose names come from `temporary_name`; none of one that cannot be listed."""
    name = re.compile(re.escape(prefix) + "[0-9a-f]{8}")
    with suppress(OSError), os.scandir(folder) as entries:
        yield from (entry for entry in entries if name.fullmatch(entry.name))


def create_temporary(folder: Path, prefix: str) -> tuple[Path, int]:
    """Create a file of a new name, and lock it; returns its path and its open descriptor.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    while True:
        path = folder / temporary_name(prefix)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        # One that sweeps may have come before the lock: then the file has gone, or is about to.
        if take(descriptor) is not False and os.fstat(descriptor).st_nlink > 0:
            return path, descriptor
        os.close(descriptor)


def sweep_temporaries(folder: Path, prefix: str) -> None:
    """Remove the files that `create_temporary` made for processes which have died."""
    for entry in list(siblings(folder, prefix)):
        if not entry.is_file(follow_symlinks=False):
            continue
        with suppress(OSError):
            descriptor = os.open(entry.path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if take(descriptor):
                    os.unlink(entry.path)
            finally:
                os.close(descriptor)
