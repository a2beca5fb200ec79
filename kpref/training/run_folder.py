"""A training's folder: settings, checkpoints, and the table of metrics, such that a kill at any moment loses no bits.

    run.json                        settings, and the versions that wrote them
    trials.npz                      the trials; where they are drawn, those of the first step
    step_00001000.safetensors       network and readout after 1,000 steps, as `kpref.save_checkpoint` writes them
    optimizer/step_00001000.safetensors
                                    the vector of parameters and the arrays of the optimiser, exactly
    metrics.csv                     step, loss, accuracy, gradient_norm, seconds, one line a step
    lock                            empty, locked as long as a process trains here

Every file but the table appears whole or not at all, and of a checkpoint that of the optimiser last: the newest of
these is where training goes on. Lines of the table that later steps wrote, or half of one, are dropped then.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import scipy

from kpref._archives import open_file, reason, replacing
from kpref._locks import LOCK, held
from kpref._types import Array
from kpref._validate import path_like, short
from kpref._version import __version__
from kpref.checkpoints import save_checkpoint
from kpref.models.registry import registration_of
from kpref.training.plain_pass import Network
from kpref.trials import Trials

__all__ = ["COLUMNS", "RunFolder", "Row"]

COLUMNS = ("step", "loss", "accuracy", "gradient_norm", "seconds")

#: Values of the columns of the table.
Row = tuple[int, float, float | None, float, float]

_SETTINGS, _TABLE, _STATES = "run.json", "metrics.csv", "optimizer"
_NAME = re.compile(r"step_(\d{8,})\.safetensors")


class RunFolder:
    """The folder of a training with these settings, made or found; a context that keeps other processes out.

    Raises
    ------
    ValueError
        If a run with other settings is there, which the error names, or one that is not to be resumed, or something
        else altogether.
    OSError
        If it cannot be written, or another process trains in it.
    """

    def __init__(self, path: Any, settings: Mapping[str, Any], trials: Trials, resume: bool) -> None:
        self.path = path_like("folder", path)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(
                f"the folder of a training, {self.path}, is a file; name another folder, or a new one"
            )
        settings = json.loads(json.dumps(settings))
        if self.path.is_dir() and any(self.path.iterdir()):
            self._require_same(settings, resume)
        else:
            (self.path / _STATES).mkdir(parents=True, exist_ok=True)
        self._pending: list[str] = []
        self._lock = held(self.path / LOCK, "trains")
        try:
            self._write_once(settings, trials)
        except BaseException:
            os.close(self._lock)
            raise

    def _write_once(self, settings: Mapping[str, Any], trials: Trials) -> None:
        self._keep(trials)
        if not (self.path / _SETTINGS).exists():
            versions = {"kpref": __version__, "numpy": np.__version__, "scipy": scipy.__version__,
                        "python": platform.python_version()}  # fmt: skip
            with replacing(self.path / _SETTINGS) as file:
                file.write((json.dumps({"settings": settings, "versions": versions}, indent=2) + "\n").encode())

    def _keep(self, trials: Trials) -> None:
        """Write the trials; ValueError if others are there, which somebody may need."""
        arrays: dict[str, Any] = trials.arrays
        file = self.path / "trials.npz"
        if not file.exists():
            with replacing(file) as new:
                np.savez(new, **arrays)
            return
        there = Trials.load(file).arrays
        if there.keys() != arrays.keys() or not all(np.array_equal(there[name], arrays[name]) for name in arrays):
            raise ValueError(f"{file} holds other trials than those to train on; name a new folder")

    def _require_same(self, settings: Mapping[str, Any], resume: bool) -> None:
        file = self.path / _SETTINGS
        if not file.is_file():
            begun = {"trials.npz", _STATES, LOCK}  # a kill before the settings were there
            if {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")} <= begun:
                (self.path / _STATES).mkdir(exist_ok=True)
                return
            raise ValueError(f"the folder {self.path} holds something else than a training; name a new one")
        if not resume:
            raise ValueError(f"the folder {self.path} holds a training already; resume it, or name a new folder")
        try:
            found = dict(json.loads(file.read_bytes())["settings"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is no record of a training: {reason(error)}") from error
        for name in dict.fromkeys([*settings, *found]):
            if found.get(name) != settings.get(name):
                raise ValueError(
                    f"the training in {self.path} has another {name}: {short(found.get(name))} there, "
                    f"{short(settings.get(name))} here; name a new folder"
                )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._lock)

    def newest(self, like: Mapping[str, Array]) -> tuple[int, dict[str, Array]] | None:
        """The newest checkpoint: after how many steps, and its arrays; None if there is none yet.

        Raises
        ------
        ValueError
            If the file is damaged, or its arrays are not of the names, shapes and dtypes of those that they should be
            `like`.
        """
        steps = [int(match[1]) for entry in (self.path / _STATES).iterdir() if (match := _NAME.fullmatch(entry.name))]
        if not steps:
            return None
        file = self._state(max(steps))
        with open_file(file) as opened:
            try:
                arrays = safetensors.numpy.load(opened.read())
            except Exception as error:  # what a decoder raises
                raise ValueError(
                    f"{file} is damaged: {reason(error)}; remove it to go on from the one before"
                ) from error
        if _kinds(arrays) != _kinds(like):
            raise ValueError(f"{file} is not of this training: it should hold {_kinds(like)}; got {_kinds(arrays)}")
        return max(steps), arrays

    def save(self, step: int, network: Network, arrays: Mapping[str, Array], trains_z0: bool) -> None:
        """Write a checkpoint, the table first.

        Raises
        ------
        OSError
            If the disk is full, or a file cannot be written; it is named.
        """
        self.flush()
        if registration_of(network.model) is not None:
            z0 = network.z0 if trains_z0 or network.z0.any() else None
            save_checkpoint(self.path / _file(step), network.model, network.readout, z0)
        with replacing(self._state(step)) as file:
            file.write(safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    def record(self, row: Row) -> None:
        """Add a line to the table."""
        self._pending.append(",".join("" if value is None else repr(value) for value in row) + "\n")

    def flush(self) -> None:
        """Write the lines that were added."""
        file = self.path / _TABLE
        try:
            with open(file, "a", encoding="ascii") as table:
                table.write("".join(self._pending))
        except OSError as error:  # of a full disk Python names no file
            raise OSError(error.errno, error.strerror, str(file)) from error
        self._pending.clear()

    def rows(self, before: int) -> list[Row]:
        """The lines of steps before this one; all others are removed from the file."""
        file, rows = self.path / _TABLE, []
        text = file.read_bytes().decode("ascii", "replace") if file.exists() else ""
        for line in text.split("\n")[1:-1]:  # what follows the last end of a line is half of one
            row = _row(line)
            if row is not None and row[0] < before:
                rows.append(row)
        with replacing(file) as new:
            lines = [",".join(COLUMNS), *(",".join("" if v is None else repr(v) for v in row) for row in rows)]
            new.write("".join(f"{line}\n" for line in lines).encode())
        return rows

    def checkpoint(self, step: int) -> Path:
        """The file of that of a step: of a network of the user's own that of its parameters as a vector."""
        file = self.path / _file(step)
        return file if file.exists() else self._state(step)

    def _state(self, step: int) -> Path:
        return self.path / _STATES / _file(step)


def _kinds(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sorted(arrays.items()))


def _file(step: int) -> str:
    return f"step_{step:08d}.safetensors"


def _row(line: str) -> Row | None:
    """None for a line that is damaged."""
    parts: Sequence[str] = line.split(",")
    try:
        step, loss, accuracy, norm, seconds = parts
        return int(step), float(loss), float(accuracy) if accuracy else None, float(norm), float(seconds)
    except ValueError:
        return None
