"""Trials that are taken a few at a time: out of `Trials`, or out of files that need not fit into memory.

Files hold arrays under the names of the parameters of `Trials`, unpadded sequences excepted. They are

    a folder       of npy files, ``inputs.npy``, ``lengths.npy``, ..., mapped into memory
    an npz file    whose entries are not compressed (`numpy.savez`), mapped as well; checksums are not compared
    a Zarr store   a group, read chunk by chunk; needs the package zarr. A chunk that is not there would be read as
                   zeros, which nothing tells from data: it is refused

Nothing is unpickled. An object that stands for files holds their path alone, so that whoever gets it opens them anew.
The mask says nothing about lengths here, which all trials have to agree on: without an array of lengths all trials are
as long as the arrays.
"""

from __future__ import annotations

import itertools
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._archives import open_file, reason
from kpref._types import Array
from kpref._validate import numeric_array, path_like, short
from kpref.lengths import check_lengths
from kpref.trials import Trials

__all__ = ["StoredTrials", "TrialSource", "trial_source"]

_NAMES = ("inputs", "targets", "labels", "mask", "lengths", "conditions", "state_noise")
#: Bytes of the header that stands before an entry of a zip archive, beside its name and its extra field.
_LOCAL_HEADER = 30


class TrialSource:
    """Trials, some of which can be taken. Of `kpref.Trials`; `StoredTrials` are those of files.

    `lengths`: shape (B,).
    """

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self.shape: tuple[int, int, int] = (trials.n_trials, trials.n_steps, trials.n_inputs)
        self.lengths = trials.lengths

    def take(self, part: slice) -> tuple[Trials, Array | None]:
        """Trials without a mask, and their mask, which may be zero throughout."""
        return _part(self._trials.arrays, part, self.lengths)

    def cut(self, part: slice) -> TrialSource:
        """A source whose trials are these alone, for somebody who needs no others."""
        trials, mask = self.take(part)
        return _Taken(trials, mask)

    def same(self, other: object) -> bool:
        """Whether the inputs of both are known to be the same."""
        return isinstance(other, TrialSource) and self._trials is other._trials


class _Taken(TrialSource):
    """Trials that were taken out of others, with a mask that those need not accept as theirs."""

    def __init__(self, trials: Trials, mask: Array | None) -> None:
        super().__init__(trials)
        self._mask = mask

    def take(self, part: slice) -> tuple[Trials, Array | None]:
        trials, _ = super().take(part)
        return trials, None if self._mask is None else self._mask[part]


@dataclass(frozen=True, eq=False)
class StoredTrials:
    """Trials of files."""

    path: Path
    shape: tuple[int, int, int]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def open(cls, path: Path) -> StoredTrials:
        """Look at what there is; the inputs are not read."""
        arrays = _arrays(path)
        unknown = [name for name in arrays if name not in _NAMES]
        if unknown:
            raise ValueError(
                f"{path} holds {', '.join(map(repr, unknown))}, which are not arrays of trials; expected "
                f"{', '.join(_NAMES)}"
            )
        shape = tuple(arrays["inputs"].shape) if "inputs" in arrays else ()
        if len(shape) != 3 or 0 in shape[:2]:
            raise ValueError(
                f"{path} must hold inputs of shape (B, T, n_in), at least one trial and step; "
                + (f"got shape {shape}" if "inputs" in arrays else f"it holds {', '.join(arrays) or 'no array'}")
            )
        for name, array in arrays.items():
            if array.shape[:1] != shape[:1] and not (name == "mask" and array.shape == shape[1:2]):
                raise ValueError(f"{name} of {path} must be of {shape[0]} trials; got shape {tuple(array.shape)}")
        masks = shape[:2], (shape[0], 1), shape[1:2]
        if "mask" in arrays and tuple(arrays["mask"].shape) not in masks:
            raise ValueError(
                f"mask of {path} must have shape (trials, time) = {masks[0]}, {masks[1]} or {masks[2]}; got "
                f"{tuple(arrays['mask'].shape)}"
            )
        try:
            given = np.asarray(arrays["lengths"][:]) if "lengths" in arrays else np.full(shape[0], shape[1])
            lengths = check_lengths(given, shape[0], shape[1])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(path, (shape[0], shape[1], shape[2]), lengths)

    def take(self, part: slice) -> tuple[Trials, Array | None]:
        """Read some of the trials."""
        try:
            return _part(_arrays(self.path), part, self.lengths)
        except ValueError as error:
            raise ValueError(f"{self.path}, from trial {part.start} on: {error}") from error

    def cut(self, part: slice) -> StoredTrials:
        """Itself: it holds no trials."""
        return self

    def same(self, other: object) -> bool:
        """Whether both are of one file."""
        return isinstance(other, StoredTrials) and self.path == other.path


