"""Intervals contain the truth: the machinery of ``scripts/estimators.py --coverage``, and a sample of its cells."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from kpref import Estimate
from kpref.spectra import effective_dimension
from kpref.spectra.traces import adjoint_trace, frobenius_squared, trace

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from calibration import Cell, Row, dense_copy, diagonal, holm, measure, networks, spectra, symmetrised, table
from ratio_cells import dimension, partial_trace
from ratio_cells import networks as ratio_networks
from trace_cells import spectrum_cells, trace_cells
from trial_cells import trial_cells

SAMPLE = (
    "trace krylov, decay 0.7^i, tol 0.03",
    "trace hutch++, flat + 5 spikes, tol 0.1",
    "trace hutchinson, tail 1/i, tol 0.1",
    "frobenius_squared, one space, tail 1/i, tol 0.03",
    "frobenius_squared, two spaces, flat + 5 spikes, default",
    "leading modes and adjoint_trace, report, decay 0.7^i",
    "trace trials, NTK, RNN 8x10x6, 6 products",
    "trace trials, NTK, RNN 20x10x8, ending early, tol 0.03",
)
SEEDS = 150


def normal(stated, name="normal"):
    """A cell whose values are normal around 7 with the deviation 1, and which states another."""
    return Cell(name, lambda seed: Estimate(7 + np.random.default_rng(seed).normal(), stated, 5, "test"), 7.0)


def test_holm_stops_at_the_first_that_is_not_significant():
    # 0.95 level of 100: chances of 85, 88, 90 or fewer are 1.7e-4, 0.0043 and 0.028; over 4, 3 and 2 rows left those
    # below 0.0125, 0.0167 and 0.025 fail.
    rows = [Row("", 100, covered, 1.0, 1.0) for covered in (90, 85, 99, 88)]
    assert holm(rows) == [True, False, True, False]
    assert holm([]) == []


def test_true_intervals_pass_and_those_of_half_the_width_fail(capsys):
    def cells(*chosen):
        return [lambda: chosen]

    assert table(cells(normal(1.0, "true"), normal(1.0, "left out")), 300, "true") == 0
    assert "| true | 300 |" in (printed := capsys.readouterr().out)
    assert "left out" not in printed
    assert table(cells(normal(1.0), normal(0.5, "narrow")), 300) == 1
    printed = capsys.readouterr().out
    assert "| narrow | 300 | 68" in printed  # within 0.98 deviations lie 67.3 %
    assert "below: narrow" in printed
    assert table(cells(normal(1.0), normal(1.6, "broad")), 300) == 1
    assert "(wide)" in capsys.readouterr().out
    assert table([], 300) == 1


def test_rows_do_not_depend_on_the_number_of_workers(capsys):
    """Nor on which seeds of a cell end: of these, some do not reach their tolerance, some never do."""
    printed = []
    for workers in (1, 2):
        assert table([spectrum_cells], 5, "decay 0.7^i, tol 0.03", workers) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "trace hutchinson, decay 0.7^i, tol 0.03 | 0 | tolerance not reached" in printed[0]


def test_an_interrupt_keeps_what_was_printed(capsys):
    def cells():
        yield normal(1.0, "first")
        raise KeyboardInterrupt

    assert table([cells], 50) == 1
    printed = capsys.readouterr().out
    assert "| first | 50 |" in printed
    assert "1 cells, 50 seeds, interrupted" in printed


def test_a_bound_has_no_ideal_width(capsys):
    bound = Cell("sure", lambda seed: Estimate(1 + 1e-6 * seed, 1.0, 3, "test", bound=True), 1.0)
    assert table([lambda: [bound]], 10) == 0
    assert "| sure | 10 | 100.0% | 1 | a bound | 3 |" in capsys.readouterr().out


def test_a_tolerance_out_of_reach_ends_a_cell():
    calls = []

    def run(seed):
        calls.append(seed)
        raise RuntimeError

    row = measure(Cell("never", run, 1.0), 500)
    assert row.seeds == 0
    assert len(calls) < 5
    assert math.isnan(row.coverage)
    assert holm([row]) == [True]


def test_dense_copies_are_the_same_operators():
    _, flow = networks()[2]
    for op in (flow.P, flow.NTK):
        np.testing.assert_allclose(
            symmetrised(dense_copy(op)), symmetrised(op), atol=1e-12 * np.abs(op.to_dense()).max()
        )
    assert dense_copy(flow.NTK).factor is not None


@pytest.mark.parametrize("name", SAMPLE)
def test_intervals_of_traces_are_true(name):
    cells = (cell for cell in (trial_cells if "trials" in name else trace_cells)() if cell.name == name)
    row = measure(next(cells), SEEDS)
    # 132 of 150 or fewer have the chance 5e-4 if 95 % is true. Widths rest on the deviation, which is known to 6 %.
    assert row.seeds == SEEDS
    assert row.covered > 132, row
    assert row.width < 1.5, row


def test_next_to_the_largest_dimension_intervals_are_not_wide():
    """Trials that are alike: all chance is of second order, and skewed towards fewer dimensions."""
    name, flow = ratio_networks()[2]
    op = dense_copy(flow.P.gram())
    truth = dimension(partial_trace(symmetrised(op), op.shape_in, ("trial",)))
    assert truth > 0.9999 * len(flow.states), name
    row = measure(Cell(name, lambda seed: effective_dimension(op, "trial", seed=seed), truth), 60)
    # 49 of 60 or fewer have the chance 2e-4 if 95 % is true.
    assert row.covered > 49, row
    assert row.width < 1.5, row  # 1.82 when the skewness was stated to the other side


@pytest.mark.parametrize("probes", [6, 7, 9])
@pytest.mark.parametrize("spectrum", ["decay 0.7^i", "flat + 5 spikes"])
def test_few_probes_are_true_too(spectrum, probes):
    values = dict(spectra())[spectrum]
    op = diagonal(values)
    runs = {
        "krylov": (lambda seed: trace(op, "krylov", probes, seed=seed), values.sum()),
        "hutch++": (lambda seed: trace(op, "hutch++", probes, seed=seed), values.sum()),
        "adjoint": (lambda seed: adjoint_trace(op.factor, probes - 3, seed=seed), values.sum()),
        "frobenius": (lambda seed: frobenius_squared(op, probes, seed=seed), np.square(values).sum()),
    }
    for name, (run, truth) in runs.items():
        row = measure(Cell(name, run, truth), SEEDS)
        assert row.covered > 132, row


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_operators_that_are_not_symmetric(method):
    """A rotation, whose trace is zero and without chance, and matrices whose traces are small or negative."""
    rng = np.random.default_rng(0)
    skew = rng.normal(size=(100, 100))
    skew -= skew.T
    for matrix in (skew, skew - np.eye(100), rng.normal(size=(100, 100)), -np.diag(1.0 / np.arange(1, 101))):
        op = diagonal(np.ones(100)).factor
        assert op is not None
        op = type(op)(lambda x, m=matrix: x @ m.T, lambda x, m=matrix: x @ m, op.space_in, op.space_out)
        row = measure(Cell(method, lambda seed, op=op: trace(op, method, 30, seed=seed), np.trace(matrix)), SEEDS)
        assert row.covered > 132, (matrix[:2, :2], row)
