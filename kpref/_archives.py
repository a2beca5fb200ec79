"""Named arrays in files: read npz, safetensors and PyTorch archives without unpickling, replace a file atomically.

The format is recognised by what the file holds, not by its name: a zip archive begins with ``PK``, a safetensors file
with the length of a JSON header. A pickle is never loaded: a bare one is refused, and the one inside a PyTorch archive
is left to ``torch.load(..., weights_only=True)``, which builds tensors and plain containers only.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from numpy.typing import NDArray

from kpref.memory import require_memory

Arrays = dict[str, NDArray[Any]]

_ZIP_END_SIZE = 22  # the end record of a zip archive, whose bytes 10 and 11 count the entries

_SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read_arrays(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, str]]:
    """Read every named array of an npz, safetensors or PyTorch (zip) file.

    Parameters
    ----------
    path : path
        The file; its suffix does not matter.

    Returns
    -------
    arrays : dict
        Name -> array, in the file's order.
    notes : dict
        Name -> text: the metadata of a safetensors file, the string scalars of an npz file.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is of another format, truncated or damaged, or would need unpickling.
    ImportError
        If it is a PyTorch file and PyTorch (2.6 or later) is not installed.
    MemoryError
        If a zip archive, unpacked, is larger than the memory available.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(16)
        file.seek(0)
        if head.startswith(b"PK"):
            return _read_zip(path, file)
        if head[8:9] == b"{":
            return _read_safetensors(path, file.read())
    if not head:
        raise ValueError(f"{path} is empty: expected a safetensors, npz or PyTorch zip file")
    if head[0] == 0x80 and head[1:2] <= b"\x05":
        raise ValueError(
            f"{path} is a bare pickle, which is never loaded because it can run any code: "
            "save its tensors as safetensors or npz"
        )
    raise ValueError(
        f"{path} is not a safetensors, npz or PyTorch zip file, or only a few bytes of one (it begins with {head!r})"
    )


def read_npz(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, str]]:
    """Read an npz file, and nothing else; see `read_arrays`."""
    path = Path(path)
    with open(path, "rb") as file:
        if not file.read(2) == b"PK":
            raise ValueError(f"{path} is not an npz file, which is a zip archive of arrays")
        _entries(path, file)
        return _read_npz(path, file)


def _read_zip(path: Path, file: BinaryIO) -> tuple[Arrays, dict[str, str]]:
    """Tell the two formats that are zip archives apart by the names of their entries."""
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in _entries(path, file)):
        return _read_torch(path, file), {}
    return _read_npz(path, file)


def _entries(path: Path, file: BinaryIO) -> list[str]:
    """Names of the entries of a zip archive, once it is clear that they fit into memory when unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            file.seek(-_ZIP_END_SIZE - len(archive.comment), os.SEEK_END)
            declared = int.from_bytes(file.read(_ZIP_END_SIZE)[10:12], "little")
    except Exception as error:
        raise ValueError(f"{path} is a truncated or damaged zip archive: {error}") from error
    finally:
        file.seek(0)
    # A damaged length in the directory makes Python's zipfile skip entries without a word.
    if declared not in (len(entries), 0xFFFF):  # the latter: more than there is room for here
        raise ValueError(f"{path} is a damaged zip archive: {declared} entries declared, {len(entries)} found")
    require_memory(sum(entry.file_size for entry in entries), f"unpacking {path}")
    return [entry.filename for entry in entries]


def _read_npz(path: Path, file: BinaryIO) -> tuple[Arrays, dict[str, str]]:
    # The decoders of zip, deflate and npy headers raise a dozen types (BadZipFile, zlib.error, EOFError, struct.error,
    # NotImplementedError, MemoryError, ...), and all of them mean the same here: the file is not what it should be.
    try:
        archive = np.load(file, allow_pickle=False)
        damaged = archive.zip.testzip()  # reading an array alone may stop before the checksum is compared
    except Exception as error:
        raise ValueError(f"{path} is a truncated or damaged npz file: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path}: entry {damaged!r} is damaged, its checksum is wrong")
    arrays: Arrays = {}
    notes: dict[str, str] = {}
    with archive:
        for name in archive.files:
            try:
                value = archive[name]
            except Exception as error:
                raise ValueError(f"{path}: entry {name!r} cannot be read: {error}") from error
            if not isinstance(value, np.ndarray):
                raise ValueError(f"{path}: entry {name!r} is not an array in npy format")
            if value.dtype.kind == "U" and value.ndim == 0:
                notes[name] = str(value)
            else:
                arrays[name] = value
    return arrays, notes


def _read_safetensors(path: Path, data: bytes) -> tuple[Arrays, dict[str, str]]:
    try:
        entries = safetensors.deserialize(data)
        notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except Exception as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    arrays: Arrays = {}
    for name, entry in entries:
        kind = entry["dtype"]
        if kind not in _SAFETENSORS_TYPES:
            raise ValueError(
                f"{path}: tensor {name!r} has type {kind}; expected one of {', '.join(_SAFETENSORS_TYPES)}"
            )
        array = np.frombuffer(entry["data"], dtype=_SAFETENSORS_TYPES[kind]).reshape(entry["shape"])
        arrays[name] = _from_bfloat16(array) if kind == "BF16" else array
    return arrays, notes


def _from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A bfloat16 number is the upper half of the float32 of the same value."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _read_torch(path: Path, file: BinaryIO) -> Arrays:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file and PyTorch is not installed: install it, or save the state_dict as safetensors"
        ) from error
    # Before 2.6, weights_only=True could be tricked into running code (CVE-2025-32434).
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise ImportError(f"{path} needs PyTorch 2.6 or later to be read safely; got {torch.__version__}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read by PyTorch with weights_only=True: {reason}") from error
    for key in ("state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a state_dict (name -> tensor)")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: entry {name!r} is a {type(value).__name__}; expected a tensor with a name")
    return {name: tensor_to_numpy(value) for name, value in content.items()}


def tensor_to_numpy(tensor: Any) -> NDArray[Any]:
    """Copy a PyTorch tensor of any device and floating type (bfloat16 too) to a NumPy array, floats as float64."""
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return array


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file for writing that takes the place of `path` when the block ends, and vanishes if it fails.

    Parameters
    ----------
    path : path
        The file to write or replace; its folder must exist.

    Yields
    ------
    file
        Binary, empty, in the same folder under a temporary name.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
