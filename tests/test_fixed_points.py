"""Fixed and slow points: normal forms and linear networks in closed form, networks by what they do to their points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from strategies import SEEDS, examples

import kpref
from kpref import Flow, fixed_points, models
from kpref.differences import complex_step, finite_difference
from kpref.equilibria.jacobians import state_jacobians
from kpref.equilibria.points import unique_states
from kpref.equilibria.solver import ROOT, UNSETTLED, descend
from kpref.models.registry import registered

EPS = np.finfo(float).eps
NETWORKS = [(name, index) for name, known in registered().items() for index in range(len(known.variants))]


def network(name, index, n_units=4, gain=1.0):
    known = registered()[name]
    return known.init(2, n_units, 3, gain, **known.variants[index])


def speed(model, z, x):
    value = model.evaluate(z, np.broadcast_to(x, (len(z), model.n_inputs)))
    return np.linalg.norm(value - z if isinstance(model, models.Map) else value, axis=1)


@pytest.mark.parametrize("name, index", NETWORKS)
def test_jacobian_written_out(name, index):
    model = network(name, index)
    rng = np.random.default_rng(index)
    z, x = rng.normal(size=(3, model.n_states)), rng.normal(size=(3, model.n_inputs))
    columns = [
        complex_step(lambda moved: model.evaluate(moved, x), z, np.broadcast_to(direction, z.shape))
        for direction in np.eye(model.n_states)
    ]
    wanted = np.stack(columns, axis=-1)
    # Sums of at most 2 S terms in two orders, of numbers of the size of the largest entry.
    bound = 8 * model.n_states * EPS * max(1.0, np.abs(wanted).max())
    assert np.abs(state_jacobians(model, z, x) - wanted).max() <= bound


# Off criticality at a distance r: roots of the normal form, whether stable.
@pytest.mark.parametrize(
    "model, roots, kinds",
    [
        (models.SaddleNode(-0.25), [-0.5, 0.5], ["stable", "unstable"]),
        (models.Transcritical(0.3), [0.3, 0.0], ["stable", "unstable"]),
        (models.Transcritical(-0.3), [0.0, -0.3], ["stable", "unstable"]),
        (models.Pitchfork(0.49), [-0.7, 0.7, 0.0], ["stable", "stable", "unstable"]),
        (models.Pitchfork(-0.49), [0.0], ["stable"]),
    ],
)
def test_normal_forms(model, roots, kinds):
    found = fixed_points(model, starts=np.linspace(-2, 2, 23)[:, None])
    assert found.kinds == kinds
    assert np.abs(found.points[:, 0] - roots).max() < 1e-12
    slopes = [model.state_jacobian(np.array([root]), np.zeros(0))[0, 0] for root in roots]
    assert np.abs(found.eigenvalues[:, 0] - slopes).max() < 1e-11  # slopes of at most 6 times the error of the point
    assert found.settled.all()
    assert found.counts.sum() == 23
    assert found.input_sensitivity.shape == (len(roots), 1, 0)


def test_hopf_and_lorenz():
    found = fixed_points(models.Hopf(0.2, 1.5), starts=np.random.default_rng(0).normal(size=(9, 2)))
    assert found.kinds == ["unstable"]
    assert np.abs(found.eigenvalues[0] - [0.2 + 1.5j, 0.2 - 1.5j]).max() < 1e-12
    found = fixed_points(models.Lorenz63(), starts=20 * np.random.default_rng(0).normal(size=(30, 3)))
    c = 72**0.5  # sqrt(beta (rho - 1))
    wanted = [[0, 0, 0], [-c, -c, 27], [c, c, 27]]
    assert np.abs(found.points - wanted).max() < 1e-12
    assert list(found.n_unstable) == [1, 2, 2]


def test_ghost_of_a_saddle_node_is_slow():
    found = fixed_points(models.SaddleNode(0.01), starts=[[-1.0], [0.3], [0.9]])
    assert found.kinds == ["slow"]
    assert found.settled.all()
    assert list(found.counts) == [3]
    # The gradient of q, 2 z (r + z^2), is below 1e-6 of |r| times the largest slope met, 2: so |z| < 1e-6.
    assert np.abs(found.points).max() <= 1e-6
    assert found.q == pytest.approx([0.01**2 / 2], rel=1e-9)
    assert np.isnan(found.input_sensitivity).all()


def linear(matrix, driven, bias):
    model = models.Linear.init(driven.shape[1], len(matrix), 0)
    return model.with_parameters({"weight_hh": matrix, "weight_ih": driven, "bias": bias})


@given(seed=SEEDS, size=st.integers(1, 7))
@examples(20)
def test_a_linear_network_rests_where_its_inverse_says(seed, size):
    rng = np.random.default_rng(seed)
    matrix, driven, bias = rng.normal(size=(size, size)), rng.normal(size=(size, 2)), rng.normal(size=size)
    matrix *= 0.9 / np.linalg.norm(matrix, 2)  # so that I - W has a condition number below 19
    x, resolvent = rng.normal(size=(3, 2)), np.linalg.inv(np.eye(size) - matrix)
    found = fixed_points(linear(matrix, driven, bias), x, starts=5 * rng.normal(size=(3, size)))
    assert len(found) == 3  # one for each input
    wanted = (x @ driven.T + bias) @ resolvent.T
    assert np.abs(found.points[found.labels] - wanted).max() < 1e-12
    assert np.abs(found.input_sensitivity - resolvent @ driven).max() < 1e-12
    assert (found.inputs[found.labels] == x).all()


@given(seed=SEEDS, size=st.integers(2, 7))
@examples(20)
def test_a_line_of_fixed_points_is_met_at_the_nearest_point(seed, size):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    shrink = np.diag(np.concatenate([[1.0], rng.uniform(-0.8, 0.8, size - 1)]))
    line, root = basis[:, 0], rng.normal(size=size)
    matrix = basis @ (shrink + 0.1 * np.eye(size, k=1)) @ basis.T  # not normal; W line = line
    starts = root + rng.normal(size=(4, size))
    found = fixed_points(linear(matrix, np.zeros((size, 1)), root - matrix @ root), starts=starts)
    nearest = root + np.outer((starts - root) @ line, line)
    assert np.abs(found.ends - nearest).max() < 1e-12
    assert found.kinds == ["marginal"] * 4
    assert list(found.n_marginal) == [1] * 4
    assert np.isnan(found.input_sensitivity).all()


@pytest.mark.parametrize(
    "residual, slope",
    [
        (lambda z: np.exp(-z), lambda z: -np.exp(-z)),  # the distance is 1 everywhere
        (lambda z: 1 / z, lambda z: -1 / z**2),  # and here z
    ],
)
def test_what_falls_for_ever_has_no_root(residual, slope):
    """It falls below any tolerance at last, and is flat there: neither a root nor a slow point."""
    found = descend(lambda z, _: residual(z), lambda z, _: slope(z)[:, :, None], np.array([[1.0], [2.0]]), 1e-12, 200)
    assert (np.abs(found.residuals) <= 1e-12).all()
    assert (found.kinds == UNSETTLED).all()
    assert found.iterations.max() < 200


def test_a_state_that_crawls_to_infinity_is_given_up():
    """Along a parabola, whose bend keeps Newton's steps from halving |r|: damped ones would take thousands."""

    def residual(z, _):
        return np.stack([np.exp(-z[:, 0]), z[:, 1] - 0.01 * z[:, 0] ** 2], axis=1)

    def jacobian(z, _):
        along = np.stack([-np.exp(-z[:, 0]), np.zeros(len(z))], axis=1)
        return np.stack([along, np.stack([-0.02 * z[:, 0], np.ones(len(z))], axis=1)], axis=1)

    found = descend(residual, jacobian, np.array([[3.0, 0.0], [0.0, 0.0]]), 1e-12, 200)
    assert (found.kinds == UNSETTLED).all()
    assert found.iterations.max() < 50


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_roots_of_any_order_are_told(order):
    """|r| < 1e-12 leaves z within 1e-12^(1 / order), though the slope vanishes there."""
    found = descend(
        lambda z, _: (z - 0.5) ** order, lambda z, _: (order * (z - 0.5) ** (order - 1))[:, :, None],
        np.array([[0.9]]), 1e-12, 200,
    )  # fmt: skip
    assert list(found.kinds) == [ROOT]
    assert abs(found.states[0, 0] - 0.5) <= 1e-12 ** (1 / order)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "low-rank", "stacked-lstm", "stacked-gru"])
