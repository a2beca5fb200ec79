"""Where the dynamics of a network rest: its fixed and slow points under no input, their picture and their table.

The search begins at a few states that the trials visit, and its work is bounded: a Jacobian costs some 25 S^3
operations with its eigenvalues, and a start some 15 of them. A network so wide that not even one start is paid for by
that has no such section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from kpref.analysis.exhibits import Exhibit, Panel, exhibit
from kpref.analysis.numbers import Analysis
from kpref.analysis.study import Study
from kpref.analysis.tables import table
from kpref.analysis.wording import number
from kpref.coloring import TrialColoring
from kpref.models.base import Field
from kpref.plots import plot_fixed_points

__all__ = ["points_in_words", "points_tables", "resting_points"]

_MOST_ROWS = 12
_SIZE = (6.2, 4.4)
"""Of a picture, in inches: a plane, with long names on its axes."""


def resting_points(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """A picture of the points of each checkpoint among its trajectories."""
    shown = [analysis for analysis in study.analyses if analysis.points is not None]
    if not shown:
        return []
    panels = [
        Panel(
            f"points_{analysis.name}",
            f"fixed points of {analysis.name} among its trajectories, in their first two principal components",
            partial(_draw, analysis=analysis),
            _SIZE,
        )
        for analysis in shown
    ]
    caption = (
        "Fixed points under no input, in the plane in which the trajectories (grey, up to 60 trials) move most. "
        "Filled: stable; open: with unstable directions, each drawn as a line; small: slow points, where the speed is "
        "least and not zero. The search begins at a few states of the trials: there may be more points."
    )
    return [exhibit("points", "Fixed points", caption, panels)]


def _draw(ax: Axes, analysis: Analysis) -> None:
    assert analysis.points is not None
    plot_fixed_points(analysis.points, analysis.flow, ax)


def points_in_words(analysis: Analysis) -> str:
    """How many of which kind, and how many starts came to nothing."""
    found = analysis.points
    assert found is not None
    counts = Counter(found.kinds)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"
    lost = int((~found.settled).sum())
    return f"{kinds}, from {len(found.starts)} starts" + (f", of which {lost} came to no point" if lost else "")


def points_tables(study: Study) -> Sequence[str]:
    """One for each checkpoint: a row a point."""
    return [_table(analysis) for analysis in study.analyses if analysis.points is not None]


def _table(analysis: Analysis) -> str:
    found = analysis.points
    assert found is not None
    columns = zip(found.kinds, found.residuals, found.q, found.n_unstable, found.growth, found.counts, strict=True)
    rows = [
        [f"{index + 1}", kind, number(speed, 2), number(q, 2), f"{unstable}", number(growth[0], 4), f"{count}"]
        for index, (kind, speed, q, unstable, growth, count) in enumerate(columns)
    ]
    speed, largest = ("|f(z)|", "Re λ") if isinstance(analysis.flow.model, Field) else ("|F(z) − z|", "|λ|")
    head = ["point", "kind", f"speed {speed}", "q = speed² / 2", "unstable directions", f"largest {largest}", "starts"]
    more = len(rows) - _MOST_ROWS
    note = points_in_words(analysis) + "." + (f" {more} more points are in metrics.json." if more > 0 else "")
    return table(f"Points of {analysis.name}", head, rows[:_MOST_ROWS], note)
