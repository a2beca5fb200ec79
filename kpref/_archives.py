"""Named arrays in npz archives, read without unpickling and checked before they are built; files replaced atomically.

What a file declares is held against what it has before memory is taken for it: the directory of a zip archive against
its entries, the sizes against the memory available, the shape in the header of each array against the bytes behind it,
and each entry against its checksum.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kpref._locks import create_temporary, prefix_for, sweep_temporaries
from kpref.memory import require_memory

Arrays = dict[str, NDArray[Any]]

_ZIP_END_SIZE = 22  # the end record of a zip archive, whose bytes 10 and 11 count the entries
_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADERS: dict[tuple[int, ...], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of bytes for reading, and nothing that is no file: a pipe would wait for a writer, without end.

    Raises OSError if there is no such file, it cannot be opened, or it is a folder, a pipe, a socket or a device;
    ValueError if `path` cannot be the name of a file.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a null character
        raise ValueError(f"{os.fspath(path)!r} is not the name of a file: {error}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder; expected a file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{os.fspath(path)} is a pipe, a socket or a device; expected a file, which can be read twice")
    return open(path, "rb")


def read_npz(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, str]]:
    """Read every named array of an npz file.

    Returns the arrays by their names, in the file's order, and the string scalars by theirs.
    Raises OSError if it is not a file or cannot be opened; ValueError if it is of another format, truncated or damaged,
    holds two arrays of one name or Python objects; MemoryError if it is larger, unpacked, than the memory available.
    """
    path = Path(path)
    with open_file(path) as file:
        if file.read(2) != b"PK":
            raise ValueError(f"{path} is not an npz file, which is a zip archive of arrays")
        with open_zip(path, file) as archive:
            return read_entries(path, archive)


@contextmanager
def open_zip(path: Path, file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose directory is whole, names each entry once, and fits into memory when unpacked.

    Raises ValueError if the directory is damaged or has two entries of one name, or something stands before the
    archive; MemoryError if the entries together need more memory than there is.
    """
    try:
        archive = zipfile.ZipFile(file)
        file.seek(-_ZIP_END_SIZE - len(archive.comment), os.SEEK_END)
        declared = int.from_bytes(file.read(_ZIP_END_SIZE)[10:12], "little")
    except Exception as error:  # BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, OSError, ...
        raise ValueError(f"{path} is a truncated or damaged zip archive: {reason(error)}") from error
    with archive:
        names = archive.namelist()
        # A damaged length in the directory makes Python's zipfile skip entries without a word.
        if declared not in (len(names), 0xFFFF):  # the latter: more than there is room for here
            raise ValueError(f"{path} is a damaged zip archive: {declared} entries declared, {len(names)} found")
        first = min((entry.header_offset for entry in archive.infolist()), default=0)
        if first > 0:
            raise ValueError(
                f"{path} holds {first} bytes before its zip archive, as where two files became one: write the file anew"
            )
        require_unique(path, names)
        require_memory(float(sum(entry.file_size for entry in archive.infolist())), f"unpacking {path}")
        yield archive


def require_unique(path: Path, names: list[str]) -> None:
    """Raise ValueError if a file holds two things under one name: readers differ in which of them they take."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(
            f"{path} holds {', '.join(map(repr, twice))} twice, and nothing says which one counts: write the file anew"
        )


def read_entries(path: Path, archive: zipfile.ZipFile) -> tuple[Arrays, dict[str, str]]:
    """Arrays and string scalars of an open npz archive; see `read_npz`."""
    arrays: Arrays = {}
    notes: dict[str, str] = {}
    names = [entry.filename.removesuffix(".npy") for entry in archive.infolist()]
    require_unique(path, names)
    for name, entry in zip(names, archive.infolist(), strict=True):
        value = _read_entry(path, name, archive, entry)
        if value.dtype.kind == "U" and value.ndim == 0:
            notes[name] = str(value)
        else:
            arrays[name] = value
    return arrays, notes


def _read_entry(path: Path, name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """One array in npy format."""
    # The decoders of zip, deflate and npy headers raise a dozen types (BadZipFile, zlib.error, EOFError, struct.error,
    # NotImplementedError, SyntaxError, ...), and all of them mean the same here: the file is not what it should be.
    try:
        data = archive.read(entry)  # to its end, where the checksum is compared
    except Exception as error:
        if "CRC" in str(error):
            raise ValueError(f"{path}: entry {entry.filename!r} is damaged, its checksum is wrong") from error
        raise ValueError(f"{path}: entry {name!r} cannot be read: {reason(error)}") from error
    start = len(_NPY_MAGIC) + 2
    read_header = _NPY_HEADERS.get(tuple(data[start - 2 : start])) if data.startswith(_NPY_MAGIC) else None
    if read_header is None:
        raise ValueError(f"{path}: entry {name!r} is not an array in npy format")
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy and of Python's parser, about damaged headers
            shape, fortran_order, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(
                "it holds Python objects, which only unpickling can build: save text as str, and arrays of different "
                "lengths padded to one"
            )
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(
                f"its header declares {dtype} of shape {shape}, and {len(data) - stream.tell()} bytes follow"
            )
        return np.ndarray(shape, dtype, data, stream.tell(), order="F" if fortran_order else "C")
    except Exception as error:
        raise ValueError(f"{path}: entry {name!r} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The first line of an error of another library, cut after 160 characters, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 160 else f"{line[:157]}..."


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file for writing that takes the place of `path` when the block ends, and vanishes if it fails.

    What processes left that died in such a block for the same path is removed.

    Yields an empty binary file in the same folder, which must exist, under a temporary name.
    Raises OSError if the folder does not exist or cannot be written, or the disk is full; it names `path`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    prefix = prefix_for(path)
    temporary = None
    try:
        sweep_temporaries(path.parent, prefix)
        temporary, descriptor = create_temporary(path.parent, prefix)
        with open(descriptor, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.errno is None:
            raise
        if temporary is None or error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # of a full disk Python names no file
        raise
