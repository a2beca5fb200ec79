"""Problems of whole numbers: the integers, the two conditions, and a verdict to the last bit."""

from fractions import Fraction

import numpy as np
import pytest
from apparatus.cases import emulate
from apparatus.further import FURTHER
from apparatus.mutants import MUTANTS
from apparatus.offered import offering
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow
from kpref.models import GRU, RNN
from kpref.oracle import NotExact, flow_backend, integer_flow, jax_backend, torch_backend, verify_exact
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.backend import OPERATORS
from kpref.oracle.integers import EXACT_MODELS, Integers
from tests.conftest import PROFILE
from tests.strategies import examples

LEAKY = [{"alpha": 0.5}, {"alpha": 0.5, "leak": "inside"}, {"train_alpha": True}, {"bias": False}]
KINDS = [(name, {"steps": 4}) for name in EXACT_MODELS] + [("leaky", options) for options in LEAKY]
KINDS += [("low-rank", {"alpha": 0.5}), ("stacked-rnn", {"n_layers": 3, "steps": 3, "trials": 2})]


def whole(array):
    """As Python's integers, which know no overflow."""
    return np.frompyfunc(int, 1, 1)(np.asarray(array))


def textbook(flow, operator, probe):
    """An operator of the relu network by its definition, in Python's integers, over dense matrices."""
    p = {name: whole(value) for name, value in flow.model.parameters.items()}
    x, z, probe = whole(flow.inputs), whole(flow.z0), whole(probe)
    trials, steps, units = flow.states.shape
    A, J, states = np.zeros((steps, trials), object), np.zeros((steps, trials), object), []
    for n in range(steps):
        a = z @ p["weight_hh"].T + x[:, n] @ p["weight_ih"].T + p["bias_ih"] + p["bias_hh"]
        for b in range(trials):
            gate = np.diag([int(value > 0) for value in a[b]]).astype(object)
            one = np.eye(units, dtype=int).astype(object)
            A[n, b] = gate @ p["weight_hh"]
            J[n, b] = gate @ np.hstack([np.kron(one, x[b, n][None]), np.kron(one, z[b][None]), one, one])
        z = np.where(a > 0, a, 0)
        states.append(z)

    def P(q):
        y = q.copy()
        for n in range(1, steps):
            y[:, n] = [A[n, b] @ y[b, n - 1] + q[b, n] for b in range(trials)]
        return y

    def P_T(g):
        costate = g.copy()
        for n in range(steps - 2, -1, -1):
            costate[:, n] = [A[n + 1, b].T @ costate[b, n + 1] + g[b, n] for b in range(trials)]
        return costate

    def P_inverse(y):
        q = y.copy()
        for n in range(1, steps):
            q[:, n] = [y[b, n] - A[n, b] @ y[b, n - 1] for b in range(trials)]
        return q

    def J_of(theta):
        return np.array([[J[n, b] @ theta for n in range(steps)] for b in range(trials)])

    def J_T(g):
        return sum(J[n, b].T @ g[b, n] for n in range(steps) for b in range(trials))

    def P_inverse_T(g):
        q = g.copy()
        for n in range(steps - 1):
            q[:, n] = [g[b, n] - A[n + 1, b].T @ g[b, n + 1] for b in range(trials)]
        return q

    def from_start(start):
        forcing = np.zeros(flow.states.shape, object)
        forcing[:, 0] = [A[0, b] @ start[b] for b in range(trials)]
        return P(forcing)

    def to_start(g):
        return np.array([A[0, b].T @ P_T(g)[b, 0] for b in range(trials)])

    operators = {"P": P, "P_T": P_T, "P_inverse": P_inverse, "J": J_of, "J_T": J_T}
    operators |= {"K": lambda q: J_of(J_T(q)), "NTK": lambda q: P(J_of(J_T(P_T(q)))), "gradient": lambda e: J_T(P_T(e))}
    operators |= {"P_inverse_T": P_inverse_T, "D": lambda t: P(J_of(t)), "D_z0": from_start, "D_z0_T": to_start}
    # Every point weighs one.
    operators |= {"D_T": operators["gradient"], "gradient_T": operators["D"]}
    operators |= {"K_T": operators["K"], "NTK_T": operators["NTK"]}
    return np.stack(states, axis=1) if operator == "states" else operators[operator](probe)


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 6), units=st.integers(1, 6), start=st.booleans())
@examples(8)
def test_the_integers_are_those_of_the_definitions(seed, steps, units, start):
    flow = integer_flow("rnn", 2, steps, units, seed=seed, zero_start=start)
    integers, rng = Integers.of(flow), np.random.default_rng(seed)
    np.testing.assert_array_equal(integers.states, textbook(flow, "states", 0).astype(float))
    for operator, (space, _) in OPERATORS.items():
        shapes = {"trajectory": flow.states.shape, "parameters": flow.model.n_parameters, "starts": flow.z0.shape}
        probe = rng.integers(-9, 10, shapes[space])
        expected = textbook(flow, operator, probe).astype(float)
        np.testing.assert_array_equal(integers.answer(operator, probe.astype(float)), expected)


