"""Pictures of a report with the words that go with them."""

from __future__ import annotations

import functools
import io
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from kpref.analysis.axes_as_text import fit_axes
from kpref.coloring import TrialColoring
from kpref.plots import STYLE, plot_legend_of_trials
from kpref.plots.style import legend_columns, plain_names

__all__ = ["KINDS", "SIZE", "Exhibit", "Panel", "exhibit", "fit_axes", "key_panel", "size_with_names", "with_own_names"]

#: File formats of figures, and what makes the same picture the same file.
KINDS = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
#: Inches: three fit beside each other on a desk, one fills the width of a phone, readable on both.
SIZE = (4.4, 3.15)
_LONGEST_FILE_NAME = 80
#: Of PNG files: at 6, as usual, it takes half again as long for files that are smaller by a tenth.
_COMPRESSION = 3


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture, drawn when it is asked for."""

    name: str  # of its file, without the suffix
    description: str  # in words, for those who do not see it
    draw: Callable[[Axes], object]  # draws on the axes it is given
    size: tuple[float, float] = SIZE  # in inches
    letter: str = ""  # by which captions call it; empty for keys of colours, which belong to all panels of an exhibit

    @functools.cached_property
    def png(self) -> bytes:
        """The picture as PNG."""
        return self.picture("png")

    def picture(self, kind: str) -> bytes:
        """The picture as "png", "svg" or "pdf"."""
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            figure = Figure(figsize=self.size)
            figure.set_layout_engine("none")
            self.draw(figure.add_subplot())
            fit_axes(figure)
            file = io.BytesIO()
            if kind == "png":
                _save_pixels(figure, file)
            else:
                figure.savefig(file, format=kind, metadata=KINDS[kind])
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Exhibit:
    """Pictures that belong together."""

    # of the page: "outputs", "modes", "spectra", "dimensions", "stability", "points", "alignments", "shares", "steps",
    # "changes" or "check"
    section: str
    title: str
    caption: str  # how to read them
    panels: tuple[Panel, ...]


def _save_pixels(figure: Figure, file: io.BytesIO) -> None:
    """Draw once, where `savefig` draws twice, and keep three colours of a picture that nothing shines through."""
    canvas = FigureCanvasAgg(figure) if not isinstance(figure.canvas, FigureCanvasAgg) else figure.canvas
    canvas.draw()
    pixels = Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    pixels.save(file, "png", dpi=(figure.dpi, figure.dpi), compress_level=_COMPRESSION)


def exhibit(section: str, title: str, caption: str, panels: Sequence[Panel], key: Panel | None = None) -> Exhibit:
    """An exhibit whose panels are lettered A, B, C, ... where there are several, with a key of colours at the end."""
    several = len(panels) > 1
    lettered = [replace(panel, letter=_letter(index) if several else "") for index, panel in enumerate(panels)]
    return Exhibit(section, title, caption, (*lettered, *([] if key is None else [key])))


def size_with_names(names: Sequence[str]) -> tuple[float, float]:
    """Of a panel with these names in its legend: `SIZE`, and what a legend below the axes takes."""
    columns = legend_columns(plain_names(names))
    rows = -(-min(len(names) + 1, 13) // columns) if columns else 0
    return SIZE[0], SIZE[1] + (0.25 + 0.17 * rows if columns else 0.0)


def _letter(index: int) -> str:
    """A, ..., Z, AA, AB, ..."""
    before, last = divmod(index, 26)
    return (_letter(before - 1) if before else "") + string.ascii_uppercase[last]


def key_panel(coloring: TrialColoring, name: str) -> Panel:
    """The colours of the trials, as a picture of its own."""
    crowded = sum(map(len, coloring.category_names[:10])) > 40  # names are slanted then
    return Panel(
        name,
        f"colours of the trials: {coloring.name}",
        lambda ax: plot_legend_of_trials(coloring, ax),
        (SIZE[0], 1.4 if crowded else 0.8),
    )


def with_own_names(exhibits: Sequence[Exhibit]) -> list[Exhibit]:
    """The exhibits, names of their panels changed so that each is a file of its own on every file system.

    Letters, digits, dots, dashes and underscores, at most 80 of them, not the same up to upper and lower case.
    """
    taken: set[str] = set()

    def own(panel: Panel) -> Panel:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", panel.name)
        if len(stem) > _LONGEST_FILE_NAME:
            stem = f"{stem[:40]}_{stem[-(_LONGEST_FILE_NAME - 41) :]}"
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        return replace(panel, name=name)

    return [replace(shown, panels=tuple(own(panel) for panel in shown.panels)) for shown in exhibits]
