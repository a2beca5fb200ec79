"""HDF5 files, such as Keras writes: their arrays by name, read with h5py where it is installed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kpref._archives import Arrays, reason
from kpref.memory import require_memory

__all__ = ["MAGIC", "read_hdf5"]

MAGIC = b"\x89HDF\r\n\x1a\n"
_STATE = re.compile(r"(.*/)?(optimizer(_weights)?|seed_generator(_\d+)?)(/.*)?")
_VARIABLE = re.compile(r"(?P<layer>.+)/vars/(?P<number>\d+)")


def read_hdf5(path: Path, file: BinaryIO) -> Arrays:
    """Read the arrays of numbers of an HDF5 file, by their paths, without states of optimizers and random generators.

    What ``model.save_weights("....weights.h5")`` of Keras 3 calls ``vars/0``, ``vars/1``, ``vars/2`` of a layer is
    called as Keras does, in the order in which it makes them: ``kernel``, ``recurrent_kernel``, ``bias`` of a recurrent
    layer, ``kernel``, ``bias`` of a dense one.
    Raises ImportError if h5py is not installed; ValueError if the file is damaged, or keeps arrays in other files;
    MemoryError if they need more memory than there is.
    """
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError(
            f"{path} is an HDF5 file and h5py is not installed: install it, or save the weights as npz, by their names"
        ) from error
    file.seek(0)
    found: dict[str, Any] = {}

    def see(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and _STATE.fullmatch(name) is None and item.dtype.kind in "biuf":
            if item.is_virtual or item.external:
                raise ValueError(f"its array {name!r} is kept in another file")
            found[name] = item

    try:
        with h5py.File(file, "r") as opened:
            opened.visititems(see)
            require_memory(float(sum(item.size * item.dtype.itemsize for item in found.values())), f"reading {path}")
            arrays = {name: np.asarray(item[()]) for name, item in found.items()}
    except MemoryError:
        raise
    except Exception as error:  # of HDF5: OSError, RuntimeError, KeyError, ValueError
        raise ValueError(f"{path} is not a whole HDF5 file: {reason(error)}") from error
    return _named(arrays)


def _named(arrays: Arrays) -> Arrays:
    """Variables of Keras' layers by what they are."""
    layers: dict[str, dict[int, str]] = {}
    for name in arrays:
        if (match := _VARIABLE.fullmatch(name)) is not None:
            layers.setdefault(match["layer"], {})[int(match["number"])] = name
    words: dict[str, str] = {}
    for layer, variables in layers.items():
        shapes = [arrays[variables[number]].shape for number in sorted(variables)]
        if [len(shape) for shape in shapes[:2]] == [2, 2] and shapes[0][1] == shapes[1][1]:
            called: tuple[str, ...] = ("kernel", "recurrent_kernel", "bias")
        else:
            called = ("kernel", "bias") if len(shapes[0]) == 2 else ()
        if sorted(variables) == list(range(len(variables))) and len(variables) <= len(called):
            words |= {
                variables[number]: f"{layer}/{word}" for number, word in zip(sorted(variables), called, strict=False)
            }
    return {words.get(name, name): array for name, array in arrays.items()}
