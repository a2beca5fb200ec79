"""What all figures share: rcParams, colours, axes, ticks, names that can be drawn, and words where nothing can.

A number has a place on an axis if it is finite and its modulus is below 1e200, so that margins and ratios do not
overflow; on a logarithmic axis it must be above 1e-200 as well. `shown` and `shown_on_log` turn all others into NaN,
which matplotlib leaves out, and `why_empty` says in words what a picture without a single number is empty of.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.transforms
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.legend import Legend
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from kpref._types import Array
from kpref._validate import integer, numeric_array

__all__ = [
    "DASHED",
    "INK",
    "MUTED",
    "SLANTED",
    "STYLE",
    "PlainNumbers",
    "checkpoint_colors",
    "finish",
    "guide",
    "inside",
    "legend_columns",
    "legend_of_names",
    "log_across",
    "log_axis",
    "markers",
    "mean_over",
    "name_ticks",
    "plain",
    "plain_names",
    "say",
    "shown",
    "shown_on_log",
    "time_axis",
    "title_of",
    "whole_ticks",
    "why_empty",
]

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.edgecolor": "#5b6470",
    "axes.labelcolor": "#1f2933",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "figure.constrained_layout.use": True,
    "text.color": "#1f2933",
    "xtick.color": "#5b6470",
    "ytick.color": "#5b6470",
    "xtick.labelcolor": "#1f2933",
    "ytick.labelcolor": "#1f2933",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,  # text stays text, for those who edit figures for a paper
    "svg.fonttype": "none",
    "svg.hashsalt": "kpref",  # the same picture is the same file
}
"""rcParams for all figures: dark on light, one readable sans-serif, no frame and no grid."""

INK = "#1f2933"
MUTED = "#8a94a0"
DASHED = (0, (4, 3))
SLANTED: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}  # names below each other

_LARGEST = 1e200
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Ratio of the ends of a logarithmic axis from which on it has ticks at powers of ten alone: others would lie so close
#: that they tell nothing, and each costs as much time as a label.
_LONG = 1e6
_LONGEST_NAME = 30
_LONGEST_TITLE = 38
_FEW_NAMES = 4
_MOST_NAMES = 12


class PlainNumbers(FuncFormatter):
    """Numbers at the ticks of a logarithmic axis as plain text, without names or a style of their own."""


def checkpoint_colors(number: int) -> list[Any]:
    """One colour a checkpoint: orange before, blue after; more of them along a dark part of viridis.

    Examples
    --------
    >>> checkpoint_colors(2)
    ['#d55e00', '#0072b2']
    """
    number = integer("number", number, least=0)
    if number <= 2:
        return ["#d55e00", "#0072b2"][2 - number :]
    return list(matplotlib.colormaps["viridis"](np.linspace(0.8, 0.05, number)))


def shown(values: npt.ArrayLike) -> Array:
    """The numbers as floats, NaN for those without a place on a linear axis."""
    numbers = numeric_array("what is drawn", values, "biuf").astype(float)
    return np.where(np.abs(numbers) < _LARGEST, numbers, np.nan)


def shown_on_log(values: npt.ArrayLike) -> Array:
    """The numbers as floats, NaN for those without a place on a logarithmic axis."""
    numbers = numeric_array("what is drawn", values, "biuf").astype(float)
    return np.where((numbers > 1 / _LARGEST) & (numbers < _LARGEST), numbers, np.nan)


def why_empty(values: npt.ArrayLike) -> str:
    """Why none of some numbers has a place on an axis: "all zero", "none finite", "none positive" or "no data"."""
    numbers = shown(values)
    finite = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return "no data"
    if not finite.size:
        return "none finite"
    return "none positive" if np.abs(finite).max() > 1 / _LARGEST else "all zero"


def mean_over(values: Array, axis: int) -> Array:
    """Mean over those that are not NaN; NaN where all are."""
    there = np.isfinite(values)
    counts = there.sum(axis=axis)
    sums = np.where(there, values, 0.0).sum(axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def say(ax: Axes, text: str) -> None:
    """Write in the middle of the axes that there is nothing to draw, and why."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": "#52606d", "fontsize": 12}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 3.0}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, bbox=box, zorder=5, **style)