def trial_source(trials: object) -> TrialSource | StoredTrials:
    """Where trials come from: `Trials`, or the path of files."""
    if isinstance(trials, Trials):
        return TrialSource(trials)
    if isinstance(trials, str | os.PathLike):
        return StoredTrials.open(path_like("trials", trials).absolute())
    raise TypeError(
        f"trials must be kpref.Trials, or the path of an npz file, a folder of npy files or a Zarr store; got "
        f"{short(trials)}"
    )


def _part(arrays: Mapping[str, Any], part: slice, lengths: npt.NDArray[np.int64]) -> tuple[Trials, Array | None]:
    taken = {name: np.asarray(array[part]) for name, array in arrays.items() if name not in ("mask", "lengths")}
    mask = None
    if "mask" in arrays:
        given = arrays["mask"]
        rows = given[part] if len(given.shape) == 2 else np.broadcast_to(given[:], taken["inputs"].shape[:2])
        mask = np.array(numeric_array("mask", np.asarray(rows), "biuf"), np.float64)
    return Trials(**taken, lengths=lengths[part]), mask  # type: ignore[arg-type]


def _arrays(path: Path) -> dict[str, Any]:
    """Arrays whose parts are read when they are asked for, by their names."""
    try:
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            if files:
                return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
            return _zarr(path)
        return _mapped_npz(path)
    except (OSError, ImportError):
        raise
    except Exception as error:  # headers that are damaged, files that end early: a dozen types
        raise ValueError(f"the trials of {path} cannot be read: {reason(error)}") from error


def _zarr(path: Path) -> dict[str, Any]:
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        raise ValueError("the folder holds neither npy files nor a Zarr group")
    try:
        zarr = import_module("zarr")
    except ImportError as error:
        raise ImportError(f"reading {path} needs the package zarr (pip install 'kpref[distributed]')") from error
    return {name: _ZarrArray(path, array) for name, array in zarr.open_group(path, mode="r").arrays()}


class _ZarrArray:
    """An array of a Zarr store whose slices along the first axis are read if all their chunks are there."""

    def __init__(self, store: Path, array: Any) -> None:
        self.shape: tuple[int, ...] = tuple(array.shape)
        self._folder, self._array = store / array.path, array

    def __getitem__(self, part: slice) -> Any:
        stored = self._array.shards or self._array.chunks
        first, last, _ = part.indices(self.shape[0])
        ranges = [range(first // stored[0], -(-last // stored[0]))]
        ranges += [range(-(-length // chunk)) for length, chunk in zip(self.shape[1:], stored[1:], strict=True)]
        keys = (self._array.metadata.encode_chunk_key(place) for place in itertools.product(*ranges))
        missing = [key for key in keys if not (self._folder / key).is_file()]
        if missing:
            raise ValueError(
                f"{self._array.path} lacks {len(missing)} of its chunks, the first one {missing[0]}, which Zarr would "
                f"read as {self._array.fill_value}: write it anew, by "
                'config={"write_empty_chunks": True} if that is what the data are'
            )
        try:
            return self._array[part]
        except Exception as error:  # of whichever codec finds that it was given something else
            raise ValueError(f"{self._array.path} cannot be read: {reason(error)}") from error


def _mapped_npz(path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"its entry {entry.filename!r} is compressed, and parts of it cannot be read: take "
                    "kpref.Trials.load where it fits into memory, or write it by numpy.savez"
                )
            file.seek(entry.header_offset)
            name, extra = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
            file.seek(name + extra, os.SEEK_CUR)
            arrays[entry.filename.removesuffix(".npy")] = _mapped(path, file)
    return arrays


def _mapped(path: Path, file: Any) -> Array:
    """The array in npy format that begins where a file is."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an entry holds Python objects, which only unpickling can build")
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
