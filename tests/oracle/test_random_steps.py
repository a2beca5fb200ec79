"""Random runs of steps: how far a step of many stages errs where errors cancel in part."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.stage_emulation import StageBackend
from apparatus.stage_mutants import STAGE_MUTANTS

from kpref import Flow, kernels
from kpref.kernels import plain_program
from kpref.linearize import linearize
from kpref.models import Rate
from kpref.oracle import verify
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.gradient_errors import gradient_errors
from kpref.oracle.noisy import Noise, Noisy
from kpref.oracle.random_steps import RandomSteps, _terms
from kpref.oracle.stage_certificates import StageJudge
from kpref.oracle.stages import _map_of, _steps
from kpref.oracle.uncertain import Uncertain, value_with_errors
from kpref.space import TrajectorySpace


def make_flow(method="tsit5", **options):
    rng = np.random.default_rng(21)
    model = Rate(rng.normal(size=(5, 2)), rng.normal(size=(5, 5)) / 2, rng.normal(size=5), tau=0.7, **options)
    times, inputs = np.append(0.0, np.cumsum(rng.uniform(0.1, 0.4, size=8))), rng.normal(size=(3, 9, 2))
    return Flow(model, inputs, rng.normal(size=(3, 5)), times=times, method=method, input_kind="linear")


def steps_of(flow, name):
    """Random runs, deviations by independent errors, and errors of a right backend."""
    arithmetic = ARITHMETICS[name]
    backend = StageBackend(flow, arithmetic)
    model = _map_of(flow).with_parameters(backend.model.parameters)
    steps, starts = _steps(flow, arithmetic), np.moveaxis(backend.states[:, :-1], 1, 0)
    inputs = Uncertain(steps.inputs, steps.errors(arithmetic), arithmetic)
    runs = RandomSteps(model, linearize(model, starts, steps.inputs), starts, inputs, arithmetic)
    error = np.moveaxis(backend.states[:, 1:], 1, 0) - model.evaluate(starts, steps.inputs)
    return runs, value_with_errors(model, starts, inputs, arithmetic).deviation, error


def judge_of(flow, backend):
    """That of the steps as a map, at the backend's own states."""
    model = _map_of(flow).with_parameters(backend.model.parameters)
    space = TrajectorySpace(flow.states[:, 1:].shape, "sum")
    steps = _steps(flow, backend.arithmetic)
    return StageJudge(model, steps, backend.states[:, :-1], space, backend.arithmetic).step


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_errors_of_stages_cancel_in_part(name):
    runs, independent, error = steps_of(make_flow(), name)
    # The weights of a stage of this method are as large as 11 and add up to one at most: what all stages share goes.
    assert np.sqrt(np.mean(runs.value**2)) < 0.4 * np.sqrt(np.mean(independent**2))
    # A deviation is the most that a rounding errs by, so that right errors stay below it on average.
    assert np.sqrt(np.mean((error / runs.value) ** 2)) < 1
    assert np.abs(error / runs.value).max() < 5


def test_a_step_of_one_stage_errs_as_independent_errors_say():
    runs, independent, _ = steps_of(make_flow("euler"), "float32")
    # Sixteen runs know a deviation to a fifth; pooled over units it is not below any of them.
    ratio = np.sqrt(np.mean(runs.value**2)) / np.sqrt(np.mean(independent**2))
    assert 0.7 < ratio < 1.4


def test_runs_on_one_side_of_a_jump_are_no_evidence():
    runs, _, _ = steps_of(make_flow(nonlinearity="relu"), "bfloat16")
    assert not runs.known


def test_each_operation_errs_by_a_deviation():
    noise = Noise(ARITHMETICS["float32"], np.random.default_rng(0))
    x = Noisy.of(np.full(1000, 1.5), noise)
    off = np.asarray(x * x) - 2.25
    np.testing.assert_allclose(np.abs(off), 2.25 * 2.0**-24, rtol=1e-6)
    assert off.min() < 0 < off.max()
    np.testing.assert_array_equal(np.asarray(-x), -1.5)
    off = np.asarray(np.matmul(x[None], Noisy.of(np.ones((1000, 1)), noise))) - 1500.0
    assert 0 < abs(off.item()) < 1500 * 40 * 2.0**-24  # a random walk over a thousand sums


@pytest.mark.parametrize("method, cancels", [("dop853", 0.05), ("dopri5", 0.2), ("heun", 1.1)])
def test_errors_of_gradients_cancel_between_stages(method, cancels):
    """``J^T g`` of one step, of which D^T is made: what rounding does to all stages goes back to the same numbers."""
    whole = make_flow(method)
    flow = Flow(whole.model, whole.inputs[:, :2], whole.z0, times=[0.0, 0.4], method=method, input_kind="linear")
    backend, g = StageBackend(flow, ARITHMETICS["bfloat16"]), np.random.default_rng(4).normal(size=(3, 2, 5))
    judge = judge_of(flow, backend)
    g = ARITHMETICS["bfloat16"].round(g)
    value, spread, _ = judge._transposed(g[:, 1:])
    independent = gradient_errors(judge.form, judge.arithmetic, judge.chunks(), g[:, 1:])[1]
    ratio = np.sqrt(np.mean(spread.deviation**2)) / np.sqrt(np.mean(independent.deviation**2))
    assert ratio < cancels
    # Weights of this size leave nothing to cancel: deviations are about those of independent errors.
    assert method != "heun" or ratio > 0.7
    error = (backend.D_T(g) - value) / spread.deviation
    # A deviation is the most that a rounding errs by, so that right errors stay below it on average, by half or so.
    assert 0.1 < np.sqrt(np.mean(error**2)) < 1
    assert np.abs(error).max() < 5


def test_terms_of_all_points_add_up_to_the_gradient():
    flow = make_flow("dopri5")
    judge = judge_of(flow, StageBackend(flow, ARITHMETICS["bfloat16"]))
    g, found = np.random.default_rng(5).normal(size=(3, 8, 5)), 0.0
    for chunk in judge.chunks():
        part, cotangents = np.moveaxis(g[:, chunk.rows], 1, 0).reshape(1, -1, 5), {}
        plain_program.run_transposed(chunk.runs._exact, 0, part, cotangents=cotangents)
        found += _terms(chunk.runs._exact, cotangents, slice(None)).sum(axis=0)
    np.testing.assert_allclose(found, kernels.parameter_transpose(judge.form, g[None])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gradient: summed", "NTK: sign"])
def test_defects_of_gradients_are_seen_in_bfloat16_through_twelve_stages(name):
    mutant, flow = STAGE_MUTANTS[name], make_flow("dop853")
    wrong = mutant.plant(StageBackend(flow, ARITHMETICS["bfloat16"]))
    offered = SimpleNamespace(
        arithmetic=wrong.arithmetic, states=wrong.states, **{mutant.operator: getattr(wrong, mutant.operator)}
    )
    assert {check.operator for check in verify(offered, flow).defects} == {mutant.operator}


@pytest.mark.parametrize("name", ["states: mean step", "NTK: sign"])
def test_defects_are_seen_in_short_numbers_through_many_stages(name):
    mutant, flow = STAGE_MUTANTS[name], make_flow()
    wrong = mutant.plant(StageBackend(flow, ARITHMETICS["tf32"]))
    assert {check.operator for check in verify(wrong, flow).defects} >= {mutant.operator}
