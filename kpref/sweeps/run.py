"""`sweep`: the cells of a grid that are missing, each in a process of its own, committed one by one."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kpref._parquet import require_parquet
from kpref._validate import flag, function, instance, integer
from kpref.sweeps.cell_cluster import Cluster
from kpref.sweeps.cell_grid import Grid
from kpref.sweeps.cell_process import CellProcess, Running
from kpref.sweeps.sweep_folder import Kept, SweepFolder

__all__ = ["SweepResult", "Tally", "states", "sweep"]

#: Seconds between looks at the processes.
_LOOK = 0.02


@dataclass(frozen=True)
class Tally:
    """How far a sweep is: numbers of cells, and the seconds that are left; None where nothing tells."""

    done: int
    failed: int
    cells: int
    seconds_left: float | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {_duration(self.seconds_left)} left"
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.done + self.failed:,} of {self.cells:,} cells{failed}{left}"


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep.

    Attributes
    ----------
    table : Path
        CSV with a line for each cell, see `kpref.sweeps.sweep_table`.
    cells, failed : int
        How many there are, and how many of them have no numbers.
    """

    table: Path
    cells: int
    failed: int


def states(grid: Grid, folder: str | os.PathLike[str]) -> list[tuple[dict[str, Any], Kept]]:
    """The settings of each cell, and what is kept of it in a folder; None of those that are missing.

    Raises ValueError, OSError as `sweep`.
    """
    place = SweepFolder(folder, grid)
    return [(cell, place.read(cell)) for cell in grid.cells()]


def sweep(
    grid: Grid,
    folder: str | os.PathLike[str],
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    parquet: bool = False,
    figure: bool = False,
    client: Any = None,
    progress: Callable[[Tally], object] | None = None,
) -> SweepResult:
    """Run the cells of a grid that a folder lacks, and write the table of all.

    Parameters
    ----------
    grid : Grid
        As `read_grid` gives it.
    folder : path
        A new one, or that of a sweep whose cells are among those of the grid.
    workers : int, optional
        Processes at a time, one by default; where there are several, each has one thread. Results do not depend on it.
        On a cluster two for each of its threads by default, so that none has to wait.
    retry_failed : bool
        Run those cells too that failed before.
    parquet : bool
        Write the table as ``table.parquet`` too, which needs pyarrow.
    figure : bool
        Draw ``figure.png``, a panel for each metric, see `kpref.sweeps.sweep_figure`.
    client : distributed.Client, optional
        Of a Dask cluster whose workers run the processes, with the limits of the grid, each on the machine of the
        worker. Files that settings name have to be there under the same paths. Outcomes are kept here.
    progress : callable, optional
        Called with a `Tally`, several times a second.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError, TypeError
        If the folder holds something else, or another sweep, or an argument is wrong.
    OSError
        If the folder cannot be written, or another process sweeps there.
    ImportError
        If pyarrow or distributed is asked for and not there.
    RuntimeError
        If the scheduler of the cluster is lost; what is over is kept.
    """
    instance("grid", grid, Grid, "what kpref.sweeps.read_grid gives")
    retry_failed, parquet, figure = (
        flag(name, value)
        for name, value in {"retry_failed": retry_failed, "parquet": parquet, "figure": figure}.items()
    )
    if progress is not None:
        function("progress", progress, "a Tally")
    if parquet:
        require_parquet()
    cluster = None if client is None else Cluster(client)
    workers = (1 if cluster is None else cluster.width) if workers is None else workers
    integer("workers", workers, least=1, most=10_000)
    place = SweepFolder(folder, grid)
    with place.opened():
        start = partial(CellProcess, alone=workers == 1) if cluster is None else cluster.start
        run = _Run(place, grid, workers, start, retry_failed)
        try:
            run.go(progress or (lambda _: None))
        finally:
            run.stop()
            file = place.write_table(parquet)
        if figure:
            from kpref.sweeps.sweep_figure import save_figure  # matplotlib, which processes of cells need not load

            save_figure(grid, place.table(), place.path)
    return SweepResult(file, len(grid), run.failed)


class _Run:
    """A sweep as it goes: the cells that wait, those that run, and how many are over."""

    def __init__(
        self, place: SweepFolder, grid: Grid, workers: int, start: Callable[..., Running], retry_failed: bool
    ) -> None:
        self.place, self.grid, self.workers, self.start = place, grid, workers, start
        self.waiting: deque[dict[str, Any]] = deque()
        self.running: list[tuple[Mapping[str, Any], Running]] = []
        self.done = self.failed = self.ended = 0
        self.began = time.monotonic()
        for cell in grid.cells():
            found = place.read(cell)
            if found is None or ("failed" in found and retry_failed):
                self.waiting.append(cell)
            else:
                self._count(found)

    def _count(self, outcome: Mapping[str, Any]) -> None:
        if "failed" in outcome:
            self.failed += 1
        else:
            self.done += 1

    def go(self, progress: Callable[[Tally], object]) -> None:
        """Until none waits or runs."""
        progress(self.tally())
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.workers:
                self._start(self.waiting.popleft())
            time.sleep(_LOOK)
            self._look()
            progress(self.tally())

    def _start(self, cell: dict[str, Any]) -> None:
        grid = self.grid
        process = self.start(grid.located(cell), grid.metrics, grid.seconds, grid.memory)
        self.running.append((cell, process))

    def _look(self) -> None:
        for entry in list(self.running):
            cell, process = entry
            outcome = process.outcome()
            if outcome is not None:
                self.running.remove(entry)
                self.place.commit(cell, outcome)
                self._count(outcome)
                self.ended += 1

    def tally(self) -> Tally:
        """How far it is; the time that is left at the pace so far."""
        left = len(self.waiting) + len(self.running)
        pace = (time.monotonic() - self.began) / self.ended if self.ended else None
        return Tally(self.done, self.failed, len(self.grid), pace * left if pace is not None and left else None)

    def stop(self) -> None:
        """End the processes that run."""
        for _, process in self.running:
            process.stop()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
