"""Small systems against what is known of them in closed form: Jacobians, solutions, propagators, tangent kernels."""

import numpy as np
import pytest
from hypothesis import given
from scipy.linalg import expm
from strategies import SEEDS, examples

import kpref
from kpref import Flow
from kpref.integrate import TABLEAUS, IntegrationError, fixed_steps
from kpref.models import Hopf, LinearSystem, Lorenz63, Pitchfork, SaddleNode, Transcritical, VanDerPol
from kpref.oracle import complex_step, dot_test

SYSTEMS = {
    "Lorenz63": (Lorenz63, ("sigma", "rho", "beta")),
    "VanDerPol": (VanDerPol, ("mu",)),
    "SaddleNode": (SaddleNode, ("r",)),
    "Transcritical": (Transcritical, ("r",)),
    "Pitchfork": (Pitchfork, ("r",)),
    "Hopf": (Hopf, ("mu", "omega")),
}
#: Adaptive steps whose error is some hundred roundings.
TIGHT = {"method": "dop853", "rtol": 1e-13, "atol": 1e-14}


def random_system(name, rng):
    make, names = SYSTEMS[name]
    return make(**{key: rng.normal() for key in names})


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Models


@pytest.mark.parametrize("name", SYSTEMS)
def test_jacobians(name):
    """Products of at most three numbers: 1e-13 of the largest entry leaves a hundred roundings and more."""

    @examples(20)
    @given(SEEDS)
    def check(seed):
        rng = np.random.default_rng(seed)
        system = random_system(name, rng)
        z, x = 3 * rng.normal(size=(2, 3, system.n_states)), np.zeros((2, 3, 0))
        state, parameter = system.state_jacobian(z, x), system.parameter_jacobian(z, x)
        assert state.shape == (*z.shape, system.n_states)
        assert state.dtype == np.float64
        for at in np.ndindex(2, 3):
            wanted = complex_step(lambda s, at=at: system.velocity(s, x[at]), z[at])
            assert np.abs(state[at] - wanted).max() <= 1e-13 * np.abs(wanted).max()
        for key, block in parameter.items():
            assert block.shape == z.shape
            moved = {key: system.parameters[key] + 1e-30j}
            wanted = system.velocity(z, x, moved).imag / 1e-30
            assert np.abs(block - wanted).max() <= 1e-13 * np.abs(wanted).max()

    check()


@pytest.mark.parametrize("name", SYSTEMS)
def test_parameters(name, rng):
    system = random_system(name, rng)
    names = SYSTEMS[name][1]
    assert tuple(system.parameters) == system.trainable == names
    assert system.n_inputs == 0
    assert system.vector.shape == (len(names),)
    vector = rng.normal(size=len(names))
    np.testing.assert_array_equal(system.with_vector(vector).vector, vector)
    moved = system.with_parameters({names[-1]: 0.5})
    assert moved.parameters[names[-1]] == 0.5
    assert type(moved) is type(system)
    for bad in (np.nan, "x", [1.0, 2.0]):
        with pytest.raises(ValueError, match=names[0]):
            system.with_parameters({names[0]: bad})


def test_lorenz_at_its_default_parameters():
    assert {name: float(value) for name, value in Lorenz63().parameters.items()} == {
        "sigma": 10.0, "rho": 28.0, "beta": 8 / 3,
    }  # fmt: skip
    # The two equilibria (+-c, +-c, rho - 1), c = sqrt(beta (rho - 1)).
    c = np.sqrt(8 / 3 * 27)
    assert np.abs(Lorenz63().velocity([[c, c, 27.0], [-c, -c, 27.0]], np.zeros((2, 0)))).max() < 1e-13


@pytest.mark.parametrize("trainable", [("sigma",), ("beta", "rho"), None])
def test_trainable_subset_picks_columns(trainable, rng):
    z0, times = rng.normal(size=(2, 3)), np.linspace(0, 0.5, 6)
    whole = Flow(Lorenz63(), z0=z0, times=times).D.to_dense()
    part = Flow(Lorenz63(trainable=trainable), z0=z0, times=times)
    columns = [name in part.model.trainable for name in part.model.parameters]
    np.testing.assert_array_equal(part.D.to_dense(), whole[:, columns])


# Linear systems


