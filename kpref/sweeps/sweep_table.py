"""The table of a sweep: a row for each cell of the grid, in its order, in CSV and, where asked for, in Parquet.

What varies comes first, then the metrics with their standard errors, then what failed and why. Nothing stands where a
number is not defined, and "missing" in place of a failure where a cell has not run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from kpref.sweeps.cell_grid import Grid
from kpref.sweeps.cell_metrics import METRICS

__all__ = ["Column", "as_csv", "columns"]

#: The type of the values, and the values; None where there is none.
Column = tuple[type, list[Any]]


def columns(grid: Grid, kept: Iterable[dict[str, Any] | None]) -> dict[str, Column]:
    """The columns by name, of what is kept of each cell."""
    found = list(kept)
    cells = list(grid.cells())
    table: dict[str, Column] = {}
    for name in grid.lists:
        values = [_plain(cell[name]) for cell in cells]
        table[name] = type(values[0]), values
    for name in grid.metrics:
        pairs = [(one or {}).get("metrics", {}).get(name, (None, None)) for one in found]
        table[name] = float, [_number(value) for value, _ in pairs]
        if METRICS[name].estimated:
            table[f"{name}_error"] = float, [_number(error) for _, error in pairs]
    table["failed"] = str, ["missing" if one is None else one.get("failed") for one in found]
    table["error"] = str, [None if one is None else one.get("error") for one in found]
    return table


def as_csv(table: dict[str, Column]) -> str:
    """The table with its names in the first line."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(table)
    for row in zip(*(values for _, values in table.values()), strict=True):
        lines.writerow("" if value is None else str(value) for value in row)
    return file.getvalue()


def _plain(value: Any) -> Any:
    return " ".join(value) if isinstance(value, tuple) else value


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