def test_networks(name):
    model = network(name, 0, gain=2.0)
    rng = np.random.default_rng(1)
    x = rng.normal(size=2)
    found = fixed_points(model, x, starts=rng.normal(size=(12, model.n_states)))
    fixed = ~found.slow
    assert fixed.any()
    assert speed(model, found.points, x)[fixed].max() < 1e-12
    ends = found.ends[found.settled]
    chosen = found.points[found.labels[found.settled]]
    assert np.linalg.norm(ends - chosen, axis=1).max() <= 1e-6 * (1 + np.linalg.norm(chosen, axis=1).max())
    eigenvalues = np.linalg.eigvals(state_jacobians(model, found.points, found.inputs))
    assert np.allclose(np.sort(np.abs(eigenvalues), axis=1)[:, ::-1], found.growth, atol=1e-9)
    assert found.q == pytest.approx(found.residuals**2 / 2)


def test_points_move_with_the_input_as_they_say():
    model, x = network("gru", 0), np.array([0.3, -0.2])
    found = fixed_points(model, x, starts=np.zeros((1, 4)))

    def rest(x):
        return fixed_points(model, x, starts=found.points, tol=1e-14).points[0]

    for channel, direction in enumerate(np.eye(2)):
        moved = finite_difference(rest, x, direction)
        assert (np.abs(found.input_sensitivity[0, :, channel] - moved.value) <= 10 * moved.error + 1e-12).all()


def bistable():
    """A network of rank one with two stable points and a saddle, at kappa = tanh kappa times the overlap."""
    ones = np.ones((6, 1))
    return models.LowRankRNN(3 * ones, ones, np.zeros((6, 1)), alpha=0.5)


