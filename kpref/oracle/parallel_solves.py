"""Solves that are not sequential: held to the forward error of a parallel solve where the residual of a step fails.

A doubling scan (Hillis and Steele 1986, Blelloch 1990) multiplies Jacobians before it applies them, and LU exchanges
rows of different steps. Neither is accurate step by step: what rounding does to ``A[n] ... A[m] q[m-1]`` is as large as
the parts of the sum are, though the sum may be small. So where the local certificate fails, the error itself is judged,

    e = y - P q = P r,   r = P^-1 y - q,

made of the residual, so that it is accurate for answers in double precision too. Its deviation is measured, trial by
trial, as the root mean square of random errors that are sums of three:

- A doubling scan in float64 of which every product and sum errs at random, as much as `SumError` gives a product
  ``X Y``: ``of_squares (X^2 Y^2) + of_total (X Y)^2`` is its variance. Minus that without errors. They are made larger,
  and the difference smaller by as much, so that float64 does not round in them.
- Residuals of the size of rounding in each step at the right answer, carried along by P, as a sweep would err.
- Residuals of Gaussian elimination with pivoting, whose backward error is normwise (Higham, *Accuracy and Stability of
  Numerical Algorithms*, chapter 9): of the size of a few units of the largest entry of the right answer of a trial
  times the largest row of A, anywhere in the trial, carried along. They are why LU leaves rounding where zeros should
  be. No library eliminates in less than float32: there the unit is that of float32.

All three are of the right answer, never of the one claimed. Trials stay apart exactly, and nothing comes of nothing.

``D^T g`` and the gradient, where a sequential sweep does not explain them, are held to ``J^T l`` with the backend's own
costates l, if these are right, as a parallel solve or step by step: to the rounding of one product, which no defect of
J^T passes.

The residuals that the same random errors leave say how large those of such a solve are all together, pooled
(`kpref.oracle.pooled`), so that weights that are too coarse, or coefficients of another step, are not taken for a scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.kernels import plain_program
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import evaluate
from kpref.oracle.pooled import Roundings, parallel_excess
from kpref.oracle.random_errors import draw
from kpref.oracle.spreads import Spread, SumError
from kpref.step_form import StepForm

__all__ = ["PARALLEL", "SOLVES", "ParallelSolve", "parallel_solve"]

#: What the report says of an answer with this certificate.
PARALLEL = "right as a parallel solve (scan, LU): errors carried along, not local to a step"

#: Operators that solve the linearised dynamics.
SOLVES = ("P", "P_T", "D")

#: Entries of all Jacobians, and multiplications of all scans of a trial, beyond which the local verdict stands.
_MOST_ENTRIES, _MOST_PRODUCTS = 1 << 24, 1 << 33

#: Relative size of random errors: large against rounding in float64, small against one.
_STEP = 2.0**-30

#: Units of the largest entry that elimination leaves as a residual, and the coarsest of them.
_ELIMINATION, _COARSEST = 2.0, 2.0**-24


@dataclass(frozen=True, eq=False)
class ParallelSolve:
    """An answer that rounding in a parallel solve explains.

    Attributes
    ----------
    comparison : Comparison
        Of the error itself.
    pooled : float
        Mean square of residuals in parts of what such a solve leaves at most: `kpref.oracle.pooled`.
    """

    comparison: Comparison
    pooled: float


def parallel_solve(
    judge: Judge, operator: str, tensor: Array, local: Comparison, spread_at: Callable[[Array], Spread], bound: float
) -> ParallelSolve | None:
    """What a parallel solve explains of an answer to `tensor`; None if no entry may err so, or not all together.

    `local`: the comparison of the answer by residuals. `spread_at`: what rounding does to residuals of an answer.
    """
    form = judge.form
    entries = form.n_steps * form.n_trials * form.n_states**2
    levels = max(1, int(np.ceil(np.log2(max(form.n_steps, 2)))))
    if entries > _MOST_ENTRIES or form.n_steps * form.n_states**3 * levels * judge._few > _MOST_PRODUCTS:
        return None
    with np.errstate(all="ignore"):
        sweep = kernels.adjoint if operator == "P_T" else kernels.tangent
        error = sweep(form, local.error[None])[0]
        deviation, worst, own = np.zeros(error.shape), np.zeros(error.shape), np.zeros(error.shape)
        solves, roundings = _solves(judge, operator, tensor, spread_at), Roundings.of_none(error.shape)
        for trial in np.argsort(-local.ratio().max(axis=(1, 2))):
            sampled = _Sampled(solves[trial])
            found, samples = judge._pooled(sampled.errors), np.concatenate(sampled.residuals)
            if not np.isfinite(found.deviation).all() or not np.isfinite(error[trial]).all():
                return None
            if Comparison(error[trial], found).ratio().max() > bound:
                return None
            deviation[trial], worst[trial] = found.deviation, found.worst
            # As of the errors: few samples may all be small in an entry by chance.
            squares = np.square(samples).mean(axis=0)
            own[trial] = np.sqrt(np.maximum(squares, squares.mean(axis=-1, keepdims=True)))
            roundings.add(np.divide(samples, own[trial], out=samples, where=own[trial] > 0))
        pooled = parallel_excess(Comparison(local.error, Spread(own, own)), roundings, judge.arithmetic)
    if not pooled <= 1:
        return None
    return ParallelSolve(Comparison(error, Spread(deviation, worst), parallel=True), pooled)


def _solves(judge: Judge, operator: str, tensor: Array, spread_at: Callable[[Array], Spread]) -> list[_Solve]:
    """The solve of each trial."""
    response = evaluate(operator, judge.form, judge.space, tensor)
    forcing = kernels.parameter_product(judge.form, tensor[None])[0] if operator == "D" else tensor
    spread, matrices = spread_at(response), _matrices(judge.carrying)
    return [
        _Solve(judge.arithmetic, matrices[:, trial], forcing[trial], response[trial], spread[trial], operator == "P_T")
        for trial in range(len(response))
    ]


class _Solve:
    """A parallel solve of one trial with random errors: matrices (T, H, H), tensors (T, H).

    `local`: what rounding does to the residuals of the response.
    """

    def __init__(
        self, arithmetic: Arithmetic, matrices: Array, forcing: Array, response: Array, local: Spread, backwards: bool
    ) -> None:
        if backwards:
            # In reversed time the costate obeys l[n] = A[n+1]^T l[n+1] + g[n].
            matrices = np.concatenate([np.zeros_like(matrices[:1]), matrices[:0:-1].swapaxes(1, 2)])
            forcing, local = forcing[::-1], local[::-1]
        largest = max(1.0, float(np.sqrt(np.square(matrices).sum(axis=2).max(initial=0.0))))
        size = _ELIMINATION * min(arithmetic.unit, _COARSEST) * largest * float(np.abs(response).max())
        elimination = Spread(np.full(response.shape, size), np.full(response.shape, size))
        self._arithmetic, self._matrices, self._forcing, self._backwards = arithmetic, matrices, forcing, backwards
        self._of_steps = local + elimination
        self._grown = _STEP / max(arithmetic.unit, arithmetic.operand, arithmetic.accumulate, arithmetic.result)
        self._exact = _scan(matrices, forcing, None)

    def sample(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Random errors of the answer and the residuals that they leave, first axis."""
        matrices, errors = self._matrices, _Errors(self._arithmetic, self._grown, generator)
        residuals = draw(generator, self._of_steps, count)
        carried = residuals.copy()
        for step in range(1, len(matrices)):
            carried[:, step] += carried[:, step - 1] @ matrices[step].T
        for index in range(count):
            of_scan = (_scan(matrices, self._forcing, errors) - self._exact) / self._grown
            carried[index] += of_scan
            residuals[index] += of_scan
            residuals[index, 1:] -= np.einsum("tij,tj->ti", matrices[1:], of_scan[:-1])
        return (carried[:, ::-1], residuals[:, ::-1]) if self._backwards else (carried, residuals)


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Random errors of a solve, of which the residuals are kept."""

    solve: _Solve
    residuals: list[Array] = field(default_factory=list)

    def errors(self, generator: np.random.Generator, count: int) -> Array:
        errors, residuals = self.solve.sample(generator, count)
        self.residuals.append(residuals)
        return errors


class _Errors:
    """Random errors of products and sums, `grown` times as large as an arithmetic's."""

    def __init__(self, arithmetic: Arithmetic, grown: float, generator: np.random.Generator) -> None:
        self.arithmetic, self.grown, self.generator = arithmetic, grown, generator

    def of_product(self, left: Array, right: Array, value: Array) -> Array:
        """Those of ``left @ right``."""
        own = SumError.of(left.shape[-1], self.arithmetic)
        variance = own.of_squares * (np.square(left) @ np.square(right)) + own.of_total * np.square(value)
        return self._random(np.sqrt(variance) + self.arithmetic.underflow)

    def of_sum(self, value: Array) -> Array:
        """Those of a sum that is stored."""
        return self._random(self.arithmetic.unit * np.abs(value))

    def _random(self, deviation: Array) -> Array:
        return np.asarray(self.grown * deviation * self.generator.standard_normal(deviation.shape))


