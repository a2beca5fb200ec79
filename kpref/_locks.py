"""Locks that tell what a living process is writing from what a dead one has left.

A lock on an open file (``flock``) vanishes with the last process that has it open, however that ends. Temporary files
and folders have names that say whose they are, and are locked as long as they are written: who can lock one that he
did not make has found what a dead process left.
"""

from __future__ import annotations

import errno
import hashlib
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

__all__ = [
    "LOCK",
    "create_temporary",
    "create_temporary_folder",
    "dead_folders",
    "held",
    "prefix_for",
    "sweep_temporaries",
    "temporary_name",
]

#: The file of a temporary folder that is locked.
LOCK = "lock"

_LONGEST_NAME = 200  # bytes; file systems end at 255, and temporary names are longer than those they stand for


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


def held(file: Path, doing: str) -> int:
    """Open a file, made if need be, that no other process has locked, and lock it; returns its descriptor.

    `doing`: what is done under the lock, as in "trains".
    Raises OSError if another process does, or the file cannot be opened.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    if take(descriptor) is False:
        os.close(descriptor)
        raise OSError(
            errno.EBUSY, f"another process {doing} in this folder: wait for it, or name another", str(file)
        )  # fmt: skip
    return descriptor


def prefix_for(path: Path) -> str:
    """How names of temporary files and folders begin that are to take the place of a path."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.kpref-"


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

    Raises OSError if it cannot be created.
    """
    while True:
        path = folder / temporary_name(prefix)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        # One that sweeps may have come before the lock: then the file has gone, or is about to.
        if take(descriptor) is not False and os.fstat(descriptor).st_nlink > 0:
            return path, descriptor
        os.close(descriptor)


def create_temporary_folder(folder: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder of a new name, with a file `LOCK` in it that is locked; returns its path and that file, open.

    Raises OSError if it cannot be made.
    """
    while True:
        path = folder / temporary_name(prefix)
        path.mkdir()
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileNotFoundError:  # one that sweeps has found it empty
            continue
        except BaseException:
            with suppress(OSError):
                path.rmdir()
            raise
        # One that sweeps may have opened the lock before we had it, and is about to remove all this or has done so.
        if take(lock) is not False and os.fstat(lock).st_nlink > 0:
            return path, lock
        os.close(lock)


def dead_folders(folder: Path, prefix: str) -> Iterator[Path]:
    """Folders that `create_temporary_folder` made for processes which have died, each locked until the next.

    Empty ones are removed on the way.
    """
    for path in [Path(entry) for entry in siblings(folder, prefix) if entry.is_dir(follow_symlinks=False)]:
        try:
            lock = os.open(path / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:  # its process died before it had locked it, or after it had removed all else
            with suppress(OSError):
                path.rmdir()
            continue
        except OSError:
            continue
        try:
            if take(lock):
                yield path
        finally:
            os.close(lock)


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
