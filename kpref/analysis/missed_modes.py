"""Whether a larger eigenvalue hides from the modes of a report.

Residuals tell that pairs are eigenpairs, and nothing about those that an iteration never met. So a Lanczos process of a
few steps, from another start, is run on what the modes leave of the operator, ``(I - V V*) A (I - V V*)``. By
Courant and Fischer its Ritz values lie below the largest eigenvalue there: one above the smallest of the modes proves
that a mode was missed. Vectors are made orthogonal to the last two alone: Ritz values may come more than once then, but
none comes above the largest eigenvalue, up to rounding (Paige, *Accuracy and effectiveness of the Lanczos algorithm*,
Linear Algebra Appl. 34, 1980).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpref._types import Array
from kpref.analysis.checks import Check
from kpref.analysis.mode_checks import ASKED
from kpref.analysis.selfcheck import largest_rounding
from kpref.operators import TensorOperator
from kpref.operators.precision import for_estimates
from kpref.spectra.paired_probes import DENSE_SIZE
from kpref.spectra.rows import combination, inner_products, orthonormal
from kpref.spectra.symmetric import SymmetricForm
from kpref.threads import serial_blas

__all__ = ["missed_check"]

_STEPS = 10
#: Relative error of a Ritz value from products in float32, at most.
_ROUNDED = 1e-5


@serial_blas
def missed_check(operator: TensorOperator, values: Array, vectors: Array, longest_sum: int, seed: int) -> Check:
    """Whether values (k,) with tensors (k, \\*shape) are the largest eigenvalues of an operator.

    `operator`: self-adjoint and positive. `values`, `vectors`: its eigenpairs. `longest_sum`: terms in the longest sum
    of a product with the operator and an inner product. `seed`: of the start.
    """
    name, product = operator.name, for_estimates(operator, DENSE_SIZE)
    form = SymmetricForm(product)
    known = orthonormal(form.coordinates.to_vectors(vectors)).astype(product.dtype, copy=False)

    def beside(rows: Array) -> Array:
        return combination(rows @ known.T, known, out=rows)

    start = np.random.default_rng([seed, 3]).standard_normal((1, form.size)).astype(product.dtype, copy=False)
    rest = beside(beside(start.copy()))
    least = max(1e-10, 1e3 * float(np.finfo(product.dtype).eps)) * _length(start)
    # Where nothing is left, the modes are all there is.
    left = _largest_ritz(lambda rows: beside(form(rows)), rest) if _length(rest) > least else 0.0
    smallest = float(values.min())
    scale = max(float(np.abs(values).max()), left)
    error, bound = max(left - smallest, 0.0) / (scale or 1.0), 4 * ASKED + largest_rounding(longest_sum)
    if product is not operator:  # a Ritz value in float32 is off by as much of itself
        bound += _ROUNDED * left / (scale or 1.0)
    verdict = f"{name} is zero" if scale == 0 else ""
    if not error <= bound:
        verdict = f"the modes of {name} leave out an eigenvalue of {left:.6g} or more; their last is {smallest:.6g}"
    return Check(
        f"no mode of {name} missed",
        "largest eigenvalue beside the modes ≤ λₖ",
        error,
        bound,
        f"residual asked for, {ASKED:g}, times 4, and rounding",
        verdict,
        idle=scale == 0,
    )


def _largest_ritz(product: Callable[[Array], Array], start: Array) -> float:
    """The largest Ritz value of a few steps from a vector (1, n), which is overwritten."""
    steps = min(_STEPS, start.shape[1])
    matrix, vector, before, coupling = np.zeros((steps + 1, steps + 1)), start, np.zeros_like(start), 0.0
    vector /= _length(vector)
    for step in range(steps):
        image = product(vector)
        whole = _length(image)
        matrix[step, step] = own = float(inner_products(vector, image)[0, 0])
        image -= coupling * before
        image -= own * vector
        coupling = _length(image)
        if coupling <= 100 * float(np.finfo(image.dtype).eps) * whole:  # rounding: all that the start reaches is there
            break
        matrix[step, step + 1] = matrix[step + 1, step] = coupling
        before, vector = vector, np.divide(image, coupling, out=image)
    return float(np.linalg.eigvalsh(matrix[: step + 1, : step + 1])[-1])


def _length(row: Array) -> float:
    return float(np.sqrt(inner_products(row)[0, 0]))
