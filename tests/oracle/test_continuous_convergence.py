"""Backends that discretise in their own way: right ones pass, wrong ones are told apart by what they converge to."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.adjoint_backends import AdjointBackend, held_flow

from kpref import Flow
from kpref.models import GRU, LinearSystem, Lorenz63
from kpref.oracle import verify_convergence
from kpref.oracle.convergence import convergence_limit

STEPS = (0.25, 0.125, 0.0625)
TOLERANCES = (1e-4, 1e-6, 1e-8)


def judged(flow, by="step", defect="", levels=STEPS, order=4.0):
    """The report on the continuous adjoint in NumPy."""
    return verify_convergence(lambda level: AdjointBackend(flow, level, by, defect), flow, levels, order, by)


def guesses(report):
    return {check.guess.partition(":")[0] for check in report.defects}


def test_the_limit_is_that_of_the_closed_form():
    """``z(t) = exp(W t) z0`` without inputs; its gradient by z0 is ``sum mu exp(W t)^T err``."""
    from scipy.linalg import expm

    rng = np.random.default_rng(0)
    model = LinearSystem(np.zeros((3, 1)), rng.normal(size=(3, 3)))
    times = np.array([0.0, 0.3, 1.0])
    flow = Flow(model, np.zeros((2, 3, 1)), rng.normal(size=(2, 3)), times=times)
    err = rng.normal(size=(2, 3, 3))
    limit = convergence_limit(flow, err)
    flows = np.stack([expm(model.parameters["weight_hh"] * t) for t in times])
    source = flow.space.weigh(err)
    assert np.abs(limit.values["states"] - np.einsum("tij,bj->bti", flows, flow.z0)).max() < 1e-13
    assert np.abs(limit.values["gradient_z0"] - np.einsum("tij,bti->bj", flows, source)).max() < 1e-13
    assert max(limit.errors.values()) < 1e-12


@pytest.mark.parametrize("by, levels", [("step", STEPS), ("tolerance", TOLERANCES)])
def test_a_right_continuous_adjoint_passes(by, levels):
    report = judged(held_flow(1), by, levels=levels, order=4.0 if by == "step" else None)
    assert report.passed
    fitted = {check.identifier: check.figure for check in report.checks}
    if by == "step":  # the classical method, with an interpolant of order 3 in a quadrature of order 4
        assert all(abs(fitted[f"{name}.order"] - 4) < 0.35 for name in ("states", "gradient", "gradient_z0"))


@pytest.mark.parametrize(
    "by, defect, named",
    [
        ("step", "jump", "jump"),
        ("step", "jump at the end", "jump"),
        ("step", "interpolation", "interpolation"),
        ("step", "final time", "final time"),
        ("tolerance", "jump", "jump"),
        ("tolerance", "interpolation", "interpolation"),
        ("tolerance", "final time", "final time"),
        ("tolerance", "tolerance", "tolerance not met"),
    ],
)
def test_defects_of_continuous_adjoints_are_named(by, defect, named):
    levels, order = (STEPS, 4.0) if by == "step" else (TOLERANCES, None)
    report = judged(held_flow(), by, defect, levels, order)
    assert not report.passed
    assert "states" not in {check.operator for check in report.defects}
    assert named in guesses(report)


@pytest.mark.parametrize(
    "name, change",
    [
        ("factor: the right answer times 0.7", lambda answer, start: 0.7 * answer),
        ("parameters: only bias wrong", lambda answer, start: np.where(np.arange(len(answer)) < start, answer, 0.0)),
        ("converges to something else", lambda answer, start: answer - 0.05 * np.cos(np.arange(len(answer)))),
        ("sign: the negative of the right answer", lambda answer, start: -answer),
    ],
)
def test_an_error_that_points_the_way_of_a_defect_and_is_smaller_is_not_that_defect(name, change):
    """A gradient that is too small errs in the direction in which its negative does."""
    flow = held_flow()
    start = flow.model.n_parameters - flow.model.parameters["bias"].size

    def backend_of(step):
        right = AdjointBackend(flow, step)
        return SimpleNamespace(gradient=lambda err: change(right.gradient(err), start))

    (defect,) = verify_convergence(backend_of, flow, STEPS, order=4).defects
    assert defect.identifier == "gradient.limit"
    assert defect.guess.startswith(name)


def test_more_slowly_is_told_from_something_else_and_from_a_floor():
    flow = held_flow()
    limit = convergence_limit(flow, np.zeros(flow.states.shape)).values["states"]
    noise = np.random.default_rng(0).normal(size=(len(STEPS), *limit.shape))

    def states(error):
        return lambda level: SimpleNamespace(states=limit + error(level))

    cases = {
        "converges more slowly": states(lambda level: 1e-2 * level**2),
        "converges to something else": states(lambda level: 1e-3 + 1e-2 * level**4),
        "floor": states(lambda level: 1e-5 * noise[STEPS.index(level)]),
    }
    for words, backend_of in cases.items():
        report = verify_convergence(backend_of, flow, STEPS, 4.0)
        assert [check.guess.startswith(words) for check in report.defects] == [True], words
    right = states(lambda level: 1e-2 * level**4)
    assert verify_convergence(right, flow, STEPS, 4.0).passed
    # What rounding explains is no floor: a hundredth of what would be is, for float32.
    single = verify_convergence(states(lambda level: 1e-6 * noise[0]), flow, STEPS, 4.0, arithmetic="float32")
    assert single.passed
    assert "reached what rounding explains" in str(single)


def test_fields_that_are_no_programs_are_judged_too():
    flow = Flow(Lorenz63(), None, [[1.0, 2.0, 20.0]], times=np.linspace(0.0, 0.2, 3))

    def backend_of(step):
        parts = round(0.1 / step)
        times = np.linspace(0.0, 0.2, 2 * parts + 1)
        fine = Flow(flow.model, None, flow.z0, times=times, method="dopri5")
        rows = np.arange(0, len(times), parts)

        def gradient(err):
            whole = np.zeros(fine.states.shape)
            whole[:, rows] = flow.space.weigh(err)
            return fine.D.T(whole)

        return SimpleNamespace(states=fine.states[:, rows], gradient=gradient)

    report = verify_convergence(backend_of, flow, (0.05, 0.025, 0.0125), 5.0)
    assert report.passed
    assert {check.verdict for check in report.checks if check.operator == "gradient_z0"} == {"not offered"}


def test_arguments():
    flow = held_flow()
    with pytest.raises(ValueError, match="at least three"):
        judged(flow, levels=(0.1, 0.2, 0.05))
    with pytest.raises(ValueError, match="order"):
        judged(flow, order=None)
    with pytest.raises(ValueError, match="by must be"):
        judged(flow, by="steps")
    with pytest.raises(TypeError, match="fields"):
        verify_convergence(lambda level: None, Flow(GRU.init(1, 2, 0), np.zeros((1, 2, 1))), STEPS, 4.0)
