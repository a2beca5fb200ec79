"""What the figures show: the data that go in are the data on the axes, and everything is labelled."""

import doctest
import importlib

import matplotlib
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kpref import plots
from kpref.analysis.wording import number
from kpref.coloring import color_trials
from kpref.spectra import SpectralDensity
from kpref.trials import Trials

B, T = 6, 5
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(B, T, 2))
ANGLES = np.array([10.0, 350.0, 200.0, 90.0, 45.0, 135.0])


@pytest.fixture
def axes():
    return Figure(layout="constrained").add_subplot()


@pytest.fixture
def by_label():
    return color_trials(Trials(INPUTS, labels=np.array([0, 1, 2, 0, 1, 2])))


@pytest.fixture
def by_angle():
    radians = np.radians(ANGLES)
    targets = np.zeros((B, T, 3))
    targets[:, -1] = np.stack([np.zeros(B), np.cos(radians), np.sin(radians)], axis=1)
    return color_trials(Trials(INPUTS, targets))


def labelled(axes):
    FigureCanvasAgg(axes.figure).draw()  # nothing may fail when it is really drawn
    return bool(axes.get_xlabel() and axes.get_ylabel())


def test_angle_is_recognised(by_angle):
    np.testing.assert_allclose(by_angle.values, ANGLES, atol=1e-10)
    assert by_angle.name == "angle of the target (degrees)"
    np.testing.assert_allclose(by_angle.color(0.0), by_angle.color(360.0), atol=0.02)  # it is cyclic
    np.testing.assert_array_equal(ANGLES[by_angle.order], np.sort(ANGLES))


def test_labels_have_colours_of_their_own(by_label):
    assert by_label.categories == (0, 1, 2)
    assert len({tuple(color) for color in by_label.colors}) == 3
    np.testing.assert_array_equal(by_label.colors[0], by_label.colors[3])


def test_many_labels_and_other_trials():
    many = color_trials(Trials(INPUTS, labels=np.array([0, 30, 2, 3, 4, 5])))
    assert len({tuple(color) for color in many.colors}) == B
    principal = color_trials(Trials(INPUTS))
    assert principal.name == "first principal component of the inputs"
    flat = (INPUTS - INPUTS.mean(axis=0)).reshape(B, -1)
    # The variance along the first principal component is the largest eigenvalue of the Gram matrix.
    assert np.sum(principal.values**2) == pytest.approx(np.linalg.eigvalsh(flat @ flat.T)[-1])


def test_trials_that_do_not_differ_have_a_colour():
    coloring = color_trials(Trials(np.ones((3, 4, 2))))
    assert np.isfinite(coloring.colors).all()
    assert color_trials(Trials(np.ones((1, 1, 1)))).colors.shape == (1, 4)


