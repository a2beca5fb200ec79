"""What rounding does to averages of operators: not what errs alike at all points, but what errs at random.

If the errors of all points were one, an average ``<A>`` over all pairs of points would err by the mean of their
deviations; but what a backend rounds at one point and at another errs alike only where it is the same number. So errors
are drawn as for J and D (`kpref.oracle.random_factors`), to first order, and an average moves by their mean. A backend
has two ways to it, and either errs in each draw:

- by products with each unit at all points, factor by factor. What each factor's own rounding can do to its answer,
  entry by entry, is at hand (`kpref.oracle.certificates`);
- by the matrix of the operator, or of its factor. Its entries may be far larger than sums over points, which cancel.

Numbers that are equal are rounded equally: where the coefficients of a network are the same at all points, so are
errors. So each draw has one sign for all, one for each number, to a unit of the arithmetic, and one for each entry.
That of matrices which are stored before their mean is taken is allowed to be one for all entries: it is no more than a
unit of the mean of their magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.oracle.certificates import Judge, pooled_over_units
from kpref.oracle.evaluation import WEIGHED_BEFORE, apply_factor, at_all_points, factors_of
from kpref.oracle.random_errors import signed
from kpref.oracle.random_factors import ALONE, STEP, RandomFactors, erring_forms, rounding_of
from kpref.step_form import StepForm
from kpref.threads import serial_blas

__all__ = ["deviation_of_average"]

#: Entries of all columns of P up to which they are formed, and of K or the NTK.
_COLUMN_ENTRIES, _SQUARE_ENTRIES = 1 << 19, 1 << 22
#: Numbers this near are taken for equal, relatively, or as near as a unit of the arithmetic.
_EQUAL = 1e-9
#: The least level, of a deviation that is zero.
_LEAST = -1e12
#: Factors whose errors pass through the rest of a sweep.
_SWEEPS = ("P", "P_T")

_Draw = Callable[[np.random.Generator], Array]


@serial_blas
def deviation_of_average(judge: Judge, operator: str, factors: RandomFactors | None) -> Array | None:
    """Deviation of each entry of ``<A>``, (H, H); a backend is held to two.

    `factors`: random errors of J and D. None where there are none of these, as in an arithmetic whose sums are
    truncated, or where the matrices are large.
    """
    form, arithmetic = judge.form, judge.arithmetic
    size = form.n_trials * (form.n_steps * form.n_states) ** 2
    if factors is None or size > _COLUMN_ENTRIES or (operator != "P" and size * form.n_trials > _SQUARE_ENTRIES):
        return None
    ways = [_of_products(judge, operator, *point) for point in _points(judge)]
    squares = np.max([np.square(way).mean(axis=0) for way in ways], axis=0)
    if operator == "P":
        columns = [_of_columns(judge, *point) for point in _points(judge)]
        squares = squares + np.max([np.square(errors).mean(axis=0) for errors, _ in columns], axis=0)
        magnitude = np.max([size for _, size in columns], axis=0)
    else:
        errors, magnitude = _of_factors(judge, operator, factors)
        squares = squares + np.square(errors).mean(axis=0)
    drawn = pooled_over_units(form, squares.T).T  # down a column
    # One after another, in which terms that are alike err alike: four times the root of their number.
    adding = 4 * arithmetic.accumulate * form.n_steps * form.n_trials
    stored = (arithmetic.unit + adding) * magnitude
    # Where zero is right, what eliminates may leave as much as it loses elsewhere.
    left = arithmetic.unit * np.sqrt(np.mean(np.square(magnitude)))
    return np.asarray(np.sqrt(drawn) + stored + left + 2 * arithmetic.underflow)


def _points(judge: Judge) -> list[tuple[StepForm, float]]:
    """Linearisations that errors are drawn about, and what they are multiplied by meanwhile.

    A little, which is of first order, unless coefficients err by more than they are. Then also about those that carry
    errors along (`Judge.carrying`), and such that what errs by itself errs by a deviation.
    """
    little = STEP / rounding_of(judge.arithmetic, judge.form.n_states)
    if judge.carrying is judge.form:
        return [(judge.form, little)]
    return [(judge.form, little), (judge.carrying, little), (judge.form, 1 / ALONE)]


def _of_products(judge: Judge, operator: str, form: StepForm, step: float) -> Array:
    """Random errors of ``<A>`` by products with each unit at all points: (count, H, H)."""
    generator, unit = np.random.default_rng(1), judge.arithmetic.unit
    given = at_all_points(judge.space, np.eye(form.n_states))
    given = judge.space.weigh(given) if operator in WEIGHED_BEFORE else given
    of_given, of_factors = _alike(given, unit * np.abs(given), unit), list(_on_the_way(judge, operator, form, given))
    right, found = of_factors[-1][0], []
    with np.errstate(all="ignore"):
        for other in _erring(judge, form, generator, step):
            value = given + step * of_given(generator)
            for factor, (_, draw) in zip(factors_of(operator), of_factors, strict=True):
                error = step * draw(generator)
                if factor in _SWEEPS:
                    value = apply_factor(factor, other, value + error)
                else:
                    value = apply_factor(factor, other, value) + error
            mean = judge.space.clear(value - right).sum(axis=(1, 2)) / judge.space.n_points**2
            found.append(mean.T / step)
    return np.stack(found)


def _erring(judge: Judge, form: StepForm, generator: np.random.Generator, step: float) -> Iterator[StepForm]:
    """Linearisations with random errors."""
    return erring_forms(judge, form, generator, step, lambda own, sizes: _alike(own, sizes, judge.arithmetic.unit))


def _on_the_way(judge: Judge, operator: str, form: StepForm, given: Array) -> Iterator[tuple[Array, _Draw]]:
    """What each factor makes of the tensors that it is given, and its errors: of a sweep, those of its steps."""
    certificates = {
        "P": judge.propagator, "P_T": judge.adjoint, "J": judge.parameter_jacobian, "J_T": judge.parameter_transpose
    }  # fmt: skip
    for factor in factors_of(operator):
        answer = apply_factor(factor, form, given)
        certificate = certificates[factor]
        pairs = zip(given, answer, strict=True)
        deviation = np.stack([certificate(*pair).spread.deviation for pair in pairs])
        yield answer, _alike(answer, deviation, judge.arithmetic.unit)
        given = answer


def _of_columns(judge: Judge, form: StepForm, step: float) -> tuple[Array, Array]:
    """Random errors of ``<P>`` by the columns of P, each a response of its own: (count, H, H); and the mean of |P|."""
    arithmetic, impulses = judge.arithmetic, _impulses(judge)
    generator, rounding = np.random.default_rng(2), rounding_of(arithmetic, form.n_states)
    exists = judge.space.clear(np.ones(impulses.shape[1:]))

    def mean(columns: Array) -> Array:
        """Over all pairs of points that exist."""
        sums = (exists * columns).sum(axis=(1, 2)).reshape(form.n_steps, form.n_states, form.n_states).sum(axis=0)
        return np.asarray(sums.T / judge.space.n_points**2)

    columns = kernels.tangent(form, impulses)
    around = np.abs(columns)
    magnitude = mean(around)
    around[:, :, 1:] += np.abs(columns[:, :, :-1])
    draw, found = _alike(columns, rounding * around, arithmetic.unit), []
    with np.errstate(all="ignore"):
        for other in _erring(judge, form, generator, step):
            found.append(mean(kernels.tangent(other, impulses + step * draw(generator)) - columns) / step)
    return np.stack(found), magnitude


def _impulses(judge: Judge) -> Array:
    """An impulse to each unit at each time, in all trials that run at the time at once: (T H, B, T, H)."""
    form = judge.form
    count, units = form.n_steps * form.n_states, form.n_states
    impulses = np.eye(count).reshape(count, 1, form.n_steps, units)
    return judge.space.clear(np.broadcast_to(impulses, (count, form.n_trials, form.n_steps, units)).copy())


def _of_factors(judge: Judge, operator: str, factors: RandomFactors) -> tuple[Array, Array]:
    """Those of ``<K>`` or ``<NTK>`` by J or D, and the mean of magnitudes of the operator.

    With l and r the sums of columns over points, of r weighed, ``<K> = l^T r`` over the square of their number.
    """
    form, space = judge.form, judge.space
    product = kernels.parameter_product if operator == "K" else kernels.sensitivity
    columns = space.clear(product(form, np.eye(form.n_parameters)))
    drawn = space.clear(factors.of_jacobian if operator == "K" else factors.of_sensitivity)
    left, right = (values.sum(axis=(1, 2)) for values in (columns, space.weigh(columns)))
    of_left, of_right = (values.sum(axis=(2, 3)) for values in (drawn, space.weigh(drawn)))
    moved = of_left.swapaxes(1, 2) @ right + left.T @ of_right
    rows, weighed = (values.reshape(len(columns), -1) for values in (columns, space.weigh(columns)))
    points, units = form.n_trials * form.n_steps, form.n_states
    magnitude = np.abs(rows.T @ weighed).reshape(points, units, points, units).sum(axis=(0, 2))
    return moved / space.n_points**2, magnitude / space.n_points**2


def _alike(values: Array, deviations: Array, unit: float) -> _Draw:
    """What draws errors of values: one for all, with the signs of the values, one of each number, and of each entry."""
    resolution = np.log1p(max(_EQUAL, unit))
    with np.errstate(divide="ignore"):
        levels = [np.maximum(np.round(np.log(np.abs(part)) / resolution), _LEAST) for part in (values, deviations)]
    numbers, index = np.unique(levels[0] + 1j * levels[1], return_inverse=True)
    index, sizes = index.reshape(deviations.shape), np.copysign(deviations, values)

    def draw(generator: np.random.Generator) -> Array:
        signs = ALONE * generator.choice([-1.0, 1.0], size=len(numbers))
        own = sizes * (generator.choice([-1.0, 1.0]) + signs[index])
        return np.asarray(own + ALONE * signed(generator, deviations, 1)[0])

    return draw
