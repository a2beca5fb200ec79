"""``kpref sweep``: the cells of a grid, each in a process of its own, in a folder that resumes.

Only the arguments, and what is printed; the work is that of `kpref.sweeps`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from kpref._arguments import path, positive_integer
from kpref._terminal import Progress, say

if TYPE_CHECKING:
    from kpref.sweeps import Grid
    from kpref.sweeps.run import Tally

__all__ = ["add_arguments", "run"]

_FAILED = 1  # exit status where cells have no numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``kpref sweep``."""
    parser.epilog = (
        "The grid is a TOML file: metrics = [...], and the tables [grid] of lists, whose product are the cells, "
        "[fixed] of other settings, which go by the names of the options of `kpref train`, and [limits] of seconds and "
        "memory (GiB) of a cell. A sweep that was stopped is gone on with; a grid may grow. Exit status 1 if cells "
        "failed: their errors stand in the table."
    )
    add = parser.add_argument
    add("grid", type=path, metavar="GRID.toml", help="file of the grid")
    add("-o", "--out", type=path, required=True, metavar="FOLDER", help="folder of the sweep")
    text = "cells at a time (default 1; two for each thread of a cluster)"
    add("--workers", type=positive_integer, metavar="N", help=text)
    where = parser.add_mutually_exclusive_group()
    text = "address of the scheduler of a Dask cluster, whose workers run the cells, such as tcp://10.0.0.1:8786"
    where.add_argument("--cluster", metavar="ADDRESS", help=text)
    text = "file in which that scheduler has written its address"
    where.add_argument("--scheduler-file", type=path, metavar="FILE", help=text)
    add("--parquet", action="store_true", help="write the table as table.parquet too (needs pyarrow)")
    add("--figure", action="store_true", help="draw figure.png, the metrics against what varies")
    add("--retry-failed", action="store_true", help="run those cells again that failed")
    add("--list", action="store_true", help="list the cells and what came of them, and run none")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Sweep, and say what came of it.

    Raises ValueError, TypeError, OSError, ImportError for bad input, before anything is written; RuntimeError if a
    cluster is lost.
    """
    from kpref.sweeps import read_grid, sweep

    grid = read_grid(args.grid)
    if args.list:
        _require_no_run(args)
        return _list(grid, args)
    with _client(args) as client, Progress(not args.quiet) as bar:
        found = sweep(
            grid, args.out, workers=args.workers, retry_failed=args.retry_failed, parquet=args.parquet,
            figure=args.figure, client=client, progress=_telling(bar, len(grid)),
        )  # fmt: skip
    if not args.quiet:
        failed = f", {found.failed:,} of them failed" if found.failed else ""
        say(f"{found.cells:,} cells{failed}: {found.table}")
    return _FAILED if found.failed else 0


def _client(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """A client of the cluster that was named, or None."""
    if args.cluster is None and args.scheduler_file is None:
        return nullcontext()
    from kpref.sweeps.cell_cluster import connected

    return connected(args.cluster, args.scheduler_file)


def _require_no_run(args: argparse.Namespace) -> None:
    """Refuse what is about running cells beside --list, which runs none."""
    for name in ("workers", "cluster", "scheduler_file", "parquet", "figure", "retry_failed"):
        if getattr(args, name) not in (None, False):
            raise ValueError(f"--list runs no cell, and takes no --{name.replace('_', '-')}: leave one of them out")


def _list(grid: Grid, args: argparse.Namespace) -> int:
    from kpref.sweeps.run import states

    for number, (cell, kept) in enumerate(states(grid, args.out), 1):
        state = "missing" if kept is None else f"{kept['failed']}: {kept['error']}" if "failed" in kept else "done"
        say(f"{number:>6}  {', '.join(f'{name}={cell[name]}' for name in grid.lists)}  {state}")
    return 0


def _telling(bar: Progress, cells: int) -> Callable[[Tally], object]:
    """The line drawn anew where somebody looks on, else when another tenth of the cells is over."""
    told = -1

    def tell(tally: Tally) -> None:
        nonlocal told
        over = tally.done + tally.failed
        reached = over if bar.live else 10 * over // cells
        if reached != told:
            told = reached
            bar.phase(str(tally))
        bar.tick()

    return tell
