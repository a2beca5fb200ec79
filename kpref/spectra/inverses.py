r"""Solutions of systems with an operator, as an operator: what damped Gauss-Newton steps and influences are made of.

For A self-adjoint and positive it is ``(A + d)^-1``, by conjugate gradients; for any other A

    (A* A + d)^-1 A* y,   the x with the least  |A x - y|^2 + d |x|^2,

by LSMR (Fong and Saunders, SIAM J. Sci. Comput. 33, 2011), norms and adjoints being those of the two spaces: with
A = D and y = Err a damped Gauss-Newton step, and with ``A = D* D`` the influence of a gradient. Both run on matrices in
coordinates in which inner products are plain sums (`kpref.spectra.symmetric`). What comes out is linear in y up to
`tol`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from kpref._types import Array
from kpref._validate import integer, real_number
from kpref.operators import TensorOperator
from kpref.operators.structure import Structure
from kpref.spectra.bases import noise
from kpref.spectra.lanczos import NoConvergence
from kpref.spectra.symmetric import RectangularForm, SymmetricForm, require_operator

__all__ = ["inverse"]

#: How far a residual that is computed anew may lie above the one of the recurrence.
_SLACK = 10.0
#: Runs of LSMR with a tighter and tighter aim.
_TRIES = 3


def inverse(op: TensorOperator, damping: float = 0.0, tol: float = 1e-8, products: int = 1000) -> TensorOperator:
    """The inverse of ``A + damping`` for a positive self-adjoint A, the damped least-squares solution for others.

    Parameters
    ----------
    op : TensorOperator
        Known to be self-adjoint, such as K, the NTK or ``D.star @ D``; or any other, such as D.
    damping : float
        Added to a self-adjoint A; of others to ``A* A``. At least zero; with zero, A has to be such that the iteration
        converges.
    tol : float
        Largest residual relative to what is given: ``|y - (A + d) x| / |y|``, and of least squares
        ``|A* (y - A x) - d x| / |A* y|``. Below about 50 units of rounding of the operator's precision, times the
        largest over the smallest eigenvalue, it cannot be reached.
    products : int
        Most products with A for each y.

    Returns
    -------
    TensorOperator
        From the output space of `op` to its input space. Nothing is computed before it is applied; its transpose and
        its adjoint solve the transposed system. Where a weight is zero it gives zero.

    Raises
    ------
    TypeError
        If `op` is not an operator.
    ValueError
        If a number is out of range; when it is applied, if A is not positive.
    NoConvergence
        When it is applied: a RuntimeError that says which residual was reached and holds the solutions so far.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> flow = kpref.Flow(kpref.models.GRU.init(3, 8, seed=0), np.ones((5, 20, 3)))
    >>> step = kpref.inverse(flow.D, damping=1e-3)  # damped Gauss-Newton
    >>> step(np.ones(flow.states.shape)).shape == (flow.model.n_parameters,)
    True
    """
    op = require_operator(op)
    damping, tol = real_number("damping", damping, least=0), real_number("tol", tol, above=0)
    most = integer("products", products, 1)
    added = f" + {damping:g}" if damping else ""
    if op.structure.self_adjoint:
        forward, transpose = (partial(_solved, op, damping, tol, most, power) for power in (0.5, -0.5))
        known, name = Structure(self_adjoint=True, positive=True), f"({op.name}{added})^-1"
        return TensorOperator(forward, transpose, op.space_out, op.space_in, op.dtype, name, known)
    forward, transpose = (partial(_least_squares, op, damping, tol, most, turned) for turned in (False, True))
    name = f"({op.name}* {op.name}{added})^-1 {op.name}*"
    return TensorOperator(forward, transpose, op.space_out, op.space_in, op.dtype, name)


def _solved(op: TensorOperator, damping: float, tol: float, most: int, power: float, batch: Array) -> Array:
    """``W^-p (S + d)^-1 W^p`` on the support of the weights W, S the symmetric matrix: for p = 1/2, and transposed."""
    form, space = SymmetricForm(op), op.space_in
    right = form.coordinates.restrict(space.scale(np.asarray(batch, np.float64), power))

    def apply(vectors: Array) -> Array:
        return np.asarray(form(vectors.astype(op.dtype)), np.float64) + damping * vectors

    found, residuals = _conjugate_gradients(apply, right, tol, most, op)
    tensors = space.scale(form.coordinates.embed(found), -power)
    _require_converged(residuals, max(tol, noise(op.dtype)), most, f"({op.name} + {damping:g}) x = y", tensors)
    return tensors


def _conjugate_gradients(
    apply: Callable[[Array], Array], right: Array, tol: float, most: int, op: TensorOperator
) -> tuple[Array, Array]:
    """Solutions (v, n) of as many systems, each by itself, and their relative residuals."""
    found, residual = np.zeros_like(right), right.copy()
    direction, squares = right.copy(), np.einsum("ij,ij->i", right, right)
    lengths = np.sqrt(squares)
    for _ in range(most):
        going = np.flatnonzero(np.sqrt(squares) > tol * lengths)
        if not len(going):
            break
        image = apply(direction[going])
        curvature = np.einsum("ij,ij->i", direction[going], image)
        if (curvature <= 0).any():
            raise ValueError(
                f"{op.name} with this damping is not positive: <p, A p> = {curvature.min():.3g} for some p; take a "
                "larger damping, or least squares with an operator that is not known to be self-adjoint"
            )
        step = (squares[going] / curvature)[:, None]
        found[going] += step * direction[going]
        residual[going] -= step * image
        fresh = np.einsum("ij,ij->i", residual[going], residual[going])
        direction[going] = residual[going] + (fresh / squares[going])[:, None] * direction[going]
        squares[going] = fresh
    gaps = np.linalg.norm(right - apply(found), axis=1)
    return found, np.divide(gaps, lengths, out=np.zeros_like(gaps), where=lengths > 0)


def _least_squares(op: TensorOperator, damping: float, tol: float, most: int, transposed: bool, batch: Array) -> Array:
    """``W_in^-1/2 X W_out^1/2`` with ``X = (B^T B + d)^-1 B^T``, B the matrix in coordinates; or its transpose.

    ``X^T = (B B^T + d)^-1 B`` is the same of the transpose of B.
    """
    form = RectangularForm(op)
    before, after, sign = (form.domain, form.codomain, -0.5) if transposed else (form.codomain, form.domain, 0.5)
    forward, back = (form.transpose, form.__call__) if transposed else (form.__call__, form.transpose)
    right = before.restrict(before.space.scale(np.asarray(batch, np.float64), sign))
    matrix = LinearOperator(
        (before.size, after.size), dtype=np.float64,
        matvec=lambda x: forward(np.asarray(x, op.dtype).reshape(1, -1))[0].astype(np.float64),
        rmatvec=lambda y: back(np.asarray(y, op.dtype).reshape(1, -1))[0].astype(np.float64),
    )  # fmt: skip
    found = np.zeros((len(right), after.size))
    residuals = np.zeros(len(right))
    for index, vector in enumerate(right):
        found[index], residuals[index] = _lsmr(matrix, vector, damping, tol, most)
    tensors = after.space.scale(after.embed(found), -sign)
    what = f"least squares of {op.name}{' transposed' if transposed else ''} x = y with damping {damping:g}"
    _require_converged(residuals, max(tol, noise(op.dtype)), most, what, tensors)
    return tensors


def _lsmr(matrix: LinearOperator, right: Array, damping: float, tol: float, most: int) -> tuple[Array, float]:
    """A solution, and ``|A^T (y - A x) - d x| / |A^T y|``.

    SciPy's rule for stopping is relative to ``|A| |y - A x|``, which says little of that: it is tightened until this is
    small enough.
    """
    pulled = matrix.rmatvec(right)
    length = float(np.linalg.norm(pulled))
    if not length:
        return pulled, 0.0
    aim = 0.1 * tol * length**2 / (float(np.linalg.norm(matrix.matvec(pulled))) * float(np.linalg.norm(right)))
    for _ in range(_TRIES):
        found = lsmr(matrix, right, np.sqrt(damping), atol=aim, btol=0.0, conlim=0.0, maxiter=most)[0]
        gap = matrix.rmatvec(right - matrix.matvec(found)) - damping * found
        residual = float(np.linalg.norm(gap)) / length
        if residual <= tol:
            break
        aim *= 0.1 * tol / residual
    return found, residual


def _require_converged(residuals: Array, tol: float, most: int, what: str, tensors: Array) -> None:
    worst = float(residuals.max(initial=0.0))
    if not worst <= _SLACK * tol:
        raise NoConvergence(
            f"{what} was solved to a relative residual of {worst:.2g} in {most} products at most, not to {tol:g}: take "
            "more damping, more products or a larger tol",
            tensors,
        )
