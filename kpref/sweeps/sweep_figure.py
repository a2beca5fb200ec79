"""The figure of a sweep: one panel a metric, against the setting that varies most, a curve for each of the others.

On the horizontal axis is the numeric setting with the most values, seeds aside; where none is numeric, the first one
by its names. Cells that differ in their seeds alone are one point: their mean, and a bar from the least to the largest.
A single cell has the interval of two standard errors where its metric is an estimate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpref._archives import replacing
from kpref.plots import STYLE, checkpoint_colors
from kpref.plots.style import plain_names, shown, title_of
from kpref.sweeps.cell_grid import Grid
from kpref.sweeps.cell_metrics import METRICS
from kpref.sweeps.sweep_table import Column

__all__ = ["draw_sweep", "save_figure"]

FIGURE = "figure.png"
_COLUMNS = 3
_PANEL = (4.2, 3.2)  # inches
#: Curves of a panel that have names and colours that can be told apart.
_MOST_CURVES = 12
_INTERVAL = 1.96  # standard errors
#: Ratio of the largest to the smallest of positive numbers from which on their axis is logarithmic.
_DECADES = 30

#: Where a curve is: its position on the axis, its value, and the ends of its bar.
Point = tuple[float, float, float, float]


def save_figure(grid: Grid, table: Mapping[str, Column], folder: Path) -> Path:
    """Draw a sweep into the file ``figure.png`` of a folder, whole or not at all."""
    with matplotlib.rc_context(STYLE), replacing(folder / FIGURE) as file:  # type: ignore[arg-type]
        draw_sweep(grid, table).savefig(file, format="png")
    return folder / FIGURE


def draw_sweep(grid: Grid, table: Mapping[str, Column]) -> Figure:
    """A figure of a table, as `kpref.sweeps.sweep_table.columns` gives it."""
    across = _across(grid)
    groups = [name for name in grid.lists if name not in (across, "seed")]
    columns = min(_COLUMNS, len(grid.metrics))
    rows = -(-len(grid.metrics) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    for index, name in enumerate(grid.metrics):
        ax = figure.add_subplot(rows, columns, index + 1)
        _panel(ax, name, table, across, groups)
    return figure


def _across(grid: Grid) -> str:
    """The setting on the horizontal axis."""
    names = [name for name in grid.lists if name != "seed"] or list(grid.lists)
    numeric = [name for name in names if _is_numeric(grid.lists[name])]
    return max(numeric, key=lambda name: len(grid.lists[name])) if numeric else names[0]


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _over_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more of them."""
    return bool(values) and min(values) > 0 and max(values) > _DECADES * min(values)


def _panel(ax: Axes, name: str, table: Mapping[str, Column], across: str, groups: Sequence[str]) -> None:
    curves = _curves(name, table, across, groups)
    title_of(ax, name)
    ax.set_xlabel(across)
    ax.set_ylabel(METRICS[name].summary, fontsize="small", wrap=True)
    values = list(dict.fromkeys(table[across][1]))
    if not _is_numeric(values):
        ax.set_xticks(range(len(values)), plain_names([str(value) for value in values]), rotation=30, ha="right")
    elif _over_decades(values):
        ax.set_xscale("log")
    if _over_decades([end for points in curves.values() for _, *ends in points for end in ends]):
        ax.set_yscale("log")
    drawn = list(curves.items())[:_MOST_CURVES]
    for (label, points), color in zip(drawn, checkpoint_colors(len(drawn)), strict=True):
        x, y, low, high = (shown(np.array(column)) for column in zip(*points, strict=True))
        ax.errorbar(x, y, yerr=(y - low, high - y), color=color, marker="o", markersize=4, capsize=2, label=label)
    if not drawn:
        ax.text(0.5, 0.5, "no cell has a number", ha="center", va="center", transform=ax.transAxes)
    if len(curves) > len(drawn):
        ax.text(1, 1, f"{len(drawn)} of {len(curves)} curves", ha="right", va="bottom", transform=ax.transAxes)
    if groups and drawn:
        ax.legend(title=", ".join(groups), fontsize="small", title_fontsize="small")


def _curves(name: str, table: Mapping[str, Column], across: str, groups: Sequence[str]) -> dict[str, list[Point]]:
    """Points by the values of the groups, in the order of the grid; cells without a number are in none."""
    values, positions = table[name][1], table[across][1]
    errors = table.get(f"{name}_error", (float, [None] * len(values)))[1]
    order = {value: place for place, value in enumerate(dict.fromkeys(positions))}
    numeric = _is_numeric(positions)
    cells: dict[str, dict[Any, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row, value in enumerate(values):
        if value is not None and math.isfinite(value):
            label = plain_names([", ".join(str(table[group][1][row]) for group in groups)])[0]
            cells[label][positions[row]].append((value, errors[row] or 0.0))
    return {
        label: [
            (float(position) if numeric else float(order[position]), *_point(of[position]))
            for position in sorted(of, key=None if numeric else order.__getitem__)
        ]
        for label, of in cells.items()
    }


def _point(cells: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The value of some cells that differ in their seeds, and the ends of the bar."""
    if len(cells) == 1:
        ((value, error),) = cells
        return value, value - _INTERVAL * error, value + _INTERVAL * error
    values = [value for value, _ in cells]
    return math.fsum(values) / len(values), min(values), max(values)
