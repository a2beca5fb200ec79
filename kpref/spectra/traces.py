"""Traces and Frobenius norms from random vectors, in the measure, each with a true interval.

For g of mean zero and covariance I, E g.S g = tr S (Girard; Hutchinson): O(1/eps^2) products for an accuracy of eps.
Methods that first find the range in which S is large, and use random vectors only for the rest, take O(1/eps) in the
worst case, and far fewer where the spectrum decays:

    hutchinson   mean of g.S g
    hutch++      a third of the products finds a range, a third evaluates S there, a third serves the rest
                 (Meyer, Musco, Musco and Woodruff, SOSA 2021)
    krylov       for A A* with A known: leading directions from Lanczos steps in the domain of A, and random vectors for
                 the rest that pass through A* alone, at half the cost, and serve however many steps there are
                 (after Chen and Hallman, SIAM J. Matrix Anal. Appl. 44, 2023)
    trials       the same where A* adds up over trials what comes of each, as D* of the NTK does: without the noise
                 between trials (`kpref.spectra.trial_probes`)

S is ``Mu^(1/2) A Mu^(-1/2)`` on the support of the measure, which has the trace of A on the restricted space, and
whose Frobenius norm is the Hilbert-Schmidt norm of A in the measure. Of a random vector only the direction is used,
uniform on the sphere, which removes the noise of the length.

The random vectors for the rest are independent of what was computed, so each estimate is unbiased given that, and its
interval follows from the inner products of these vectors and their images (`kpref.spectra.quadratic_forms`). Methods
whose vectors serve both purposes, leaving out one at a time (XTrace, XNysTrace: Epperly, Tropp and Webber, 2024), are
not among them: they are up to twice as accurate as Hutch++, but what they say of their own error is not true.

**Tolerances.** What is compared with `tol` is half the 95 % interval over 1.96, which for few vectors is more than the
standard error. Looking at an estimate until it is good enough favours those that happen to be small; so the decision is
made on two thirds of the products, by the error that the last third is going to leave, and these had no part in it.
Where more are needed, the number is doubled. Shape and scale of the interval come from all inner products rather than
from the scatter of a few terms, so there is little else to favour (``scripts/estimators.py --coverage``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kpref._types import Array
from kpref._validate import integer, one_of, real_number, short
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.estimate import Estimate
from kpref.spectra.symmetric import Coordinates, SymmetricForm, require_operator
from kpref.spectra.trace_methods import (
    DEFLATED_SQUARE,
    MEAN_SQUARE,
    METHODS,
    Method,
    Product,
    Progress,
    in_blocks,
    not_finite,
    reaches,
    rounding_floor,
    sum_of_squares,
    unreached,
)
from kpref.spectra.trial_probes import FEWEST, keeps_trials_apart, trial_estimate
from kpref.threads import serial_blas

__all__ = ["adjoint_trace", "frobenius_squared", "trace"]

_FIRST = 12  # products before the interval is first compared with the tolerance
_FRESH = 1.5  # products in all over those that decide


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
    method : {"auto", "trials", "krylov", "hutch++", "hutchinson"}
        "krylov" needs an operator made by `TensorOperator.gram`, such as K, the NTK, ``P.gram()``; "trials" one of
        eight trials or more whose factor has `TensorOperator.separated`, such as K and the NTK. "auto" is the first of
        these two that is possible, "trials" before "krylov", and "hutch++" for other operators.
    probes : int
        Number of products with the operator, at most, those with A or A* counted half. If it is not smaller than the
        space, the trace is computed exactly; by "trials" without a tolerance, if twice as many are not fewer than the
        states of a trial.
    tol : float, optional
        Standard error wanted, relative to the value; what is compared with it is half the 95 % interval over 1.96.
        Products are then taken until it is reached, each result building on the products before.
    seed : int
        Of the random vectors.
    progress : callable, optional
        Called with the number of products after each block of them.

    Returns
    -------
    Estimate
        Its `Estimate.products_for` says how many products another accuracy would take.

    Raises
    ------
    TypeError
        If `op` is no TensorOperator or a number is none.
    ValueError
        For an unknown method, an operator between two spaces or without a known factor for krylov, too few probes.
    RuntimeError
        If `tol` is not reached; it says how many products would, about.
    MemoryError
        Before anything is allocated, if the vectors would not fit.

    Notes
    -----
    k products, and O(n k^2 + k^3) flops and 4 k n numbers at most beside them; for krylov 4 k n and k m numbers, n
    the size of the domain of A (the number of parameters for K and the NTK), m that of the space.
    """
    op = require_operator(op)
    _require_one_space(op)
    one_of("method", method, ("auto", "trials", *METHODS))
    apart = keeps_trials_apart(op)
    if method == "auto":
        method = "trials" if apart else "hutch++" if op.factor is None else "krylov"
    if method == "krylov" and op.factor is None:
        raise ValueError(f"krylov needs an operator made by gram(), whose factor is known; {op.name} is not")
    if method == "trials":
        if not apart:
            raise ValueError(
                f"trials needs an operator A A* of at least {FEWEST} trials that A is known to keep apart, such as the "
                f"NTK of a flow; got {op.name} on {op.space_out}: take krylov or hutch++"
            )
        return trial_estimate(op, *_checked(probes, tol, seed, progress), progress)
    form = SymmetricForm(op, progress)
    least = 0.0 if op.structure.positive else -math.inf
    return _estimate(
        op, METHODS[method], form, form.size, probes, tol, seed, progress, lambda rows: float(np.trace(rows)), least
    )


