"""Traces and Frobenius norms from random vectors, in the measure, each with its standard error.

For g of mean zero and covariance I, E g.S g = tr S (Girard; Hutchinson): O(1/eps^2) products for an accuracy of eps.
Methods that first find the range in which S is large, and use random vectors only for the rest, take O(1/eps) in the
worst case, and far fewer where the spectrum decays:

    hutchinson   mean of g.S g
    hutch++      a third of the products finds a range, a third evaluates S there, a third serves the rest
                 (Meyer, Musco, Musco and Woodruff, SOSA 2021)
    xtrace       the same vectors serve both purposes, leaving out one at a time (Epperly, Tropp and Webber, 2024)
    krylov       for A A* with A known: leading directions from Lanczos steps in the domain of A, and random vectors for
                 the rest that pass through A* alone, at half the cost, and serve however many steps there are
                 (after Chen and Hallman, SIAM J. Matrix Anal. Appl. 44, 2023)
    xnystrace    as xtrace for positive operators, with one product for each vector in place of two

S is ``Mu^(1/2) A Mu^(-1/2)`` on the support of the measure, which has the trace of A on the restricted space, and
whose Frobenius norm is the Hilbert-Schmidt norm of A in the measure. Of a random vector only the direction is used,
uniform on the sphere, which removes the noise of the length.

Standard errors: the terms of Hutchinson's mean are independent, those of Hutch++ and of krylov are so given the range,
and the estimates are unbiased given it; so the scatter of the terms tells the variance without bias. For the other two
see `kpref.spectra.bootstrap`, and for the derivations `kpref.spectra.sketches` and `kpref.spectra.trace_methods`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.estimate import Estimate
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.trace_methods import (
    MEAN_SQUARE,
    METHODS,
    RANGE_NORM,
    Method,
    Product,
    Progress,
    in_blocks,
    sum_of_squares,
)
from kpref.threads import serial_blas

__all__ = ["adjoint_trace", "frobenius_squared", "trace"]

Array = npt.NDArray[Any]
_FIRST = 16  # products before the standard error is first compared with the tolerance


@serial_blas
def trace(
    op: TensorOperator,
    method: str = "auto",
    probes: int = 64,
    tol: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """Trace of an operator on one space, restricted to where the measure is positive.

    Parameters
    ----------
    op : TensorOperator
        From a space to itself.
    method : {"auto", "krylov", "xnystrace", "xtrace", "hutch++", "hutchinson"}
        "xnystrace" needs an operator declared positive, and is the best where the spectrum falls fast; "krylov" one
        made by `TensorOperator.gram`, such as K, the NTK, ``P.gram()``. "auto" is "krylov" for those and "xtrace" for
        others: they do not suffer from the slow tails that neural tangent kernels have (`scripts/estimators.py`).
    probes : int
        Number of products with the operator, at most, those with A or A* counted half; xtrace and krylov take the
        largest even, hutch++ the largest multiple of three below it. If it is not smaller than the space, the trace is
        computed exactly.
    tol : float, optional
        Standard error wanted, relative to the value. Products are then taken in doubling numbers until it is reached,
        each result building on the products before.
    seed : int
        Of the random vectors.
    progress : callable, optional
        Called with the number of products after each block of them.

    Returns
    -------
    Estimate
        ``standard_error`` is the standard deviation of the estimate; for xtrace and xnystrace it rests on a model of
        the spectrum, see `kpref.spectra.bootstrap`.

    Raises
    ------
    ValueError
        For an unknown method, an operator between two spaces, one that is not positive for xnystrace or has no known
        factor for krylov, too few probes.
    RuntimeError
        If `tol` is not reached.
    MemoryError
        Before anything is allocated, if the vectors would not fit.

    Notes
    -----
    k products, and O(n k^2 + k^3) flops and 4 k n numbers at most beside them; for krylov n is the size of the domain
    of A, the number of parameters for K and the NTK.
    """
    _require_one_space(op)
    if method not in ("auto", *METHODS):
        raise ValueError(f"method must be one of auto, {', '.join(METHODS)}; got {method!r}")
    if method == "auto":
        method = "xtrace" if op.factor is None else "krylov"
    if method == "xnystrace" and not op.structure.positive:
        raise ValueError(f"xnystrace needs an operator declared self-adjoint and positive; {op.name} is not")
    if method == "krylov" and op.factor is None:
        raise ValueError(f"krylov needs an operator made by gram(), whose factor is known; {op.name} is not")
    form = SymmetricForm(op, progress)
    return _estimate(
        op, METHODS[method], form, form.size, probes, tol, seed, progress, lambda rows: float(np.trace(rows))
    )


@serial_blas
def frobenius_squared(
    op: TensorOperator, probes: int = 64, tol: float | None = None, seed: int = 0, progress: Progress | None = None
) -> Estimate:
    """Squared Hilbert-Schmidt norm ``tr(A* A)`` in the measures of the two spaces; tr A^2 for a self-adjoint A.

    For an operator on one space from the range sketch of XTrace, each part of whose estimate is a squared norm:
    ``|S|_F^2 = |S Q|_F^2 + |S (1 - Q Q^T)|_F^2`` holds for any orthonormal Q, and the range is a good choice where S is
    close to symmetric. Otherwise the mean of ``|A g|^2``.

    Parameters
    ----------
    op : TensorOperator
    probes, tol, seed, progress
        See `trace`. No transpose is used.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError, RuntimeError, MemoryError
        See `trace`.
    """
    if op.space_in != op.space_out:
        return _mean_square(op, -0.5, probes, tol, seed, progress)
    form = SymmetricForm(op, progress)
    return _estimate(op, RANGE_NORM, form, form.size, probes, tol, seed, progress, sum_of_squares)


@serial_blas
def adjoint_trace(
    op: TensorOperator, probes: int = 64, tol: float | None = None, seed: int = 0, progress: Progress | None = None
) -> Estimate:
    """``tr(A A*)`` from transposes alone, as the mean of ``|A* g|^2`` for white g.

    For ``A = D``, the sensitivity of the states to the parameters, it is the trace of the neural tangent kernel, at the
    cost of one backward pass for each random vector (Hazelden et al., arXiv:2511.10796).

    Parameters
    ----------
    op : TensorOperator
        Between any two spaces.
    probes, tol, seed, progress
        See `trace`; `probes` is the number of transposes.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError, RuntimeError, MemoryError
        See `trace`.
    """
    return _mean_square(op.T, 0.5, probes, tol, seed, progress)


def _mean_square(
    op: TensorOperator, power: float, probes: int, tol: float | None, seed: int, progress: Progress | None
) -> Estimate:
    """``|W_out^-power A W_in^power|_F^2`` on the supports, A being `op`; power -1/2, or 1/2 for a transpose."""
    space = op.space_in
    weights = np.ones(space.shape) if space.weights is None else np.broadcast_to(space.weights, space.shape)
    support = np.flatnonzero(weights.reshape(-1) > 0)

    def product(vectors: Array) -> Array:
        flat = np.zeros((len(vectors), space.size))
        flat[:, support] = vectors
        image = op.apply(space.scale(flat.reshape(-1, *space.shape), power))
        if progress is not None:
            progress(len(vectors))
        return op.space_out.scale(image, -power).reshape(len(vectors), -1)

    return _estimate(op, MEAN_SQUARE, product, len(support), probes, tol, seed, progress, sum_of_squares)


def _estimate(
    op: TensorOperator,
    method: Method,
    apply: Product,
    size: int,
    probes: int,
    tol: float | None,
    seed: int,
    progress: Progress | None,
    exact: Callable[[Array], float],
) -> Estimate:
    """Exact in a small space; else with all the products, or as many as the tolerance takes."""
    probes = _natural("probes", probes, 1)
    seed = _natural("seed", seed, 0)
    if tol is not None and not (np.isfinite(tol) and tol > 0):
        raise ValueError(f"tol must be positive and finite; got {tol!r}")
    product = in_blocks(apply, size)
    if size <= probes:
        require_memory(16.0 * size * (size + op.shape[0]), f"{op.name} as a dense matrix of {size} columns")
        return Estimate(exact(product(np.eye(size))), 0.0, size, "exact")
    if probes < 2 * method.cost:
        raise ValueError(f"{method.name} needs probes of at least {2 * method.cost}; got {probes}")
    eps = float(np.finfo(op.dtype).eps)
    grow = method.start(product, size, seed, op, progress)
    products = probes if tol is None else min(max(_FIRST, 2 * method.cost), probes)
    while True:
        if method.stores:
            require_memory(32.0 * products * size, f"{products} vectors of {size} numbers for the trace of {op.name}")
        try:
            value, error = grow(products // method.cost)
        except np.linalg.LinAlgError as failure:
            raise ValueError(f"{op.name} is declared positive, but a sketch of it is not: {failure}") from failure
        error = max(error, eps * abs(value))  # rounding is there even where sampling has no error left
        if tol is None or error <= tol * abs(value):
            return Estimate(value, error, products // method.cost * method.cost, method.name)
        if products == probes:
            raise RuntimeError(
                f"{op.name}: {method.name} reached a relative standard error of {error / abs(value):.2g} with {probes} "
                f"products; tol was {tol:g}"
            )
        products = min(2 * products, probes)


def _require_one_space(op: TensorOperator) -> None:
    if op.space_in != op.space_out:
        raise ValueError(f"a trace needs an operator on one space; {op.name} maps {op.space_in} to {op.space_out}")


def _natural(name: str, value: Any, least: int) -> int:
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    return number
