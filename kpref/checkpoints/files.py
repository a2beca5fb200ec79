"""What a network's file holds: named arrays of an npz or safetensors file, or the content of a PyTorch archive.

The format is recognised by the content, not by the name: a zip archive begins with ``PK``, a safetensors file with the
length of a JSON header. A pickle is never loaded: a bare one is refused, and the one inside a PyTorch archive is left
to ``torch.load(..., weights_only=True)``, which builds tensors and plain containers only.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from numpy.typing import NDArray

from kpref._archives import open_file, open_zip, read_entries, reason, require_unique
from kpref.checkpoints.hdf5 import MAGIC, read_hdf5
from kpref.memory import require_memory

__all__ = ["read_file"]

_SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip

SAVE_TENSORS = "save its tensors, torch.save(model.state_dict(), path), or write them as safetensors"
"""What to do with a file that holds more than tensors."""


def read_file(path: str | os.PathLike[str]) -> tuple[Mapping[Any, Any], dict[str, str]]:
    """Read an npz, safetensors, PyTorch (zip) or HDF5 file.

    `path`: the file; its suffix does not matter.
    Returns the arrays by their names, in the file's order (of a PyTorch file the dictionary that was saved, whatever it
    holds), and texts by theirs: the metadata of a safetensors file, the string scalars of an npz file.
    Raises OSError if it is not a file or cannot be opened; ValueError if it is of another format, truncated or damaged,
    holds two things of one name, or would need unpickling; ImportError if it is a PyTorch file and PyTorch (2.6 or
    later) is not installed, or an HDF5 file and h5py is not; MemoryError if it is larger, unpacked, than the memory
    available.
    """
    path = Path(path)
    with open_file(path) as file:
        head = file.read(16)
        if head.startswith(b"PK"):
            with open_zip(path, file) as archive:
                if any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.namelist()):
                    return _read_torch(path, archive), {}
                return read_entries(path, archive)
        if head.startswith(MAGIC):
            return read_hdf5(path, file), {}
        if head[8:9] == b"{":
            return _read_safetensors(path, file, int.from_bytes(head[:8], "little"))
    if not head:
        raise ValueError(f"{path} is empty: expected a safetensors, npz or PyTorch zip file")
    if head[0] == 0x80 and head[1:2] <= b"\x05":
        raise ValueError(
            f"{path} is a bare pickle, which is never loaded because it can run any code: {SAVE_TENSORS} or npz"
        )
    raise ValueError(
        f"{path} is not a safetensors, npz or PyTorch zip file, or only a few bytes of one (it begins with {head!r})"
    )


def _read_safetensors(path: Path, file: BinaryIO, header_size: int) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    if 8 + header_size > size:
        raise ValueError(
            f"{path} is not a whole safetensors file: it declares a header of {header_size} bytes and has {size} in all"
        )
    require_memory(2.0 * size, f"reading {path}")
    file.seek(0)
    data = file.read()
    arrays: dict[str, NDArray[Any]] = {}
    # The parser of the format and that of JSON raise many types, RecursionError of deep metadata among them.
    try:
        pairs: list[tuple[str, Any]] = json.loads(data[8 : 8 + header_size], object_pairs_hook=_Pairs)
        metadata = dict(pairs).get("__metadata__") or _Pairs()
        names = [name for name, _ in pairs], [name for name, _ in metadata]
    except Exception as error:
        raise ValueError(f"{path} is not a whole safetensors file: {reason(error)}") from error
    for those in names:
        require_unique(path, those)
    try:
        entries = safetensors.deserialize(data)
    except Exception as error:
        raise ValueError(f"{path} is not a whole safetensors file: {reason(error)}") from error
    for name, entry in entries:
        kind = entry["dtype"]
        if kind not in _SAFETENSORS_TYPES:
            raise ValueError(
                f"{path}: tensor {name!r} has type {kind}; expected one of {', '.join(_SAFETENSORS_TYPES)}: save it as "
                "one of these"
            )
        try:
            array: NDArray[Any] = np.ndarray(entry["shape"], _SAFETENSORS_TYPES[kind], entry["data"])
        except ValueError as error:  # an empty one of a shape that no array can have
            raise ValueError(f"{path}: tensor {name!r} of shape {entry['shape']}: {reason(error)}") from error
        arrays[name] = _from_bfloat16(array) if kind == "BF16" else array
    return arrays, dict(metadata)


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object in the order of the file, also those of one name."""


def _from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A bfloat16 number is the upper half of the float32 of the same value."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _read_torch(path: Path, archive: zipfile.ZipFile) -> Mapping[Any, Any]:
    if any("/code/" in name for name in archive.namelist()):
        raise ValueError(f"{path} holds a TorchScript program, not tensors alone: {SAVE_TENSORS}")
    torch = _torch(path)
    checked = _checked_copy(path, archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, about its own storages
            content = torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:
        # The message of PyTorch runs over many lines, with escape codes and the advice to load the file unsafely.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds Python objects ({foreign[1]})" if foreign else "is damaged, or holds Python objects,"
        raise ValueError(
            f"{path} {what} that only unpickling can build, and unpickling can run any code: {SAVE_TENSORS}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a state_dict, which maps names to tensors: "
            f"{SAVE_TENSORS}"
        )
    return content


def _checked_copy(path: Path, archive: zipfile.ZipFile) -> io.BytesIO:
    """The entries of an archive, each with the right checksum, in a new one.

    PyTorch does not compare checksums, and takes an entry whose attributes in the directory say that it is a folder for
    one of zeros. What it gets to see is therefore what was checked, and not the file.
    """
    require_memory(2.0 * sum(entry.file_size for entry in archive.infolist()), f"reading {path}")  # it and the tensors
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as checked:
        for entry in archive.infolist():
            try:
                data = archive.read(entry)
            except Exception as error:
                raise ValueError(
                    f"{path} is a damaged PyTorch file: its entry {entry.filename!r} does not match its checksum or "
                    f"cannot be read: {reason(error)}"
                ) from error
            checked.writestr(entry.filename, data)
    copy.seek(0)
    return copy


def _torch(path: Path) -> Any:
    """PyTorch, in a version that reads safely."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file and PyTorch is not installed: install it, or save the state_dict as safetensors"
        ) from error
    # Before 2.6, weights_only=True could be tricked into running code (CVE-2025-32434).
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise ImportError(f"{path} needs PyTorch 2.6 or later to be read safely; got {torch.__version__}")
    return torch
