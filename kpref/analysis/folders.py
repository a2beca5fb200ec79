"""A folder of results that appears whole or not at all, and never takes the place of somebody else's files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

__all__ = ["INDEX", "require_replaceable", "write_folder"]

#: The file that tells a folder made by kpref from others: JSON with the name of the program and the files it wrote.
INDEX = "metrics.json"


def require_replaceable(path: str | os.PathLike[str]) -> Path:
    """Make sure, before any work is done for it, that a folder of results can be put at `path`.

    Parameters
    ----------
    path : path
        Does not exist, or is an empty folder, or one that kpref wrote and nobody added a file to.

    Returns
    -------
    Path
        Absolute, links resolved.

    Raises
    ------
    OSError
        If the parent folder does not exist or cannot be written, or `path` is a file or a mount point.
    ValueError
        If there is a folder with files that kpref did not write.
    """
    folder = Path(path).resolve()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"the output folder {folder} is a file")
    if folder.is_dir():
        _require_own(folder)
        if os.path.ismount(folder):
            raise OSError(f"the output folder {folder} is a mount point; name a new folder inside it")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"cannot make the output folder {folder}: {folder.parent} does not exist")
    probe = _sibling(folder, "probe")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OSError(f"cannot write the output folder {folder}: {error.strerror or error}") from error
    return folder


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files under a temporary name and rename it to `path`, in place of one that kpref wrote.

    Parameters
    ----------
    path : Path
        As returned by `require_replaceable`, which is asked once more.
    files : mapping of str to bytes
        Name and content, `INDEX` among them.

    Raises
    ------
    OSError, ValueError
        As `require_replaceable`; nothing is left behind, and what was at `path` is still there.
    """
    path = require_replaceable(path)
    new, old = _sibling(path, "tmp"), _sibling(path, "old")
    try:
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        if path.is_dir():
            os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(new, ignore_errors=True)
        raise
    finally:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def _require_own(folder: Path) -> None:
    present = {entry.name for entry in folder.iterdir()}
    if not present:
        return
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        own = set(index["files"]) if index["program"] == "kpref" else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    foreign = sorted(present - own)
    if foreign:
        raise ValueError(
            f"the output folder {folder} holds files that kpref did not write ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}); name another folder, or a new one"
        )


def _sibling(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{kind}")
