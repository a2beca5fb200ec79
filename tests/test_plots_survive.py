"""Every public function of `kpref.plots` on data without a place on its axes: it draws, clips no text, and says so."""

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from kpref import plots
from kpref.analysis.exhibits import SIZE, fit_axes, key_panel, size_with_names
from kpref.plots.style import plain, plain_names, why_empty
from kpref.spectra import SpectralDensity
from kpref.trials import Trials
from tests.conftest import PROFILE

B, T, H = 5, 7, 3


def coloring(trials=B, steps=T, labels=None):
    inputs = np.random.default_rng(1).normal(size=(trials, steps, 2))
    return plots.color_trials(Trials(inputs, labels=labels))


#: name: draws on `ax` numbers that `numbers(*shape)` gives, curves under the names given.
DRAWERS = {
    "plot_spectrum": lambda numbers, names, ax: plots.plot_spectrum(
        [(name, numbers(6)) for name in names], dimensions=[2.0, np.nan][: len(names)], ax=ax
    ),
    "plot_spectral_density": lambda numbers, names, ax: plots.plot_spectral_density(
        [(name, SpectralDensity(*(numbers(6) for _ in range(4)), 0.95, 6, 4, 1)) for name in names], ax=ax
    ),
    "plot_cumulative": lambda numbers, names, ax: plots.plot_cumulative([(name, numbers(6)) for name in names], ax=ax),
    "plot_errors": lambda numbers, names, ax: plots.plot_errors(
        [(name, numbers(6), numbers(6)) for name in names], level=10.0, ax=ax
    ),
    "plot_angles": lambda numbers, names, ax: plots.plot_angles([(name, numbers(6)) for name in names], ax=ax),
    "plot_modes_over_time": lambda numbers, names, ax: plots.plot_modes_over_time(
        numbers(2, B, T, H), numbers(2), ax=ax
    ),
    "plot_parts": lambda numbers, names, ax: plots.plot_parts(numbers(4, len(names)), names, ax),
    "plot_dimension_against_training": lambda numbers, names, ax: plots.plot_dimension_against_training(
        names, [("K", numbers(len(names)), numbers(len(names))), ("NTK", numbers(len(names)), numbers(2, len(names)))],
        ax=ax,
    ),
    "plot_alignment_matrix": lambda numbers, names, ax: plots.plot_alignment_matrix(
        numbers(len(names), len(names)), names, numbers(len(names), len(names)), ax
    ),
    "plot_exponents": lambda numbers, names, ax: plots.plot_exponents([(name, numbers(B, 4)) for name in names], ax=ax),
    "plot_running_exponents": lambda numbers, names, ax: plots.plot_running_exponents(
        np.arange(1, T + 1), numbers(T, 4), ax=ax
    ),
    "plot_growth": lambda numbers, names, ax: plots.plot_growth([(name, numbers(B, T)) for name in names], ax=ax),
    "plot_lazy_or_rich": lambda numbers, names, ax: plots.plot_lazy_or_rich(
        [(name, np.arange(T), numbers(T), numbers(T)) for name in names], ax=ax
    ),
    "plot_trial_norms": lambda numbers, names, ax: plots.plot_trial_norms(
        [(name, numbers(B)) for name in names], ax=ax
    ),
    "plot_trials": lambda numbers, names, ax: plots.plot_trials(
        numbers(B, T), coloring(labels=[0, 0, 1, 1, 2]), ax=ax
    ),
    "plot_change": lambda numbers, names, ax: plots.plot_change(numbers(B, T), ax=ax),
    "plot_outputs": lambda numbers, names, ax: plots.plot_outputs(numbers(B, T), numbers(B, T), coloring(), ax=ax),
    "plot_channels": lambda numbers, names, ax: plots.plot_channels(numbers(T, len(names)), names, ax=ax),
}  # fmt: skip


def alternating(*shape):
    """Numbers that are fine, and among them all the others."""
    found = np.random.default_rng(0).normal(size=shape)
    odd = [0.0, np.nan, np.inf, -np.inf, 1e300, 1e-310, -1e300, 1e-199]
    found.flat[::2] = np.resize(odd, found.flat[::2].shape)
    return found


NUMBERS = {
    "zero": (lambda *shape: np.zeros(shape), "all zero"),
    "equal": (lambda *shape: np.full(shape, 0.5), ""),
    "negative": (lambda *shape: np.full(shape, -2.0), "none positive"),
    "not finite": (lambda *shape: np.resize([np.nan, np.inf, -np.inf], shape), "none finite"),
    "huge": (lambda *shape: np.full(shape, 1e199), ""),
    "mixed": (alternating, ""),
}

#: Those whose axis has a place for negative numbers.
LINEAR = {
    "plot_cumulative", "plot_angles", "plot_modes_over_time", "plot_alignment_matrix", "plot_exponents",
    "plot_running_exponents", "plot_growth", "plot_trials", "plot_change", "plot_outputs", "plot_channels",
}  # fmt: skip


