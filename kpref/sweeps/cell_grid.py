"""The grid of a sweep: a TOML file of lists, whose product are the cells.

    metrics = ["loss", "dimension_K"]

    [grid]
    model = ["gru", "lstm"]
    gain = [0.8, 1.0, 1.2]
    seed = [0, 1, 2]

    [fixed]
    task = "flip_flop"
    units = 64
    steps = 1000

    [limits]
    seconds = 600
    memory = 4.0

The last name varies fastest, as in nested loops. Paths are relative to the file. All is checked before anything runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpref._archives import open_file, reason
from kpref._validate import near, path_like, real_number, short
from kpref.models.registry import registered
from kpref.sweeps.cell_metrics import METRICS
from kpref.sweeps.cell_settings import FILES, SETTINGS, completed, require_one_source
from kpref.training.ingredients import given

__all__ = ["MOST_CELLS", "Grid", "read_grid"]

MOST_CELLS = 100_000

_TABLES = ("metrics", "grid", "fixed", "limits")
_LIMITS = ("seconds", "memory")


@dataclass(frozen=True)
class Grid:
    """A grid that was read and checked; its length is the number of cells.

    Attributes
    ----------
    lists : mapping of str to tuple
        What varies, in the order of the file.
    fixed : mapping of str to object
        All other settings, with the defaults of those that the file leaves out.
    metrics : tuple of str
    seconds, memory : float or None
        Limits of a cell; memory in bytes.
    place : Path
        The folder that paths are relative to.
    digests : mapping of str to str
        Of the files that settings name, by their paths.
    """

    lists: Mapping[str, tuple[Any, ...]]
    fixed: Mapping[str, Any]
    metrics: tuple[str, ...]
    seconds: float | None
    memory: int | None
    place: Path
    digests: Mapping[str, str]

    def __len__(self) -> int:
        return math.prod(map(len, self.lists.values()))

    def __repr__(self) -> str:
        sizes = " x ".join(f"{len(values)} {name}" for name, values in self.lists.items())
        return f"Grid({len(self)} cells: {sizes}; {', '.join(self.metrics)})"

    def values(self, name: str) -> tuple[Any, ...]:
        """What a setting is in one cell or another; nothing if it is in none."""
        if name in self.lists:
            return self.lists[name]
        return (self.fixed[name],) if name in self.fixed else ()

    def cells(self) -> Iterator[dict[str, Any]]:
        """The settings of each cell, complete."""
        for chosen in itertools.product(*self.lists.values()):
            yield {**self.fixed, **dict(zip(self.lists, chosen, strict=True))}

    def key(self, cell: Mapping[str, Any]) -> str:
        """A name that tells a cell from all others, and from that of a file with other content."""
        files = {name: self.digests[cell[name]] for name in FILES if name in cell}
        return hashlib.sha256(json.dumps([cell, files], sort_keys=True).encode()).hexdigest()[:24]

    def located(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a cell with paths that hold in any folder."""
        return {**cell, **{name: str((self.place / cell[name]).absolute()) for name in FILES if name in cell}}


def read_grid(file: str | os.PathLike[str]) -> Grid:
    """Read the grid of a sweep.

    Parameters
    ----------
    file : path
        TOML with ``metrics``, ``[grid]`` and perhaps ``[fixed]`` and ``[limits]``, see `kpref.sweeps.cell_grid`; the
        settings are those of `kpref.sweeps.cell_settings.SETTINGS`, the metrics those of `kpref.sweeps.METRICS`.

    Raises
    ------
    ValueError, TypeError
        If the file is not such a grid: it says what is wrong, and where.
    OSError
        If it cannot be read, or a file that it names.
    """
    path = path_like("file", file)
    with open_file(path) as opened:
        content = opened.read()
    try:
        return _checked(tomllib.loads(content.decode()), path.parent)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file: {reason(error)}") from error
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error


def _checked(tables: Mapping[str, Any], place: Path) -> Grid:
    for name in tables:
        if name not in _TABLES:
            hint = ": put it under [fixed]" if name in SETTINGS else near(name, _TABLES)
            raise ValueError(f"expected metrics, [grid], [fixed] and [limits]; got {short(name)}{hint}")
    lists = _lists(_table(tables, "grid"))
    chosen = _fixed(_table(tables, "fixed"), lists)
    metrics = _metrics(tables.get("metrics"))
    require_one_source([*lists, *chosen])
    # The values do not matter here: only which names there are.
    whole = completed({**chosen, **dict.fromkeys(lists)})
    fixed = {name: whole[name] for name in SETTINGS if name in whole and name not in lists}
    seconds, memory = _limits(_table(tables, "limits"))
    unread = Grid(lists, fixed, metrics, seconds, memory, place, {})
    _require_fit(unread)
    digests = {value: _digest(place / value) for name in FILES for value in unread.values(name)}
    return Grid(lists, fixed, metrics, seconds, memory, place, digests)


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise TypeError(f"{name} must be a table, [{name}]; got {short(table)}")
    return table


