"""K by units against K written out, of every network and of random programs; the step Jacobian against products."""

import gc
from dataclasses import replace
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import kpref
from kpref import kernels, unit_form
from kpref.derivative_blocks import state_jacobian
from kpref.kernels import reference
from kpref.models.base import Field
from kpref.program import Builder
from kpref.spectra import dimensions, kernel_unit_average, kernel_unit_matrix, schmidt
from kpref.spectra.closed_form import kernel_block_squares, kernel_group_matrices
from kpref.spectra.exact_spectrum import form_spectrum
from kpref.spectra.exact_traces import ntk_trace_exact, propagator_gram_trace
from kpref.step_form import Entry, StepForm, Variable, allot
from models.programs import random_form
from models.test_step_models import MAPS, NAMES, SIZES, flow_of, random_flow

SEEDS = st.integers(0, 2**32 - 1)
#: Sums of some hundred terms of at most the largest: what rounding leaves of them, relative to it.
TOLERANCE = 1e-12

#: A trained weight acts on states that go through another product in the same step, or enters two currents.
MIXED = (
    *("low-rank", "stacked-", "gru-reset-before", "gru-continuous", "mgu", "antisymmetric"),
    *("lru", "s4d", "mpn", "neural-ode"),
)


def mixes(name):
    """Whether trained weights mix units; a velocity without a hidden layer has one product."""
    return name.startswith(MIXED) and "n_hidden=0" not in name


class Written:
    """``Mu^(1/2) J`` and K as arrays over (time, trial, state), with some points of no weight."""

    def __init__(self, form, seed):
        rng = np.random.default_rng(seed)
        self.mu = rng.random((form.n_trials, form.n_steps)) * (rng.random((form.n_trials, form.n_steps)) < 0.8)
        basis = np.eye(form.n_parameters, dtype=form.dtype)
        self.jacobian = kernels.parameter_product(form, basis).transpose(2, 1, 3, 0)
        rows = np.sqrt(self.mu.T)[:, :, None, None] * self.jacobian
        self.kernel = np.einsum("abhm,cdkm->abhcdk", rows, rows)
        self.size = int(np.prod(rows.shape[:3]))
        self.values = np.linalg.eigvalsh(self.kernel.reshape(self.size, -1))[::-1]
        self.largest = max(self.values[0], 1e-300)

    def same_values(self, found, wanted, scale):
        length = min(len(found), len(wanted))
        for gap in (found[:length] - wanted[:length], found[length:], wanted[length:]):
            assert np.abs(gap).max(initial=0) <= 1e2 * TOLERANCE * scale

    def group(self, groups, one, other):
        return self.kernel[:, groups == one][:, :, :, :, groups == other]


def check(form, seed):
    """All that is said of K by units."""
    written = Written(form, seed)
    mu, largest = written.mu, written.largest
    written.same_values(form_spectrum(form, mu).values, written.values, largest)
    wanted = np.einsum("abhabk->hk", written.kernel)
    assert np.abs(kernel_unit_matrix(form, mu) - wanted).max() <= TOLERANCE * largest * written.size
    sums = written.jacobian.sum(axis=(0, 1)), np.einsum("abhm,ba->hm", written.jacobian, mu)
    wanted = sums[0] @ sums[1].T / mu.size**2
    scale = np.square(written.jacobian).sum() * mu.max()
    assert np.abs(kernel_unit_average(form, mu) - wanted).max() <= TOLERANCE * max(scale, 1e-300)
    groups = np.arange(form.n_trials) % 3
    for group, matrix in enumerate(kernel_group_matrices(form, mu, groups)):
        wanted = np.einsum("abhabk->hk", written.group(groups, group, group))
        assert np.abs(matrix - wanted).max() <= TOLERANCE * largest * written.size
    units = unit_form.unit_form(form)
    if units is not None and units.n_units:
        check_units(units.weighted(np.sqrt(mu.T)), written)
        squares, states = kernel_block_squares(form, mu, groups, units.n_units)
        assert len(np.unique(states)) == len(states) == np.count_nonzero(units.columns >= 0)
        wanted = [
            [np.square(written.group(groups, g, k)).sum() for k in range(len(squares))] for g in range(len(squares))
        ]
        assert np.abs(squares - wanted).max() <= TOLERANCE * max(np.square(written.kernel).sum(), 1e-300)
    return units