def drawn(draw, size=SIZE):
    """The axes after they were drawn, in the style of a report, with every warning an error."""
    with warnings.catch_warnings(), matplotlib.rc_context({**plots.STYLE, "figure.dpi": 60}):
        warnings.simplefilter("error")
        figure = Figure(figsize=size)
        figure.set_layout_engine("none")
        ax = figure.add_subplot()
        assert draw(ax) is ax
        fit_axes(figure)
        FigureCanvasAgg(figure).draw()
    return ax


def clipped(ax):
    """Texts that reach over the edge of the picture by more than the pixel that hinting may move them."""
    figure = ax.figure
    whole = figure.bbox
    over = []
    for text in figure.findobj(Text):
        if not (text.get_text().strip() and text.get_visible() and _shown(text, ax)):
            continue
        box = text.get_window_extent()
        if box.x0 < whole.x0 - 1 or box.y0 < whole.y0 - 1 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1:
            over.append(text.get_text())
    return over


def _shown(text, ax):
    """Labels of ticks outside the limits are not drawn, though they exist, nor is what belongs to a hidden axis."""
    for axes in ax.figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if not axis.get_visible() and text in axis.findobj(Text):
                return False
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if text in (tick.label1, tick.label2):
                    return min(limits) <= tick.get_loc() <= max(limits)
    return True


def words(ax):
    legend = [] if ax.get_legend() is None else ax.get_legend().get_texts()
    return " | ".join(text.get_text() for text in [*ax.texts, *legend])


def test_every_public_function_is_here():
    public = {name for name in plots.__all__ if name.startswith(("plot_", "shade_"))}
    # What kpref.fixed_points returns is finite: its figure is tested with it.
    assert public == {*DRAWERS, "plot_fixed_points", "plot_legend_of_trials", "shade_unscored"}


@pytest.mark.parametrize(
    "name, kind",
    [
        (name, kind)
        for row, name in enumerate(DRAWERS)
        for column, kind in enumerate(NUMBERS)
        if PROFILE == "thorough" or (row + column) % 3 == 0
    ],
)
def test_any_numbers(name, kind):
    numbers, expected = NUMBERS[kind]
    ax = drawn(lambda ax: DRAWERS[name](numbers, ["before", "after"], ax))
    assert not clipped(ax)
    if (kind == "negative" and name in LINEAR) or (name, kind) == ("plot_angles", "zero"):
        return
    if name == "plot_alignment_matrix" and kind == "zero":
        assert "0.00" in words(ax)
        return
    assert expected in words(ax)


NAMES = {
    "long": ["a_run_of_the_whole_summer_with_" + 6 * "many_words_" + f"{n:05d}" for n in (0, 1500)],
    "odd": ["模型_früh", "a$b$c_$\\frac{$", "$", "_hidden", "", "two\nlines\tand a tab", "_hidden"],
    "one": ["only"],
    "many": [f"checkpoint_{n:05d}" for n in range(25)],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    "name", ["plot_spectrum", "plot_dimension_against_training", "plot_trial_norms", "plot_channels"]
)
def test_any_names(name, kind):
    names = NAMES[kind]
    ax = drawn(lambda ax: DRAWERS[name](lambda *shape: np.ones(shape), names, ax), size_with_names(names))
    assert not clipped(ax)


@pytest.mark.parametrize("kind", ["long", "odd"])
def test_any_names_beside_a_matrix(kind):
    names = [f"{symbol}\n{name}" for symbol in ("K", "NTK") for name in NAMES[kind][:2]]
    assert not clipped(drawn(lambda ax: plots.plot_alignment_matrix(np.eye(4), names, ax=ax), (SIZE[0], 4.0)))


def test_names_stay_different():
    for names in NAMES.values():
        assert len(set(plain_names(names))) == len(names)
    assert plain_names(["x" * 100 + "a" + "x" * 100, "x" * 100 + "b" + "x" * 100])[0].endswith(" #1")
    assert plain("模型") == "\\u6a21\\u578b"
    assert plain("a$b") == "a\\$b"
    assert not plain("_hidden").startswith("_")


SHAPES = {"one trial": (1, T), "one step": (B, 1), "one of each": (1, 1), "many trials": (1000, 12)}


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("kind", SHAPES)
def test_any_number_of_trials_and_steps(kind, labels):
    trials, steps = SHAPES[kind]
    colors = coloring(trials, steps, labels and np.arange(trials) % labels)
    values = np.random.default_rng(0).normal(size=(trials, steps))
    ax = drawn(lambda ax: plots.plot_trials(values, colors, ax=ax))
    assert not clipped(ax)
    # A single point has no line through it: it is drawn as one, and so is the mean of each class if there are several.
    dots = sum(len(found.get_offsets()) for found in ax.collections if isinstance(found, PathCollection))
    means = len(colors.categories) if len(colors.categories) > 1 else 0
    assert dots == (trials + means if steps == 1 else 0)
    assert not clipped(drawn(lambda ax: plots.plot_legend_of_trials(colors, ax), (SIZE[0], 0.8)))