def test_a_leak_of_one_half_is_exact_too():
    """Against Python's fractions: states halve in every step, and so does what P carries."""
    flow = integer_flow("leaky", 2, 4, 3, seed=1, alpha=0.5)
    half, p = Fraction(1, 2), {name: whole(value) for name, value in flow.model.parameters.items()}
    q = whole(np.random.default_rng(0).integers(-3, 4, flow.states.shape))
    z, y, states, response = whole(flow.z0), 0 * q[:, 0], [], []
    for n in range(4):
        slope = np.where(z > 0, 1, 0)
        y = half * y + half * ((slope * y) @ p["weight_hh"].T) + q[:, n]
        current = np.where(z > 0, z, 0) @ p["weight_hh"].T + whole(flow.inputs[:, n]) @ p["weight_ih"].T + p["bias"]
        z = half * z + half * current
        states.append(z)
        response.append(y)
    integers = Integers.of(flow)
    assert integers.bits["A"] == 1
    np.testing.assert_array_equal(integers.states, np.stack(states, axis=1).astype(float))
    np.testing.assert_array_equal(integers.answer("P", q.astype(float)), np.stack(response, axis=1).astype(float))


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("model, options", KINDS)
def test_own_operators_are_right_to_the_last_bit(model, options, precision):
    short = {"trials": 2, "steps": 3, "states": 4} if "alpha" in options else {}
    flow = integer_flow(model, seed=3, **short | options)
    report = verify_exact(flow_backend(flow, precision), flow)
    assert report.passed, str(report)
    assert [check.identifier for check in report.checks] == [f"{name}.exact" for name in ("states", *OPERATORS)]
    assert all(check.verdict == "pass" and check.figure == 0 and check.bound == 0 for check in report.checks)


def test_narrow_formats_where_the_integers_fit():
    flow = integer_flow("rnn", 1, 2, 2, inputs=1, seed=0)
    for name in ("tf32", "float16"):
        assert verify_exact(emulate(flow, ARITHMETICS[name]), flow).passed
    short = offering(emulate(flow, ARITHMETICS["bfloat16"]), "P", "P_T", "P_inverse")
    assert verify_exact(short, flow).passed
    larger = integer_flow("rnn", seed=0)
    message = r"the magnitudes of NTK add up to 2\*\*\d+\.\d units, and bfloat16 holds whole numbers below 2\*\*8: "
    with pytest.raises(NotExact, match=message):
        verify_exact(offering(emulate(larger, ARITHMETICS["bfloat16"]), "NTK"), larger)


def planted(seed, names):
    """Mutants of the relu network on a problem whose points count differently, and the checks that found them."""
    flow = integer_flow("rnn", 3, 7, 8, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 3, (3, 7)) + (np.arange(7) == 6)
    flow = Flow(flow.model, flow.inputs, flow.z0, weights.astype(float))
    for name in names:
        backend = emulate(flow, ARITHMETICS["float64"])
        MUTANTS[name].plant(backend)
        yield name, verify_exact(backend, flow)


#: Of every operator some; "precision" is none here, whole numbers being the same in float32.
PLANTABLE = [
    name
    for name, mutant in MUTANTS.items()
    if "rnn" in mutant.models and mutant.operator != "metrics" and "precision" not in name and mutant not in FURTHER
]


def test_planted_defects_are_caught_with_no_tolerance():
    names = PLANTABLE if PROFILE == "thorough" else PLANTABLE[::4]
    assert len(names) >= 19
    wrong = []
    for name, report in planted(1, names):
        own = [check for check in report.defects if check.operator == MUTANTS[name].operator]
        assert own, name
        assert {check.operator for check in report.defects} <= MUTANTS[name].affected or own[0].operator == "states"
        assert all(check.figure == np.inf and "is right" in check.message for check in own)
        if (own[0].guess or "").split(":")[0] not in MUTANTS[name].classes:
            wrong.append((name, own[0].guess))
    assert len(wrong) <= 0.1 * len(names), wrong