def check_units(units, written):
    points, states = slice(0, units.n_steps * units.n_trials), units.n_states
    entries = written.kernel.reshape(points.stop, states, points.stop, states).transpose(0, 2, 1, 3)
    assert np.abs(units.scatter(units.pairs(points, points)) - entries).max() <= TOLERANCE * written.largest
    for kept in ((0,), (1,), (0, 1), (0, 2), (1, 2)):
        rows, columns = "bah", "dck"
        other = "".join(columns[axis] if axis in kept else rows[axis] for axis in (1, 0, 2))
        out = "".join(rows[axis] for axis in kept) + "".join(columns[axis] for axis in kept)
        partial = np.einsum(f"abh{other}->{out}", written.kernel)
        matrix = partial.reshape(int(np.prod(partial.shape[: len(kept)])), -1)
        trace, square = dimensions._kernel_moments(units, kept)
        assert abs(trace - np.trace(matrix)) <= TOLERANCE * written.size * written.largest
        assert abs(square - np.square(matrix).sum()) <= TOLERANCE * max(np.trace(matrix) ** 2, 1e-300)
        if units.n_units == 1 and square > 0:
            wanted = np.trace(matrix) ** 2 / np.square(matrix).sum()
            assert dimensions._one_unit_dimension(units, kept) == pytest.approx(wanted, rel=1e2 * TOLERANCE)
    squares = np.linalg.svd(entries.reshape(points.stop**2, -1), compute_uv=False) ** 2
    for gram in (schmidt._gram_by_pairs, schmidt._gram_by_columns):
        written.same_values(np.linalg.eigvalsh(gram(units, None))[::-1], squares, max(squares[0], 1e-300))


@examples(40)
@given(seed=SEEDS, small=st.booleans())
def test_K_of_random_programs(seed, small):
    """Masks, unit operations, misaligned views, dead ends; where units are mixed, by products or with J written out."""
    form = random_form(seed)
    if form.n_parameters:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unit_form, "_MOST_ENTRIES", 10**9 if small else 0)
            units = check(form, seed)
        assert units is not None or not small


@NAMES
@examples(10)
@given(sizes=SIZES)
def test_K_of_networks(name, sizes):
    flow, rng = random_flow(name, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_form, "_MOST_ENTRIES", 0)
        units = check(flow.linearization, sizes[-1])
    assert (units is None) == mixes(name)
    if units is not None:
        assert units.n_units == sizes[1]
        # Units have features of their own under constraints, and where a vector of one number each is trained.
        own = flow.model.options.get("dale") is not None or any(
            array.ndim == 1 and not name.startswith("bias") for name, array in flow.model.parameters.items()
        )
        assert own or isinstance(flow.model, Field) or all(features.shared for _, features in units.groups)
    parameters = [p for p in flow.model.trainable if rng.random() < 0.5] or None
    if not mixes(name):
        check(flow_of(flow.model.with_trainable(parameters), flow.inputs, flow.z0).linearization, sizes[-1])


@examples(50)
@given(seed=SEEDS)
def test_step_jacobians_of_random_programs(seed):
    form = random_form(seed)
    for row in range(form.n_steps):
        wanted = reference.state_jacobian(form, row)
        found = state_jacobian(form, row, slice(None))
        assert np.abs(found - wanted).max() <= TOLERANCE * max(1.0, np.abs(wanted).max())
        some = np.arange(0, form.n_trials, 2)
        assert np.array_equal(state_jacobian(form, row, some), found[some])


@MAPS
def test_exact_traces_of_networks(name):
    flow, _ = random_flow(name, (2, 3, 3, 9, 4))
    space = flow.space
    dense = flow.P.to_dense()
    assert propagator_gram_trace(flow) == pytest.approx(np.square(dense).sum(), rel=TOLERANCE * space.size)
    wanted = np.square(flow.D.to_dense()).sum() * space.mu[0, 0]
    assert ntk_trace_exact(flow) == pytest.approx(wanted, rel=TOLERANCE * space.size)


def masked(form, seed):
    """The same form with a random factor for each trained entry, many of them zero."""
    rng, entries = np.random.default_rng(seed), []
    for entry in form.entries:
        rows = entry.part.stop - entry.part.start
        width = (entry.rows if entry.transposed else entry.columns).stop - (
            entry.rows if entry.transposed else entry.columns
        ).start
        entries.append(replace(entry, factor=rng.normal(size=(rows, width)) * (rng.random((rows, width)) < 0.6)))
    return replace(form, entries=tuple(entries))


@examples(10)
@given(sizes=SIZES, name=st.sampled_from(["lstm", "lstm bias=False"]))
def test_K_of_masked_networks(sizes, name):
    flow, _ = random_flow(name, sizes)
    check(masked(flow.linearization, sizes[-1]), sizes[-1])