def guide(ax: Axes, at: float) -> None:
    """A dashed line across the axes, to compare with."""
    ax.axhline(at, color=MUTED, linewidth=1.0, linestyle=DASHED, zorder=0)


def time_axis(ax: Axes, places: Array, counted: bool) -> None:
    """Label the horizontal axis and fit it to the T places on it, which are numbers of steps or times."""
    ax.set_xlabel("time step" if counted else "time")
    beside = 0.5 if len(places) == 1 else 0.0
    ax.set_xlim(places[0] - beside, places[-1] + beside)
    if counted:
        ax.xaxis.set_major_locator(FixedLocator(list(places)) if len(places) <= 12 else MaxNLocator(integer=True))


def whole_ticks(last: int, first: int = 1) -> Array:
    """About ten whole numbers at most, for the ticks of a counting axis."""
    return np.arange(first, last + 1, max(1, -(-last // 10)))


def markers(number: int) -> list[str]:
    """A marker for each of several curves, different for the first twelve."""
    return ["o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d"][:number] + ["o"] * max(0, number - 12)


def log_axis(ax: Axes, values: Array) -> None:
    """Make the vertical axis logarithmic and fit it to the numbers (NaN left out), with ticks such as 1, 10, 1,000.

    Where they span less than two decades, 2 and 5 are ticks too. Without any number the axis stays linear and bare.
    """
    found = values[np.isfinite(values)]
    if not found.size:
        ax.set_yticks([])
        return
    low, high = float(found.min()) / 1.6, float(found.max()) * 2.2
    ax.set(yscale="log", ylim=(low, high))
    if high / low < 350:
        ticks = LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(low, high)
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        ax.yaxis.set_minor_locator(NullLocator())
    _write_powers(ax.yaxis, low, high)


def log_across(ax: Axes, values: Array) -> None:
    """Make the horizontal axis logarithmic, for numbers of which one at least is positive (NaN left out)."""
    ax.set_xscale("log")
    there = values[np.isfinite(values) & (values > 0)]
    if there.max() >= 350 * there.min():  # shorter ones have numbers at minor ticks as well
        _write_powers(ax.xaxis, float(there.min()), float(there.max()))


def _write_powers(axis: Axis, low: float, high: float) -> None:
    """Numbers at the ticks of a logarithmic axis as plain text, which takes a tenth of the time of mathematics."""
    if high / low >= _LONG:
        axis.set_minor_locator(NullLocator())
    moderate = low >= 1e-4 and high < 1e7
    axis.set_major_formatter(PlainNumbers(lambda value, _: f"{value:,.10g}" if moderate else _power(value)))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    """Such as 10⁻³ or 2·10⁵."""
    leading, exponent = f"{value:.0e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if leading == "1" else f"{leading}·{power}"


def plain(text: object, longest: int = _LONGEST_NAME) -> str:
    r"""A name as matplotlib can draw it as it stands.

    On one line, cut in the middle where it is too long, characters that the fonts at hand lack written as ``\u....``,
    and nothing that matplotlib would read as mathematics or as a label to be left out of legends.

    Examples
    --------
    >>> plain("a_very_long_name_of_a_checkpoint_00500.safetensors")
    'a_very_long_na…0.safetensors'
    """
    glyphs = _glyphs(tuple(matplotlib.rcParams["font.family"]), tuple(matplotlib.rcParams["font.sans-serif"]))
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = "".join(c if ord(c) in glyphs else f"\\u{ord(c):04x}" for c in line)
    if len(line) > longest:
        line = f"{line[: longest // 2 - 1]}…{line[-(longest // 2 - 2) :]}"
    line = line.replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line or "(no name)"


def plain_names(names: Sequence[object], longest: int = _LONGEST_NAME) -> list[str]:
    """`plain` for several names, which stay different: those that would not are numbered."""
    short = [plain(name, longest) for name in names]
    repeated = {name for name in short if short.count(name) > 1}
    return [f"{name} #{number}" if name in repeated else name for number, name in enumerate(short, start=1)]


def title_of(ax: Axes, text: str, longest: int = _LONGEST_TITLE) -> None:
    """Set a title that is not wider than the picture; beside a colour bar there is less room."""
    ax.set_title(plain(text, longest))


def name_ticks(ax: Axes, names: Sequence[object]) -> None:
    """Names of checkpoints at 0, 1, 2, ... on the horizontal axis: slanted where they do not fit beside each other."""
    room = 36 // max(len(names), 1)  # characters
    short = plain_names(names, 22)
    if max(map(len, short), default=0) <= room:
        ax.set_xticks(range(len(short)), short)
    else:
        places = range(0, len(short), 1 if len(short) <= 16 else -(-len(short) // 8))
        ax.set_xticks(places, [short[place] for place in places], fontsize=9, **SLANTED)
    ax.set_xlim(-0.6, len(names) - 0.4)


def legend_columns(names: Sequence[str]) -> int:
    """Columns of a legend below the axes; 0 where it is small enough to stand inside."""
    longest = max(map(len, names), default=0)
    if len(names) <= _FEW_NAMES and longest <= 24:
        return 0
    return 2 if longest <= 22 else 1


def inside(legend: Legend) -> None:
    """Layouts need not search the best place of a legend inside the axes: wherever it is, it does not stick out."""
    legend.set_in_layout(False)


def legend_of_names(ax: Axes, title: str | None = None) -> None:
    """A legend where there is room: inside for a few short names, else below the axes; of very many, twelve of them."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    if len(labels) > _MOST_NAMES:
        some = np.linspace(0, len(labels) - 1, _MOST_NAMES).round().astype(int)
        handles, labels = [handles[index] for index in some], [labels[index] for index in some]
    columns = legend_columns(labels)
    if not columns:
        inside(ax.legend(handles, labels, title=title, framealpha=0.7, frameon=True, edgecolor="none"))
        return
    below = ax.transAxes + matplotlib.transforms.ScaledTranslation(0, -38 / 72, ax.figure.dpi_scale_trans)
    where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.1, 0.0), "bbox_transform": below}
    size = 9.0 if len(labels) <= 8 else 7.5
    ax.legend(handles, labels, title=title, fontsize=size, ncols=columns, borderaxespad=0.2, **where)


def finish(
    ax: Axes,
    values: Sequence[Array],
    drawn: Sequence[Array],
    logarithmic: bool = False,
    zero_is_drawn: bool = False,
    title: str | None = None,
) -> None:
    """Scale, legend, and words in the middle if there is nothing to see of the values in what is drawn."""
    every = np.concatenate([np.zeros(0), *map(np.ravel, drawn)])
    if logarithmic:
        log_axis(ax, every)
    seen = np.isfinite(every) if logarithmic or zero_is_drawn else np.isfinite(every) & (every != 0)
    if not seen.any():
        say(ax, why_empty(np.concatenate([np.zeros(0), *map(np.ravel, values)])))
    legend_of_names(ax, title)


@functools.lru_cache(maxsize=8)
def _glyphs(families: tuple[str, ...], sans: tuple[str, ...]) -> frozenset[int]:
    """Code points that the fonts in use can draw; matplotlib looks through all of them for each character."""
    installed = set(font_manager.get_font_names())
    names = [name for family in families for name in (sans if family == "sans-serif" else (family,))]
    used = [name for name in names if name in installed] or ["DejaVu Sans"]
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in used)
    return frozenset().union(*(font.get_charmap() for font in fonts))
