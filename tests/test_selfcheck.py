"""The self-check passes on correct operators and fails on each kind of defect; block-diagonal eigensolver."""

import dataclasses

import numpy as np
import pytest

from kpref import Flow
from kpref.analysis.selfcheck import (
    Check,
    dot_test,
    finite_differences,
    gram_test,
    inverse_tests,
    kernel_test,
    self_check,
    stage_test,
)
from kpref.models import GRU, RNN, Lorenz63, Rate
from kpref.operators import TensorOperator
from kpref.spectra import eigh, kernel_spectrum
from kpref.spectra.blocks import block_eigh

GAIN = 1.4  # strong enough a recurrence that a mistake in time shows


def flow_of(model, trials=3, steps=7, measure="mean"):
    rng = np.random.default_rng(1)
    z0 = 0.3 * rng.normal(size=(trials, model.n_states))
    return Flow(model, rng.normal(size=(trials, steps, model.n_inputs)), z0, measure)


MODELS = {
    "gru": GRU.init(2, 5, seed=0, gain=GAIN),
    "tanh": RNN.init(2, 5, seed=0, gain=GAIN),
    "relu": RNN.init(2, 5, seed=0, gain=GAIN, nonlinearity="relu"),
    "linear": RNN.init(2, 5, seed=0, gain=GAIN, nonlinearity="identity"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("measure", ["mean", "sum"])
def test_correct_operators_pass(name, measure):
    found = self_check(flow_of(MODELS[name], measure=measure), seed=3)
    assert found.passed, [check for check in found.checks if not check.passed]
    assert [check.name for check in found.checks][:4] == [f"dot test of {op}" for op in ("P", "J", "K", "NTK")]
    assert found.differences.error < 1e-9
    if name in ("gru", "tanh"):
        # Central differences: an h^2 series; at h < 1e-2 of the parameters the h^4 term moves the fit by about that.
        assert found.differences.slope == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 6)])
def test_smallest_flows_pass(shape):
    assert self_check(flow_of(GRU.init(1, 1, seed=0), *shape)).passed


def test_zero_network_passes():
    model = RNN(np.zeros((3, 2)), np.zeros((3, 3)))
    assert self_check(Flow(model, np.zeros((2, 4, 2)))).passed


def spoiled(operator, forward=None, transpose=None):
    """The operator with something done to its results."""
    same = lambda image: image  # noqa: E731
    forward, transpose = forward or same, transpose or same
    return TensorOperator(
        lambda batch: forward(operator.apply(batch)),
        lambda batch: transpose(operator.T.apply(batch)),
        operator.space_in,
        operator.space_out,
        name=operator.name,
    )


@pytest.mark.parametrize(
    "defect", [lambda image: image * (1 + 1e-9), lambda image: image[:, ::-1], lambda image: -image]
)
def test_dot_test_finds_a_wrong_transpose(defect):
    flow = flow_of(MODELS["gru"])
    assert dot_test(flow.P, np.random.default_rng(0), 1000).passed
    assert not dot_test(spoiled(flow.P, transpose=defect), np.random.default_rng(0), 1000).passed


def test_wrong_derivative_is_found():
    flow = flow_of(MODELS["gru"])
    flow.__dict__["J"] = spoiled(flow.J, lambda image: image * (1 + 1e-7), lambda image: image * (1 + 1e-7))
    found = self_check(flow)
    assert not {check.name: check.passed for check in found.checks}["P J = dZ/dθ"]
    # The defect shifts P J by exactly its own size.
    assert found.differences.error == pytest.approx(1e-7, rel=1e-3)


def test_wrong_inverse_is_found():
    flow = flow_of(MODELS["gru"])
    flow.__dict__["P_inverse"] = spoiled(flow.P_inverse, lambda image: image * (1 + 1e-10))
    assert all(not check.passed for check in inverse_tests(flow, np.random.default_rng(0), condition=10.0))


def test_wrong_kernel_is_found():
    flow = flow_of(MODELS["gru"])
    assert kernel_test(flow, np.random.default_rng(0), condition=10.0).passed
    flow.__dict__["NTK"] = spoiled(flow.NTK, lambda image: image * (1 + 1e-9))
    assert not kernel_test(flow, np.random.default_rng(0), condition=10.0).passed


