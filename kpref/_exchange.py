"""Exchange what two names stand for in one step of the system, of which no other process and no kill sees half.

POSIX has no such call: its ``rename`` replaces a folder only if that is empty. Linux has ``renameat2`` with
``RENAME_EXCHANGE`` (ext4, xfs, btrfs, tmpfs, overlayfs, not NFS), macOS ``renamex_np`` with ``RENAME_SWAP`` (APFS).
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["exchange"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # <linux/fs.h>
_RENAME_SWAP = 2  # <sys/stdio.h> of macOS

#: What a system or a file system answers that does not have the call; a sandbox may not permit it.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(first: Path, second: Path) -> bool:
    """Let two names of files or folders, on one file system, stand for each other's content.

    Both exist. Returns whether it was done: False if the system or the file system has no such call; nothing has
    changed then.
    Raises OSError for any other reason, such as missing rights; nothing has changed.
    """
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    source, target = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        status = library.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, ctypes.c_uint(_RENAME_EXCHANGE))
    elif hasattr(library, "renamex_np"):
        status = library.renamex_np(source, target, ctypes.c_uint(_RENAME_SWAP))
    else:
        return False
    if status == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
