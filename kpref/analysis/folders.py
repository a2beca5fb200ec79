"""A folder of results that is at its path whole or not at all, and never takes the place of somebody else's files.

A new report is written into a *staging folder* beside its path, ``.NAME.kpref-XXXXXXXX`` with eight hexadecimal digits,
which holds ``lock``, locked as long as its process lives, and ``new``, the report. Then one step of the system puts it
in place: a rename where there is no report yet, an exchange of the two names where there is one (`kpref._exchange`);
``new`` is the old report from then on, and is removed. A kill at any moment leaves the old or the new report at the
path, and at worst a staging folder, which the next run for that path removes: it knows its own by the name, by the
lock that nobody holds any more, and by the index, which is written first and removed last and lists all other files.

Where the file system cannot exchange, the old report is renamed to ``old`` in the staging folder, and then the new one
to the path. A kill between the two leaves no report at the path, until the next run puts ``old`` back.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kpref._arguments import require_movable
from kpref._exchange import exchange
from kpref._locks import LOCK, create_temporary_folder, dead_folders, prefix_for, temporary_name
from kpref._signals import signals_wait
from kpref._validate import path_like

__all__ = ["INDEX", "require_replaceable", "sweep", "write_folder"]

#: The file that tells a folder made by kpref from others: JSON with the name of the program and the files it wrote.
INDEX = "metrics.json"

_NEW, _OLD = "new", "old"


def require_replaceable(path: str | os.PathLike[str]) -> Path:
    """Make sure, before any work is done for it, that a folder of results can be put at `path`.

    `path`: does not exist, or is an empty folder, or one that kpref wrote and nobody added a file to.
    Returns the path, absolute, links resolved.
    Raises OSError if the parent folder does not exist or cannot be written, or `path` is a file, a mount point or the
    current folder; ValueError if there is a folder with files that kpref did not write.
    """
    try:
        folder = path_like("the output folder", path).resolve()
    except RuntimeError:  # what Python 3.11 and 3.12 make of a loop of symbolic links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path)) from None
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"the output folder {folder} is a file; name another folder, or a new one")
    if folder.is_dir():
        _require_own(folder, folder)
        require_movable(folder)
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"cannot make the output folder {folder}: {folder.parent} does not exist")
    probe = _new_staging(folder)
    try:
        with signals_wait():
            probe.mkdir()
            with suppress(FileNotFoundError):  # another run that sweeps may have found it
                probe.rmdir()
    except OSError as error:
        raise OSError(f"cannot write the output folder {folder}: {error.strerror or error}") from error
    return folder


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files and put it at `path` in one step, in place of one that kpref wrote.

    The files are on the disk, not only in the system's memory, before they take the place of others: after a power cut
    as after a kill, the old or the new report is there. That costs milliseconds a file. Signals that can wait do so
    until the report is in place, so that they leave no staging folder behind.

    `path`: as returned by `require_replaceable`, which is asked once more. `files`: name and content, `INDEX` among
    them, which lists them all.
    Raises OSError or ValueError as `require_replaceable` does, or if a file cannot be written, which is named; nothing
    is left behind, and what was at `path` is still there.
    """
    path = require_replaceable(path)
    sweep(path)
    with signals_wait(), _staging(path) as staging:
        new = staging / _NEW
        new.mkdir()
        for name in sorted(files, key=lambda name: name != INDEX):  # the index first: it tells whose the others are
            _write(new / name, files[name], path / name)
        _to_disk(new)
        _put_in_place(staging, path)
        _to_disk(path.parent)


def sweep(path: Path) -> None:
    """Remove what dead runs left beside the folder `path`, and put back a report that one had taken away.

    `path`: absolute, links resolved.
    """
    for staging in dead_folders(path.parent, prefix_for(path)):
        _clear(staging, path)


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A staging folder that is ours as long as the block lasts."""
    staging, lock = create_temporary_folder(path.parent, prefix_for(path))
    try:
        yield staging
    finally:
        _clear(staging, path)
        os.close(lock)


def _put_in_place(staging: Path, path: Path) -> None:
    new, old = staging / _NEW, staging / _OLD
    if not path.is_dir() or not any(path.iterdir()):
        os.rename(new, path)  # replaces an empty folder, and fails if it is not empty any more
    elif exchange(new, path):
        try:
            _require_own(new, path)  # somebody may have added a file since it was looked at
        except ValueError:
            exchange(new, path)
            raise
    else:
        try:
            os.rename(path, old)
            os.rename(new, path)
        except BaseException:
            _put_back(staging, path)
            raise


def _put_back(staging: Path, path: Path) -> None:
    """The old report, where the second of two renames was not reached."""
    if (staging / _OLD).is_dir() and not path.exists():
        os.rename(staging / _OLD, path)


def _clear(staging: Path, path: Path) -> None:
    """Remove a staging folder: the lock last but for the folder itself, so that an interrupted removal can go on."""
    with suppress(OSError):
        _put_back(staging, path)
        for name in (_NEW, _OLD):
            if not _remove_report(staging / name):
                return
        (staging / LOCK).unlink(missing_ok=True)
        staging.rmdir()


def _remove_report(folder: Path) -> bool:
    """Remove a whole or half-written report, the index last; False if it holds what kpref did not write."""
    if not folder.is_dir():
        return True
    if _foreign(folder) - {INDEX}:  # of the index itself there may be half
        return False
    for name in sorted(os.listdir(folder), key=lambda name: name == INDEX):
        (folder / name).unlink()
    folder.rmdir()
    return True


def _foreign(folder: Path) -> set[str]:
    """Names of what kpref did not write, by the folder's index."""
    index = folder / INDEX
    own: set[str] = set()
    try:
        if index.is_file() and not index.is_symlink():
            content = json.loads(index.read_text(encoding="utf-8"))
            own = set(content["files"]) if content["program"] == "kpref" else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name not in own or not entry.is_file(follow_symlinks=False)}


def _require_own(folder: Path, shown: Path) -> None:
    foreign = sorted(_foreign(folder))
    if foreign:
        raise ValueError(
            f"the output folder {shown} holds files that kpref did not write ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}); name another folder, or a new one"
        )


def _write(path: Path, content: bytes, shown: Path) -> None:
    """Write a file to the disk; an error names the file that it is to become."""
    try:
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(shown)) from error


def _to_disk(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _new_staging(folder: Path) -> Path:
    return folder.with_name(temporary_name(prefix_for(folder)))
