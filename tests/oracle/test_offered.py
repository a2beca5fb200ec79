"""What a backend offers is judged or named: operators that follow from others, transposes, names nearly right."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import emulate, make_flow, random_flow
from apparatus.offered import everything
from apparatus.planting import rolled, shifted
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator

from kpref.models import GRU
from kpref.oracle import flow_backend, verify
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.evaluation import evaluate
from kpref.oracle.isolation import IsolatedBackend
from kpref.oracle.names import OPERATORS, TRANSPOSES, unjudged
from tests.strategies import examples

FURTHER = ("P_inverse_T", "D", "D_T", "D_z0", "D_z0_T", "K_T", "NTK_T", "gradient_T")


def weighted_flow(seed=0):
    weights = np.random.default_rng([seed, 4]).uniform(0.1, 2.0, size=(3, 6))
    return make_flow(GRU.init(2, 4, seed, gain=1.2), (3, 6), seed, weights)


FLOW = weighted_flow()


def alone(operator, call, arithmetic="float64", flow=FLOW):
    return SimpleNamespace(arithmetic=arithmetic, states=flow.states, **{operator: call})


@pytest.mark.parametrize("name", ARITHMETICS)
@given(seed=st.integers(0, 2**31))
@examples(4)
def test_no_correct_backend_is_accused(name, seed):
    flow = random_flow(seed)
    backend = everything(emulate(flow, ARITHMETICS[name]))
    for operator in ("P", "P_T", "P_inverse", "J", "J_T", "K", "NTK", "gradient", "metrics"):
        delattr(backend, operator)  # these are judged elsewhere
    report = verify(backend, flow, seed=seed)
    assert not report.defects, str(report)


@pytest.mark.parametrize("operator", FURTHER)
def test_operators_are_what_the_flow_says_they_are(operator):
    """The values that answers are held against are those of kpref's own operators."""
    own = {
        "P_inverse_T": FLOW.P_inverse.T, "D": FLOW.D, "D_T": FLOW.D.T, "D_z0": FLOW.D_z0, "D_z0_T": FLOW.D_z0.T,
        "K_T": FLOW.K.T, "NTK_T": FLOW.NTK.T, "gradient_T": FLOW.D.star.T,
    }[operator]  # fmt: skip
    domain, image = own.shape[::-1]
    shapes = {"trajectory": FLOW.states.shape, "parameters": (FLOW.model.n_parameters,), "starts": FLOW.z0.shape}
    tensor = np.random.default_rng(0).normal(size=shapes[OPERATORS[operator][0]])
    assert (domain, image) == (tensor.size, np.prod(shapes[OPERATORS[operator][1]]))
    value = evaluate(operator, FLOW.linearization, FLOW.space, tensor)
    np.testing.assert_allclose(value.ravel(), own @ tensor.ravel(), rtol=1e-12, atol=1e-13 * np.abs(value).max())


@pytest.mark.parametrize("name, size", [("float64", 1e-9), ("float32", 1e-3)])
@pytest.mark.parametrize("operator", FURTHER)
def test_one_wrong_entry_is_caught_and_placed(operator, name, size):
    right = getattr(everything(emulate(FLOW, ARITHMETICS[name])), operator)

    def wrong(tensor):
        answer = np.array(right(tensor))
        answer[(1, 3, 2) if answer.ndim == 3 else (1, 2) if answer.ndim == 2 else 7] += size * np.abs(answer).max()
        return answer

    backend = alone(operator, wrong, name)
    backend.states = emulate(FLOW, ARITHMETICS[name]).states
    report = verify(backend, FLOW)
    assert {check.operator for check in report.defects} == {operator}
    first = report.defects[0].first
    if operator == "D_T":
        assert first.parameter == "weight_ih[3, 1]"
    elif operator == "D_z0_T":
        assert (first.trial, first.step, first.unit) == (1, None, 2)
    else:
        assert (first.trial, first.step, first.unit) == (1, 3, 2)