def forced_response(matrix, times, coefficients):
    """``int_0^t exp(A (t - s)) q(s) ds`` for a polynomial q, from one exponential of a larger matrix.

    The state is joined by q and its derivatives: y' = A y + q_0, q_k' = q_(k+1) (Van Loan, 1978).
    """
    units, count = len(matrix), len(coefficients)
    big = np.zeros(((count + 1) * units,) * 2)
    big[:units, :units] = matrix
    for k in range(count):
        rows = slice(k * units, (k + 1) * units)
        big[rows, (k + 1) * units : (k + 2) * units] += np.eye(units)
    factorials = np.cumprod([1.0, *range(1, count)])
    start = np.concatenate([np.zeros(units), *(c * f for c, f in zip(coefficients, factorials, strict=True))])
    return np.stack([(expm(big * t) @ start)[:units] for t in times])


def forcing_of(times, coefficients):
    """The polynomial on the grid, as a tensor of one trial."""
    return sum(np.outer(times**k, c) for k, c in enumerate(coefficients))[None]


def linear_flow(matrix, times, trials=1, **options):
    units = len(matrix)
    return Flow(LinearSystem(np.zeros((units, 1)), matrix), np.zeros((trials, len(times), 1)), times=times, **options)


def test_propagator_integral_of_a_linear_system(rng):
    """A cubic forcing is interpolated exactly: what is left is the error of dop853, below rounding at this step."""
    matrix, times = rng.normal(size=(4, 4)), np.linspace(0, 2, 41)
    coefficients = rng.normal(size=(4, 4))
    for kind, count in (("cubic", 4), ("linear", 2)):
        wanted = forced_response(matrix, times, coefficients[:count])
        flow = linear_flow(matrix, times, method="dop853", forcing=kind)
        got = flow.P(forcing_of(times, coefficients[:count]))[0]
        # 40 steps of 12 stages, and the growth exp(2 |A|) of what they round to, some hundred of 1e-16.
        assert np.abs(got - wanted).max() < 1e-12 * np.abs(wanted).max()


