"""Axes written with few artists look as those that matplotlib writes, to the last pixel."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kpref import plots
from kpref.analysis import axes_as_text
from kpref.analysis.exhibits import Panel, fit_axes
from tests.test_plots_survive import DRAWERS, alternating

NAMES = ["untrained", "trained"]


def pixels(draw):
    with matplotlib.rc_context({**plots.STYLE, "figure.dpi": 60}):
        figure = Figure(figsize=(4.4, 3.15))
        figure.set_layout_engine("none")
        draw(figure.add_subplot())
        fit_axes(figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy(), figure


def both(draw, monkeypatch):
    """The pixels, those of matplotlib alone, and how many axes were written with few artists."""
    ours, figure = pixels(draw)
    simple = sum(not axis.get_visible() for ax in figure.axes for axis in (ax.xaxis, ax.yaxis))
    with monkeypatch.context() as patch:
        patch.setattr(axes_as_text, "_is_simple", lambda axis: False)
        alone, _ = pixels(draw)
    return ours, alone, simple


@pytest.mark.parametrize("name", DRAWERS)
def test_the_pictures_of_the_package_are_those_of_matplotlib(name, monkeypatch):
    ours, alone, _ = both(lambda ax: DRAWERS[name](alternating, NAMES, ax), monkeypatch)
    np.testing.assert_array_equal(ours, alone)


#: Draws on `ax`; the number of its axes, two or more, that are simple.
AXES = {
    "numbers": (lambda ax: ax.set(xlim=(-3, 7), ylim=(0.1, 0.2), xlabel="x", ylabel="y", title="title"), 2),
    "an offset": (lambda ax: ax.set(ylim=(1e-9, 2e-9), ylabel="y", title="title"), 1),
    "a short logarithm": (lambda ax: ax.set(xscale="log", xlim=(0.3, 40), xlabel="x"), 2),
    "names": (lambda ax: ax.set_xticks([0, 1], ["a name", "another"], rotation=30, ha="right"), 1),
    "ticks without length": (lambda ax: ax.tick_params(length=0), 2),
    "ticks with a style": (lambda ax: ax.tick_params(axis="x", labelsize=5), 1),
    "the other side": (lambda ax: (ax.yaxis.tick_right(), ax.yaxis.set_label_position("right"), ax.set_ylabel("y")), 1),
    "a grid": (lambda ax: ax.grid(True), 0),
    "upside down": (lambda ax: ax.set(ylim=(5, -1), xlim=(2, 1), ylabel="y"), 2),
    "hidden": (lambda ax: ax.xaxis.set_visible(False), 1),
    "no ticks": (lambda ax: ax.set(yticks=[], ylabel="y"), 2),
    "many wide numbers": (lambda ax: ax.set(ylim=(0, 1e5), xlim=(0, 1e5), ylabel="a long\nlabel"), 2),
    "a colour bar": (lambda ax: ax.figure.colorbar(ax.imshow(np.eye(3)), ax=ax, label="bar"), 3),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_written_as_matplotlib_writes_it_or_left_to_it(name, monkeypatch):
    draw, expected = AXES[name]
    ours, alone, simple = both(draw, monkeypatch)
    np.testing.assert_array_equal(ours, alone)
    hidden = name == "hidden"  # neither ours nor seen
    assert simple == expected + hidden


def test_a_picture_is_the_drawn_pixels_without_loss():
    def draw(ax):
        ax.plot([0, 3, 1], color="#d55e00")
        ax.set(xlabel="x", ylabel="y", title="title")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plots.STYLE, "figure.dpi", 60)
        png = Panel("p", "a line", draw, (4.4, 3.15)).png
    drawn, _ = pixels(draw)
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.info["dpi"] == pytest.approx((60, 60), abs=0.0254 / 2)  # a whole number of dots a metre
        np.testing.assert_array_equal(np.asarray(picture), drawn[..., :3])
    assert (drawn[..., 3] == 255).all()  # nothing shines through


def test_nothing_is_placed_in_dots():
    """Graphics for papers are drawn at another number of dots per inch."""
    _, figure = pixels(lambda ax: ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="x", ylabel="y"))
    before = in_inches(figure)
    figure.set_dpi(300)
    np.testing.assert_allclose(in_inches(figure), before, atol=1 / 60)  # hinting moves letters by a dot


def in_inches(figure):
    """Where the texts stand."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_in_layout() is False]
    assert len(texts) > 10
    return np.array([(text.get_window_extent().min + text.get_window_extent().max) / 2 for text in texts]) / figure.dpi