def luminance(color):
    """Relative luminance of the sRGB standard."""
    red, green, blue = np.asarray(matplotlib.colors.to_rgb(color))
    linear = np.where((c := np.array([red, green, blue])) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("coloring", ["by_label", "by_angle"])
def test_colours_show_on_white(coloring, request):
    coloring = request.getfixturevalue(coloring)
    low, high = coloring.limits
    # White has luminance 1; 0.65 is a contrast of 1.5 to it, the least that a line of one point needs to be seen.
    assert max(luminance(color[:3]) for color in coloring.color(np.linspace(low, high, 50))) < 0.65


def test_checkpoint_colours():
    assert len(set(plots.checkpoint_colors(2))) == 2
    assert plots.checkpoint_colors(1) == plots.checkpoint_colors(2)[1:]
    assert len({tuple(color) for color in plots.checkpoint_colors(11)}) == 11


def test_trials_are_one_line_each(axes, by_angle):
    amplitude = RNG.normal(size=(B, T))
    assert plots.plot_trials(amplitude, by_angle, "amplitude", ax=axes) is axes
    (lines,) = axes.collections
    for segment, trial in zip(lines.get_segments(), by_angle.order, strict=True):
        np.testing.assert_array_equal(segment, np.stack([np.arange(1, T + 1), amplitude[trial]], axis=1))
    low, high = axes.get_ylim()
    assert low < amplitude.min() < amplitude.max() < high
    assert labelled(axes)


def test_times_are_the_horizontal_axis(axes, by_angle):
    times, values = 0.1 * np.arange(T), RNG.normal(size=(B, T))
    plots.plot_trials(values, by_angle, "amplitude", times, axes)
    np.testing.assert_array_equal(axes.collections[0].get_segments()[0][:, 0], times)
    assert axes.get_xlabel() == "time"
    plots.plot_outputs(values, values, by_angle, "output", times, axes)
    np.testing.assert_array_equal(axes.lines[-1].get_xdata(), times)
    plots.plot_change(values, 1.0, times=times, ax=axes)
    # A column of pixels is centred at its time.
    np.testing.assert_allclose(axes.images[-1].get_extent()[:2], (-0.05, times[-1] + 0.05), atol=1e-15)
    plots.plot_change(values, 1.0, ax=axes)
    assert axes.get_xlabel() == "time step"
    np.testing.assert_allclose(axes.images[-1].get_extent()[:2], (0.5, T + 0.5))


def test_class_means_are_drawn(axes, by_label):
    amplitude = RNG.normal(size=(B, T))
    plots.plot_trials(amplitude, by_label, "amplitude", ax=axes)
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == T]
    for category in by_label.categories:
        mean = amplitude[by_label.values == category].mean(axis=0)
        assert any(np.array_equal(mean, line) for line in drawn)


@pytest.mark.parametrize("length, scale", [(10, "linear"), (500, "log")])
def test_spectrum(axes, length, scale):
    values = np.sort(RNG.random(length))[::-1]
    values[-1] = 0.0
    plots.plot_spectrum([("a", values), ("b", values / 2)], "eigenvalue", ax=axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), values[:-1])  # zero has no place on the axis
    assert (axes.get_xscale(), axes.get_yscale()) == (scale, "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert labelled(axes)


@pytest.mark.parametrize("decades, ends", [(3, ("0.01", "1")), (12, ("10⁻¹⁰", "1")), (9, ("10⁻⁸", "1"))])
def test_long_logarithmic_axes_have_ticks_at_powers_of_ten_alone_in_plain_text(axes, decades, ends):
    values = np.logspace(0, -decades, 500)
    plots.plot_spectrum([("a", values)], "eigenvalue", ax=axes)
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    drawn = [text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
    assert set(ends) <= {text.replace("10⁰", "1") for text in drawn}
    assert not any("$" in text for text in drawn)
    assert (len(axes.get_yticks(minor=True)) == 0) == (decades >= 6)
    across = [text.get_text() for text in axes.get_xticklabels() if 1 <= text.get_position()[0] <= 500]
    assert across == ["1", "10", "100"]


def test_spectral_densities_are_drawn_with_their_bands(axes):
    arrays = np.array([0.1, 1.0, 10.0]), np.array([40.0, 8.5, 0.0]), np.array([30, 7, 0]), np.array([50, 9, 2])
    density = SpectralDensity(*arrays, 0.95, 60, 16, 1)
    plots.plot_spectral_density([("a", density), ("b", density)], ax=axes)
    drawn = axes.lines[0].get_ydata()
    np.testing.assert_array_equal(drawn[:2], [40.0, 8.5])
    assert np.isnan(drawn[2])  # no eigenvalue has no place on the axis, and the band goes down to its end
    band = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices}
    assert {(0.1, 30), (0.1, 50), (1, 7), (1, 9), (10, 2), (10, 0.5)} <= band
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert labelled(axes)
    both = SpectralDensity(np.array([-1.0, 1.0]), *(each[:2] for each in arrays[1:]), 0.95, 60, 16, 1)
    assert plots.plot_spectral_density([("a", both)]).get_xscale() == "linear"


def test_cumulative(axes):
    plots.plot_cumulative([("a", np.array([0.5, 0.25]))], "share (%)", ax=axes)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 50, 75])
    assert labelled(axes)


