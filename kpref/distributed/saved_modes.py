"""Eigenfunctions in a folder of files, one a shard, which is there wholly or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from kpref._validate import path_like

__all__ = ["save_all"]


def save_all(folder: str | os.PathLike[str], write: Callable[[str], Iterable[str]]) -> list[Path]:
    """Let a function write files into a new folder, and give the folder its name when that is done.

    `write`: called with the path of a folder beside it; the names of the files that it has written, in order.
    Raises OSError if the folder exists, its parent does not, or a file cannot be written; nothing is left then.
    """
    target = path_like("folder", folder).absolute()
    if target.exists():
        raise FileExistsError(f"{target} exists: modes are written into a new folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot make the folder {target}: {target.parent} does not exist")
    staging = tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        names = list(write(staging))
        os.rename(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return [target / name for name in names]