@pytest.mark.parametrize("kind", SHAPES)
def test_any_shape(kind):
    trials, steps = SHAPES[kind]
    values = np.random.default_rng(0).normal(size=(trials, steps))
    for draw in (
        lambda ax: plots.plot_outputs(values, values, coloring(trials, steps), ax=ax),
        lambda ax: plots.plot_change(values, ax=ax),
        lambda ax: plots.plot_growth([("a", values)], ax=ax),
        lambda ax: plots.plot_exponents([("a", values)], ax=ax),
        lambda ax: plots.plot_trial_norms([("a", np.exp(values[:, 0]))], ax=ax),
        lambda ax: plots.plot_channels(values[:20].T, [f"channel {n}" for n in range(min(20, trials))], ax=ax),
        lambda ax: plots.plot_modes_over_time(values[None, :, :, None], ax=ax),
        lambda ax: plots.plot_running_exponents(np.arange(1, trials + 1), values, ax=ax),
        lambda ax: plots.shade_unscored(np.abs(values) > 1, ax=ax),
    ):
        assert not clipped(drawn(draw))


def test_conditions_of_any_names():
    names = np.array(["a rather long name"] * 2 + ["模型", "$", "_x", "b" * 90])
    colors = plots.color_trials(Trials(np.random.default_rng(1).normal(size=(6, 3, 2)), conditions=names))
    assert colors.name == "condition"
    assert len(colors.categories) == 5
    panel = key_panel(colors, "key")
    ax = drawn(lambda ax: plots.plot_legend_of_trials(colors, ax), panel.size)
    assert not clipped(ax)
    assert len({tick.get_text() for tick in ax.get_xticklabels()}) == 5


def test_lines_end_with_their_trials_and_heat_maps_hatch_what_is_not_there():
    values = np.ones((3, 4))
    values[0, 1:] = values[1, 2:] = np.nan
    ax = drawn(lambda ax: plots.plot_trials(values, coloring(3, 4), ax=ax))
    ends = sorted(np.isfinite(segment[:, 1]).sum() for segment in ax.collections[0].get_segments())
    assert ends == [1, 2, 4]
    (dot,) = ax.collections[1].get_offsets()  # the trial of one step
    np.testing.assert_array_equal(dot, [1, 1])
    ax = drawn(lambda ax: plots.plot_change(values, ax=ax))
    assert ax.patch.get_hatch()
    assert not drawn(lambda ax: plots.plot_change(np.ones((3, 4)), ax=ax)).patch.get_hatch()


@pytest.mark.parametrize("channels", [2, 13])
def test_channels_of_a_trial_that_ends_early(channels):
    values = np.ones((6, channels))
    values[4:] = np.nan
    names = [f"channel {n}" for n in range(channels)]
    weights = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    ax = drawn(lambda ax: plots.plot_channels(values, names, weights, [-2.0, 2.0], ax=ax))
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    if channels > 12:  # a heat map, which is hatched where it has no pixels
        assert ax.patch.get_hatch()
        assert ax.images[0].get_clim() == (-2, 2)
        return
    assert [(patch.get_x(), patch.get_width()) for patch in hatched] == [(4.5, 1.5)]
    assert [patch.get_x() for patch in ax.patches if not patch.get_hatch()] == [0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    # Lines of ones, in rows that have room for -2 to 2: half a unit above the ground of each row.
    grounds = ax.get_yticks()
    assert (np.diff(grounds) < -2).all()
    lines = [line for line in ax.lines if len(line.get_ydata()) == 6 and line.get_linestyle() == "-"]  # no ticks
    assert [line.get_ydata()[0] for line in lines] == list(grounds + 0.5)


def test_class_means_are_those_of_the_trials_that_go_on():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]])
    ax = drawn(lambda ax: plots.plot_trials(values, coloring(3, 2, np.array([0, 0, 1])), ax=ax))
    assert any(np.array_equal(line.get_ydata(), [2.0, 2.0]) for line in ax.lines)


def test_unscored_steps_are_shaded():
    weights = np.ones((3, 6))
    weights[:, 1:3] = weights[:, 5] = weights[0, 0] = 0.0
    ax = drawn(lambda ax: plots.shade_unscored(weights, ax=ax))
    assert [(patch.get_x(), patch.get_width()) for patch in ax.patches] == [(1.5, 2.0), (5.5, 1.0)]


@pytest.mark.parametrize(
    "values, said",
    [([], "no data"), ([0, 0], "all zero"), ([np.nan], "none finite"), ([1e250, -1], "none positive"),
     ([0, np.inf], "all zero")],
)  # fmt: skip
def test_words_for_what_is_not_there(values, said):
    assert why_empty(values) == said


@pytest.mark.parametrize("largest", [0.97, 9.7])
def test_ticks_that_change_with_the_size_have_room(largest):
    """Where there is room for nine of them there are more, with longer numbers: 0.75 beside 1.00, not 0.5 and 1.0."""
    values = largest * np.where(np.arange(B)[:, None] % 2, -1.0, 1.0) * np.ones(T)
    ax = drawn(lambda ax: plots.plot_outputs(values, values, coloring(), "output 2", ax=ax), (SIZE[0], 3.3))
    label = next(text for text in ax.findobj(Text) if text.get_text() == "output 2" and _shown(text, ax))
    assert label.get_window_extent().x0 >= 0
    assert not clipped(ax)