def test_forgotten_initial_state_is_found():
    right = flow_of(MODELS["gru"])
    wrong = Flow(right.model, right.inputs)
    right.__dict__["J"], right.__dict__["P"] = wrong.J, wrong.P
    differences = finite_differences(right, np.random.default_rng(0))
    assert differences.error > 1e-3


@pytest.mark.parametrize(("error", "bound"), [(np.nan, 1.0), (np.inf, 1.0), (0.5, np.inf), (0.5, np.nan), (2.0, 1.0)])
def test_a_check_without_numbers_within_its_bound_fails(error, bound):
    check = Check("", "", error, bound, "", idle=True)
    assert not check.passed
    assert check.status == "FAIL"


def test_no_checks_are_not_passed_ones():
    found = self_check(flow_of(MODELS["gru"]))
    assert found.passed
    assert not dataclasses.replace(found, checks=()).passed


def test_what_had_nothing_to_test_says_so():
    """No unit of this relu network is ever active: J, K and the NTK are zero."""
    silent = RNN(-np.ones((3, 2)), np.zeros((3, 3)), -np.ones(3), nonlinearity="relu")
    found = self_check(Flow(silent, np.ones((2, 4, 2))))
    assert found.passed
    status = {check.name: check.status for check in found.checks}
    assert {name for name, word in status.items() if word == "pass"} == {
        "dot test of P", "P⁻¹ after P", "P after P⁻¹", "P J = dZ/dθ", "dot test of P^-1"
    }  # fmt: skip
    assert set(status.values()) == {"pass", "nothing to test"}


def test_a_derivative_that_is_zero_and_should_not_be_is_found():
    flow = flow_of(MODELS["gru"])
    flow.__dict__["J"] = spoiled(flow.J, lambda image: 0 * image, lambda image: 0 * image)
    check = {check.name: check for check in self_check(flow).checks}["P J = dZ/dθ"]
    assert not check.passed
    assert check.error == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("seed", [1, 2])
def test_chaos_is_not_accused_nor_waved_through(seed):
    """Differences can not resolve what grows by 1e20 over a trial: they are taken as far as they decide."""
    rng = np.random.default_rng([seed, 2])
    model = RNN.init(2, 12, seed=seed, gain=4.0)
    flow = Flow(model, rng.normal(size=(2, 100, 2)))
    found = self_check(flow, seed=1)
    assert found.passed
    check = {check.name: check for check in found.checks}["P J = dZ/dθ"]
    assert 10 < found.differences.rows < 100
    assert f"the first {found.differences.rows} of 100 rows" in check.verdict
    flow.__dict__["J"] = spoiled(flow.J, lambda image: image * 1.01, lambda image: image * 1.01)
    assert not {check.name: check.passed for check in self_check(flow, seed=1).checks}["P J = dZ/dθ"]


def test_an_exploding_network_does_not_break_the_checks():
    """P grows to 1e90, beyond the square root of the largest number: products of norms must not overflow."""
    model = RNN.init(2, 12, seed=3, gain=8.0, nonlinearity="relu")
    found = self_check(Flow(model, np.random.default_rng([3, 2]).normal(size=(2, 100, 2))))
    assert all(np.isfinite(check.error) for check in found.checks)
    status = {check.name: check.status for check in found.checks}
    assert status["P⁻¹ after P"] == status["NTK from its factors"] == "nothing to test"
    assert status["P J = dZ/dθ"] == "pass"


def test_undecided_differences_do_not_pass(monkeypatch):
    from kpref.analysis import selfcheck

    flow = flow_of(MODELS["gru"])
    differences = finite_differences(flow, np.random.default_rng(0))
    vague = dataclasses.replace(differences, error=1e-9, error_estimate=1e-3)
    monkeypatch.setattr(selfcheck, "finite_differences", lambda *args: vague)
    assert not self_check(flow).passed


def rate_flow(nonlinearity="tanh", steps=7, units=5, **options):
    rng = np.random.default_rng(1)
    model = Rate.init(2, units, seed=0, gain=GAIN, tau=0.7, nonlinearity=nonlinearity)
    return Flow(model, rng.normal(size=(3, steps, 2)), 0.3 * rng.normal(size=units), dt=0.1, **options)