@pytest.mark.parametrize("method, order", [("euler", 1), ("midpoint", 2), ("bosh3", 3), ("rk4", 4)])
def test_propagator_converges_to_the_integral(method, order, rng):
    """With a forcing that is interpolated exactly, at the order of the method."""
    matrix, coefficients = rng.normal(size=(3, 3)), rng.normal(size=(4, 3))
    errors, shared = [], np.linspace(0, 1.5, 5)
    wanted = forced_response(matrix, shared, coefficients)
    for count in (80, 160, 320):
        times = np.linspace(0, 1.5, count + 1)
        got = linear_flow(matrix, times, method=method, forcing="cubic").P(forcing_of(times, coefficients))[0]
        errors.append(np.abs(got[:: count // 4] - wanted).max())
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    # The next term is smaller by h |A|, 0.02 times a few.
    assert np.abs(slopes - order).max() < 0.1


@pytest.mark.parametrize("method", sorted(TABLEAUS))
def test_linear_system_by_the_stability_function(method, rng):
    """One step multiplies by ``R(hA) = 1 + hA b^T (1 - hA a)^-1 1``, a polynomial: exact but for rounding."""
    matrix, times = rng.normal(size=(3, 3)), np.array([0.0, 0.3, 0.4, 0.8])
    tableau, flow = TABLEAUS[method], linear_flow(matrix, times, method=method)
    dense = flow.D_z0.to_dense().reshape(4, 3, 3)
    wanted = [np.eye(3)]
    for h in np.diff(times):
        ones = np.kron(np.ones((tableau.stages, 1)), np.eye(3))
        stages = np.linalg.solve(np.eye(3 * tableau.stages) - np.kron(tableau.a, h * matrix), ones)
        wanted.append((np.eye(3) + np.kron(tableau.b, h * matrix) @ stages) @ wanted[-1])
    # Sums over the stages (13 at most, of weights up to 43) of products with 3 x 3 matrices, in three steps.
    np.testing.assert_allclose(dense, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
    # The forcing of the last stage of a step acts as h b_i on its end, and as R(hA) of that on the next.
    forcing = np.zeros(flow.stage.P.shape_in)
    forcing[0, 1, -1] = rng.normal(size=3)
    response = flow.stage.P(forcing)[0]
    first = 0.1 * tableau.b[-1] * forcing[0, 1, -1]
    np.testing.assert_allclose(response[:2], 0, atol=0)
    np.testing.assert_allclose(response[2], first, rtol=0, atol=1e-15)
    third = wanted[3] @ np.linalg.inv(wanted[2]) @ first
    np.testing.assert_allclose(response[3], third, rtol=0, atol=1e-13)


def test_initial_states_of_a_linear_system(rng):
    """dZ/dz0 is the matrix exponential, at the times of an uneven grid."""
    matrix, times = rng.normal(size=(4, 4)), np.cumsum([0.0, 0.1, 0.35, 0.02, 0.8])
    # The steps are chosen by the error of the states, so these must not be zero.
    dense = linear_flow(matrix, times, z0=rng.normal(size=4), **TIGHT).D_z0.to_dense().reshape(5, 4, 4)
    wanted = np.stack([expm(matrix * t) for t in times])
    assert np.abs(dense - wanted).max() < 1e-12 * np.abs(wanted).max()


@pytest.mark.parametrize("model", ["linear", "Hopf", "VanDerPol"])
def test_harmonic_oscillator_against_its_greens_function(model):
    """``x'' + x = q``: the response of x to q at time s is sin(t - s), that of x' is cos(t - s).

    A column of P answers to a hat of width h on the grid, ``int hat(u) cos(u) du = 2 (1 - cos h) / h``; a whole hat
    behind it in time, the response is that number times the Green's function. Hopf at 0 and van der Pol without
    damping are this oscillator as well.
    """
    times = np.linspace(0, 3, 31)
    options = {"times": times, "method": "dop853", "forcing": "linear"}
    if model == "linear":
        flow = linear_flow(np.array([[0.0, 1.0], [-1.0, 0.0]]), **options)
    else:
        flow = Flow({"Hopf": Hopf(0.0, -1.0), "VanDerPol": VanDerPol(0.0)}[model], **options)
    dense = flow.P.to_dense().reshape(31, 2, 31, 2)
    weight = 2 * (1 - np.cos(0.1)) / 0.1
    for source in range(1, 30):
        delay = times[source + 1 :] - times[source]
        x_to_x, x_to_speed = weight * np.cos(delay), weight * np.sin(delay)
        # The error of dop853 at h = 0.1 is h^9 / 9! of weight 0.1 a step, and rounding 1e-16.
        np.testing.assert_allclose(dense[source + 1 :, 0, source, 1], x_to_speed, rtol=0, atol=1e-14)
        np.testing.assert_allclose(dense[source + 1 :, 1, source, 1], x_to_x, rtol=0, atol=1e-14)
        np.testing.assert_allclose(dense[source + 1 :, 0, source, 0], x_to_x, rtol=0, atol=1e-14)
        np.testing.assert_allclose(dense[source + 1 :, 1, source, 0], -x_to_speed, rtol=0, atol=1e-14)
        assert np.abs(dense[:source, :, source]).max() == 0  # nothing before its cause


# Normal forms: solutions, and their derivatives by r


def saddle_node(r, z0, t):
    if r > 0:  # z = s tan(s t + atan(z0 / s)), s = sqrt(r)
        s = np.sqrt(r)
        phase = s * t + np.arctan(z0 / s)
        by_s = np.tan(phase) + s / np.cos(phase) ** 2 * (t - z0 / (s**2 + z0**2))
        return s * np.tan(phase), by_s / (2 * s)
    a = np.sqrt(-r)  # z = -a tanh(a t - atanh(z0 / a))
    phase = a * t - np.arctanh(z0 / a)
    by_a = -np.tanh(phase) - a / np.cosh(phase) ** 2 * (t + z0 / (a**2 - z0**2))
    return -a * np.tanh(phase), -by_a / (2 * a)


def transcritical(r, z0, t):
    growth = np.exp(r * t)
    below = r + z0 * (growth - 1)
    z = r * z0 * growth / below  # the logistic curve
    return z, z * (1 / r + t - (1 + z0 * t * growth) / below)


def pitchfork(r, z0, t):
    growth = np.exp(2 * r * t)
    below = r + z0**2 * (growth - 1)
    z = z0 * np.sqrt(r * growth / below)
    return z, z / 2 * (1 / r + 2 * t - (1 + 2 * z0**2 * t * growth) / below)


SCALAR = [
    (SaddleNode, saddle_node, 0.8, [-1.5, 0.0, 0.2]),
    (SaddleNode, saddle_node, -0.8, [-0.8, 0.1, 0.7]),
    (Transcritical, transcritical, 0.7, [0.05, 0.5, 2.0]),
    (Transcritical, transcritical, -0.7, [0.05, 0.5, -0.3]),
    (Pitchfork, pitchfork, 0.7, [-0.02, 0.5, 2.0]),
    (Pitchfork, pitchfork, -0.7, [-0.02, 0.5, 2.0]),
]


@pytest.mark.parametrize("make, solution, r, starts", SCALAR)
def test_scalar_normal_forms(make, solution, r, starts):
    """The solution, dz/dr, and the tangent kernel dz/dr dz/dr^T, all trials against each other."""
    times, z0 = np.linspace(0, 1.4, 8), np.array(starts)[:, None]
    weights = np.linspace(0.5, 2, 8)
    flow = Flow(make(r), z0=z0, times=times, measure=weights, **TIGHT)
    z, by_r = solution(r, z0, times)
    # Adaptive steps hold the error of each step to some roundings; sums over tens of steps grow by |dz/dz0| < 30.
    assert np.abs(flow.states[:, :, 0] - z).max() < 1e-12 * np.abs(z).max()
    assert np.abs(flow.D(np.ones(1))[:, :, 0] - by_r).max() < 1e-12 * np.abs(by_r).max()
    kernel = np.outer(by_r, by_r) * np.tile(weights, len(starts))
    assert np.abs(flow.NTK.to_dense() - kernel).max() < 2e-12 * np.abs(kernel).max()


@pytest.mark.parametrize("make, solution, r, starts", SCALAR)
def test_kernel_of_the_papers_tends_to_the_closed_form(make, solution, r, starts):
    """P K P* with cubic forcing and rk4, which sees J on the grid only, at order 4.

    The error has parts of orders 4 (method, interpolation) and 5 (interpolation at the two ends), of either sign: on
    these grids slopes lie between 3.7 and 4.7. Linear interpolation would show 2.
    """
    errors, z0 = [], np.array(starts)[:, None]
    for count in (48, 96):
        times = np.linspace(0, 1.2, count + 1)
        flow = Flow(make(r), z0=z0, times=times, measure="sum", forcing="cubic")
        by_r = solution(r, z0, times)[1]
        errors.append(np.abs((flow.P @ flow.K @ flow.P.star).to_dense() - np.outer(by_r, by_r)).max())
    assert np.log2(errors[0] / errors[1]) > 3.4
    assert errors[1] < 1e-5 * np.abs(np.outer(by_r, by_r)).max()


@pytest.mark.parametrize("mu", [-0.4, 0.9])
def test_hopf(mu):
    """The radius follows the pitchfork of its class, the phase turns evenly; so do their derivatives."""
    omega, times = 3.0, np.linspace(0, 2, 9)
    radius, phase = np.array([[0.1], [0.9], [1.5]]), np.array([[0.3], [-2.0], [1.0]])
    z0 = np.concatenate([radius * np.cos(phase), radius * np.sin(phase)], axis=1)
    flow = Flow(Hopf(mu, omega), z0=z0, times=times, measure="sum", **TIGHT)
    length, by_mu = pitchfork(mu, radius, times)
    angle = phase + omega * times
    along, across = np.stack([np.cos(angle), np.sin(angle)], 2), np.stack([-np.sin(angle), np.cos(angle)], 2)
    assert np.abs(flow.states - length[:, :, None] * along).max() < 1e-12
    derivative = np.stack([by_mu[:, :, None] * along, (times * length)[:, :, None] * across], axis=3)
    assert np.abs(flow.D.to_dense() - derivative.reshape(-1, 2)).max() < 1e-12 * np.abs(derivative).max()
    kernel = derivative.reshape(-1, 2) @ derivative.reshape(-1, 2).T
    assert np.abs(flow.NTK.to_dense() - kernel).max() < 2e-12 * np.abs(kernel).max()


def test_saddle_node_reaches_infinity():
    """z = tan(t) for r = 1, z0 = 0: the error names the trial, and the time as well as rtol allows."""
    with pytest.raises(IntegrationError, match="blows up") as caught:
        Flow(SaddleNode(1.0), z0=[[-5.0], [0.0]], times=[0.0, 1.0, 1.7], method="dopri5", rtol=1e-8)
    assert caught.value.trial == 1
    assert abs(caught.value.time - np.pi / 2) < 1e-7
    with pytest.raises(IntegrationError):
        Flow(SaddleNode(1.0), z0=[[1e200]], times=[0.0, 1.0])


def test_van_der_pol_limit_cycle():
    """For small mu the cycle has amplitude 2 and period 2 pi (1 + mu^2 / 16), with errors of order mu^2 and mu^4."""
    mu, cycles = 0.1, 30
    period = 2 * np.pi * (1 + mu**2 / 16)
    flow = Flow(VanDerPol(mu), z0=[[2.0, 0.0]], times=period * np.arange(cycles + 1), method="dop853", rtol=1e-11)
    assert np.abs(flow.states[0, -1] - flow.states[0, -2]).max() < 2 * np.pi * mu**4
    assert abs(np.hypot(*flow.states[0, -1]) - 2) < mu**2


# The dense form


def dense_flow(dtype=np.float64, **options):
    rng = np.random.default_rng(4)
    options = {"measure": "mean", "method": "rk38", "times": np.cumsum(rng.uniform(0.01, 0.03, size=9))} | options
    return Flow(Lorenz63(), z0=3 * rng.normal(size=(5, 3)), dtype=dtype, **options)


def lorenz_by_complex_step(flow, parameters=None, z0=None):
    model = flow.model
    moved = (
        {}
        if parameters is None
        else {name: model.parameters[name] + 1e-30j * change for name, change in model.unflatten(parameters).items()}
    )
    start = flow.z0 + (0 if z0 is None else 1e-30j * z0)
    no_inputs = np.zeros((len(flow.z0), 0))
    times, tableau = flow.solution.times, flow.solution.tableau
    if parameters is not None:
        start = start.astype(complex)
    solution = fixed_steps(lambda t, z, interval: model.velocity(z, no_inputs, moved), times, start, tableau)
    return solution.states.swapaxes(0, 1).imag / 1e-30


@pytest.mark.parametrize("method", sorted(TABLEAUS))
def test_lorenz_sensitivities_are_the_derivatives(method, rng):
    """To the discrete flow, for every tableau: eight steps of small matrices, 1e-12 is thousands of roundings."""
    flow = dense_flow(method=method)
    vector, start = rng.normal(size=3), rng.normal(size=flow.z0.shape)
    for got, wanted in (
        (flow.D(vector), lorenz_by_complex_step(flow, parameters=vector)),
        (flow.stage.P(flow.stage.J(vector)), lorenz_by_complex_step(flow, parameters=vector)),
        (flow.D_z0(start), lorenz_by_complex_step(flow, z0=start)),
    ):
        assert np.abs(got - wanted).max() < 1e-12 * np.abs(wanted).max()


def test_lorenz_over_a_long_time(rng):
    """Over ten units of time a perturbation grows many hundredfold; relative to that the operators stay exact."""
    flow = dense_flow(times=np.linspace(0, 10, 1001), method="rk4")
    vector = rng.normal(size=3)
    wanted = lorenz_by_complex_step(flow, parameters=vector)
    assert np.abs(wanted).max() > 100
    assert np.abs(flow.D(vector) - wanted).max() < 1e-12 * np.abs(wanted).max()


def recursion(flow, forcing):
    """The tangent of a Runge-Kutta step, once more, in plain NumPy: forcing (B, n, s, H) to states (B, n + 1, H)."""
    solution, tableau = flow.solution, flow.solution.tableau
    dz = np.zeros(flow.z0.shape)
    rows = [dz]
    for n, h in enumerate(solution.h):
        states, slopes = solution.stage_states(n), []
        for i in range(tableau.stages):
            dstate = dz + h * sum((tableau.a[i, j] * slopes[j] for j in range(i)), start=np.zeros_like(dz))
            matrix = flow.model.state_jacobian(states[i], np.zeros((len(dz), 0)))
            slopes.append(np.einsum("bij,bj->bi", matrix, dstate) + forcing[:, n, i])
        dz = dz + h * sum(b * slope for b, slope in zip(tableau.b, slopes, strict=True))
        rows.append(dz)
    return np.stack(rows, axis=1)


# Of the largest entry: eight steps of four stages, each sums of three products, a hundred roundings and more.
@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-13), (np.float32, 1e-4)])
def test_dense_kernels_against_a_plain_recursion(dtype, bound, rng):
    flow = dense_flow(dtype)
    tensors = rng.normal(size=(3, *flow.stage.P.shape_in))
    got = flow.stage.P.apply(tensors)
    assert got.dtype == flow.D.dtype == dtype
    wanted = np.stack([recursion(flow, tensor) for tensor in tensors])
    assert np.abs(got - wanted).max() < bound * np.abs(wanted).max()
    stages = np.stack([flow.solution.stage_states(n) for n in range(8)]).transpose(2, 0, 1, 3)
    blocks = flow.model.parameter_jacobian(stages, np.zeros((*stages.shape[:-1], 0)))
    jacobian = np.stack([blocks[name] for name in flow.model.trainable], axis=-1)
    vector = rng.normal(size=3)
    assert np.abs(flow.stage.J(vector) - jacobian @ vector).max() < bound * np.abs(jacobian @ vector).max()
    wanted = recursion(flow, jacobian @ vector)
    assert np.abs(flow.D(vector) - wanted).max() < bound * np.abs(wanted).max()


@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("forcing", ["linear", "cubic"])
def test_dense_operators_have_their_adjoints(dtype, bound, forcing):
    flow = dense_flow(dtype, forcing=forcing, method="tsit5")
    operators = [flow.P, flow.J, flow.K, flow.D, flow.D_z0, flow.NTK, flow.stage.P, flow.stage.J, flow.stage.K]
    for operator in [*operators, flow.adjoint("discrete"), flow.adjoint("continuous")]:
        assert dot_test(operator).error < bound, operator


def test_measure_weighs_the_kernel(rng):
    """NTK = D D^T Mu, with zero weights as well."""
    weights = rng.uniform(size=(5, 9))
    weights[:, 3] = 0
    flow = dense_flow(measure=weights)
    dense = dense_flow(measure="sum").D.to_dense()
    wanted = dense @ dense.T * np.repeat(weights.ravel(), 3)
    assert np.abs(flow.NTK.to_dense() - wanted).max() < 1e-13 * np.abs(wanted).max()
    grid = flow.J.to_dense()
    wanted = grid @ grid.T * np.repeat(weights.ravel(), 3)
    assert np.abs(flow.K.to_dense() - wanted).max() < 1e-13 * np.abs(wanted).max()


def all_bits(**options):
    flow = dense_flow(times=np.linspace(0, 0.4, 41), **options)
    rng = np.random.default_rng(5)
    found = {"states": flow.states.tobytes()}
    for name, operator in {
        "P": flow.P, "J": flow.J, "NTK": flow.NTK, "D": flow.D, "D_z0": flow.D_z0, "P_s": flow.stage.P,
        "J_s": flow.stage.J, "K_s": flow.stage.K, "adjoint": flow.adjoint(), "continuous": flow.adjoint("continuous"),
    }.items():  # fmt: skip
        for side, each in (("", operator), ("^T", operator.T)):
            found[name + side] = each.apply(rng.normal(size=(3, *each.shape_in))).tobytes()
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("tolerances", [{}, {"rtol": 1e-5, "method": "dopri5"}])
def test_same_bits_for_any_number_of_threads_and_any_memory(dtype, tolerances):
    before = kpref.get_num_threads()
    try:
        found = []
        for number in (1, 2, 4):
            kpref.set_num_threads(number)
            found.append(all_bits(dtype=dtype, **tolerances))
        found.append(all_bits(dtype=dtype, stage_memory=0, **tolerances))
    finally:
        kpref.set_num_threads(before)
    for other in found[1:]:
        assert [name for name in other if other[name] != found[0][name]] == []


def test_segments(monkeypatch, rng):
    """Jacobians count towards the size of a segment; the operators do not depend on where segments end."""
    whole = dense_flow()
    monkeypatch.setattr("kpref.runge_kutta._SEGMENT_ENTRIES", 3 * 4 * 5 * 3 * (3 + 3))
    parts = dense_flow()
    assert [len(flow._dynamics.system.segments) for flow in (whole, parts)] == [1, 3]
    for one, other in (
        (whole.D, parts.D),
        (whole.P, parts.P),
        (whole.stage.J, parts.stage.J),
        (whole.adjoint(), parts.adjoint()),
        (whole.adjoint("continuous"), parts.adjoint("continuous")),
    ):
        wanted = one.to_dense()
        # Forwards the same numbers; only sums over segments are in another order.
        assert np.abs(other.to_dense() - wanted).max() <= 1e-14 * np.abs(wanted).max()
        assert dot_test(other).error < 1e-13


def test_linearisation_that_overflows_names_its_place():
    """rho * x fits into float64 and not into float32."""
    flow = Flow(Lorenz63(), z0=[[1.0, 1, 1], [1e39, 1, 1]], times=[0.0, 1e-50], dtype=np.float32)
    with pytest.raises(ValueError, match="trial 1, step 0 is not finite in float32"):
        flow.linearization  # noqa: B018
