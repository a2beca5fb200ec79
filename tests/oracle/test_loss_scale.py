"""Gradients of a loss that is scaled for a narrow format: right ones pass, what goes wrong with a scale is named."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import emulate, make_flow, random_flow
from apparatus.stage_emulation import StageBackend, field_flow
from hypothesis import given
from hypothesis import strategies as st

from kpref.models import GRU
from kpref.oracle import verify
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.backend import Backend
from kpref.oracle.isolation import IsolatedBackend
from tests.strategies import examples

HALF = ARITHMETICS["float16"]


def small_weights(size=2.0**-20, seed=0):
    """A problem whose derivatives of the loss float16 has few bits for."""
    weights = size * np.random.default_rng([seed, 4]).uniform(0.5, 2.0, size=(3, 6))
    return make_flow(GRU.init(2, 4, seed, gain=1.2), (3, 6), seed, weights)


def scaled(flow, scale, unscaled=True, arithmetic=HALF, applied=None):
    """States and gradient of a right backend; `applied`: the scale that it really takes, by default what it says."""
    own = emulate(flow, arithmetic)
    taken = scale if applied is None else applied

    def gradient(err):
        # The scaled loss itself is wide, as under autocast: it is what goes back that is narrow.
        source = arithmetic.round(taken * flow.space.mu[:, :, None] * arithmetic.round(err))
        found = own.J_T(own.P_T(source))
        return arithmetic.round(found / taken) if unscaled else found * (scale / taken)

    return SimpleNamespace(
        arithmetic=arithmetic, states=own.states, gradient=gradient, loss_scale=scale, unscaled=unscaled
    )


@pytest.mark.parametrize("unscaled", [True, False])
@given(seed=st.integers(0, 2**31), log_scale=st.integers(1, 16))
@examples(4)
def test_no_right_backend_is_accused(unscaled, seed, log_scale):
    for flow in (random_flow(seed), small_weights(seed=seed)):
        report = verify(scaled(flow, 2.0**log_scale, unscaled), flow, seed=seed)
        assert not report.defects, str(report)


def test_what_is_not_declared_overflows_or_is_a_factor():
    """Without the scale's name the oracle asks for numbers that leave the range on the way."""
    flow = make_flow(GRU.init(2, 4, 0, gain=1.2), (3, 6), 0, np.ones((3, 6)))
    backend = scaled(flow, 2.0**16)
    assert verify(backend, flow).passed
    backend.loss_scale = None
    assert "gradient returned" in verify(backend, flow).defects[0].message  # infinity, or what came of it
    kept = scaled(flow, 2.0**5, unscaled=False)
    kept.loss_scale = None
    assert verify(kept, flow).defects[0].guess.startswith("factor")


@pytest.mark.parametrize("unscaled", [True, False])
def test_a_scale_that_is_not_taken_back_or_twice_is_a_factor(unscaled):
    flow = small_weights()
    backend = scaled(flow, 2.0**7, unscaled)
    backend.unscaled = not unscaled
    report = verify(backend, flow)
    assert {check.operator for check in report.defects} == {"gradient"}
    assert report.defects[0].guess.startswith("factor")


def test_a_scale_that_is_declared_and_not_taken_is_named():
    flow = small_weights()
    report = verify(scaled(flow, 2.0**16, unscaled=False, applied=1.0), flow)
    assert {check.operator for check in report.defects} == {"gradient"}
    assert report.defects[0].guess.startswith("loss scale")
    assert verify(scaled(flow, 1.0), flow).passed  # it is what float16 makes of this problem without


def test_a_wrong_entry_is_seen_that_the_range_would_hide():
    flow, seen = small_weights(), []
    for scale in (1.0, 2.0**16):
        backend = scaled(flow, scale, unscaled=False)
        right = backend.gradient

        def wrong(err, right=right):
            answer = right(err)
            answer[7] *= 1.5
            return answer

        backend.gradient = wrong
        seen.append({check.operator for check in verify(backend, flow).defects})
    assert seen == [set(), {"gradient"}]


@pytest.mark.parametrize("unscaled", [True, False])
def test_in_continuous_time(unscaled):
    flow = field_flow(3, "heun")
    own = StageBackend(flow, HALF)

    def gradient(err):
        found = own.D_T(HALF.round(2.0**8 * flow.space.mu[:, :, None] * HALF.round(err)))
        return HALF.round(found / 2.0**8) if unscaled else found

    backend = SimpleNamespace(
        arithmetic=HALF, states=own.states, gradient=gradient, loss_scale=2.0**8, unscaled=unscaled
    )
    assert verify(backend, flow).passed
    backend.unscaled = not unscaled
    assert {check.operator for check in verify(backend, flow).defects} == {"gradient"}


@pytest.mark.parametrize("scale", [0.5, 3.0, 0.0, -2.0, np.inf, np.nan, "much"])
def test_a_scale_is_a_power_of_two(scale):
    flow = small_weights()
    with pytest.raises(ValueError, match="loss_scale"):
        Backend.of(SimpleNamespace(loss_scale=scale), flow.states.shape, flow.model.n_parameters)


def test_the_declaration_crosses_to_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "from kpref.oracle import flow_backend\nfrom types import SimpleNamespace\n"
    code += "def kept(flow):\n    return SimpleNamespace(dtype='float64', gradient=lambda err: 1024 * flow.D.star(err),"
    code += " loss_scale=1024, unscaled=False)\n"
    (tmp_path / "loss_scaled.py").write_text(code)
    flow = small_weights()
    with IsolatedBackend("loss_scaled:kept", flow) as backend:
        assert (backend.loss_scale, backend.unscaled) == (1024.0, False)
        assert verify(backend, flow).passed