FIELDS = {
    "rk4": rate_flow(),
    "euler": rate_flow(method="euler"),
    "cubic": rate_flow(method="dopri5", input_kind="cubic", forcing="cubic"),
    "sum": rate_flow(measure="sum"),
    "segments": rate_flow(stage_memory=0.0),
    "one unit, one step": rate_flow(steps=2, units=1),
    "dense form": Flow(Lorenz63(), z0=np.ones((2, 3)), times=0.02 * np.arange(9.0)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_correct_operators_of_fields_pass(name):
    found = self_check(FIELDS[name], seed=3)
    assert found.passed, [check for check in found.checks if not check.passed]
    assert [check.name for check in found.checks] == [
        *(f"dot test of {op}" for op in ("P_s", "J_s", "D", "P", "K")),
        "D from its factors",
        "NTK from D",
        "D = dZ/dθ",
        "slope of finite differences",
        "dot test of J",
        "J at the times",
        "A at the times",
        "P from P_s",
        "K from J",
        "step size",
    ]
    for check in found.checks[:8]:  # a bound that nothing exceeds would check nothing
        assert check.bound < 1e-8
    assert not any(check.idle for check in found.checks[:8])


def test_wrong_derivative_of_a_field_is_found():
    flow = rate_flow()
    flow.__dict__["D"] = spoiled(flow.D, lambda image: image * (1 + 1e-7), lambda image: image * (1 + 1e-7))
    passed = {check.name: check.passed for check in self_check(flow).checks}
    assert not passed["D = dZ/dθ"]
    assert not passed["D from its factors"]
    assert passed["dot test of D"]


def test_wrong_stages_are_found():
    flow = rate_flow()
    stage = flow.stage
    assert stage_test(flow, np.random.default_rng(0)).passed
    for wrong in (
        dataclasses.replace(stage, P=spoiled(stage.P, lambda image: image * (1 + 1e-10))),
        dataclasses.replace(stage, J=spoiled(stage.J, lambda image: image[:, :, :, ::-1])),
    ):
        flow._dynamics.__dict__["stage"] = wrong
        assert not stage_test(flow, np.random.default_rng(0)).passed


def test_wrong_kernel_of_a_field_is_found():
    flow = rate_flow()
    assert gram_test(flow, np.random.default_rng(0)).passed
    flow.__dict__["NTK"] = spoiled(flow.NTK, lambda image: image * (1 + 1e-9))
    assert not gram_test(flow, np.random.default_rng(0)).passed


@pytest.mark.parametrize(
    ("name", "check"), [("J", "J at the times"), ("K", "K from J"), ("P", "P from P_s")]
)  # fmt: skip
def test_wrong_operators_on_the_grid_are_found(name, check):
    """A factor that operator and transpose share escapes the dot test; D and the NTK do not pass through these."""
    flow = rate_flow()
    scaled = lambda image: image * (1 + 1e-9)  # noqa: E731
    flow.__dict__[name] = spoiled(getattr(flow, name), scaled, scaled)
    found = {each.name: each for each in self_check(flow).checks}
    assert not found[check].passed
    assert "they are off by 1.0e-09" in found[check].verdict
    assert found[f"dot test of {name}"].passed


def test_a_wrong_linearisation_at_the_times_is_found():
    """The rates that the step is judged by; they enter neither P nor D."""
    flow = rate_flow()
    form = flow.linearization
    rolled = form.numbers.copy()
    form.places["slope"].view(rolled)[...] = np.roll(form.channel("slope"), -1, axis=0)
    flow.dynamics.__dict__["linearization"] = dataclasses.replace(form, numbers=rolled)
    found = {each.name: each for each in self_check(flow).checks}
    assert not found["A at the times"].passed
    assert "df/dz at the times is not that at the first stages" in found["A at the times"].verdict


def test_a_wrong_transpose_of_the_inverse_is_found():
    flow = flow_of(MODELS["gru"])
    flow.__dict__["P_inverse"] = spoiled(flow.P_inverse, transpose=lambda image: image * (1 + 1e-9))
    failed = [check for check in self_check(flow).checks if not check.passed]
    assert [check.name for check in failed] == ["dot test of P^-1"]
    assert failed[0].verdict.startswith("P^-1 and its transpose do not belong together: they are off by ")


def test_kinks_near_the_trajectory_are_no_defect():
    """Of the 3,000 states one is 1e-6 from the kink, so that only the smallest differences see one side of it."""
    rng = np.random.default_rng(0)
    model = Rate.init(2, 20, seed=0, gain=GAIN, tau=0.7, nonlinearity="relu")
    flow = Flow(model, rng.normal(size=(3, 50, 2)), dt=0.1, method="euler")
    assert np.abs(flow.states[:, 1:]).min() < 2e-6
    assert self_check(flow).passed


WEIGHTS = np.array([[1.0, 0, 2, 1, 3, 1, 0.5], [0] * 7, [1] * 7])


@pytest.mark.parametrize("measure", ["mean", "sum", WEIGHTS], ids=["mean", "sum", "weights"])
@pytest.mark.parametrize("name", ["gru", "tanh"])
def test_block_eigh_is_eigh(name, measure):
    flow = flow_of(MODELS[name], measure=measure)
    for operator, axis in ((flow.P.gram(), 0), (flow.K, 2)):
        found = block_eigh(operator, 9, axis, seed=2)
        # Both are exact to a few units of rounding of the largest eigenvalue, times the size of the problem.
        np.testing.assert_allclose(found.values, eigh(operator, 9).values, rtol=0, atol=1e-12 * found.values[0])
        assert found.residuals.max() < 1e-10
        for value, block, vector in zip(found.values, found.blocks, found.vectors, strict=True):
            whole = np.zeros(flow.space.shape)
            np.moveaxis(whole, axis, 0)[block] = vector
            assert flow.space.norm(whole) == pytest.approx(1.0)
            assert flow.space.norm(operator(whole) - value * whole) < 1e-10 * found.values[0]


@pytest.mark.parametrize("name", ["rk4", "cubic", "sum", "one unit, one step"])
def test_block_eigh_of_a_field(name):
    """Row 0 of a trajectory never moves, so that ``P P*`` is singular; K is not moved and has a row 0."""
    flow = FIELDS[name]
    root = np.sqrt(np.repeat(flow.space.mu, flow.space.shape[2]))
    k = min(9, flow.space.size)
    for operator, axis in ((flow.P.gram(), 0), (flow.K, 2)):
        dense = np.linalg.eigvalsh(root[:, None] * operator.to_dense() / root)[::-1][:k]
        found = block_eigh(operator, k, axis, seed=2)
        np.testing.assert_allclose(found.values, dense, rtol=0, atol=1e-12 * dense[0])
        assert found.residuals.max() < 1e-10
    spectrum = kernel_spectrum(flow).values
    np.testing.assert_allclose(spectrum[:k], dense[: len(spectrum)], rtol=0, atol=1e-12 * dense[0])


def test_block_eigh_restarts_until_it_converges():
    """Blocks much larger than the basis, at a tolerance that one basis does not reach."""
    flow = flow_of(RNN.init(2, 20, seed=0, gain=0.9), trials=2, steps=20)
    found = block_eigh(flow.P.gram(), 2, axis=0, tol=1e-12)
    dense = np.linalg.eigvalsh(flow.P.gram().to_dense())[::-1][:2]
    assert found.n_products > 20
    np.testing.assert_allclose(found.values, dense, rtol=1e-11)


def test_block_eigh_goes_on_with_few_blocks():
    """Products with those alone that may hold a wanted pair lead to the same pairs, and to settled values of all."""
    flow, asked = flow_of(RNN.init(2, 20, seed=0, gain=0.9), trials=12, steps=20), []

    def part(some):
        asked.append(len(some))
        return Flow(flow.model, flow.inputs[some], flow.z0[some]).P.gram()

    whole = block_eigh(flow.P.gram(), 2, axis=0, tol=1e-12)
    found = block_eigh(flow.P.gram(), 2, axis=0, tol=1e-12, part=part)
    assert asked
    assert asked == sorted(asked, reverse=True)
    assert asked[0] < 12
    # The tolerance is that of the residual; values have about its square, and what rounding leaves.
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-11)
    np.testing.assert_array_equal(found.blocks, whole.blocks)
    assert (found.defects <= 1e-6 * found.largest).all()
    dense = [np.linalg.eigvalsh(part(np.array([trial])).to_dense())[-1] for trial in range(12)]
    np.testing.assert_allclose(found.largest, dense, rtol=1e-6)


def test_block_eigh_refuses():
    flow = flow_of(MODELS["tanh"])
    with pytest.raises(ValueError, match="declared self-adjoint"):
        block_eigh(flow.P, 2, axis=0)
    for k in (0, flow.space.size + 1, True, 1.5):
        with pytest.raises((ValueError, TypeError), match="k must be an integer of at least 1 and at most"):
            block_eigh(flow.K, k, axis=2)
