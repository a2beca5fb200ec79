"""Preconditioned gradients: ``G = S D*`` with a symmetric positive S on parameters, ``Phi = P J S J* P*``.

    diagonal, AdaGrad, Adam     S = diag(s)
    Shampoo                     S X = L^(-1/4) X R^(-1/4) for each array, of its gradient g:  L = g g^T, R = g^T g
    Kronecker-factored          S X = Gamma^-1 X A^-1 for each weight W:  A = E[m m^T], Gamma = E[delta delta^T]

m is what a weight multiplies, and delta the cotangent of what the product goes to: of one point the gradient by W is
``delta m^T``, and the Fisher matrix of independent m and delta, ``A (x) Gamma``. Statistics are those of the error that
the rule is made at; AdaGrad's and Adam's may be given. Each L, R, A and Gamma has `damping` times its mean eigenvalue
added to it, so that the scale of the loss does not matter.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import finite_array, integer, real_number
from kpref.flow import Flow
from kpref.kernels.plain_program import run_transposed
from kpref.models.base import Map
from kpref.operators import TensorOperator
from kpref.operators.structure import Structure
from kpref.program import Operation
from kpref.rules.descent import Rule, require_err
from kpref.step_form import StepForm
from kpref.threads import serial_blas

__all__ = ["adagrad", "adam", "diagonal", "kronecker_factored", "shampoo"]

Blocks = dict[str, tuple[Array, Array]]


def diagonal(scales: npt.ArrayLike) -> Rule:
    """``G = diag(s) D*``.

    Parameters
    ----------
    scales : array_like, shape (M,)
        s, not negative.
    """
    given = finite_array("scales", scales, ndim=1)
    if (given < 0).any():
        raise ValueError(f"scales must not be negative; got {given.min()} at index ({int(np.argmin(given))},)")

    def rule(flow: Flow, err: Array) -> TensorOperator:
        return _scaled(flow, finite_array("scales", given, shape=(flow.model.n_parameters,)))

    return rule


def adagrad(squares: npt.ArrayLike | None = None, epsilon: float = 1e-10) -> Rule:
    """``s = 1 / (sqrt(v) + epsilon)`` (Duchi, Hazan and Singer 2011).

    Parameters
    ----------
    squares : array_like, shape (M,), optional
        v, the sum of all squared gradients so far; by default the squares of the one at hand, whose direction is then
        its sign.
    epsilon : float
    """
    epsilon = real_number("epsilon", epsilon, above=0)
    given = None if squares is None else _squares("squares", squares)

    def rule(flow: Flow, err: Array) -> TensorOperator:
        shape = (flow.model.n_parameters,)
        sums = np.square(_gradient(flow, err)) if given is None else finite_array("squares", given, shape=shape)
        return _scaled(flow, 1.0 / (np.sqrt(sums) + epsilon))

    return rule


def adam(second: npt.ArrayLike, step: int, beta: float = 0.999, epsilon: float = 1e-8) -> Rule:
    """What Adam's second moments make of a gradient: ``s = 1 / (sqrt(v / (1 - beta^step)) + epsilon)``.

    Of the step that was really taken, ``-eta s m / (1 - beta_1^step)``, this is the part that follows the gradient at
    hand, up to the factor ``(1 - beta_1) / (1 - beta_1^step)``; the rest of the first moments m is memory.

    Parameters
    ----------
    second : array_like, shape (M,)
        v, in the order of the parameter vector, as an optimiser keeps it ("exp_avg_sq" in PyTorch).
    step : int
        Number of steps that v is of, at least 1.
    beta, epsilon : float
        Of the second moments.
    """
    moments, step = _squares("second", second), integer("step", step, 1)
    beta, epsilon = real_number("beta", beta, least=0, below=1), real_number("epsilon", epsilon, above=0)
    scales = 1.0 / (np.sqrt(moments / (1.0 - beta**step)) + epsilon)

    def rule(flow: Flow, err: Array) -> TensorOperator:
        finite_array("second", moments, shape=(flow.model.n_parameters,))
        return _scaled(flow, scales)

    return rule


def shampoo(damping: float = 1e-4) -> Rule:
    """Shampoo (Gupta, Koren and Singer 2018), with the statistics of one gradient.

    An array of one axis has L alone, to the power -1/2.

    Parameters
    ----------
    damping : float
        Relative; above 0.
    """
    damping = real_number("damping", damping, above=0)

    @serial_blas
    def rule(flow: Flow, err: Array) -> TensorOperator:
        blocks = {}
        for name, array in flow.model.unflatten(_gradient(flow, err)).items():
            g = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
            if array.ndim < 2:
                blocks[name] = _power(g @ g.T, -0.5, damping), np.eye(1)
            else:
                blocks[name] = _power(g @ g.T, -0.25, damping), _power(g.T @ g, -0.25, damping)
        return _preconditioned(flow, TensorOperator(
            partial(_by_arrays, flow, blocks), partial(_by_arrays, flow, blocks), flow.D.space_in, flow.D.space_in,
            flow.dtype, "S", Structure(self_adjoint=True, positive=True),
        ))  # fmt: skip

    return rule


def kronecker_factored(damping: float = 1e-4) -> Rule:
    """As K-FAC (Martens and Grosse 2015; Martens, Ba and Johnson 2018 for recurrent networks), one block a weight.

    All points count as independent. Biases belong to the weight of the inputs, which multiplies (x, 1).

    Parameters
    ----------
    damping : float
        Relative; above 0.
    """
    damping = real_number("damping", damping, above=0)

    @serial_blas
    def rule(flow: Flow, err: Array) -> TensorOperator:
        form = flow.linearization
        if not isinstance(flow.model, Map) or not isinstance(form, StepForm):
            raise TypeError(f"Kronecker factors belong to weights of networks in discrete time; got {flow.model}")
        blocks = _factors(flow, form, require_err(flow, err), damping)
        return _preconditioned(flow, TensorOperator(
            partial(_by_weights, form, blocks), partial(_by_weights, form, blocks), flow.D.space_in, flow.D.space_in,
            flow.dtype, "S", Structure(self_adjoint=True, positive=True),
        ))  # fmt: skip

    return rule


def _factors(flow: Flow, form: StepForm, err: Array, damping: float) -> Blocks:
    """Gamma^-1 and A^-1 of each trained weight, the points weighted by the measure."""
    space = flow.space
    costates = flow.P.T(space.weigh(err))
    total = float(space.mu.sum())
    scale = np.divide(
        1.0, space.mu, out=np.zeros_like(space.mu), where=space.mu > 0
    )  # of the density, not its integral
    sums: dict[str, list[Array]] = {}
    for step in range(form.n_steps):
        cotangents: dict[Operation, Array] = {}
        run_transposed(form, step, costates[None, :, step], cotangents=cotangents)
        weights = space.mu[:, step, None] / total
        for op in form.program.operations:
            if op.name not in form.trained or op.variable is None:
                continue
            delta = cotangents[op][0] * scale[:, step, None]
            m = form.variable(op.variable)[step]
            if op.kind == "unit":  # one number a column: no factors
                pair = np.diag((weights * (delta * m) ** 2).sum(axis=0)), np.eye(1)
            else:
                pair = (weights * delta).T @ delta, (weights * m).T @ m
            known = sums.setdefault(op.name, [np.zeros_like(part) for part in pair])
            for part, more in zip(known, pair, strict=True):
                part += more
    return {name: (_power(gamma, -1.0, damping), _power(a, -1.0, damping)) for name, (gamma, a) in sums.items()}


def _by_weights(form: StepForm, blocks: Blocks, vectors: Array) -> Array:
    changes = form.pack(vectors)
    units = {op.name for op in form.program.operations if op.kind == "unit"}  # whose weight is one row
    for name, (left, right) in blocks.items():
        changes[name] = changes[name] @ left if name in units else left @ changes[name] @ right
    return form.unpack(changes)


def _by_arrays(flow: Flow, blocks: Blocks, vectors: Array) -> Array:
    found = []
    for vector in vectors:
        arrays = flow.model.unflatten(vector)
        scaled = {
            name: (left @ arrays[name].reshape(len(left), -1) @ right).reshape(arrays[name].shape)
            for name, (left, right) in blocks.items()
        }
        found.append(flow.model.flatten(scaled))
    return np.stack(found)


def _power(matrix: Array, exponent: float, damping: float) -> Array:
    """A power of a symmetric positive matrix, damped; the identity in place of one that is zero."""
    if not np.isfinite(matrix).all():
        raise ValueError("the squares of the gradient overflow: make the error smaller")
    values, vectors = np.linalg.eigh(matrix)
    mean = float(np.trace(matrix)) / len(matrix)
    if mean == 0:
        return np.eye(len(matrix))
    return np.asarray((vectors * (np.maximum(values, 0.0) + damping * mean) ** exponent) @ vectors.T)


def _gradient(flow: Flow, err: Array) -> Array:
    return np.asarray(flow.D.star(require_err(flow, err)), dtype=float)


def _squares(name: str, value: npt.ArrayLike) -> Array:
    given = finite_array(name, value, ndim=1)
    if (given < 0).any():
        raise ValueError(f"{name} must not be negative; got {given.min()} at index ({int(np.argmin(given))},)")
    return given


def _scaled(flow: Flow, scales: Array) -> TensorOperator:
    own = scales.astype(flow.dtype)
    space = flow.D.space_in
    times = partial(np.multiply, own)
    return _preconditioned(
        flow, TensorOperator(times, times, space, space, flow.dtype, "S", Structure(self_adjoint=True, positive=True))
    )


def _preconditioned(flow: Flow, precondition: TensorOperator) -> TensorOperator:
    return precondition @ flow.D.star