def tied(times):
    """``z' = sum_j c_j (w x_j)``, x_0 being z: one trained vector in so many currents."""
    build, rng, everything = Builder(), np.random.default_rng(0), slice(0, 3)
    old, new = build.state(3)
    names, known, widths, entries = [f"weight{j}" for j in range(times)], {}, {}, []
    for j, name in enumerate(names):
        current = build.register(3)
        build.unit(current, old if j == 0 else None, name, f"x{j}")
        build.scale(new, current, f"c{j}")
        known[f"x{j}"] = Variable(j == 0, 3 * max(j - 1, 0), 3)
        widths |= {f"c{j}": (4, 2, 3), name: (1, 1, 3)}
        entries.append(Entry("w", name, everything, slice(0, 1), everything, transposed=True, factor=1.0 - 0.7 * j))
    places, total = allot(widths, 4, 2)
    weight = rng.normal(size=(1, 3))
    return StepForm(
        build.program(), rng.normal(size=total), places, rng.normal(size=(4, 2, 3)),
        rng.normal(size=(4, 2, 3 * (times - 1))), known, dict.fromkeys(names, weight), tuple(entries), {"w": (3,)},
    )  # fmt: skip


@pytest.mark.parametrize("times", [2, 3, 4])
def test_what_enters_twice_is_not_counted_twice(monkeypatch, times):
    check(tied(times), 0)  # J is small, and written out
    monkeypatch.setattr(unit_form, "_MOST_ENTRIES", 0)
    assert check(tied(times), 0) is None  # by currents, of which it couples pairs


def test_large_mixed_networks_go_by_products(monkeypatch):
    """What has no closed form there is refused, or estimated with an error."""
    monkeypatch.setattr(unit_form, "_MOST_ENTRIES", 0)
    flow, _ = random_flow("stacked-gru", (2, 4, 4, 8, 6))
    with pytest.raises(ValueError, match="mixes units.*effective_schmidt_rank"):
        kpref.schmidt_spectrum(flow)
    exact = dimensions.effective_dimension(flow.K, "time")
    assert kpref.spectra.kernel_effective_dimension(flow, "time") == exact
    matrix = kernel_unit_matrix(flow.linearization, flow.space.mu)
    wanted = np.trace(matrix) ** 2 / np.square(matrix).sum()
    assert kpref.spectra.kernel_effective_dimension(flow, "unit").value == pytest.approx(wanted, rel=1e-12)
    monkeypatch.setattr("kpref.spectra.exact_spectrum._MOST_MIXED", 100)
    with pytest.raises(ValueError, match=r"one matrix of 216 rows, and at most 100 are solved. kpref.eigh\(flow.K, k"):
        kpref.kernel_spectrum(flow)


def test_squares_of_blocks_of_mixed_networks_are_estimated(monkeypatch):
    monkeypatch.setattr(unit_form, "_MOST_ENTRIES", 0)
    flow, _ = random_flow("stacked-rnn", (2, 3, 4, 6, 6))
    written, groups = Written(flow.linearization, 1), np.arange(4) % 2
    squares, states = kernel_block_squares(flow.linearization, written.mu, groups, 1)
    wanted = np.array([[np.square(written.group(groups, g, k)).sum() for k in range(2)] for g in range(2)])
    assert len(states) == flow.model.n_states
    # A mean of 32 quadratic forms, whose relative variance is at most 2: five of their standard deviations.
    assert (np.abs(squares - wanted) <= 5 * np.sqrt(2 / 32) * np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))).all()


@pytest.mark.parametrize("name", ["lstm", "stacked-gru"])
def test_networks_of_several_parts_are_analysed(name, monkeypatch):
    """Exactly where K has a closed form; else its leading part, its trace, and a dimension with its error."""
    flow, _ = random_flow(name, (2, 4, 6, 14, 11))
    flow = kpref.Flow(flow.model, flow.inputs)
    exact = kpref.kernel_spectrum(flow)
    monkeypatch.setattr(unit_form, "_MOST_ENTRIES", 0)
    monkeypatch.setattr("kpref.spectra.exact_spectrum._MOST_MIXED", 10)
    report = kpref.analyze(flow.model, kpref.Trials(flow.inputs), modes=3, progress=False)
    (analysis,) = report.study.analyses
    assert all(check.passed for check in analysis.check.checks)
    assert (analysis.kernel is not None) == (name == "lstm")
    assert analysis.kernel_modes.values[:3] == pytest.approx(exact.values[:3], rel=1e-8)
    for found, wanted in ((analysis.dimensions.kernel_trace, exact.trace),
                          (analysis.dimensions.kernel, exact.effective_dimension)):  # fmt: skip
        assert found.exact == (name == "lstm")
        assert abs(found.value - wanted) <= 5 * found.standard_error + 1e-9 * wanted


def test_units_are_made_once_for_as_long_as_they_are_held():
    form = random_flow("gru", (2, 3, 4, 5, 0))[0].linearization
    held = unit_form.unit_form(form)
    assert unit_form.unit_form(form) is held
    assert unit_form.unit_form(random_flow("gru", (2, 3, 4, 5, 0))[0].linearization) is not held
    values, gone = held.gates.copy(), ref(held)
    del held
    gc.collect()
    assert gone() is None
    np.testing.assert_array_equal(unit_form.unit_form(form).gates, values)
