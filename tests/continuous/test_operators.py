"""Laws of the operators of Runge-Kutta flows: derivatives, factorisations, symmetry, positivity, and what is stored."""

import numpy as np
import pytest
from hypothesis import given
from scipy.interpolate import CubicSpline, lagrange
from strategies import examples, restricted, weights

import kpref.runge_kutta
from continuous.fields import KINDS, METHODS, PAIRS, STRUCTURES, by_complex_step, cases, make_case, make_flow, operators
from kpref import Readout

# Relative to the largest entry. Both sides carry the roundings of some 6 steps of up to 12 stages, each a sum of up to
# a dozen products: 2,000 of 1.1e-16 that add to 1e-14 as a random walk, times the growth of a perturbation.
BOUND = 1e-12

every_method = pytest.mark.parametrize("method", METHODS)
every_pair = pytest.mark.parametrize("method", PAIRS)


def assert_close(got, wanted, bound=BOUND):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= bound * np.abs(wanted).max()


def assert_derivatives(flow, signal, rng):
    """D = P_s J_s, dZ/dz0 and P_s are the derivatives of the discrete flow."""
    vector = rng.normal(size=flow.model.n_parameters)
    wanted = by_complex_step(flow, signal, vector=vector)
    assert_close(flow.D(vector), wanted)
    assert_close(flow.stage.P(flow.stage.J(vector)), wanted)
    start = rng.normal(size=flow.z0.shape)
    assert_close(flow.D_z0(start), by_complex_step(flow, signal, start=start))
    forcing = rng.normal(size=flow.stage.P.shape_in)
    assert_close(flow.stage.P(forcing), by_complex_step(flow, signal, forcing=forcing))


@every_method
def test_derivatives_by_complex_step(method):
    @examples(12)
    @given(cases([method]))
    def check(case):
        assert_derivatives(*case)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_every_field(kind):
    """Column by column: a parameter of little weight in a random direction is seen as well."""
    flow, signal = make_case(kind, "bosh3", (2, 3, 3), dt=0.05 if kind == "Lorenz63" else 0.15)
    columns = [by_complex_step(flow, signal, vector=e).ravel() for e in np.eye(flow.model.n_parameters)]
    assert_close(flow.D.to_dense(), np.stack(columns, axis=1))
    starts = np.eye(flow.z0.size).reshape(-1, *flow.z0.shape)
    columns = [by_complex_step(flow, signal, start=e).ravel() for e in starts]
    assert_close(flow.D_z0.to_dense(), np.stack(columns, axis=1))


@every_pair
def test_derivatives_on_a_frozen_step_sequence(method):
    @examples(12)
    @given(cases([method], rtol=1e-5))
    def check(case):
        flow, signal, rng = case
        assert len(flow.solution.h) >= len(flow.solution.times) - 1
        assert_derivatives(flow, signal, rng)

    check()


@every_pair
def test_steps_between_grid_times(method):
    """Inputs large enough for several steps in each interval, and jumps at its ends."""
    flow, signal = make_case("Rate-tanh", method, (3, 4, 4), seed=3, dt=0.8, rtol=1e-9, gain=1.5)
    assert len(flow.solution.h) > 2 * (len(flow.solution.times) - 1)
    assert flow.solution.jump_ends.sum() == 3
    assert_derivatives(flow, signal, np.random.default_rng(0))
    np.testing.assert_array_equal(flow.stage.P.shape_in, (3, len(flow.solution.h), flow.solution.tableau.stages, 4))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_parameter_jacobian_at_the_grid_times(kind):
    flow, signal = make_case(kind, input_kind="linear")
    rng = np.random.default_rng(0)
    vector = rng.normal(size=flow.model.n_parameters)
    moved = {
        name: flow.model.parameters[name] + 1e-30j * change for name, change in flow.model.unflatten(vector).items()
    }
    points = np.minimum(np.arange(6), 4)
    inputs = signal(flow.solution.times, points)
    assert_close(flow.J(vector), flow.model.velocity(flow.states, inputs, moved).imag / 1e-30)
    tensor = restricted(flow.space, rng.normal(size=flow.states.shape))
    assert_close(flow.K(tensor), flow.J(flow.J.T(flow.space.weigh(tensor))))