def _lists(table: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    if not table:
        raise ValueError("[grid] must hold at least one list of settings, as in gain = [0.8, 1.0]; got none")
    lists = {}
    for name, values in table.items():
        _require_known(name, "grid")
        if not isinstance(values, list):
            raise TypeError(
                f"{name} of [grid] must be a list (what does not vary stands in [fixed]); got {short(values)}"
            )
        if not values:
            raise ValueError(f"{name} of [grid] must hold at least one value; got an empty list")
        check = SETTINGS[name].check
        lists[name] = tuple(check(f"{name}[{index}] of [grid]", value) for index, value in enumerate(values))
        seen: set[Any] = set()
        for value in lists[name]:
            if value in seen:
                raise ValueError(f"{name} of [grid] must hold each value once; it holds {short(value)} twice")
            seen.add(value)
    number = math.prod(map(len, lists.values()))
    if number > MOST_CELLS:
        sizes = " x ".join(str(len(values)) for values in lists.values())
        raise ValueError(f"[grid] must make at most {MOST_CELLS:,} cells; got {sizes} = {number:,}")
    return lists


def _fixed(table: Mapping[str, Any], lists: Mapping[str, Any]) -> dict[str, Any]:
    for name in table:
        _require_known(name, "fixed")
        if name in lists:
            raise ValueError(f"{name} must stand in [grid] or in [fixed]; it stands in both")
    return {name: SETTINGS[name].check(f"{name} of [fixed]", value) for name, value in table.items()}


def _require_known(name: str, table: str) -> None:
    if name not in SETTINGS:
        hint = near(name, SETTINGS) or f"; they are {', '.join(SETTINGS)}"
        raise ValueError(f"there is no setting {short(name)}, which stands in [{table}]{hint}")


def _metrics(names: Any) -> tuple[str, ...]:
    if names is None or names == []:
        raise ValueError(f"metrics must name what is measured of each cell, some of {', '.join(METRICS)}; got none")
    if not isinstance(names, list):
        raise TypeError(f"metrics must be a list of names; got {short(names)}")
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in METRICS:
            raise ValueError(
                f"there is no metric {short(name)}{near(name, METRICS)}; the metrics are {', '.join(METRICS)}"
            )
        if name in names[:index]:
            raise ValueError(f"metrics must name each one once; {name} stands there twice")
    return tuple(names)


def _limits(table: Mapping[str, Any]) -> tuple[float | None, int | None]:
    for name in table:
        if name not in _LIMITS:
            raise ValueError(f"[limits] are seconds and memory; got {short(name)}{near(name, _LIMITS)}")
    seconds, memory = table.get("seconds"), table.get("memory")
    if memory is not None and not sys.platform.startswith("linux"):
        raise ValueError("the memory of a cell can be limited on Linux alone: leave memory out of [limits]")
    if seconds is not None:
        seconds = real_number("seconds of [limits]", seconds, above=0)
    if memory is not None:  # what is beyond all machines, and what the system takes for an integer, is no limit
        memory = int(min(2**30 * real_number("memory of [limits], in GiB,", memory, above=0), 2**62))
    return seconds, memory


def _require_fit(grid: Grid) -> None:
    """See that metrics, losses and options belong to the tasks and networks of all cells.

    Raises ValueError, TypeError, OSError if not.
    """
    from_checkpoint = bool(grid.values("checkpoint"))
    for name in grid.metrics:
        if METRICS[name].needs == "training" and from_checkpoint:
            raise ValueError(f"the metric {name} is of a training; the networks here are checkpoints")
    for task, trials, loss in itertools.product(*(grid.values(name) or (None,) for name in ("task", "trials", "loss"))):
        own = given(task, None if trials is None else str(grid.place / trials)).loss
        where = f"the task {task}" if trials is None else trials
        if task is not None and loss not in (None, own):
            raise ValueError(f"the loss {loss} does not fit {where}, whose loss is {own}")
        for name in grid.metrics:
            if METRICS[name].needs == "classes" and (loss or own) != "cross_entropy":
                raise ValueError(f"the metric {name} is of a classification, and the loss of {where} is {loss or own}")
    for kind in grid.values("model"):
        continuous = registered()[kind].is_continuous
        if continuous and not grid.values("dt"):
            raise ValueError(f"dt is needed, in [grid] or [fixed], for the model {kind}, which is in continuous time")
        for name in ("dt", "method"):
            if grid.values(name) and not continuous:
                raise ValueError(
                    f"{name} is for models in continuous time, and {kind} is a map: give the two a sweep each"
                )


def _digest(file: Path) -> str:
    with open_file(file) as opened:
        return hashlib.sha256(opened.read()).hexdigest()
