"""Whether the eigenpairs of a report belong to its operators: held against the operators themselves.

An iteration knows its own residuals, on the form of the operator that it was told: blocks of K for each unit, say.
These checks ask the operator of the flow, whole, and hold the answers against what was asked for:

    A v_i = lambda_i v_i,   <v_i, v_j> = delta_ij         for each operator with its modes (residual and Gram matrix)
    what K makes of its modes = exact eigenvalues         for K, whose exact spectrum comes from dense blocks
    tr K = sum of the exact spectrum                      by Hutchinson's estimate of what the modes leave of K
    tr K_hh = sum of the exact spectrum of unit h         in closed form, and what else is told of the spectrum

In the last, with orthonormal v_1 ... v_k projected out of K, ``x^T K' x`` for m normal x has the mean ``tr K'`` and the
variance ``2 |K'|_F^2 / m``; a deviation of 6 standard deviations counts as a failure.
"""

from __future__ import annotations

import math

import numpy as np

from kpref._types import Array
from kpref.analysis.checks import Check
from kpref.analysis.selfcheck import largest_rounding
from kpref.flow import Flow
from kpref.operators import TensorOperator
from kpref.operators.precision import for_estimates
from kpref.spectra import Eigen, KernelSpectrum
from kpref.spectra.closed_form import kernel_unit_trace
from kpref.spectra.paired_probes import DENSE_SIZE
from kpref.spectra.rows import inner_products
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import WhiteImages, white_images
from kpref.threads import serial_blas

__all__ = ["ASKED", "kernel_checks", "kernel_sums", "mode_check"]

#: Residual, relative to the largest eigenvalue, that eigensolvers are asked for.
ASKED = 1e-10
#: How far products that reach a vector in different order may be off, in residuals asked for.
_SLACK = 4.0
#: Random sums of the modes that their residuals are looked for in, before those of each by itself.
_SUMS = 2
_PROBES = 12
_DEVIATIONS = 6.0
#: What rounding may do to a trace, relative to it, where sampling leaves nothing.
_CERTAIN = {"float64": 1e-9, "float32": 1e-5}


@serial_blas
def mode_check(operator: TensorOperator, values: Array, vectors: Array, longest_sum: int) -> Check:
    """Whether values (k,) and tensors (k, \\*shape) are eigenpairs of an operator, orthonormal in its space.

    Vectors need to be orthonormal in so far as their eigenvalues are not zero, relative to the largest.
    """
    space, name = operator.space_in, operator.name
    scale = float(np.abs(values).max())
    identity = f"{name} vᵢ = λᵢ vᵢ, ⟨vᵢ, vⱼ⟩ = δᵢⱼ"
    reason = f"residual asked for, {ASKED:g}, times {_SLACK:g}, and rounding"
    if scale == 0:
        image = max(space.norm(operator(vector)) for vector in vectors)
        words = f"all eigenvalues found of {name} are zero"
        return Check(f"modes of {name}", identity, image, largest_rounding(longest_sum), reason, words, idle=True)
    rows = space.scale(vectors, 0.5).reshape(len(vectors), -1)
    gram = rows @ rows.T
    skew = np.abs(gram - np.eye(len(values))) * np.sqrt(np.outer(np.abs(values), np.abs(values))) / scale
    together = _residual_of_sums(operator, values, vectors) / scale
    error, bound = float(np.maximum(together, skew.max())), _SLACK * ASKED + largest_rounding(longest_sum)
    if error <= bound:
        return Check(f"modes of {name}", identity, error, bound, reason)
    residuals = [space.norm(operator(v) - value * v) / scale for value, v in zip(values, vectors, strict=True)]
    worst = int(np.argmax(residuals))
    error = float(max(*residuals, skew.max()))
    verdict = "" if error <= bound else f"mode {worst + 1} of {name} is none: its residual is {residuals[worst]:.1e}"
    return Check(f"modes of {name}", identity, error, bound, reason, verdict)


def _residual_of_sums(operator: TensorOperator, values: Array, vectors: Array) -> float:
    """The root of the mean of ``|sum_i s_i (A v_i - lambda_i v_i)|^2`` over a few random signs s.

    Its mean over all signs is the root of the sum of the squares of the residuals: two products tell about the largest
    of them, in place of a product for each.
    """
    space, count = operator.space_in, len(values)
    some = np.random.default_rng(count).choice([-1.0, 1.0], (_SUMS, count)) if count > _SUMS else np.eye(count)
    gaps = [space.norm(operator(np.tensordot(s, vectors, 1)) - np.tensordot(s * values, vectors, 1)) for s in some]
    return float(np.sqrt(np.square(gaps).sum() / (_SUMS if count > _SUMS else 1)))