def test_the_first_wrong_entry_is_named():
    flow = integer_flow("rnn", seed=2)
    backend = flow_backend(flow)
    right, right_sums = backend.P, backend.J_T

    def wrong(q):
        y = np.array(right(q))
        y[2, 3:, 4] += 2.0**-40
        return y

    def wrong_sums(g):
        theta = np.array(right_sums(g))
        theta[8 * 3 + 5] += 1
        return theta

    backend.P, backend.J_T = wrong, wrong_sums
    report = verify_exact(offering(backend, "P", "J_T"), flow)
    first = {check.operator: check for check in report.defects}
    assert set(first) == {"P", "J_T"}
    assert (first["P"].first.trial, first["P"].first.step, first["P"].first.unit) == (2, 3, 4)
    assert "2 of 120 entries differ" in first["P"].message
    assert first["J_T"].first.parameter == "weight_hh[0, 5]"
    assert "weight_hh[0, 5]" in str(first["J_T"])


def test_what_is_not_offered_or_fails_is_said():
    flow = integer_flow("rnn", seed=0)

    def broken(q):
        raise ZeroDivisionError("no")

    backend = offering(replace_P(flow_backend(flow), broken), "P", "K")
    verdicts = {check.operator: check.verdict for check in verify_exact(backend, flow).checks}
    assert verdicts["P"] == "could not run"
    assert verdicts["K"] == verdicts["states"] == "pass"
    assert verdicts["NTK"] == "not offered"


def replace_P(backend, P):
    backend.P = P
    return backend


def relu(x, weight=1.0, z0=1.0):
    model = RNN([[1.0]], [[weight]], nonlinearity="relu")
    return Flow(model, np.reshape(x, (1, -1, 1)).astype(float), [[z0]], "sum")


@pytest.mark.parametrize(
    "flow, message",
    [
        (relu([2, 3, -6, 1]), "at trial 0, step 2, unit 0 a pre-activation is zero"),
        (relu([1, 2], weight=1 / 3), "weight_hh must be whole numbers, or multiples of 2\\*\\*-8, .* got 0.333"),
        (relu([0.1, 2]), "inputs must be whole numbers"),
        (relu([1.0] * 20, weight=2.0), "below 2\\*\\*18 units for exact differences"),
    ],
)
def test_problems_that_are_not_exact_are_refused(flow, message):
    with pytest.raises(NotExact, match=message):
        verify_exact(flow_backend(flow), flow)


def test_networks_that_are_not_of_relu_are_refused():
    with pytest.raises(ValueError, match="problems of whole numbers are of .*rnn, .*; got 'gru'"):
        integer_flow("gru")
    gru = GRU.init(1, 2, 0).with_parameters({"weight_ih": np.ones((6, 1)), "weight_hh": np.ones((6, 2))})
    with pytest.raises(NotExact, match="states must be whole numbers"):
        verify_exact(object(), Flow(gru, np.ones((1, 2, 1))))
    # One unit that nothing drives but itself: dead, and always at zero.
    with pytest.raises(NotExact, match="a pre-activation is zero whatever the inputs are"):
        integer_flow("stacked-rnn", 1, 20, 1, bias=False, n_layers=3)


def test_the_same_seed_is_the_same_problem():
    first, again, other = (integer_flow("low-rank", seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.model.vector, again.model.vector)
    assert not np.array_equal(first.states, other.states)


def of_torch(flow, precision):
    torch = pytest.importorskip("torch")
    module = torch.nn.RNN(flow.model.n_inputs, flow.model.n_units, nonlinearity="relu").to(getattr(torch, precision))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), flow.model.parameters.values(), strict=True):
            parameter.copy_(torch.tensor(value))
    return torch_backend(module, flow.inputs, flow.z0, "sum")


def of_jax(flow, precision):
    jax = pytest.importorskip("jax")
    parameters = {name: np.asarray(value, precision) for name, value in flow.model.parameters.items()}

    def step(p, z, x):
        return jax.nn.relu(z @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias_ih"] + p["bias_hh"])

    return jax_backend(step, parameters, flow.inputs, flow.z0, "sum")


@pytest.mark.backends
@pytest.mark.parametrize("make, precision", [(of_torch, "float64"), (of_torch, "float32"), (of_jax, "float32")])
def test_other_libraries_are_right_to_the_last_bit(make, precision):
    flow = integer_flow("rnn", 4, 8, 12, seed=1)
    report = verify_exact(make(flow, precision), flow)
    assert report.passed, str(report)
    assert report.arithmetic == precision
