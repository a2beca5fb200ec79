"""Sweeps: networks for all combinations of settings in a grid, each trained and measured in a process of its own.

A cell that raises, takes more memory than it may, hangs or crashes is recorded with its error, and the others go on. A
sweep that is killed goes on where it stopped, and ends with the same table.

>>> from kpref.sweeps import read_grid, sweep
>>> sweep(read_grid("grid.toml"), "folder", workers=4)  # doctest: +SKIP
"""

from kpref.sweeps.cell_grid import Grid, read_grid
from kpref.sweeps.cell_metrics import METRICS
from kpref.sweeps.run import SweepResult, sweep

__all__ = ["METRICS", "Grid", "SweepResult", "read_grid", "sweep"]