def test_held_inputs_at_the_grid_times():
    """The last time belongs to the last step, whose input it keeps."""
    flow, signal = make_case("LinearSystem")
    ones = {name: np.full_like(p, name == "weight_ih") for name, p in flow.model.parameters.items()}
    vector = flow.model.flatten(ones)
    held = np.stack([signal(t, min(n, 4)) for n, t in enumerate(flow.solution.times)], axis=1)
    assert_close(flow.J(vector), np.broadcast_to(held.sum(axis=2, keepdims=True), flow.states.shape))


# Dot tests: <p, A q> and <A* p, q> differ by the rounding of a sweep, less than 2,000 roundings of 1.1e-16 that add as
# a random walk, 5e-15, to either; in units of the larger of the two products of norms that the sums are made of.
DOT = 1e-13


def assert_dot_test(operator, rng):
    q, p = rng.normal(size=operator.shape_in), rng.normal(size=operator.shape_out)
    before = q.copy(), p.copy()
    ahead, back = operator(q), operator.T(p)
    scale = max(np.linalg.norm(ahead) * np.linalg.norm(p), np.linalg.norm(back) * np.linalg.norm(q))
    assert abs(np.vdot(p, ahead) - np.vdot(back, q)) <= DOT * scale
    np.testing.assert_array_equal(q, before[0])  # neither was written to
    np.testing.assert_array_equal(p, before[1])

    space_in, space_out = operator.space_in, operator.space_out
    q, p = restricted(space_in, q), restricted(space_out, p)
    ahead, back = operator(q), operator.star(p)
    scale = max(np.linalg.norm(weights(space_out) * p) * np.linalg.norm(ahead), space_in.norm(back) * space_in.norm(q))
    assert abs(space_out.inner(p, ahead) - space_in.inner(back, q)) <= DOT * scale


@every_method
def test_dot_tests(method):
    @examples(12)
    @given(cases([method]))
    def check(case):
        flow, _, rng = case
        for operator in operators(flow).values():
            assert_dot_test(operator, rng)

    check()


@every_pair
def test_dot_tests_on_adaptive_steps(method):
    @examples(6)
    @given(cases([method], rtol=1e-5))
    def check(case):
        flow, _, rng = case
        for operator in operators(flow).values():
            assert_dot_test(operator, rng)

    check()


@every_method
def test_several_vectors_at_once(method):
    @examples(5)
    @given(cases([method]))
    def check(case):
        flow, _, rng = case
        for operator in operators(flow).values():
            for side in (operator, operator.T):
                batch = rng.normal(size=(3, *side.shape_in))
                wanted = np.stack([side(x) for x in batch])
                # BLAS may sum in another order for more rows.
                assert np.abs(side.apply(batch) - wanted).max() <= 1e-13 * np.abs(wanted).max()

    check()


@every_method
def test_kernels_are_symmetric_and_positive(method):
    """K, NTK and K_s: symmetric in the measure, no negative eigenvalue, and of rank M at most."""

    @examples(5)
    @given(cases([method]))
    def check(case):
        flow, _, _ = case
        for operator in (flow.K, flow.NTK, flow.stage.K):
            root = np.sqrt(weights(operator.space_in)).ravel()
            dense = operator.to_dense()
            assert not dense[:, root == 0].any()  # what the measure does not see contributes nothing
            seen = root > 0
            symmetric = dense[np.ix_(seen, seen)] * root[seen, None] / root[None, seen]
            scale = max(np.abs(symmetric).max(), np.finfo(float).tiny)
            assert np.abs(symmetric - symmetric.T).max() <= 1e-13 * scale
            values = np.linalg.eigvalsh(symmetric)[::-1]
            # Rounding of the entries, and of the eigenvalues: each at most n times u of the norm, n < 1000.
            assert values[-1] >= -1e-13 * len(values) * scale
            assert (values[flow.model.n_parameters :] <= 1e-13 * len(values) * scale).all()

    check()