@serial_blas
def frobenius_squared(
    op: TensorOperator, probes: int = 64, tol: float | None = None, seed: int = 0, progress: Progress | None = None
) -> Estimate:
    """Squared Hilbert-Schmidt norm ``tr(A* A)`` in the measures of the two spaces; tr A^2 for a self-adjoint A.

    For an operator on one space as by hutch++: ``|S|_F^2 = |S Q|_F^2 + |S (1 - Q Q^T)|_F^2`` holds for any orthonormal
    Q, and the range is a good choice where S is close to symmetric. Otherwise the mean of ``|A g|^2``.

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
    TypeError, ValueError, RuntimeError, MemoryError
        See `trace`.
    """
    if require_operator(op).space_in != op.space_out:
        return _mean_square(op, -0.5, probes, tol, seed, progress)
    form = SymmetricForm(op, progress)
    return _estimate(op, DEFLATED_SQUARE, form, form.size, probes, tol, seed, progress, sum_of_squares)


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
    TypeError, ValueError, RuntimeError, MemoryError
        See `trace`.
    """
    return _mean_square(require_operator(op).T, 0.5, probes, tol, seed, progress)


def _mean_square(
    op: TensorOperator, power: float, probes: int, tol: float | None, seed: int, progress: Progress | None
) -> Estimate:
    """``|W_out^-power A W_in^power|_F^2`` on the supports, A being `op`; power -1/2, or 1/2 for a transpose."""
    space = op.space_in
    inward = Coordinates(space)

    def product(vectors: Array) -> Array:
        image = op.apply(space.scale(inward.embed(vectors), power))
        if progress is not None:
            progress(len(vectors))
        return op.space_out.scale(image, -power).reshape(len(vectors), op.space_out.size)

    return _estimate(op, MEAN_SQUARE, product, inward.size, probes, tol, seed, progress, sum_of_squares)


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
    least: float = 0.0,
) -> Estimate:
    """Exact in a small space; else with all the products, or as many as the tolerance takes."""
    probes, tol, seed = _checked(probes, tol, seed, progress)
    product = in_blocks(apply, size)
    if size <= probes:
        require_memory(16.0 * size * (size + op.shape[0]), f"{op.name} as a dense matrix of {size} columns")
        with np.errstate(over="ignore", invalid="ignore"):  # said below
            value = exact(product(np.eye(size)))
        return Estimate(_finite(value, op.name), 0.0, size, "exact")
    if probes < method.least:
        raise ValueError(f"{method.name} needs probes of at least {method.least}; got {probes}")
    grow = method.start(product, size, seed, op, progress)

    def estimate(products: int) -> Estimate:
        (value, error, degrees, skewness), scale, used = grow(products)
        floor = rounding_floor(op.dtype, scale)
        if error < floor:
            error, degrees, skewness = floor, math.inf, 0.0
        value = _finite(value, op.name)
        return Estimate(value, error, used, method.name, degrees=degrees, skewness=skewness, least=least)

    return estimate(probes) if tol is None else _until(estimate, probes, max(_FIRST, method.least), tol, op.name, size)


def _checked(probes: int, tol: float | None, seed: int, progress: object) -> tuple[int, float | None, int]:
    probes, seed = integer("probes", probes, 1), integer("seed", seed, 0)
    if not (progress is None or callable(progress)):
        raise TypeError(f"progress must be a function of a number of products, or None; got {short(progress)}")
    return probes, None if tol is None else real_number("tol", tol, above=0), seed


def _until(estimate: Callable[[int], Estimate], probes: int, first: int, tol: float, name: str, size: int) -> Estimate:
    """With as many products as a tolerance takes: see the head of this file."""
    products = min(first, probes)
    while True:
        found = estimate(products)
        if reaches(found, tol * _FRESH**0.5) and products < probes:
            products = min(math.ceil(_FRESH * products), probes)
            found = estimate(products)
            if reaches(found, tol):
                return found
        if products == probes:
            break
        products = min(2 * products, probes)
    if reaches(found, tol):
        return found
    raise unreached(found, probes, tol, name, size)


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise not_finite(name)
    return value


def _require_one_space(op: TensorOperator) -> None:
    if op.space_in != op.space_out:
        raise ValueError(f"a trace needs an operator on one space; {op.name} maps {op.space_in} to {op.space_out}")
