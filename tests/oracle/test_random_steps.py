"""Random runs of steps: how far a step of many stages errs where errors cancel in part."""

import numpy as np
import pytest
from apparatus.stage_emulation import StageBackend
from apparatus.stage_mutants import STAGE_MUTANTS

from kpref import Flow
from kpref.linearize import linearize
from kpref.models import Rate
from kpref.oracle import verify
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.noisy import Noise, Noisy
from kpref.oracle.random_steps import RandomSteps
from kpref.oracle.stages import _map_of, _steps
from kpref.oracle.uncertain import Uncertain, value_with_errors


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


@pytest.mark.parametrize("name", ["states: mean step", "NTK: sign"])
def test_defects_are_seen_in_short_numbers_through_many_stages(name):
    mutant, flow = STAGE_MUTANTS[name], make_flow()
    wrong = mutant.plant(StageBackend(flow, ARITHMETICS["tf32"]))
    assert {check.operator for check in verify(wrong, flow).defects} >= {mutant.operator}