def _scan(matrices: Array, forcing: Array, errors: _Errors | None) -> Array:
    """``y[n] = A[n] y[n-1] + q[n]`` by doubling: windows of one step, two, four and so on."""
    length, y = 1, forcing[..., None].copy()
    while length < len(forcing):
        part, before = matrices[length:], y[:-length]
        carried = part @ before
        doubled = part @ matrices[:-length]
        if errors is not None:
            carried += errors.of_product(part, before, carried)
            doubled += errors.of_product(part, matrices[:-length], doubled)
        total = y[length:] + carried
        if errors is not None:
            total += errors.of_sum(total)
        y = np.concatenate([y[:length], total])
        matrices = np.concatenate([matrices[:length], doubled])
        length *= 2
    return np.asarray(y[..., 0])


def _matrices(form: StepForm) -> Array:
    """Jacobians of all steps, (T, B, H, H)."""
    if form not in _kept:
        units = form.n_states
        basis = np.broadcast_to(np.eye(units)[:, None], (units, form.n_trials, units))
        columns = [plain_program.run(form, step, basis) for step in range(form.n_steps)]
        _kept[form] = np.stack([np.moveaxis(part, 0, 2) for part in columns])
    return _kept[form]


#: Jacobians of linearisations that were asked for.
_kept: WeakKeyDictionary[StepForm, Array] = WeakKeyDictionary()
