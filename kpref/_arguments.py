"""What a command line is given: numbers within their bounds, files to be read, files to be written."""

from __future__ import annotations

import argparse
import math
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "MOST_SEED",
    "names",
    "number_above",
    "path",
    "positive_integer",
    "require_file",
    "require_movable",
    "require_writable",
    "seed",
]

MOST_SEED = 2**63 - 1


def path(text: str) -> Path:
    """A path; an empty one, which would stand for the current folder, is a variable that a script has not set."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text)


def names(text: str) -> list[str]:
    """Names with commas between them."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected names with commas between them; got {text!r}")
    return found


def positive_integer(text: str) -> int:
    """A count."""
    return _integer(text, 1, "a positive integer")


def seed(text: str) -> int:
    """A seed of random numbers."""
    return _integer(text, 0, "a non-negative integer")


def number_above(least: float, most: float = sys.float_info.max) -> Callable[[str], float]:
    """A finite number above one bound, and not above another."""
    words = "a positive number" if least == 0 else "a finite number"
    words += "" if most == sys.float_info.max else f" of at most {most:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least < value <= most:
            raise argparse.ArgumentTypeError(f"expected {words}, got {text!r}")
        return value

    return read


def require_file(name: str, file: Path) -> None:
    """See that there is a file to be read, and not something that would never end or answer, such as a pipe.

    `name`: what the error calls it.
    Raises OSError if there is none, or it is a folder, a pipe, a socket or a device; ValueError if `file` cannot be the
    name of a file.
    """
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        raise type(error)(error.errno, f"{name} cannot be read: {error.strerror}", str(file)) from error
    except ValueError as error:  # a null character
        raise ValueError(f"{name} cannot be read: {str(file)!r} is not the name of a file: {error}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{name} {file} is a folder; a file was expected")
    if not stat.S_ISREG(mode):
        raise OSError(f"{name} {file} is a pipe, a socket or a device; save it to a file, and name that")


def require_movable(folder: Path) -> None:
    """See that an existing folder is one that another can take the place of.

    Raises OSError if it is a mount point, or the current folder: whoever stands in it would then stand in the old one,
    which has gone.
    """
    if os.path.ismount(folder):
        raise OSError(f"the output folder {folder} is a mount point; name a new folder inside it")
    if os.path.samefile(folder, os.curdir):
        raise OSError(f"the output folder {folder} is the current folder; name a new folder inside it")


def require_writable(file: Path) -> None:
    """See, before any work is done for it, that a file of results can be put at a path.

    Raises OSError if its folder does not exist or cannot be written, or if there is something else than a file at the
    path.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {file}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {file}: {folder} is not a folder that can be written to")
    if os.path.lexists(file) and not file.is_file():  # a device or a pipe would be replaced by a file
        raise OSError(f"cannot write {file}: it exists and is not a file")


def _integer(text: str, least: int, words: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or not least <= int(text) <= MOST_SEED:
        most = " of at most 2^63 - 1" if text.isdecimal() and len(text) > 18 else ""
        raise argparse.ArgumentTypeError(f"expected {words}{most}, got {text!r}")
    return int(text)
