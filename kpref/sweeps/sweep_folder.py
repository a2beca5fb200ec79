"""The folder of a sweep: what was asked for, one file for each cell that is over, and the table of all.

    sweep.json              grid, fixed settings, metrics, digests of files and version: what all cells share
    cells/DI/GEST.json      a cell: its settings, and its metrics or its failure; by the digest of the settings
    table.csv               a line for each cell of the grid, in its order (`kpref.sweeps.sweep_table`)
    table.parquet           the same, if it was asked for
    figure.png              metrics against what varies, if it was asked for
    lock                    empty, locked as long as a process sweeps here

Cells lie in 256 folders, so that none has too many for one that looks through it, as whoever writes a file there does.
Every file appears whole or not at all. One of a cell that is damaged counts as missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kpref._archives import open_file, reason, replacing
from kpref._locks import LOCK, held
from kpref._parquet import write_parquet
from kpref._validate import path_like, short
from kpref._version import __version__
from kpref.sweeps.cell_grid import Grid
from kpref.sweeps.cell_settings import SETTINGS
from kpref.sweeps.sweep_table import Column, as_csv, columns

__all__ = ["FAILED", "TABLE", "SweepFolder"]

#: Why a cell has no numbers.
FAILED = ("raised", "memory", "time", "crashed")
TABLE = "table.csv"

_RECORD, _CELLS = "sweep.json", "cells"

#: What is kept of a cell: "metrics", or "failed" and "error"; None if it is missing.
Kept = dict[str, Any] | None


class SweepFolder:
    """The folder of the sweep of a grid, made or found.

    Raises
    ------
    ValueError
        If a sweep is there whose cells are not among those of the grid, which the error tells by name, or something
        else altogether.
    OSError
        If there is a file.
    """

    def __init__(self, path: str | os.PathLike[str], grid: Grid) -> None:
        self.path, self._grid = path_like("folder", path), grid
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(
                f"the folder of a sweep, {self.path}, is a file; name another folder, or a new one"
            )
        if self.path.is_dir() and any(self.path.iterdir()):
            self._require_same()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Write the record, and keep other processes out as long as the block lasts.

        Raises OSError if that cannot be written, or another process sweeps here.
        """
        (self.path / _CELLS).mkdir(parents=True, exist_ok=True)
        lock = held(self.path / LOCK, "sweeps")
        try:
            self._require_same()  # another process may have been here since
            self._write(self.path / _RECORD, _record(self._grid))
            yield
        finally:
            os.close(lock)

    def read(self, cell: Mapping[str, Any]) -> Kept:
        """What is kept of a cell."""
        try:
            found = json.loads(self._file(cell).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) and _is_whole(found, self._grid) else None

    def commit(self, cell: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """Keep the outcome of a cell."""
        file = self._file(cell)
        file.parent.mkdir(exist_ok=True)
        self._write(file, {"settings": cell, **outcome})

    def table(self) -> dict[str, Column]:
        """The table of what is kept."""
        return columns(self._grid, (self.read(cell) for cell in self._grid.cells()))

    def write_table(self, parquet: bool) -> Path:
        """Write the table, and once more in Parquet if that is asked for."""
        file, table = self.path / TABLE, self.table()
        with replacing(file) as opened:
            opened.write(as_csv(table).encode())
        if parquet:
            write_parquet(file.with_suffix(".parquet"), table)
        return file

    def _file(self, cell: Mapping[str, Any]) -> Path:
        key = self._grid.key(cell)
        return self.path / _CELLS / key[:2] / f"{key[2:]}.json"

    @staticmethod
    def _write(file: Path, content: Mapping[str, Any]) -> None:
        with replacing(file) as opened:
            opened.write((json.dumps(content, indent=1) + "\n").encode())

    def _require_same(self) -> None:
        file = self.path / _RECORD
        if not file.is_file():
            begun = {_CELLS, LOCK}  # a kill before the record was there
            if {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")} <= begun:
                return
            raise ValueError(f"the folder {self.path} holds something else than a sweep; name a new one")
        try:
            with open_file(file) as opened:
                found = dict(json.load(opened))
            old = {name: list(values) for name, values in found["settings"].items()}
            digests, metrics, version = dict(found["files"]), list(found["metrics"]), found["kpref"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is no record of a sweep: {reason(error)}") from error
        new = _record(self._grid)
        for name in SETTINGS:
            here = new["settings"].get(name, [])
            known = set(map(json.dumps, here))
            lost = [value for value in old.get(name, []) if json.dumps(value) not in known]
            if lost or (here and name not in old):
                raise ValueError(
                    f"the sweep in {self.path} has another {name}: {short(lost[0]) if lost else 'none'} there, "
                    f"{short(here) if here else 'none'} here; a grid may only add values to what it has: name a new "
                    "folder"
                )
        for name, one, other in (
            ("list of metrics", metrics, new["metrics"]),
            ("version of kpref", version, __version__),
        ):
            if one != other:
                raise ValueError(
                    f"the sweep in {self.path} has another {name}: {short(one)} there, {short(other)} here; name a new "
                    "folder"
                )
        for name, digest in digests.items():
            if new["files"].get(name) != digest:
                raise ValueError(f"{name} is not what it was when the sweep in {self.path} began; name a new folder")


def _record(grid: Grid) -> dict[str, Any]:
    settings = {name: grid.values(name) for name in SETTINGS if grid.values(name)}
    record = {"kpref": __version__, "settings": settings, "metrics": grid.metrics, "files": dict(grid.digests)}
    return dict(json.loads(json.dumps(record)))  # as it will be read


def _is_whole(found: Mapping[str, Any], grid: Grid) -> bool:
    """Whether what was read says what a cell must."""
    if "failed" in found:
        return found["failed"] in FAILED and isinstance(found.get("error"), str)
    numbers = found.get("metrics")
    return isinstance(numbers, dict) and all(
        isinstance(numbers.get(name), list)
        and len(numbers[name]) == 2
        and all(part is None or isinstance(part, int | float) for part in numbers[name])
        for name in grid.metrics
    )
