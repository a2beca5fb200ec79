"""Adaptation, short-term plasticity, Dale's law and populations, against closed forms and published behaviour."""

import numpy as np
import pytest

import kpref
from kpref.models import AdaptiveRate, ExcitatoryInhibitory, Rate, ShortTermPlasticity, WilsonCowan

UNITS, INPUTS = 5, 2


def inputs(steps=9, trials=3, seed=1):
    return np.random.default_rng(seed).normal(size=(trials, steps, INPUTS))


def test_without_strength_nothing_adapts():
    model = AdaptiveRate.init(INPUTS, UNITS, 0, strength=0.0, tau=0.5)
    weights = {name: array for name, array in model.parameters.items() if name != "strength"}
    one, other = kpref.Flow(model, inputs(), dt=0.1), kpref.Flow(Rate(**weights, tau=0.5), inputs(), dt=0.1)
    assert np.abs(one.states[..., model.observed] - other.states).max() <= 1e-14


def test_adaptation_divides_the_gain():
    """Of a unit alone, phi the identity: z falls to I / (1 + beta), by the eigenvalues of its two equations."""
    beta, tau, slow, current = 2.0, 0.5, 4.0, 1.5
    model = AdaptiveRate(
        np.eye(1), np.zeros((1, 1)), strength=beta, tau=tau, tau_a=slow, nonlinearity="identity"
    )  # fmt: skip
    found = kpref.fixed_points(model, [[current]], starts=np.zeros((1, 2)))
    assert found.points[0] == pytest.approx([current / (1 + beta)] * 2, rel=1e-12)
    wanted = np.roots([1, 1 / tau + 1 / slow, (1 + beta) / (tau * slow)])
    assert found.eigenvalues[0].sum() == pytest.approx(wanted.sum(), rel=1e-12)
    assert found.eigenvalues[0].prod() == pytest.approx(wanted.prod(), rel=1e-12)


def test_synapses_at_a_steady_rate():
    """Tsodyks and Markram's steady state of facilitation and depression; rates and time constants of one each unit."""
    rates = np.array([0.5, 2.0, 10.0, 40.0])
    use, facilitating, depressing = np.array([0.1, 0.2, 0.45, 0.6]), 1.5, np.array([0.2, 0.2, 0.8, 1.5])
    currents = rates + np.log(-np.expm1(-rates))  # the inverse of softplus
    model = ShortTermPlasticity(
        np.ones((4, 1)), np.zeros((4, 4)), currents, use=use, tau_f=facilitating, tau_d=depressing
    )  # fmt: skip
    found = kpref.fixed_points(model, [[0.0]], starts=model.start[None])
    h, u, x = found.points[0].reshape(3, 4)
    wanted = use * (1 + facilitating * rates) / (1 + use * facilitating * rates)
    assert h == pytest.approx(currents, rel=1e-12)
    assert u == pytest.approx(wanted, rel=1e-12)
    assert x == pytest.approx(1 / (1 + depressing * wanted * rates), rel=1e-12)
    assert found.kinds == ["stable"]


def test_plastic_synapses_at_rest_are_plain_ones():
    """With phi the identity and no current u, x stay where they are, and W acts by use times itself to first order."""
    model = ShortTermPlasticity.init(INPUTS, UNITS, 0, nonlinearity="identity", tau=1.0)
    weights = dict(model.parameters) | {"weight_hh": 0.2 * model.parameters["weight_hh"]}
    plain = Rate(**weights, nonlinearity="identity")
    x = 1e-7 * inputs()
    one, other = kpref.Flow(model, x, dt=0.1), kpref.Flow(plain, x, dt=0.1)
    # What is left is of second order: 1e-7 of it.
    assert np.abs(one.states[..., model.observed] - other.states).max() <= 1e-6 * np.abs(other.states).max()


def test_signs_of_excitatory_and_inhibitory_units():
    model = ExcitatoryInhibitory.init(INPUTS, 10, 0, nonlinearity="softplus")
    weight = model.weights()["recurrent"]
    assert model.n_excitatory == 8
    assert (weight[:, :8] >= 0).all()
    assert (weight[:, 8:] <= 0).all()
    assert not np.diag(weight).any()
    free = Rate(**{**model.parameters, "weight_hh": weight}, nonlinearity="softplus")
    one, other = kpref.Flow(model, inputs(), dt=0.1), kpref.Flow(free, inputs(), dt=0.1)
    assert np.abs(one.states - other.states).max() <= 1e-14
    flipped = model.with_parameters({"weight_hh": -model.parameters["weight_hh"]})
    assert np.array_equal(kpref.Flow(flipped, inputs(), dt=0.1).states, one.states)


