"""Axes written with few artists and fitted into their picture.

Matplotlib makes five artists for each tick and brings all of them up to date whenever it measures or draws: most of the
time of a small picture. Here the ticks of an axis are one artist, each number another, and both are made once. They
look the same, as they take their style from the same rcParams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axis import Axis, XAxis, YAxis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, NullFormatter, ScalarFormatter
from matplotlib.transforms import Bbox, ScaledTranslation

from kpref.plots.style import PlainNumbers

__all__ = ["fit_axes"]

#: Inches around a picture that stay empty.
_PAD = 0.04
#: Whose texts are numbers in the style of the rcParams; names may have been given a style of their own.
_FORMATTERS = (ScalarFormatter, LogFormatter, NullFormatter, PlainNumbers)
#: Styles of ticks that are known here, and what they must be.
_SIDES: dict[type[Axis], dict[str, bool]] = {
    XAxis: {"bottom": True, "top": False, "labelbottom": True, "labeltop": False, "gridOn": False},
    YAxis: {"left": True, "right": False, "labelleft": True, "labelright": False, "gridOn": False},
}


def fit_axes(figure: Figure) -> None:
    """Make axes, beside each other, as large as what is written around them lets them be.

    As matplotlib's constrained layout does, but for colour bars and axes of a given shape, and without its drawing of
    everything once more. Where ticks depend on the size of the axes, it takes a second measurement too. The figure has
    a canvas of pixels afterwards.
    """
    renderer, before = FigureCanvasAgg(figure).get_renderer(), _ticks(figure)
    simple = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) if _is_simple(axis)]
    for axis in simple:
        axis.set_visible(False)
    _keep_titles(figure, simple)
    written = _write_and_fit(figure, simple, renderer)
    if _ticks(figure) != before:
        for artist in written:
            artist.remove()
        _write_and_fit(figure, simple, renderer)


def _write_and_fit(figure: Figure, simple: Sequence[Axis], renderer: RendererBase) -> list[Artist]:
    for ax in figure.axes:  # those of a given shape find their place
        locator = ax.get_axes_locator()
        ax.apply_aspect(None if locator is None else locator(ax, renderer))
    written, boxes = [], []
    for axis in simple:
        artists, texts = _write(axis, renderer)
        written += artists
        boxes += texts
    _fit(figure, renderer, boxes)
    return written


def _ticks(figure: Figure) -> list[tuple[float, ...]]:
    return [tuple(axis.get_majorticklocs()) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]


def _fit(figure: Figure, renderer: RendererBase, boxes: Sequence[Bbox]) -> None:
    """Beside the given boxes, of what is written already, matplotlib measures all that does not lie inside axes."""
    found = [box for ax in figure.axes if (box := ax.get_tightbbox(renderer)) is not None]
    outer = Bbox.union([*found, *boxes]).transformed(figure.transFigure.inverted())
    inner, whole = (Bbox.union([ax.get_position(original) for ax in figure.axes]) for original in (False, True))
    pad = _PAD / np.asarray(figure.get_size_inches())
    low = pad + np.asarray(inner.min) - np.asarray(outer.min)
    high = 1 - pad + np.asarray(inner.max) - np.asarray(outer.max)
    if not (high > low).all():  # there is more to write than room
        return
    for ax in figure.axes:
        corners = (ax.get_position(original=True).get_points() - whole.min) / whole.size
        ax.set_position(Bbox(low + corners * (high - low)))


def _is_simple(axis: Axis) -> bool:
    """Whether an axis stands at the left or at the bottom and has numbers in the style of the rcParams, or nothing."""
    sides = _SIDES.get(type(axis))
    if sides is None or not axis.get_visible():
        return False
    for style in (axis.get_tick_params("major"), axis.get_tick_params("minor")):
        if {name: value for name, value in style.items() if name != "length"} != sides:
            return False
    formatter = axis.get_major_formatter()
    if not (isinstance(formatter, _FORMATTERS) and isinstance(axis.get_minor_formatter(), _FORMATTERS)):
        return False
    formatter.format_ticks(list(axis.get_majorticklocs()))  # which settles the offset
    return not formatter.get_offset()


def _write(axis: Axis, renderer: RendererBase) -> tuple[list[Artist], list[Bbox]]:
    """Add the ticks, numbers and label of a simple axis to its axes; the boxes are those of the texts."""
    ax, across = axis.axes, isinstance(axis, XAxis)
    inner = ax.get_window_extent(renderer)
    artists = _at_places(axis, "major") + _at_places(axis, "minor")
    boxes = [_added(artist, axis).get_window_extent(renderer) for artist in artists]
    boxes = [box for box, artist in zip(boxes, artists, strict=True) if isinstance(artist, Text)]
    if axis.label.get_text() and axis.label.get_visible():
        depth = max([0.0, *(inner.y0 - box.y0 if across else inner.x0 - box.x0 for box in boxes)])
        label = _label(axis, depth / renderer.points_to_pixels(1.0) + axis.labelpad)
        boxes.append(_added(label, axis).get_window_extent(renderer))
        artists.append(label)
    return artists, boxes


def _added(artist: Artist, axis: Axis) -> Artist:
    """The artist on the axes, not cut off at their edge."""
    axis.axes.add_artist(artist)
    artist.set(clip_on=False, in_layout=False, zorder=axis.get_zorder())
    return artist


def _label(axis: Axis, away: float) -> Text:
    """The label of an axis, so many points away from it."""
    of, across = axis.label, isinstance(axis, XAxis)
    x, y = of.get_position()
    label = Text(x if across else 0.0, 0.0 if across else y, of.get_text())
    label.update_from(of)
    label.set(
        ha=of.get_horizontalalignment(),
        va=of.get_verticalalignment(),
        rotation=of.get_rotation(),
        rotation_mode=of.get_rotation_mode(),
    )
    shift = (0.0, -away / 72) if across else (-away / 72, 0.0)
    label.set_transform(axis.axes.transAxes + ScaledTranslation(*shift, axis.axes.figure.dpi_scale_trans))
    return label


def _at_places(axis: Axis, which: Literal["major", "minor"]) -> list[Artist]:
    """One artist for all major, or minor, ticks and one for each number."""
    ax, across, major = axis.axes, isinstance(axis, XAxis), which == "major"
    name = "xtick" if across else "ytick"
    rc: Any = matplotlib.rcParams
    down_or_left: Any = TICKDOWN if across else TICKLEFT
    places = np.asarray(axis.get_majorticklocs() if major else axis.get_minorticklocs(), dtype=float)
    if not len(places):
        return []
    texts = (axis.get_major_formatter() if major else axis.get_minor_formatter()).format_ticks(list(places))
    seen = _within(axis, places)
    places, texts = places[seen], [text for text, there in zip(texts, seen, strict=True) if there]
    zeros = np.zeros(len(places))
    length = axis.get_tick_params(which).get("length", rc[f"{name}.{which}.size"])
    pad = length + rc[f"{name}.{which}.pad"]
    marks = Line2D(
        *((places, zeros) if across else (zeros, places)),
        transform=ax.get_xaxis_transform("tick1") if across else ax.get_yaxis_transform("tick1"),
        linestyle="none",
        marker=down_or_left,
        markersize=length,
        markeredgewidth=rc[f"{name}.{which}.width"],
        markeredgecolor=rc[f"{name}.color"],
    )
    transform, upright, sideways = (ax.get_xaxis_text1_transform if across else ax.get_yaxis_text1_transform)(pad)
    color = rc[f"{name}.labelcolor"]
    style: dict[str, Any] = {
        "transform": transform,
        "va": upright,
        "ha": sideways,
        "fontsize": rc[f"{name}.labelsize"],
        "color": rc[f"{name}.color"] if color == "inherit" else color,
    }
    numbers = [
        Text(*((place, 0.0) if across else (0.0, place)), **style | {"text": text})
        for place, text in zip(places, texts, strict=True)
        if text
    ]
    return [marks, *numbers]


def _within(axis: Axis, places: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which places lie between the limits, up to rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.sort(axis.get_transform().transform(np.asarray(axis.get_view_interval(), dtype=float)))
        at = axis.get_transform().transform(places)
    slack = 1e-10 * (high - low)
    return (at >= low - slack) & (at <= high + slack)


def _keep_titles(figure: Figure, simple: Sequence[Axis]) -> None:
    """Titles stand on their axes, where no number stands above these: matplotlib need not measure all for it."""
    for ax in figure.axes:
        if ax.xaxis in simple and ax.yaxis in simple:
            for side in ("left", "center", "right"):
                if ax.get_title(side):
                    ax.set_title(ax.get_title(side), loc=side, y=1.0)
