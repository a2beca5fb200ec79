"""Pictures of a report with the words that go with them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpref.coloring import TrialColoring
from kpref.plots import plot_legend_of_trials

__all__ = ["Exhibit", "Panel", "draw_panel", "legend_panel"]

_SIZE = (4.9, 3.5)  # inches: three fit beside each other on a desk, one fills the width of a phone, readable on both


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture.

    Attributes
    ----------
    name : str
        Of its file.
    png : bytes
    description : str
        In words, for those who do not see it.
    """

    name: str
    png: bytes
    description: str


@dataclass(frozen=True, eq=False)
class Exhibit:
    """Pictures that belong together.

    Attributes
    ----------
    section : str
        Of the page: "outputs", "modes", "spectra", "dimensions", "stability", "alignments", "shares", "steps",
        "changes" or "check".
    title : str
    caption : str
        How to read them.
    panels : tuple of Panel
    """

    section: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


def legend_panel(coloring: TrialColoring, name: str) -> Panel:
    """The colours of the trials, as a picture of its own."""
    return draw_panel(
        name, f"colours of the trials: {coloring.name}", lambda axes: plot_legend_of_trials(axes, coloring), (4.9, 0.8)
    )


def draw_panel(name: str, description: str, draw: Callable[[Axes], object], size: tuple[float, float] = _SIZE) -> Panel:
    """Draw on the axes of a new figure, and keep it as PNG."""
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return Panel(f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}.png", file.getvalue(), description)
