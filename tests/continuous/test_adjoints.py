"""The two adjoint equations of a flow, against what they are made from and against each other."""

import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import solve_ivp
from strategies import examples

from continuous.fields import METHODS, PAIRS, STRUCTURES, TINY, cases, make_case, make_flow
from kpref import Flow
from kpref.integrate import fixed_steps


def assert_close(got, wanted, bound):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= bound * np.abs(wanted).max()


def line(flow, rng):
    """A running cost linear in time: g(t), shape (B, H) or (B, *t.shape, H), which interpolation reproduces."""
    offset, rise = rng.normal(size=(2, *flow.z0.shape))

    def cost(t):
        t = np.asarray(t)
        pad = (slice(None), *(None,) * t.ndim)
        return offset[pad] + rise[pad] * t[..., None]

    return cost


def cost_by_complex_step(flow, signal, cost, first, direction):
    """Derivative of the method's own quadrature of g . z, from step `first` on, by the state there: one per trial.

    The quadrature is a further state, with derivative g . z, of the plain forward pass in complex arithmetic.
    """
    solution, model = flow.solution, flow.model

    def rhs(t, z, step):
        state = z[:, :-1]
        running = np.sum(cost(t) * state, axis=1, keepdims=True)
        return np.concatenate([model.velocity(state, signal(t, solution.interval[first + step])), running], axis=1)

    start = solution.z_steps[first] + 1j * TINY * direction
    start = np.concatenate([start, np.zeros((len(start), 1))], axis=1)
    return fixed_steps(rhs, solution.t_steps[first:], start, solution.tableau).states[-1, :, -1].imag / TINY


def assert_discrete_adjoint(flow, signal, rng):
    cost, solution = line(flow, rng), flow.solution
    costate = flow.adjoint("discrete")(cost(solution.times))
    assert not costate[:, -1].any()
    direction = rng.normal(size=flow.z0.shape)
    wanted = [cost_by_complex_step(flow, signal, cost, n, direction) for n in solution.grid_index[:-1]]
    got = np.sum(costate[:, :-1] * direction[:, None], axis=2)
    # Two sums of some thousand terms, relative to the sums of absolute values.
    scale = np.sum(np.abs(costate[:, :-1] * direction[:, None]), axis=2).max()
    assert np.abs(got - np.stack(wanted, axis=1)).max() <= 1e-12 * scale


@pytest.mark.parametrize("method", METHODS)
def test_discrete_adjoint_is_the_derivative_of_the_cost(method):
    @examples(6)
    @given(cases([method]))
    def check(case):
        assert_discrete_adjoint(*case)

    check()


@pytest.mark.parametrize("method", PAIRS)
def test_discrete_adjoint_on_adaptive_steps(method):
    @examples(5)
    @given(cases([method], rtol=1e-5))
    def check(case):
        assert_discrete_adjoint(*case)

    check()


@pytest.mark.parametrize("rtol", [None, 1e-9])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_continuous_adjoint_solves_its_equation(kind, rtol):
    """Against SciPy's solution of ``-dl/dt = A(t)^T l + g`` along the dense output, for each trial."""
    flow, signal = make_case(kind, "dop853", (2, 8, 3), input_kind="linear", dt=0.5 if rtol else 0.04, rtol=rtol)
    rng, solution = np.random.default_rng(0), flow.solution
    cost = line(flow, rng)
    got = flow.adjoint("continuous")(cost(solution.times))
    assert not got[:, -1].any()
    shape = flow.z0.shape

    def backwards(t, flat):
        costate, n = flat.reshape(shape), int(np.clip(np.searchsorted(solution.times, t, "right") - 1, 0, 7))
        state, x = solution(t), signal(t, n)
        columns = [flow.model.velocity(state + 1j * TINY * e, x).imag / TINY for e in np.eye(shape[1])]
        return -(np.einsum("kbi,bi->bk", columns, costate) + cost(t)).ravel()

    costate, wanted = np.zeros(shape), []
    for n in range(len(solution.times) - 2, -1, -1):  # interval by interval: inputs have kinks at the grid times
        span = solution.times[n + 1], solution.times[n]
        costate = solve_ivp(backwards, span, costate.ravel(), "DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(shape)
        wanted.insert(0, costate)
    # SciPy's tolerance, over eight intervals. Steps of at most 0.07, a sixth of the shortest time constant, err by
    # (1/6)^8 = 6e-7 times the coefficients of the method, some 1e-5; chosen ones by 1e-9 each, of some twenty.
    assert_close(got[:, :-1], np.stack(wanted, axis=1), 1e-7 if rtol else 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_equal_for_linear_systems_under_a_constant_cost(method):
    """Both are then ``sum of R(h A^T)^m (R(h A^T) - 1) A^-T g``, R the stability function of the method."""
    flow = make_flow("LinearSystem", method)
    cost = np.broadcast_to(np.random.default_rng(0).normal(size=(3, 1, 4)), flow.states.shape)
    # Roundings of five steps of at most twelve stages.
    assert_close(flow.adjoint("continuous")(cost), flow.adjoint("discrete")(cost), 1e-13)


def test_of_euler_is_the_transpose_of_p():
    """On its grid Euler's method is a map, and row n of ``P^T g`` the costate one step later; g at the end is idle."""
    flow = make_flow("Rate-tanh", "euler", measure="sum")
    cost = np.random.default_rng(0).normal(size=flow.states.shape)
    cost[:, -1] = 0
    h = flow.solution.h[:, None]
    assert np.ptp(h) > 0
    # P weighs its forcing by the step that it enters, the costate its cost by the step that it enters.
    cost_of_steps = cost * np.append(h, [[0.0]], axis=0)
    assert_close(flow.P.T(cost_of_steps)[:, :-1] / h, flow.adjoint("discrete")(cost)[:, 1:], 1e-13)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_adjoint_of_p_tends_to_the_costates(kind):
    """``P* g`` in the measure of the flow, the trapezoid rule, is the solution of the adjoint equation to order 2."""
    errors = []
    model = make_flow("Rate-tanh").model
    for steps in (40, 80):
        times = np.linspace(0.0, 1.0, steps + 1)
        flow = Flow(model, lambda t: np.sin([[t, 2 * t]]), np.ones(4), times=times, method="rk4")
        cost = np.cos(times + np.arange(4)[:, None]).T[None]
        errors.append(np.abs(flow.P.star(cost) - flow.adjoint(kind)(cost))[:, 1:-1].max())
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.15
