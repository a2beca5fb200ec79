"""Operators that are not what they say: not self-adjoint as declared, a transpose that is none, images not finite."""

import numpy as np
import pytest

import kpref
from kpref import EuclideanSpace, TensorOperator, spectra
from kpref.operators import Structure
from kpref.spectra import lanczos

RNG = np.random.default_rng(0)
NOTHING, SELF_ADJOINT, POSITIVE = Structure(), Structure(True), Structure(True, True)
SIZES = (12, 240)  # dense solvers, and iterations


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Iterations that cannot converge end early: how late they would is not the question here."""
    monkeypatch.setattr(lanczos, "_MAX_PRODUCTS", 10)


def operator(matrix, transpose=None, structure=NOTHING):
    transpose = matrix.T if transpose is None else transpose
    rows, columns = (EuclideanSpace((length,)) for length in matrix.shape)
    forward, backward = (lambda batch, m=m: _product(batch, m) for m in (matrix, transpose))
    return TensorOperator(forward, backward, columns, rows, name="mine", structure=structure)


def _product(batch, matrix):
    with np.errstate(invalid="ignore"):
        return batch @ matrix.T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["auto", "block"])
@pytest.mark.parametrize("part", [1.0, 1e-5])
def test_eigenpairs_of_what_is_not_self_adjoint_are_refused(size, method, part):
    matrix = RNG.normal(size=(size, size)) / size**0.5
    wrong = operator(np.diag(np.arange(float(size))) / size + part * matrix, structure=SELF_ADJOINT)
    with pytest.raises(ValueError, match="mine is not self-adjoint"):
        kpref.eigh(wrong, 2, method=method)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", [1.0, 1e-5])
def test_a_transpose_that_is_none_is_refused(size, part):
    matrix, other = RNG.normal(size=(2, size, size))
    wrong = operator(matrix, matrix.T + part * other)
    for compute in (
        lambda: kpref.svd(wrong, 2),
        lambda: kpref.eigh(wrong.gram(), 2),
        lambda: kpref.operator_norm(wrong),
    ):
        with pytest.raises(ValueError, match="the transpose of .*mine.* is not that of its map"):
            compute()


@pytest.mark.parametrize("size", [12, 500])
def test_dimensions_of_what_is_wrong_are_refused(size):
    matrix, other = RNG.normal(size=(2, size, size))
    with pytest.raises(ValueError, match="mine is not self-adjoint"):
        kpref.effective_dimension(operator(matrix, structure=POSITIVE))
    with pytest.raises(ValueError, match="the transpose of .*mine"):
        kpref.effective_dimension(operator(matrix, other))


def test_residuals_are_compared_with_what_was_asked():
    """The noise of a map begins after the eigenpairs are found: residuals computed anew show it."""
    matrix, calls = np.diag(np.arange(12.0)), []

    def noisy(batch):
        calls.append(len(batch))
        return batch @ matrix + (1e-3 * RNG.normal(size=batch.shape) if len(calls) > 4 else 0.0)

    space = EuclideanSpace((12,))
    op = TensorOperator(noisy, noisy, space, space, name="mine", structure=SELF_ADJOINT)
    kpref.eigh(op, 2)
    calls[:] = [1] * 3  # the noise begins with the residuals
    with pytest.raises(ValueError, match="mine is not self-adjoint"):
        kpref.eigh(op, 2)


def test_an_indefinite_operator_converges_relative_to_its_norm():
    """The largest eigenvalue is 1e-3 of the norm: rounding leaves residuals of 50 units of rounding of the norm."""
    values = np.append(np.linspace(0.5, 1.0, 239), -1e5)
    basis = np.linalg.qr(RNG.normal(size=(240, 240)))[0]
    found = kpref.eigh(operator((basis * values) @ basis.T), 2, tol=1e-12)
    assert found.converged.all()
    np.testing.assert_allclose(found.values, [1.0, np.sort(values)[-2]], rtol=1e-8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("structure", [NOTHING, POSITIVE])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused_in_words(size, structure, bad):
    matrix = np.diag(np.arange(1.0, size + 1))
    matrix[0, 0] = bad
    wrong, good = operator(matrix, structure=structure), operator(np.eye(size), structure=structure)
    for compute in (
        *(lambda method=method: kpref.eigh(wrong, 2, method=method) for method in ("auto", "lanczos", "block")),
        lambda: kpref.svd(wrong, 2),
        lambda: kpref.trace(wrong),
        lambda: spectra.adjoint_trace(wrong),
        lambda: spectra.frobenius_squared(wrong),
        lambda: kpref.effective_dimension(wrong),
        lambda: kpref.alignment(wrong, good),
        lambda: kpref.alignment(good, wrong),
        lambda: kpref.operator_norm(wrong),
    ):
        with pytest.raises(ValueError, match=r"mine\S* .*maps finite tensors to such that are not finite"):
            compute()


def test_numbers_of_k_that_overflow_are_refused_in_words():
    """Features of 1e200 have squares beyond all floats, also where saturated gates would multiply them by zero."""
    flow = kpref.Flow(kpref.models.RNN.init(2, 6, 0), 1e200 * RNG.normal(size=(4, 8, 2)))
    mu = flow.space.mu
    for compute in (
        lambda: kpref.schmidt_spectrum(flow),
        lambda: spectra.kernel_effective_dimension(flow, "unit"),
        lambda: spectra.kernel_effective_dimension(flow, ("trial", "unit")),
        lambda: spectra.kernel_unit_trace(flow.linearization, mu),
        lambda: spectra.ntk_trace_exact(flow),
    ):
        with pytest.raises(ValueError, match="overflows: the inputs, states or weights of the network are too large"):
            compute()