@serial_blas
def kernel_checks(
    operator: TensorOperator,
    exact: KernelSpectrum,
    modes: Eigen,
    longest_sum: int,
    seed: int,
    seen: WhiteImages | None = None,
) -> list[Check]:
    """K, its exact spectrum, and its modes, each against the others.

    `operator`: K of the flow. `longest_sum`: terms in the longest sum of a product with K and an inner product. `seed`:
    of random vectors. `seen`: K as random vectors see it, where these products have been made.
    """
    return [
        mode_check(operator, modes.values, modes.vectors, longest_sum),
        _values_check(exact, modes.values),
        _trace_check(operator, exact, modes.values, modes.vectors, seed, seen),
    ]


def _values_check(exact: KernelSpectrum, values: Array) -> Check:
    known = np.zeros(len(values))
    count = min(len(known), len(exact.values))
    known[:count] = exact.values[:count]
    scale = max(float(np.abs(known).max()), float(np.abs(values).max()))
    gap = np.abs(known - values)
    terms = exact.unit_values.shape[1]
    worst = int(gap.argmax())
    # Weyl: the eigenvalue of a mode is within its residual of an exact one; the dense ones within n units of rounding.
    bound = ASKED + 8 * terms * np.finfo(float).eps
    error = float(gap.max()) / (scale or 1.0)
    verdict = "all eigenvalues of K are zero" if scale == 0 else ""
    if not error <= bound:
        verdict = (
            f"eigenvalue {worst + 1} of K is {known[worst]:.6g} by dense blocks and {values[worst]:.6g} by its mode"
        )
    return Check(
        "leading eigenvalues of K",
        "⟨vᵢ, K vᵢ⟩ = exact spectrum",
        error,
        bound,
        f"residual asked for, {ASKED:g}, and 8 n u for matrices of n = {terms:,} columns",
        verdict,
        idle=scale == 0,
    )


def _trace_check(
    operator: TensorOperator, exact: KernelSpectrum, values: Array, vectors: Array, seed: int, seen: WhiteImages | None
) -> Check:
    if seen is None:
        seen = white_images(SymmetricForm(for_estimates(operator, DENSE_SIZE)), _PROBES, seed)
    drawn, images = seen.vectors, seen.images
    # x = g - s Q, and x.K x from K g and the modes: of the latter another check makes sure.
    modes = seen.form.coordinates.to_vectors(vectors.astype(images.dtype, copy=False))
    shares, image_shares = inner_products(drawn, modes), inner_products(images, modes)
    whole = np.einsum("ij,ij->i", drawn, images, dtype=np.float64)
    forms = whole - 2 * np.einsum("ij,ij->i", shares, image_shares) + np.square(shares) @ values
    rest = max(exact.frobenius**2 - float(np.square(values).sum()), 0.0) ** 0.5
    estimate = float(values.sum() + forms.mean())
    scale = max(abs(exact.trace), abs(estimate))
    bound = _DEVIATIONS * rest * math.sqrt(2.0 / len(forms)) / (scale or 1.0) + _CERTAIN[images.dtype.name]
    error = abs(estimate - exact.trace) / (scale or 1.0)
    verdict = "K is zero" if scale == 0 else ""
    if not error <= bound:
        verdict = f"the exact spectrum of K adds up to {exact.trace:.6g}, its trace by random vectors is {estimate:.6g}"
    return Check(
        "trace of K",
        "sum of the exact spectrum = tr K",
        error,
        bound,
        f"{_DEVIATIONS:g} standard deviations of Hutchinson's estimate from {len(forms)} vectors, modes projected out",
        verdict,
        idle=scale == 0,
    )


def kernel_sums(exact: KernelSpectrum, flow: Flow) -> Check:
    """Whether the spectrum of K adds up to the trace of each unit, and to the numbers that are told of it."""
    traces = kernel_unit_trace(flow.linearization, flow.space.mu)
    sums, total, square = exact.unit_values.sum(axis=1), float(exact.values.sum()), float(np.square(exact.values).sum())
    if len(sums) != len(traces):  # units of several states, or not apart
        sums, traces = sums.sum(keepdims=True), traces.sum(keepdims=True)
    scale, dimension = float(traces.sum()), total**2 / square if square > 0 else 0.0
    gaps = {
        "the eigenvalues of a unit": float(np.abs(sums - traces).max()) / (scale or 1.0),
        "all eigenvalues": abs(total - scale) / (scale or 1.0),
        "the trace": abs(exact.trace - scale) / (scale or 1.0),
        "the Frobenius norm": abs(exact.frobenius**2 - square) / (square or 1.0),
        "the effective dimension": abs(exact.effective_dimension - dimension) / (dimension or 1.0),
    }
    terms = flow.space.size + exact.unit_values.shape[1]
    bound, worst = 8 * terms * np.finfo(float).eps, max(gaps, key=lambda what: gaps[what])
    verdict = "K is zero" if scale == 0 else ""
    if not gaps[worst] <= bound:
        verdict = f"the exact spectrum of K is wrong: {worst} of it by {gaps[worst]:.1e}"
    reason = f"8 n u for sums of n = {terms:,} terms"
    identity = "Σ λᵢ = tr K, unit by unit"
    return Check("sums of the spectrum of K", identity, gaps[worst], bound, reason, verdict, idle=scale == 0)