DEFECTS = {
    "P_inverse_T: A[n] for A[n+1]": (
        "P_inverse_T",
        lambda g: evaluate("P_inverse_T", rolled(1)(FLOW.linearization), FLOW.space, g),
        ("time shifted by one",),
    ),
    "P_inverse_T: not transposed": ("P_inverse_T", lambda g: FLOW.P_inverse(g), ("transpose",)),
    "P_inverse_T: P^T": ("P_inverse_T", lambda g: FLOW.P.T(g), ("inverse",)),
    "D: J": ("D", lambda theta: FLOW.J(theta), ("composition",)),
    "D: negative": ("D", lambda theta: -FLOW.D(theta), ("sign",)),
    "D: late": ("D", lambda theta: shifted(None, FLOW.D(theta)), ("time shifted by one",)),
    "D_T: J^T": ("D_T", lambda g: FLOW.J.T(g), ("composition",)),
    "D_T: the gradient": ("D_T", lambda g: FLOW.D.star(g), ("measure",)),
    "D_z0: forgotten": ("D_z0", lambda start: np.zeros(FLOW.states.shape), ("zero",)),
    "D_z0: as a forcing": (
        "D_z0",
        lambda start: FLOW.P(np.concatenate([start[:, None], np.zeros_like(FLOW.states[:, 1:])], axis=1)),
        ("", "one step", "first block"),
    ),
    "D_z0_T: costate of the first step": ("D_z0_T", lambda g: FLOW.P.T(g)[:, 0], ("composition",)),
    "K_T: K": ("K_T", lambda q: FLOW.K(q), ("measure",)),
    "K_T: no measure": ("K_T", lambda q: FLOW.J(FLOW.J.T(q)), ("measure",)),
    "NTK_T: NTK": ("NTK_T", lambda q: FLOW.NTK(q), ("measure",)),
    "NTK_T: K^T": ("NTK_T", lambda q: FLOW.space.weigh(FLOW.J(FLOW.J.T(q))), ("composition",)),
    "gradient_T: D": ("gradient_T", lambda theta: FLOW.D(theta), ("measure",)),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_of_further_operators_are_caught_and_named(name):
    operator, wrong, classes = DEFECTS[name]
    report = verify(alone(operator, wrong), FLOW)
    assert report.exit_status == 1
    assert {check.operator for check in report.defects} == {operator}
    assert (report.defects[0].guess or "").split(":")[0] in classes, report.defects[0].guess


@pytest.mark.parametrize("operator", [name for name in OPERATORS if not name.endswith("_T")])
def test_wrong_transposes_of_linear_operators_are_caught(operator):
    own = {"gradient": FLOW.D.star}.get(operator) or getattr(FLOW, operator)
    zero = LinearOperator(own.shape, matvec=own.matvec, rmatvec=lambda v: np.zeros(own.shape[1]), dtype=float)
    report = verify(alone(operator, zero), FLOW)
    assert {check.operator for check in report.defects} == {f"{operator}_T"}
    # Also where the transpose is offered on its own, and right.
    both = alone(operator, zero)
    setattr(both, f"{operator}_T", own.T)
    report = verify(both, FLOW)
    assert [check.guess for check in report.defects] == [f"transpose: {operator}.rmatvec is not {operator}_T"]
    right = alone(operator, own)
    setattr(right, f"{operator}_T", own.T)
    assert verify(right, FLOW).passed


@pytest.mark.parametrize(
    "name, meant",
    [
        ("ntk", "NTK"), ("PT", "P_T"), ("p_t", "P_T"), ("P_transpose", "P_T"), ("grad", "gradient"),
        ("grad_theta", "gradient"), ("Gradient", "gradient"), ("gradiant", "gradient"), ("P_inv", "P_inverse"),
        ("P_inverse_transpose", "P_inverse_T"), ("Dz0", "D_z0"), ("K_t", "K_T"), ("state", "states"),
        ("metric", "metrics"), ("k", "K"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_right_is_said(name, meant):
    backend = alone("J", FLOW.J)
    if name == "state":
        del backend.states
    setattr(backend, name, lambda *a: FLOW.states)
    report = verify(backend, FLOW)
    [check] = [check for check in report.checks if check.identifier.startswith("offered")]
    assert (check.identifier, check.verdict, report.exit_status) == (f"offered.{name}", "could not run", 2)
    assert check.message.endswith(f"if {meant} is meant, call it {meant}")
    if name not in ("state", "metric"):
        setattr(backend, meant, len)  # then the other one is nobody's business
        assert not unjudged(backend, FLOW.states.shape)


@pytest.mark.parametrize("name", ["loss", "readout_gradient"])
def test_what_the_oracle_cannot_judge_is_named(name):
    backend = alone("P", FLOW.P)
    setattr(backend, name, lambda *a: 0.0)
    report = verify(backend, FLOW)
    assert not report.passed
    assert f"{name} is offered and not judged" in str(report)


def test_attributes_of_ones_own_are_nobodys_business():
    class Mine:
        dtype = "float64"
        P = staticmethod(FLOW.P)

        def __init__(self):
            self.k, self.p, self.d, self.dt, self.state = 3, {"weight": 1.0}, np.ones(3), 0.1, np.ones(4)
            self.parameters, self.model, self.flow, self.inputs, self.step, self.run = {}, FLOW.model, FLOW, 0, len, len

        @property
        def memory(self):
            raise AssertionError("it is not looked at")

        def _ntk(self):
            raise AssertionError("nor this")

    assert not unjudged(Mine(), FLOW.states.shape)
    assert verify(Mine(), FLOW).passed
    assert not unjudged(flow_backend(FLOW), FLOW.states.shape)
    assert not unjudged(emulate(FLOW, ARITHMETICS["float32"]), FLOW.states.shape)


def test_names_and_transposes_are_told_by_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "from kpref.oracle import flow_backend\nfrom types import SimpleNamespace\n"
    code += "def few(flow):\n    return SimpleNamespace(dtype='float64', K=flow.K, ntk=flow.NTK, loss=len)\n"
    (tmp_path / "few_operators.py").write_text(code)
    with IsolatedBackend("few_operators:few", FLOW) as backend:
        assert set(backend.unjudged()) == {"ntk", "loss"}
        assert [way for way in TRANSPOSES if backend.offers(way)] == ["K.rmatvec"]
        assert verify(backend, FLOW).exit_status == 2
        tensor = np.ones(FLOW.states.shape)
        np.testing.assert_array_equal(backend("K_T", tensor), backend("K.rmatvec", tensor))
