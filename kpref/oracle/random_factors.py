"""Random errors of the matrices J and D, of which traces, norms and dimensions are made.

Errors that all conspire would move a number of an operator by the norm of its derivative times theirs. Those of a
backend do not: most average out, and a common factor cancels in a ratio. So some are drawn, and what they do to a
number is measured along its derivative. To first order in e,

    A' = A + e dA,   J' = J + e dJ,   dD = (P' (J' + e f) - P J) / e,

where dA and dJ come of errors of each number that a backend linearises with, f of roundings on the way. A number may
err by itself, and like all others of its kind, as numbers do that are all alike, or slopes that are one minus a rounded
square. The deviation of the metrics is that of one common error, and of `ALONE` of its own, for numbers and roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.certificates import Judge
from kpref.oracle.random_errors import signed
from kpref.step_form import StepForm
from kpref.threads import serial_blas

__all__ = ["ALONE", "COUNT", "STEP", "RandomFactors", "erring_forms", "random_factors", "rounding_of"]

#: How many there are, and deviations of what errs by itself: metrics are held to two deviations, of which eight in all
#: are as good a bound as that of any sweep (`kpref.oracle.session`).
COUNT, ALONE = 16, 4.0
#: Relative size of errors that float64 neither loses nor takes for large.
STEP = 2.0**-20


class RandomFactors(NamedTuple):
    """Random errors, first axis; parameters second: (count, M, B, T, H)."""

    of_jacobian: Array
    of_sensitivity: Array


@serial_blas
def random_factors(judge: Judge) -> RandomFactors | None:
    """Random errors of J and D in the judge's arithmetic; None of one whose sums are truncated, as these conspire."""
    arithmetic, form = judge.arithmetic, judge.carrying
    if arithmetic.bias:
        return None
    generator, shape = np.random.default_rng(0), (form.n_trials, form.n_steps, form.n_states)
    rounding = rounding_of(arithmetic, form.n_states)
    step = STEP / rounding
    found = RandomFactors(*(np.empty((COUNT, form.n_parameters, *shape)) for _ in range(2)))
    jacobian, sensitivity = _columns(form)
    around = np.abs(sensitivity)
    around[:, :, 1:] += np.abs(sensitivity[:, :, :-1])
    sizes = [(jacobian, np.abs(jacobian)), (sensitivity, around)]
    with np.errstate(all="ignore"):
        for index, other in enumerate(erring_forms(judge, form, generator, step)):
            of_products, of_steps = (step * rounding * _error(generator, *size) for size in sizes)
            own = kernels.parameter_product(other, _all_parameters(form)) + of_products
            found.of_jacobian[index] = (own - jacobian) / step
            own += of_steps
            found.of_sensitivity[index] = (kernels.tangent(other, own, overwrite=True) - sensitivity) / step
    return found


def rounding_of(arithmetic: Arithmetic, units: int) -> float:
    """Deviation of a sum over so many units that is stored, relative to it."""
    rounding = np.hypot(arithmetic.unit, np.hypot(arithmetic.operand, arithmetic.result))
    return float(np.hypot(rounding, arithmetic.accumulate * np.sqrt(1 + units)))


def _columns(form: StepForm) -> tuple[Array, Array]:
    """J and D, parameters first."""
    jacobian = kernels.parameter_product(form, _all_parameters(form))
    return jacobian, kernels.tangent(form, jacobian)


def _all_parameters(form: StepForm) -> Array:
    return np.eye(form.n_parameters)


def erring_forms(
    judge: Judge,
    form: StepForm,
    generator: np.random.Generator,
    step: float,
    drawn: Callable[[Array, Array], Callable[[np.random.Generator], Array]] | None = None,
) -> Iterator[StepForm]:
    """Linearisations with random errors of their numbers, times `step`.

    `drawn`: makes of numbers and deviations what draws errors of this size; by default each number has one for itself.
    """
    operand = judge.arithmetic.operand
    scales = {op.name for op in form.program.operations if op.kind == "scale"}
    deviations: dict[str, Array] = {}
    for chunk in judge.chunks():
        for name, spread in chunk.numbers.items():
            if name in scales:
                right = form.channel(name)
            elif name in form.known and not form.known[name].of_state:
                right = form.variable(name)
            else:
                continue
            rows = chunk.rows if len(right) > 1 else slice(None)
            deviations.setdefault(name, np.zeros(right.shape))[rows] = spread.deviation
    numbers = {name: form.channel(name) if name in scales else form.variable(name) for name in deviations}
    draws = {name: (drawn or _one_by_one)(numbers[name], deviation) for name, deviation in deviations.items()}
    for _ in range(COUNT):
        errors = {name: step * draw(generator) for name, draw in draws.items()}
        yield form.changed(
            channels={name: form.channel(name) + error for name, error in errors.items() if name in scales},
            variables={name: form.variable(name) + error for name, error in errors.items() if name not in scales},
            weights={
                name: weight + step * ALONE * operand * signed(generator, weight, 1)[0]
                for name, weight in form.weights.items()
            }
            if operand
            else {},
        )


def _one_by_one(_: Array, deviation: Array) -> Callable[[np.random.Generator], Array]:
    return lambda generator: _error(generator, deviation, deviation)


def _error(generator: np.random.Generator, common: Array, alone: Array) -> Array:
    """A random error: one for all, of the size and signs of `common`, and of each for itself."""
    return np.asarray(generator.choice([-1.0, 1.0]) * common + ALONE * signed(generator, alone, 1)[0])