def test_errors_have_a_guide_of_slope_2(axes):
    sizes = np.array([1.0, 0.1, 0.01])
    plots.plot_errors([("a", sizes, 3 * sizes**2), ("b", sizes, np.zeros(3))], "error", "η", ax=axes)
    x, y = axes.lines[-1].get_data()
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(2.0)
    assert labelled(axes)


def test_change(axes):
    change = RNG.normal(size=(B, T))
    plots.plot_change(change, 2.0, ax=axes)
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), change)
    assert image.get_clim() == (-2.0, 2.0)
    assert labelled(axes)


def test_outputs(axes, by_angle):
    outputs, targets = RNG.normal(size=(2, B, T))
    plots.plot_outputs(outputs, targets, by_angle, "output 1", ax=axes)
    assert len(axes.lines) == 2 * B
    np.testing.assert_array_equal(axes.lines[B].get_ydata(), targets[by_angle.order[0]])
    assert labelled(axes)


@pytest.mark.parametrize("coloring", ["by_label", "by_angle"])
def test_legend_of_trials(axes, coloring, request):
    coloring = request.getfixturevalue(coloring)
    plots.plot_legend_of_trials(coloring, axes)
    FigureCanvasAgg(axes.figure).draw()
    texts = [tick.get_text() for tick in axes.get_xticklabels()]
    assert texts == (["0", "1", "2"] if coloring.categories else ["0", "90", "180", "270", "360"])
    assert coloring.name in axes.get_xlabel()


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (0.031623, "0.0316"),
        (0.00059706, "0.000597"),
        (9.9999, "10.0"),
        (-0.15292, "−0.153"),
        (169335.0, "169,000"),
        (1110.2, "1,110"),
        (2.14e-14, "2.14×10⁻¹⁴"),
        (-3e20, "−3.00×10²⁰"),
        (np.inf, "∞"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


# The metrics


def test_modes_over_time(axes):
    modes = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    assert plots.plot_modes_over_time(modes, np.array([2.0, 1.0]), ax=axes) is axes
    expected = np.sqrt(np.mean(np.sum(modes[1] ** 2, axis=-1), axis=0))
    np.testing.assert_allclose(axes.lines[1].get_ydata(), expected)
    assert labelled(axes)


def test_shares_in_parts_of_the_state(axes):
    assert plots.plot_parts([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]], ["h", "c"], axes) is axes
    h, c = axes.containers
    np.testing.assert_allclose([bar.get_height() for bar in h], [75.0, 0.0, 0.0])
    np.testing.assert_allclose([bar.get_height() for bar in c], [25.0, 100.0, 0.0])
    np.testing.assert_allclose([bar.get_y() for bar in c], [75.0, 0.0, 0.0])
    assert labelled(axes)


def test_dimension_against_training(axes):
    values, errors = np.array([3.0, 40.0, 0.0]), np.array([0.1, 2.0, 0.0])
    curves = [("K", values, errors), ("NTK", np.full(3, np.nan), errors)]
    assert plots.plot_dimension_against_training(["a", "b", "c"], curves, ax=axes) is axes
    np.testing.assert_array_equal(axes.containers[0].lines[0].get_ydata(), values[:2])
    (bars,) = axes.containers[0].lines[2]
    np.testing.assert_allclose(bars.get_segments()[1][:, 1], [38.0, 42.0])
    assert labelled(axes)
    other = Figure().add_subplot()
    plots.plot_dimension_against_training([0, 1500], [("K", np.array([3.0, 2.0]), np.zeros(2))], ax=other)
    np.testing.assert_array_equal(other.containers[0].lines[0].get_xdata(), [0, 1500])
    assert other.get_xlabel() == "training iteration"