def test_unstable_directions_span_an_invariant_subspace():
    found = fixed_points(bistable(), starts=np.linspace(-4, 4, 9)[:, None] * np.ones(6))
    assert found.kinds == ["stable", "stable", "saddle"]
    assert [len(found.unstable_directions(point)) for point in range(3)] == [0, 0, 1]
    (direction,) = found.unstable_directions(2)
    assert np.abs(np.abs(direction) - 6**-0.5).max() < 1e-12
    assert found.eigenvalues[2, 0] == pytest.approx(0.5 + 0.5 * 3)
    hopf = fixed_points(models.Hopf(0.2, 1.5), starts=[[0.1, 0.1]])
    basis = hopf.unstable_directions(0)
    assert np.abs(basis @ basis.T - np.eye(2)).max() < 1e-14


def test_starts_do_not_see_each_other():
    model = network("lstm", 0, gain=2.0)
    starts = np.random.default_rng(2).normal(size=(5, model.n_states))
    together = fixed_points(model, starts=starts)
    alone = np.concatenate([fixed_points(model, starts=one[None]).ends for one in starts])
    # BLAS may sum in another order for a batch of another size; the ends are roots to rounding.
    assert np.abs(together.ends - alone)[together.settled].max() < 1e-10


def test_states_of_a_flow():
    model, rng = network("gru", 0), np.random.default_rng(3)
    flow = Flow(model, rng.normal(size=(3, 5, 2)), lengths=[2, 5, 4])
    found = fixed_points(model, starts=flow)
    assert len(found.starts) == 11  # the points that exist
    assert (np.abs(found.starts).min(axis=1) > 0).all()
    some = fixed_points(model, starts=flow, n_starts=4, seed=5)
    assert len(some.starts) == 4
    assert all((found.starts == one).all(axis=1).any() for one in some.starts)
    assert not np.array_equal(some.starts, fixed_points(model, starts=flow, n_starts=4, seed=6).starts)


def test_what_has_not_settled_is_told():
    found = fixed_points(bistable(), starts=[[4.0] * 6, [0.0] * 6], max_iterations=1)
    assert list(found.settled) == [False, True]
    assert list(found.labels) == [-1, 0]
    assert repr(found) == "FixedPoints(1 saddle; 2 starts, 1 not settled)"
    assert "not settled" in found._repr_html_()
    nothing = fixed_points(bistable(), starts=[[4.0] * 6], max_iterations=1)
    assert repr(nothing) == "FixedPoints(none; 1 starts, 1 not settled)"
    assert nothing.points.shape == (0, 6)
    assert nothing.input_sensitivity.shape == (0, 6, 1)


def test_one_stands_for_all_that_are_near():
    states = np.array([[0.0], [1e-7], [1.0], [-1e-7], [0.0]])
    inputs = np.array([[0.0], [0.0], [0.0], [0.0], [1.0]])
    assert list(unique_states(states, inputs, np.array([3.0, 1.0, 2.0, 2.0, 0.0]), 1e-6)) == [1, 1, 2, 1, 4]


def test_a_map_of_the_users_that_takes_no_complex_numbers():
    model = models.UserMap(
        lambda z, x, p: np.cos(np.asarray(z, dtype=float)) * p["w"] + np.abs(x + 3.0), 1, 1, parameters={"w": 0.5}
    )
    found = fixed_points(model, [0.5], starts=[[1.0], [4.0]])
    z = found.points[0, 0]
    assert abs(0.5 * np.cos(z) + 3.5 - z) < 1e-12
    assert found.input_sensitivity[0, 0, 0] == pytest.approx(1 / (1 + 0.5 * np.sin(z)), abs=1e-9)


def test_an_overflow_at_a_start_is_refused():
    with pytest.raises(ValueError, match="at the starts overflows"):
        fixed_points(models.Pitchfork(1.0), starts=[[1e200]])


def test_figure():
    model = bistable()
    flow = Flow(model, np.zeros((3, 6, 1)), np.array([[1.0], [-1.0], [0.1]]) * np.ones(6))
    found = fixed_points(model, starts=flow)
    figure = Figure()
    ax = kpref.plots.plot_fixed_points(found, flow, figure.add_subplot())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["trajectories", "stable (2)", "saddle (1)", "unstable directions"]
    assert len(ax.lines) == 3 + 1  # trials, and the unstable direction
    stable, saddle = ax.collections
    assert not np.array_equal(stable.get_facecolor(), saddle.get_facecolor())
    assert np.array_equal(saddle.get_facecolor()[0], [1, 1, 1, 1])
    # All moves along (1, ..., 1): its coordinate is the first, and the second is nothing.
    assert (
        np.abs(
            np.abs(stable.get_offsets()[:, 0]) - np.linalg.norm(found.points[:2] - flow.states.mean((0, 1)), axis=1)
        ).max()
        < 1e-6
    )
    assert ax.get_xlabel() == "principal component 1 (100% of the variance)"
    empty = fixed_points(model, starts=[[4.0] * 6], max_iterations=1)
    assert "no points" in [
        text.get_text() for text in kpref.plots.plot_fixed_points(empty, ax=Figure().add_subplot()).texts
    ]
