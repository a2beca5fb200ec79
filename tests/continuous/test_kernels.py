"""The compiled sweeps through stages against their NumPy twins, entry by entry, within the rounding of either."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounding import gamma
from strategies import SEEDS, examples

from continuous.fields import METHODS, PAIRS, STRUCTURES, cases, make_flow
from kpref import Flow, kernels
from kpref.kernels import StageTable, interpreter, reference
from kpref.linearize import DenseForm
from kpref.models.registry import registered

SWEEPS = {
    "tangent": (kernels.stage_tangent, reference.stage_tangent, {}),
    "adjoint": (kernels.stage_adjoint, reference.stage_adjoint, {}),
    "tangent of A^T": (kernels.stage_tangent, reference.stage_tangent, {"transposed": True}),
    "adjoint of A^T": (kernels.stage_adjoint, reference.stage_adjoint, {"transposed": True}),
    "costate": (kernels.stage_costate, reference.stage_costate, {}),
    "costate^T": (kernels.stage_costate_transpose, reference.stage_costate_transpose, {}),
}


def roundings(form, table):
    """The most roundings that one term of a sum goes through in a sweep.

    A stage: a product with A of H entries and a few factors, the forcing, the stages before it. Stages follow each
    other, steps as well.
    """
    steps, stages, width = table.source.shape
    return steps * (stages * (form.n_states + width + stages + 12) + stages + 2)


def converted(form, change):
    """The form with all its numbers changed, in double precision."""
    if isinstance(form, DenseForm):
        return replace(form, state_jacobian=change(form.state_jacobian.astype(np.float64)))
    weights = {name: change(weight.astype(np.float64)) for name, weight in form.weights.items()}
    arrays = {name: change(getattr(form, name).astype(np.float64)) for name in ("numbers", "states", "variables")}
    return replace(form, weights=weights, **arrays)


def absolute(form):
    """All coefficients by their absolute values, in double precision: they bound every intermediate sum."""
    return converted(form, np.abs)


def in_double(form):
    return converted(form, np.asarray)


def double(table, of=np.asarray):
    return StageTable(*(of(x.astype(np.float64)) if x.dtype.kind == "f" else x for x in table))


def assert_like_twin(form, table, count, rows, rng, names=tuple(SWEEPS)):
    """Every sweep, from a random carry, with what it adds to already there, `rows` long on the side of the forcing."""
    grid = int(table.row.max()) + 1
    shape = (count, form.n_trials, rows, form.n_states)
    for name in names:
        fast, twin, options = SWEEPS[name]
        along_forcing = rng.normal(size=shape).astype(form.dtype)
        along_grid = rng.normal(size=(count, form.n_trials, grid, form.n_states)).astype(form.dtype)
        carry = rng.normal(size=(count, form.n_trials, form.n_states)).astype(form.dtype)
        source, out = (along_forcing, along_grid) if name in ("tangent", "tangent of A^T", "costate") else (
            along_grid, along_forcing
        )  # fmt: skip
        got = [carry.copy(), out.copy()]
        fast(form, table, source, *got, **options)
        wanted = [carry.astype(np.float64), out.astype(np.float64)]
        twin(in_double(form), double(table), source.astype(np.float64), *wanted, **options)
        bound = [np.abs(x.astype(np.float64)) for x in (carry, out)]
        twin(absolute(form), double(table, np.abs), np.abs(source.astype(np.float64)), *bound, **options)
        number = roundings(form, table)
        allowed = 1.01 * (gamma(number, form.dtype) + gamma(number))  # 1.01: of second order in float32
        tiny = number * np.finfo(form.dtype).tiny  # below the smallest normal number roundings are absolute
        for mine, theirs, size in zip(got, wanted, bound, strict=True):
            assert mine.dtype == form.dtype
            assert (np.abs(mine - theirs) <= allowed * size + tiny).all(), name


def check_flow(flow, count, rng, names=tuple(SWEEPS)):
    """All segments of a flow, with a forcing of stages and of the grid, whose adjoints both add into their result."""
    system = flow._dynamics.system
    for segment in system.segments:
        for kind in ("stage", "linear", "cubic"):
            forcing = system.stage_forcing if kind == "stage" else system.grid_forcing(kind)
            rows = (segment.stop - segment.start) * system.stages if kind == "stage" else len(flow.solution.times)
            assert_like_twin(system.form(segment), system.table(segment, forcing), count, rows, rng, names)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_like_twin(method, dtype):
    @examples(3)
    @given(cases([method], dtype=dtype), st.integers(1, 3))
    def check(case, count):
        flow, _, rng = case
        check_flow(flow, count, rng)

    check()


@pytest.mark.parametrize("method", PAIRS)
def test_like_twin_on_adaptive_steps(method):
    """Some steps end between grid times: row -1 of the table."""

    @examples(2)
    @given(cases([method], rtol=1e-4))
    def check(case):
        flow, _, rng = case
        check_flow(flow, 2, rng)

    check()


@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("trials, count", [(50, 2), (3, 30), (41, 5)])
def test_like_twin_over_several_blocks(kind, trials, count):
    """More trials and vectors than one block holds, in numbers that blocks do not divide."""
    check_flow(make_flow(kind, "rk4", (trials, 2, 3)), count, np.random.default_rng(0))


@given(SEEDS)
@examples(10)
def test_any_table(seed):
    """Weights, sources and rows that no method or interpolation would have."""
    rng = np.random.default_rng(seed)
    form = make_flow("Rate-tanh", "bosh3", (2, 4, 3), seed)._dynamics.system
    form = form.form(form.segments[0])
    table = StageTable(
        a=np.tril(rng.normal(size=(3, 3)), -1),
        b=rng.normal(size=3),
        h=rng.normal(size=4),
        row=np.array([2, -1, 0, 1]),
        source=rng.integers(0, 7, size=(4, 3, 5)),
        weight=rng.normal(size=(4, 3, 5)) * (rng.random(size=(4, 3, 5)) < 0.7),
    )
    assert_like_twin(form, table, 2, 7, rng)


def test_site_form_and_dense_form_agree():
    """The same linearisation in both forms."""
    flow = make_flow("Rate-erf-per unit", "rk38", (3, 4, 4))
    system, rng = flow._dynamics.system, np.random.default_rng(0)
    form = system.form(system.segments[0])
    matrices = np.ascontiguousarray([reference.state_jacobian(form, row) for row in range(form.n_steps)])
    dense = DenseForm(matrices, np.zeros((*matrices.shape[:3], 1)))
    table = system.table(system.segments[0], system.grid_forcing("cubic"))
    for transposed in (False, True):
        forcing, results = rng.normal(size=(2, 3, 5, 4)), []
        for each in (form, dense):
            carry, out = np.ones((2, 3, 4)), np.zeros((2, 3, 5, 4))
            kernels.stage_tangent(each, table, forcing, carry, out, transposed)
            results.append(np.concatenate([out.ravel(), carry.ravel()]))
        # Two orders of the same sums of some hundred terms.
        assert np.abs(results[0] - results[1]).max() <= 1e-14 * np.abs(results[0]).max()


@pytest.mark.parametrize("change", ["read-only", "reversed", "Fortran", "other precision"])
def test_any_layout(change):
    """Operators take tensors as they come, and do not write to them."""
    flow = make_flow("Rate-tanh", "heun", (2, 3, 3))
    for operator in (flow.P, flow.stage.P, flow.D, flow.D_z0, flow.adjoint("discrete"), flow.adjoint("continuous")):
        for side in (operator, operator.T):
            x = np.random.default_rng(0).normal(size=side.shape_in).astype(np.float32).astype(np.float64)
            other = {
                "read-only": x.copy(),
                "reversed": x[::-1].copy()[::-1],
                "Fortran": np.asfortranarray(x),
                "other precision": x.astype(np.float32),
            }[change]
            other.flags.writeable = change != "read-only"
            np.testing.assert_array_equal(side(other), side(x))
            np.testing.assert_array_equal(other, x)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["rate", "linear-system", "hodgkin-huxley"])
def test_sensitivities_in_one_sweep_are_those_of_two(name, dtype, monkeypatch):
    """P_s after J_s, and their transposes, with blocks of one and of two trials, several vectors and segments.

    Of a linear system products with changes go to the new state itself. Sums of some hundred terms, in another order.
    """
    monkeypatch.setattr("kpref.runge_kutta._SEGMENT_ENTRIES", 2 * 4 * 3 * 7)
    model, rng = registered()[name].init(2, 7, 0, 1.0), np.random.default_rng(0)
    flow = Flow(model, rng.normal(size=(3, 6, 2)), dt=0.02, dtype=dtype)
    vectors = rng.normal(size=(2, model.n_parameters)).astype(dtype)
    tensors = rng.normal(size=(2, *flow.space.shape)).astype(dtype)
    apart = flow.D.apply(vectors), flow.D.T.apply(tensors)
    monkeypatch.setattr("kpref.threads._FEWEST_TRIALS", 2)
    monkeypatch.setattr("kpref.threads._STATES_FOR_TWO", 0)
    together = flow.D.apply(vectors), flow.D.T.apply(tensors)
    for got, wanted in zip(together, apart, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1000 * np.finfo(dtype).eps * np.abs(wanted).max())


def test_rows_of_large_tensors_are_asked_for_and_nothing_changes():
    """Beyond a cache's size rows are asked for ahead of their turn: as those of each trial alone, which is small."""
    model, rng = registered()["rate"].init(2, 64, 0, 1.5), np.random.default_rng(0)
    inputs = rng.normal(size=(12, 100, 2))
    flow = Flow(model, inputs, dt=0.1)
    tensor = rng.normal(size=flow.space.shape)
    assert 2 * tensor.nbytes > interpreter.NEAR
    found = flow.P(tensor), flow.P.T(tensor)
    for trial in (0, 11):
        part = slice(trial, trial + 1)
        alone = Flow(model, inputs[part], dt=0.1)
        for whole, wanted in zip(found, (alone.P(tensor[part]), alone.P.T(tensor[part])), strict=True):
            np.testing.assert_allclose(whole[part], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