def test_dimension_of_zero_operators(axes):
    plots.plot_dimension_against_training(["only"], [("K", np.zeros(1), np.zeros(1))], ax=axes)
    assert labelled(axes)


def test_alignment_matrix(axes):
    values = np.array([[1.0, -0.25], [-0.004, np.nan]])
    assert plots.plot_alignment_matrix(values, ["a", "b"], np.array([[0, 0.02], [0, 0]]), axes) is axes
    (image,) = axes.images
    assert image.get_clim() == (-1.0, 1.0)
    assert [text.get_text() for text in axes.texts] == ["1.00", "−0.25\n±0.02", "0.00", "–"]
    middle = image.cmap(image.norm(0.0))[:3]
    assert min(middle) > 0.95  # white at zero
    FigureCanvasAgg(axes.figure).draw()
    large = Figure().add_subplot()
    plots.plot_alignment_matrix(np.eye(20), [str(label) for label in range(20)], ax=large)
    assert not large.texts


@pytest.mark.parametrize("shape", [(1, 1), (6, 4)])
def test_exponents(axes, shape):
    values = np.random.default_rng(0).normal(size=shape)
    assert plots.plot_exponents([("a", values)], ax=axes) is axes
    ordered = np.sort(values, axis=1)[:, ::-1]
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), np.median(ordered, axis=0))
    assert labelled(axes)


def test_infinite_exponents(axes):
    values = np.array([[-np.inf, -1.0], [-2.0, -np.inf]])
    plots.plot_exponents([("singular", values), ("all", np.full((2, 2), -np.inf))], ax=axes)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [-1.5])
    assert labelled(axes)


def test_running_exponents(axes):
    running = np.random.default_rng(0).normal(size=(4, 3))
    assert plots.plot_running_exponents(np.array([1, 2, 4, 8]), running, ax=axes) is axes
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), running[:, 2])
    assert labelled(axes)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7)])
def test_growth(axes, shape):
    values = np.random.default_rng(0).normal(size=shape)
    assert plots.plot_growth([("a", values)], ax=axes) is axes
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), np.median(values, axis=0))
    np.testing.assert_array_equal(axes.lines[-1].get_xdata(), np.arange(1, shape[1] + 1))
    assert labelled(axes)


def test_growth_of_a_singular_map(axes):
    plots.plot_growth([("dead", np.full((2, 3), -np.inf))], times=0.1 * np.arange(3), ax=axes)
    assert axes.get_xlabel() == "time"
    assert labelled(axes)


def test_trial_norms(axes):
    assert plots.plot_trial_norms([("a", np.array([1.0, 3.0, 2.0])), ("zero", np.zeros(1))], ax=axes) is axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets()[:, 1], [1.0, 3.0, 2.0])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2.0, 2.0])
    assert labelled(axes)


def test_spectrum_marks_the_effective_dimension(axes):
    spectra = [("a", np.array([3.0, 2.0, 1.0])), ("zero", np.zeros(3))]
    assert plots.plot_spectrum(spectra, dimensions=[2.6, 0.0], ax=axes) is axes
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [2.6]
    assert labelled(axes)


def test_new_axes_if_none_are_given():
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    made = plots.plot_growth([("a", np.zeros((2, 3)))])
    assert labelled(made)
    assert labelled(plots.plot_spectrum([("a", np.ones(3))]))
    pyplot.close("all")


@pytest.mark.parametrize("module", ["__init__", "channels", "curves", "style", "summaries", "trials_over_time"])
def test_examples_of_docstrings(module):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    name = "kpref.plots" if module == "__init__" else f"kpref.plots.{module}"
    failed, tried = doctest.testmod(importlib.import_module(name))
    pyplot.close("all")
    assert (failed, tried > 0) == (0, True)
