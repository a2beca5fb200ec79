"""Time constants, one a unit, fixed or trained: against networks that hold them fixed, and derivatives by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import emulate, make_flow

import kpref
from kpref.checkpoints import load_checkpoint
from kpref.models import LeakyRNN, Rate
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.verification import verify

UNITS, INPUTS, STEP = 5, 2, 1e-30
ALPHA, TAU = np.linspace(0.1, 1.0, UNITS), np.linspace(0.5, 2.0, UNITS)
GRID = {"dt": 0.1, "method": "rk4"}


def inputs(steps=7, trials=4):
    return np.random.default_rng(1).normal(size=(trials, steps, INPUTS))


def pairs():
    """A network with fixed and with trained time constants, and the arguments of its flow."""
    for leak in ("outside", "inside"):
        for nonlinearity in ("tanh", "identity"):
            options = {"alpha": ALPHA, "leak": leak, "nonlinearity": nonlinearity}
            one, other = (LeakyRNN.init(INPUTS, UNITS, 0, **options, train_alpha=trained) for trained in (False, True))
            yield pytest.param(one, other, {}, id=f"{leak}-{nonlinearity}")
    one, other = (Rate.init(INPUTS, UNITS, 0, tau=TAU, train_tau=trained) for trained in (False, True))
    yield pytest.param(one, other, GRID, id="rate")


PAIRS = pytest.mark.parametrize(("fixed", "trained", "grid"), list(pairs()))


@PAIRS
def test_held_fixed_they_are_options_and_trained_they_are_the_last_parameter(fixed, trained, grid):
    assert list(trained.parameters) == [*fixed.parameters, trained.timed]
    z0 = np.random.default_rng(2).normal(size=(4, UNITS))
    one, other = (kpref.Flow(model, inputs(), z0=z0, **grid) for model in (fixed, trained))
    assert np.abs(one.states - other.states).max() <= 1e-14
    by_weights = other.D.to_dense()[:, :-UNITS]
    assert np.abs(by_weights - one.D.to_dense()).max() <= 1e-13
    frozen = kpref.Flow(trained.with_trainable(list(fixed.parameters)), inputs(), z0=z0, **grid)
    assert np.abs(frozen.K.to_dense() - one.K.to_dense()).max() <= 1e-13


@PAIRS
def test_derivatives_by_time_constants_are_what_the_docstring_derives(fixed, trained, grid):
    """At the points of linearisation: ``c - z`` by alpha, ``-F / tau`` by tau, and nothing by those of other units."""
    z, x = (np.random.default_rng(3).normal(size=(4, width)) for width in (UNITS, INPUTS))
    gate = ALPHA if not grid else 1 / TAU
    pull = (trained.evaluate(z, x) - (0 if grid else z)) / gate
    wanted = pull if not grid else -pull / TAU**2
    for unit in range(UNITS):
        moved = trained.parameters[trained.timed] + 1j * STEP * np.eye(UNITS)[unit]
        found = trained.evaluate(z, x, {trained.timed: moved}).imag / STEP
        assert np.abs(found - wanted * np.eye(UNITS)[unit]).max() <= 1e-13


@PAIRS
def test_kernels_keep_units_apart(fixed, trained, grid):
    flow = kpref.Flow(trained, inputs(), **grid)
    exact, dense = kpref.kernel_spectrum(flow), flow.K.to_dense()
    assert exact.trace == pytest.approx(np.trace(dense), rel=1e-12)
    assert exact.values[:3] == pytest.approx(np.sort(np.linalg.eigvals(dense).real)[::-1][:3], rel=1e-10)


def test_the_flow_of_a_rate_network_against_complex_steps():
    """Euler's method written out, at complex parameters."""
    model = Rate.init(INPUTS, UNITS, 0, tau=TAU, train_tau=True)
    flow = kpref.Flow(model, inputs(), dt=0.1, method="euler")
    direction = np.random.default_rng(4).normal(size=model.n_parameters)
    moved = model.unflatten(model.vector + 1j * STEP * direction)
    z, wanted = np.zeros((4, UNITS)), []
    for n in range(flow.states.shape[1]):
        wanted.append(z.imag / STEP)
        z = z + 0.1 * model.velocity(z, inputs()[:, min(n, 6)], moved)
    assert np.abs(flow.D(direction) - np.stack(wanted, axis=1)).max() <= 1e-13
    q = np.random.default_rng(5).normal(size=flow.states.shape)
    assert np.vdot(q, flow.D(direction)) == pytest.approx(float(flow.D.T(q) @ direction), rel=1e-12)


@pytest.mark.parametrize(("leak", "name"), [("outside", "float64"), ("inside", "float32")])
def test_a_correct_backend_is_certified_and_one_that_holds_them_fixed_is_not(leak, name):
    flow = make_flow(LeakyRNN.init(2, 4, 0, alpha=0.3, leak=leak, train_alpha=True), (2, 6), 0)
    backend = emulate(flow, ARITHMETICS[name])
    report = verify(backend, flow)
    assert not report.defects, report
    held = backend.with_form(backend.form.changed(variables={"pull": 0 * backend.form.variable("pull")}))
    offered = SimpleNamespace(arithmetic=name, states=held.states, J=held.J, J_T=held.J_T)
    assert {check.operator for check in verify(offered, flow).defects} == {"J", "J_T"}


def test_arrays_beside_the_weights_are_trained_time_constants():
    leaky, rate = (next(pair for pair in pairs() if pair.id == name).values[1] for name in ("inside-tanh", "rate"))
    names = {"weight_ih": "rnn.weight_ih_l0", "weight_hh": "rnn.weight_hh_l0", "bias": "rnn.bias_ih_l0"}
    for model, asked in ((leaky, {"leak": "inside"}), (rate, {"continuous": True})):
        arrays = {names.get(name, f"rnn.{name}"): array for name, array in model.parameters.items()}
        loaded, _ = load_checkpoint(arrays, **asked, nonlinearity="tanh")
        assert type(loaded) is type(model)
        assert loaded.options == model.options
        assert all(np.array_equal(loaded.parameters[name], array) for name, array in model.parameters.items())
        timed = f"rnn.{model.timed}"
        with pytest.raises(
            ValueError, match=rf"{model.timed} is trained in this network, which has the array '{timed}'"
        ):
            load_checkpoint(arrays, **asked, **{model.timed: 0.5})
        held, _ = load_checkpoint(arrays, **asked, **{model.timed: 0.5}, ignore=timed)
        assert list(held.parameters) == list(names)


def test_refusals():
    for kind, name in ((LeakyRNN, "alpha"), (Rate, "tau")):
        with pytest.raises(ValueError, match=rf"{name} must have shape \({UNITS},\); got \(2,\)"):
            kind.init(INPUTS, UNITS, 0, **{name: np.ones(2), f"train_{name}": True})
        with pytest.raises(TypeError, match=f"train_{name} must be True or False"):
            kind.init(INPUTS, UNITS, 0, **{f"train_{name}": "yes"})
    with pytest.raises(ValueError, match="tau must be positive; got -1"):
        Rate.init(INPUTS, UNITS, 0, tau=-1.0, train_tau=True)
    with pytest.raises(ValueError, match="alpha"):
        LeakyRNN.init(INPUTS, UNITS, 0, alpha=np.nan, train_alpha=True)