def test_balanced_weights_have_the_variance_that_is_asked_for():
    weight = ExcitatoryInhibitory.init(INPUTS, 200, 0, gain=1.5).weights()["recurrent"]
    spread = np.square(weight - weight.mean(axis=0)).sum(axis=1).mean()
    # Squares of gamma numbers deviate by 2.4 times their mean: of 200 * 40 of them, which are most of it, by 3 %.
    assert spread == pytest.approx(1.5**2, rel=0.1)
    assert abs(weight.sum()) / np.abs(weight).sum() < 0.05


def pair(c, slopes, thresholds, current):
    """Two populations with the weights and parameters of a figure of Wilson and Cowan (1972)."""
    return WilsonCowan(
        np.zeros((2, 1)), np.reshape(c, (2, 2)), np.array([current, 0.0]), slope=slopes, threshold=thresholds
    )


def test_populations_are_those_of_the_paper():
    model = pair([16, 12, 15, 3], [1.3, 2], [4, 3.7], 1.25)
    e, i = np.random.default_rng(0).random((2, 20))
    s = [lambda x, g=g, t=t: 1 / (1 + np.exp(-g * (x - t))) - 1 / (1 + np.exp(g * t)) for g, t in ((1.3, 4), (2, 3.7))]
    limits = [1 - 1 / (1 + np.exp(g * t)) for g, t in ((1.3, 4), (2, 3.7))]
    wanted = [-e + (limits[0] - e) * s[0](16 * e - 12 * i + 1.25), -i + (limits[1] - i) * s[1](15 * e - 3 * i)]
    found = model.velocity(np.stack([e, i], axis=-1), np.zeros((20, 1)))
    assert np.abs(found - np.stack(wanted, axis=-1)).max() <= 1e-14 * 30


def test_populations_rest_cycle_or_remember():
    """Figures 4 (three steady states, the middle one a saddle) and 11 (a limit cycle under P = 1.25, rest without)."""
    starts = np.random.default_rng(0).uniform(0, 0.5, size=(40, 2))
    found = kpref.fixed_points(pair([12, 4, 13, 11], [1.2, 1], [2.8, 4], 0.0), starts=starts)
    order = np.argsort(found.points[:, 0])
    assert [found.kinds[index] for index in order] == ["stable", "saddle", "stable"]
    assert np.abs(found.points[order[0]]).max() < 1e-12  # S(0) = 0
    cycling, quiet = (
        kpref.Flow(pair([16, 12, 15, 3], [1.3, 2], [4, 3.7], p), np.zeros((1, 801, 1)), [0.1, 0.1], dt=0.1)
        for p in (1.25, 0.0)
    )
    late = cycling.states[0, 400:, 0]  # e
    assert np.ptp(late) > 0.1
    assert np.ptp(late[:200]) == pytest.approx(np.ptp(late[200:]), rel=1e-2)  # it neither grows nor dies
    assert np.abs(quiet.states[0, -1]).max() < 1e-6


def test_refusals():
    weights = {"weight_ih": np.ones((UNITS, INPUTS)), "weight_hh": np.eye(UNITS)}
    for kind, options, message in (
        (AdaptiveRate, {"tau_a": 0.0}, "tau_a must be positive; got 0"),
        (AdaptiveRate, {"strength": np.ones(2)}, r"strength must have shape \(5,\); got \(2,\)"),
        (ShortTermPlasticity, {"use": 1.5}, "use must be a fraction, at most 1; got 1.5"),
        (ShortTermPlasticity, {"tau_f": np.ones(3)}, r"tau_f must be a number or have shape \(5,\); got shape \(3,\)"),
        (ExcitatoryInhibitory, {"n_excitatory": 6}, "n_excitatory must be at most the number of units, 5; got 6"),
        (ExcitatoryInhibitory, {"nonlinearity": "tanh"}, "nonlinearity must be one of relu, softplus, sigmoid"),
        (WilsonCowan, {"refractory": -1.0}, "refractory must not be negative; got -1.0"),
        (WilsonCowan, {"threshold": np.ones(2)}, r"threshold must be a number or have shape \(5,\); got shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(**weights, **options)