@every_method
def test_ntk_is_made_of_stage_operators(method):
    @examples(5)
    @given(cases([method]))
    def check(case):
        flow, _, rng = case
        tensor = rng.normal(size=flow.states.shape)
        wanted = flow.D(flow.D.T(flow.space.weigh(tensor)))
        assert_close(flow.NTK(tensor), wanted)
        assert_close(flow.stage.P(flow.stage.K(flow.stage.P.T(flow.space.weigh(tensor)))), wanted)

    check()


@every_method
def test_nothing_moves_the_initial_states(method):
    flow = make_flow("Rate-tanh", method)
    rng = np.random.default_rng(0)
    for operator in (flow.P, flow.stage.P, flow.D, flow.NTK):
        assert not operator(rng.normal(size=operator.shape_in))[:, 0].any()
    start = rng.normal(size=flow.z0.shape)
    np.testing.assert_array_equal(flow.D_z0(start)[:, 0], start)


def interpolated(times, tensor, at, interval, kind):
    """A tensor (B, N + 1, H) at the times of one step, by SciPy: a line, or the cubic through the four nearest."""
    width = min(2 if kind == "linear" else 4, len(times))
    first = min(max(interval - width // 2 + 1, 0), len(times) - width)
    nodes = slice(first, first + width)
    shift = times[interval]  # else the monomials of scipy.interpolate.lagrange cancel
    weights = [lagrange(times[nodes] - shift, e)(at - shift) for e in np.eye(width)]
    return np.einsum("ns,bnh->bsh", weights, tensor[:, nodes])


@pytest.mark.parametrize("rtol", [None, 1e-5])
@pytest.mark.parametrize("forcing", ["linear", "cubic"])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_grid_propagator_is_that_of_the_interpolated_forcing(forcing, steps, rtol):
    for method in PAIRS if rtol else METHODS:
        flow = make_flow("Rate-tanh", method, (2, steps, 3), seed=1, dt=0.4, forcing=forcing, rtol=rtol)
        solution, rng = flow.solution, np.random.default_rng(0)
        tensor = rng.normal(size=flow.states.shape)
        stages = [
            interpolated(solution.times, tensor, solution.t_steps[n] + solution.tableau.c * h, interval, forcing)
            for n, (h, interval) in enumerate(zip(solution.h, solution.interval, strict=True))
        ]
        # SciPy's polynomials, of degree three in steps of at least 0.08, round by some 1e-13.
        assert_close(flow.P(tensor), flow.stage.P(np.stack(stages, axis=1)))


@pytest.mark.parametrize("forcing", ["linear", "cubic"])
def test_euler_on_its_grid_is_a_map(forcing):
    """Its only stage is at the grid times, so that both pictures are the same, whatever the interpolation."""
    flow = make_flow("Rate-tanh", "euler", forcing=forcing, input_kind="linear")
    rng = np.random.default_rng(0)
    tensor = rng.normal(size=flow.states.shape)
    np.testing.assert_array_equal(flow.P(tensor), flow.stage.P(tensor[:, :-1, None]))
    assert_close((flow.P @ flow.K @ flow.P.star)(tensor), flow.NTK(tensor), 1e-13)


def test_gradient_flow():
    """The gradient is that of the loss of the discrete flow: its difference quotients say so, to second order."""
    flow, signal = make_case("Rate-tanh", "dopri5", input_kind="cubic")
    rng = np.random.default_rng(0)
    readout, targets = Readout(rng.normal(size=(2, 4))), rng.normal(size=(3, 6, 2))
    gradient = flow.gradient_flow(readout, targets)
    direction = rng.normal(size=flow.model.n_parameters)
    dz = by_complex_step(flow, signal, vector=direction)
    assert gradient.grad_theta @ direction == pytest.approx(flow.space.inner(gradient.err, dz), rel=1e-12)
    assert_close(gradient.dz, -by_complex_step(flow, signal, vector=gradient.grad_theta))
    steps = 2.0 ** -np.arange(4, 8)
    errors = [np.abs(gradient.realised(eta) - eta * gradient.dz).max() for eta in steps]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.abs(slopes[-1] - 2) < 0.1  # the next order is smaller by a factor of eta


def images(flow):
    """What every operator and its transpose do to the same tensors, as bytes; D twice over."""
    found = {}
    for name, operator in [*operators(flow).items(), ("D again", flow.D)]:
        for side in (operator, operator.T):
            batch = np.random.default_rng(1).normal(size=(2, *side.shape_in))
            found[name, side is operator] = side.apply(batch).tobytes()
    return found


@pytest.mark.parametrize("rtol, dtype", [(None, np.float32), (1e-5, np.float64)])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_stored_or_recomputed_stages_give_the_same_bits(kind, rtol, dtype, monkeypatch):
    """All coefficients stored, none, or those of some segments; all steps in one segment, or in several."""
    options = {"method": "dopri5", "shape": (3, 5, 4), "rtol": rtol, "dtype": dtype, "input_kind": "cubic"}
    for entries in (1 << 21, 150):
        monkeypatch.setattr(kpref.runge_kutta, "_SEGMENT_ENTRIES", entries)
        stored = images(make_flow(kind, **options))
        for memory in (0, 2_000):
            assert images(make_flow(kind, stage_memory=memory, **options)) == stored


def test_how_much_is_stored(monkeypatch):
    """`stage_memory` is an upper limit, and reached but for less than a segment."""
    monkeypatch.setattr(kpref.runge_kutta, "_SEGMENT_ENTRIES", 500)
    sizes = {}
    for memory in (0, 10_000, None):
        flow = make_flow("Rate-tanh", "dopri5", (3, 20, 4), stage_memory=memory)
        flow.D(np.ones(flow.model.n_parameters))
        system = flow._dynamics.system
        sizes[memory] = sum(form.nbytes for form in system._stored.values())
        assert len(system.segments) == 4
    assert sizes[0] == 0
    assert 10_000 - sizes[None] / 4 * 1.5 < sizes[10_000] <= 10_000 < sizes[None]


@pytest.mark.parametrize("kind", STRUCTURES)
def test_segments_change_rounding_only(kind, monkeypatch):
    options = {"method": "rk38", "shape": (3, 8, 4)}
    whole = make_flow(kind, **options)
    monkeypatch.setattr(kpref.runge_kutta, "_SEGMENT_ENTRIES", 150)
    parts = make_flow(kind, **options)
    for name, operator in operators(parts).items():
        assert_close(operator.to_dense(), operators(whole)[name].to_dense(), 1e-13)


@pytest.mark.parametrize("kind", STRUCTURES)
@every_method
def test_single_precision_is_close_to_double(method, kind):
    single, double = (make_flow(kind, method, dtype=dtype) for dtype in (np.float32, np.float64))
    np.testing.assert_array_equal(single.states, double.states)
    rng = np.random.default_rng(0)
    for name, operator in operators(double).items():
        for exact, rounded in ((operator, operators(single)[name]), (operator.T, operators(single)[name].T)):
            q = rng.normal(size=exact.shape_in).astype(np.float32)
            # Some 1,000 roundings of 6e-8 that add as a random walk, 2e-6, times the growth of a perturbation.
            got = rounded(q)
            assert got.dtype == np.float32
            assert_close(got, exact(q), 2e-5)


def test_cubic_forcing_reproduces_cubics():
    """P of a forcing that is a cubic in time is that of the cubic itself, where linear forcing takes its chords."""
    flow = make_flow("LinearSystem", "rk4", (2, 6, 3), forcing="cubic")
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(2, 4, 3))
    cubic = CubicSpline(flow.solution.times[[0, 2, 4, 6]], samples, axis=1)  # through four points: one cubic
    at = flow.solution.times[:-1, None] + flow.solution.tableau.c * flow.solution.h[:, None]
    wanted = flow.stage.P(cubic(at))
    assert_close(flow.P(cubic(flow.solution.times)), wanted)
    linear = make_flow("LinearSystem", "rk4", (2, 6, 3), forcing="linear")
    assert np.abs(linear.P(cubic(flow.solution.times)) - wanted).max() > 1e-4
