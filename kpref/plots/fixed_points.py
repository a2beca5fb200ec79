"""Fixed points of a network among its trajectories, in the plane in which these move most."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from kpref._types import Array
from kpref._validate import finite_array, instance
from kpref.equilibria import FixedPoints
from kpref.flow import Flow
from kpref.plots.given import given_or_new
from kpref.plots.style import INK, MUTED, legend_of_names, say
from kpref.threads import serial_blas

__all__ = ["plot_fixed_points"]

_MOST_LINES = 60
_COLORS = {"stable": "#0072b2", "marginal": "#009e73", "saddle": "#d55e00", "unstable": "#a0207a", "slow": INK}
#: Length of an unstable direction on either side of its point, of the width of what is drawn.
_REACH = 0.06


@serial_blas
def plot_fixed_points(
    found: FixedPoints, trajectories: Flow | npt.ArrayLike | None = None, ax: Axes | None = None
) -> Axes:
    """Fixed and slow points, and trajectories, in the first two principal components of the trajectories.

    Stable points are filled, those with unstable directions open, with a line along each of these (an orthonormal basis
    of the unstable subspace, projected); slow points are small.

    Parameters
    ----------
    found : FixedPoints
    trajectories : Flow, or array_like of shape (B, T, S), optional
        Up to 60 trials are drawn. Without any, components are those of the points.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import kpref
    >>> found = kpref.fixed_points(kpref.models.Hopf(1.0, 2.0), starts=[[0.1, 0.2]])
    >>> kpref.plots.plot_fixed_points(found).get_xlabel()
    'principal component 1'
    """
    instance("found", found, FixedPoints, "what kpref.fixed_points returns")
    lines = _lines(trajectories, found.points.shape[1])
    ax = given_or_new(ax)
    cloud = np.concatenate(lines) if lines else found.points
    center, axes, shares = _components(cloud, found.points.shape[1])
    project = _Plane(center, axes)
    for number, line in enumerate(lines):
        name = "_" if number else "trajectories"
        ax.plot(*project(line).T, color=MUTED, linewidth=0.6, alpha=0.5, zorder=1, label=name)
    drawn = np.concatenate([*map(project, lines), project(found.points)])
    reach = _REACH * float((drawn.max(axis=0) - drawn.min(axis=0)).max() or 1.0) if len(drawn) else 0.0
    kinds, directions = np.array(found.kinds, dtype=str), list[Line2D]()
    for kind, color in _COLORS.items():
        which = np.flatnonzero(kinds == kind)
        if not len(which):
            continue
        filled, small = kind in ("stable", "marginal", "slow"), kind == "slow"
        at, name = project(found.points[which]), f"{kind} ({len(which)})"
        face = color if filled else "white"
        ax.scatter(
            at[:, 0], at[:, 1], 10 if small else 42, face, edgecolors=color, linewidths=1.4, zorder=3, label=name
        )
        if not filled:
            for point in which:
                directions += _drawn_directions(ax, project, found, int(point), reach, color)
    if directions:
        directions[0].set_label("unstable directions")
    names = [f"principal component {number}" for number in (1, 2)]
    if lines:
        names = [f"{name} ({share:.0%} of the variance)" for name, share in zip(names, shares, strict=True)]
    ax.set(xlabel=names[0], ylabel=names[1])
    if not len(drawn):
        say(ax, "no points")
    legend_of_names(ax)
    return ax


class _Plane:
    """Coordinates of states in a plane."""

    def __init__(self, center: Array, axes: Array) -> None:
        self.center, self.axes = center, axes

    def __call__(self, states: Array) -> Array:
        return np.asarray((states - self.center) @ self.axes.T)


def _drawn_directions(
    ax: Axes, project: _Plane, found: FixedPoints, point: int, reach: float, color: str
) -> list[Line2D]:
    state, drawn = found.points[point], list[Line2D]()
    for direction in found.unstable_directions(point):
        ends = project(state + reach * np.array([-1.0, 1.0])[:, None] * direction)
        drawn += ax.plot(*ends.T, color=color, linewidth=1.2, zorder=2)
    return drawn


def _lines(trajectories: Flow | npt.ArrayLike | None, width: int) -> list[Array]:
    if trajectories is None:
        return []
    given: Any = trajectories.states if isinstance(trajectories, Flow) else trajectories
    lengths = trajectories.space.lengths if isinstance(trajectories, Flow) else None
    checked = finite_array("trajectories", given, shape=("B", "T", width))
    ends = np.full(len(checked), checked.shape[1]) if lengths is None else lengths
    return [trial[:end] for trial, end in zip(checked[:_MOST_LINES], ends, strict=False) if end]


def _components(cloud: Array, width: int) -> tuple[Array, Array, list[float]]:
    """Mean, first two principal directions (2, S), zero where there is none, and their shares of the variance."""
    if not len(cloud):
        return np.zeros(width), np.eye(2, width), [0.0, 0.0]
    center = cloud.mean(axis=0)
    _, sizes, rows = np.linalg.svd(cloud - center, full_matrices=False)
    rows = rows * np.where(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    axes, shares = np.zeros((2, width)), np.zeros(2)
    axes[: len(rows[:2])] = rows[:2]
    total = float(np.square(sizes).sum())
    shares[: len(sizes[:2])] = np.square(sizes[:2]) / (total or 1.0)
    return center, axes, [float(share) for share in shares]
