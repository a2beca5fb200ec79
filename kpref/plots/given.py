"""What figures are given: named curves, tables, colours and axes, each failure as one sentence that names the argument.

Numbers may be anything, NaN and infinity too: what has no place on an axis is left out later. Shapes may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like

from kpref._types import Array
from kpref._validate import check_shape, finite_array, instance, numeric_array, short
from kpref.coloring import TrialColoring
from kpref.plots.style import checkpoint_colors

__all__ = [
    "colors_for",
    "given_or_new",
    "named_curves",
    "numbers",
    "places",
    "require_coloring",
    "table",
    "trial_table",
]


def given_or_new(ax: Axes | None) -> Axes:
    """The axes, or those of a new pyplot figure."""
    if ax is not None:
        instance("ax", ax, Axes, "axes of matplotlib")
        return ax
    from matplotlib import pyplot  # here: it chooses a window system, which the axes of others do not need

    return pyplot.subplots(layout="constrained")[1]


def numbers(name: str, values: npt.ArrayLike, shape: Sequence[int | str] | None) -> Array:
    """Real numbers of a shape, in which strings stand for any length; see `kpref._validate.check_shape`."""
    array = numeric_array(name, values, "biuf")
    check_shape(name, array, shape=shape)
    return array


def table(name: str, values: npt.ArrayLike, shape: Sequence[int | str]) -> Array:
    """`numbers` without empty axes."""
    array = numbers(name, values, shape)
    if not array.size:
        raise ValueError(f"{name} must not have an empty axis; got shape {array.shape}")
    return array


def require_coloring(coloring: object) -> None:
    """Raise TypeError if these are no colours of trials."""
    instance("coloring", coloring, TrialColoring, "a TrialColoring, such as color_trials(trials)")


def trial_table(name: str, values: npt.ArrayLike, coloring: TrialColoring) -> Array:
    """Numbers (B, T) of the trials that have colours."""
    require_coloring(coloring)
    return table(name, values, (len(coloring.values), "T"))


def places(times: npt.ArrayLike | None, steps: int) -> Array:
    """Where T steps stand on the axis of time: 1, ..., T by default."""
    return np.arange(1.0, steps + 1) if times is None else finite_array("times", times, shape=(steps,))


def named_curves(
    name: str, curves: Iterable[Any], *parts: tuple[str, Sequence[int | str] | None]
) -> list[tuple[Any, ...]]:
    """Tuples of a name and one array or several.

    `name`: what the error calls them. `*parts`: what the arrays are called, and their shapes; None for any.
    Returns the names as they are, and arrays.
    """
    words = ", ".join(["name", *(part for part, _ in parts)])
    wanted = f"{name} must be pairs ({words})" if len(parts) == 1 else f"{name} must be tuples ({words})"
    if isinstance(curves, str | bytes | Mapping | np.ndarray) or not isinstance(curves, Iterable):
        raise TypeError(f"{wanted}, one a curve; got {short(curves)}")
    found = []
    for index, curve in enumerate(curves):
        if not isinstance(curve, list | tuple) or len(curve) != len(parts) + 1:
            raise TypeError(f"{wanted}, one a curve; entry {index} is {short(curve)}")
        arrays = [
            numbers(f"{part} of {name}[{index}]", value, shape)
            for value, (part, shape) in zip(curve[1:], parts, strict=True)
        ]
        found.append((curve[0], *arrays))
    return found


def colors_for(colors: Iterable[Any] | None, number: int) -> list[Any]:
    """The colours of so many curves: those given, or `checkpoint_colors`."""
    if colors is None:
        return checkpoint_colors(number)
    chosen = list(colors) if isinstance(colors, Iterable) and not isinstance(colors, str) else None
    if chosen is None or len(chosen) != number or not all(map(is_color_like, chosen)):
        raise ValueError(f"colors must be {number} colours of matplotlib, one a curve; got {short(colors)}")
    return chosen
