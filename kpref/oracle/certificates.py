"""Certificates: is the error of a claimed product explained by rounding, and if not, where does it begin?

P, P^T and P^-1 are judged by residuals that are local in time, so that chaos amplifies nothing:

    P:    r[n] = y[n] - A[n] y[n-1] - q[n]          P^T:  r[n] = l[n] - A[n+1]^T l[n+1] - g[n]
    P^-1: r[n] = q[n] - (y[n] - A[n] y[n-1])        states:  r[n] = z[n+1] - F(z[n], x[n])

evaluated in float64 and held against the standard deviation that the backend's own rounding can give each entry
(`kpref.oracle.running_errors`). J, J^T and K are compared with their values. What a whole sweep does to errors (NTK,
gradient) is found by sending random errors of the local size through a sweep. With A' = A + dA the backend's own
coefficients, y its response and v the right one,

    y[n] - v[n] = A'[n] (y[n-1] - v[n-1]) + dA[n] v[n-1] + rounding:

the errors of a step are those at the right response, and what carries them on are the backend's coefficients. These are
the right ones but for a little, unless they err by more than they are: where bf16 moves a current across the corner of
relu the slope is one in place of zero, and all that comes to it passes. See `Judge.carrying`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.linearize import linearize
from kpref.models.step import StepModel
from kpref.oracle import running_errors
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.claimed_errors import Comparison, Tensors
from kpref.oracle.evaluation import UNDONE, evaluate
from kpref.oracle.gradient_errors import gradient_errors, powered
from kpref.oracle.random_errors import at_once, draw, taken
from kpref.oracle.spreads import Spread, Weight, relative
from kpref.program import Operation
from kpref.space import TrajectorySpace
from kpref.step_form import StepForm
from kpref.threads import serial_blas

__all__ = ["Judge"]

#: Errors of numbers are kept for the next question up to this size.
_KEPT_BYTES = 1 << 26

#: Random errors that are sent through a sweep: so many that their mean square, pooled over units, is sharp, and at
#: least so many that it is seldom far too small in an entry for itself, as one of a gradient. Of so many as the first
#: it is never: of a sum of many errors it is less than a quarter of what it should be with a chance of 1.4e-10, of two
#: that are equal it is zero with one of 2^-64.
_SAMPLES, _LEAST_SAMPLES = 64, 16

#: Entries of all states up to which there are as many of each.
_SMALL = 1 << 12

#: Errors below it are not judged: their squares, which the analysis adds, are zero in float64.
_VANISHING = 1e-150


class Judge:
    """The reference linearisation at agreed states, and what an arithmetic may do to products with it.

    `model`: with parameters that the arithmetic can hold. `starts`: shape (B, T, H); the state that each step starts
    from. `inputs`: shape (B, T, n_in).
    """

    def __init__(
        self, model: StepModel, starts: Array, inputs: Array, space: TrajectorySpace, arithmetic: Arithmetic
    ) -> None:
        self.model, self.space, self.arithmetic = model, space, arithmetic
        self.starts = np.ascontiguousarray(np.moveaxis(starts, 1, 0))
        self.inputs = np.ascontiguousarray(np.moveaxis(inputs, 1, 0))
        form = linearize(model, self.starts, self.inputs)
        if not isinstance(form, StepForm):
            raise TypeError(f"certificates are for networks; got {model}")
        self.form = form
        self._kept: list[running_errors.Chunk] | None = None
        self._forms: dict[StepForm, list[StepForm]] = {}  # linearisations with errors that stay, by the right one
        self._carrying: dict[StepForm, StepForm] = {}  # by the right one

    def with_arithmetic(self, arithmetic: Arithmetic) -> Self:
        """The same judge for another arithmetic."""
        other = copy.copy(self)
        other.arithmetic, other._kept, other._forms, other._carrying = arithmetic, None, {}, {}
        return other

    def chunks(self) -> Iterator[running_errors.Chunk]:
        """The linearisation with the errors of a backend's numbers, a few rows at a time."""
        found = self._kept
        if found is None:
            made = running_errors.chunks(self.model, self.form, self.starts, self._given_inputs(), self.arithmetic)
            if self._bytes_of_chunks > _KEPT_BYTES:
                return made
            found = self._kept = list(made)
        return iter(found)

    def _forward(
        self, chunk: running_errors.Chunk, x: Array | None, changes: Mapping[str, Weight] | None = None
    ) -> tuple[Array, Spread]:
        """See `running_errors.forward`."""
        return running_errors.forward(chunk, x, changes)

    def _backward(self, chunk: running_errors.Chunk, x: Array) -> tuple[Array, Spread]:
        """See `running_errors.transposed`."""
        return running_errors.transposed(chunk, x)

    def _given_inputs(self) -> Any:
        """The inputs, with their errors where they have some."""
        return self.inputs

    @property
    def _bytes_of_chunks(self) -> int:
        """Two numbers for each entry of the state and the variables at each point, six for the channels."""
        form = self.form
        scales = sum(op.out.width for op in form.program.operations if op.kind == "scale")
        known = sum(place.width for place in form.known.values())
        return form.n_steps * form.n_trials * (16 * (form.n_states + known) + 48 * scales)

    def residual(self, operator: str, change: Array) -> Array:
        """What a change of an answer changes in the error that the operator's certificate finds, affine in it."""
        if operator in UNDONE:
            return np.asarray(UNDONE[operator](self.form, change[None])[0])
        return -change if operator in ("P_inverse", "P_inverse_T") else change

    def reach(self, factor: str, given: Array, value: Array) -> float:
        """The most that a sum comes to inside the steps of a factor that makes `value` of `given`.

        A gate that is nearly closed makes a small number of a large one, which a narrow range must hold none the less.
        """
        if factor == "J":
            changes = self._changes(given)
            return max(running_errors.reach(chunk, None, changes) for chunk in self.chunks())
        if factor == "D_z0_T":
            value = kernels.adjoint(self.form, given[None])[0]
        through = given if factor in ("J_T", "P_inverse", "P_inverse_T") else value
        if factor in ("P", "P_inverse", "D_z0"):
            through = _before(through)
        run = running_errors.reach if factor in ("P", "P_inverse", "D_z0") else running_errors.reach_transposed
        return max(run(chunk, np.moveaxis(through[:, chunk.rows], 1, 0)) for chunk in self.chunks())

    # Local certificates

    def states(self, states: Array) -> Comparison:
        """Residual of a trajectory that starts from the judge's own starting states."""
        result = Tensors(states.shape)
        for chunk in self.chunks():
            expected = self.model.evaluate(self.starts[chunk.rows], self.inputs[chunk.rows])
            claimed = np.moveaxis(states[:, chunk.rows], 1, 0)
            result.put(chunk.rows, claimed - expected, chunk.value + relative(claimed, self.arithmetic.unit))
        return self._floor(result)

    def propagator(self, q: Array, y: Array) -> Comparison:
        """Residual of ``y = P q``."""
        return self._tangent_residual(_before(y), y, q)

    def propagator_inverse(self, y: Array, q: Array) -> Comparison:
        """Difference of ``q = P^-1 y``."""
        return self._tangent_residual(_before(y), y, q)

    def _tangent_residual(self, before: Array, y: Array, q: Array) -> Comparison:
        result, unit = Tensors(y.shape), self.arithmetic.unit
        for chunk in self.chunks():
            part = chunk.rows
            carried, spread = self._forward(chunk, np.moveaxis(before[:, part], 1, 0))
            now, forcing = np.moveaxis(y[:, part], 1, 0), np.moveaxis(q[:, part], 1, 0)
            spread = spread + relative(now, unit) + relative(forcing, unit)
            result.put(part, now - carried - forcing, spread)
        return self._floor(result)

    def adjoint(self, g: Array, costate: Array) -> Comparison:
        """Residual of ``l = P^T g``."""
        result, unit = Tensors(g.shape), self.arithmetic.unit
        now, forcing = np.moveaxis(costate, 1, 0), np.moveaxis(g, 1, 0)
        result.put(slice(len(now) - 1, None), now[-1:] - forcing[-1:], relative(now[-1:], unit))
        for chunk in self.chunks():
            first = max(chunk.rows.start, 1)
            if first == chunk.rows.stop:
                continue
            later = np.zeros((chunk.rows.stop - chunk.rows.start, *now.shape[1:]))
            later[first - chunk.rows.start :] = now[first : chunk.rows.stop]
            carried, spread = self._backward(chunk, later)
            keep = slice(first - chunk.rows.start, None)
            target = slice(first - 1, chunk.rows.stop - 1)
            spread = spread[keep] + relative(now[target], unit) + relative(forcing[target], unit)
            result.put(target, now[target] - carried[keep] - forcing[target], spread)
        return self._floor(result)

    def parameter_jacobian(self, theta: Array, y: Array) -> Comparison:
        """Difference of ``y = J theta``."""
        changes = self._changes(theta)
        result = Tensors(y.shape)
        for chunk in self.chunks():
            value, spread = self._forward(chunk, None, changes)
            result.put(chunk.rows, np.moveaxis(y[:, chunk.rows], 1, 0) - value, spread)
        return self._floor(result)

    def _changes(self, theta: Array) -> dict[str, Weight]:
        """Changes of the trained weights, transposed, as large as what enters each: two biases, say, may cancel."""
        entries = self.form.pack(theta[None])
        sizes = powered(self.form, 1).pack(np.abs(theta)[None])
        return {name: Weight(entries[name][0].T, np.square(sizes[name][0].T), sizes[name][0].T) for name in entries}

    def parameter_transpose(self, g: Array, theta: Array) -> Comparison:
        """Difference of ``theta = J^T g``."""
        value, spread, _ = self._transposed(g)
        return self._floor(Comparison(theta - value, spread))

    # Compositions

    def kernel(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = K q = J J^T Mu q``."""
        weighed = self.space.weigh(q)
        theta, _, noise = self._transposed(weighed, extra=1, samples=self._count)
        noise_left = iter(noise)
        local = self.parameter_jacobian(theta, y)
        carried = self._measured(lambda _, count: kernels.parameter_product(self.carrying, taken(noise_left, count)))
        return Comparison(local.error, local.spread + carried)

    def gradient(self, err: Array, theta: Array) -> Comparison:
        """Difference of ``theta = J^T P^T Mu Err``."""
        costate, local = self._costate(err)
        value, spread, _ = self._transposed(costate, extra=1)

        def swept(generator: np.random.Generator, count: int) -> Array:
            return kernels.sensitivity_transpose(self.carrying, draw(generator, local, count))

        return self._floor(Comparison(theta - value, spread + self._swept("gradient", err, value, swept)))

    def tangent_kernel(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = NTK q = P J J^T P^T Mu q``."""
        costate, local = self._costate(q)
        theta, _, noise_of_theta = self._transposed(costate, extra=1, samples=self._count)
        theta_noise = iter(noise_of_theta)
        forcing = kernels.parameter_product(self.form, theta[None])[0]
        response = kernels.tangent(self.form, forcing[None])[0]
        later = self.parameter_jacobian(theta, forcing).spread + self.propagator(forcing, response).spread

        def swept(generator: np.random.Generator, count: int) -> Array:
            noise = kernels.adjoint(self.carrying, draw(generator, local, count))
            noise = kernels.parameter_transpose(self.carrying, noise) + taken(theta_noise, count)
            noise = kernels.parameter_product(self.carrying, noise) + draw(generator, later, count)
            return kernels.tangent(self.carrying, noise)

        spread = self._swept("NTK", q, response, swept) + relative(response, self.arithmetic.unit)
        return self._floor(Comparison(y - response, spread))

    def sensitivity(self, theta: Array) -> Spread:
        """What rounding does to ``D theta = P J theta``."""
        forcing = kernels.parameter_product(self.form, theta[None])[0]
        response = kernels.tangent(self.form, forcing[None])[0]
        local = self.parameter_jacobian(theta, forcing).spread + self.propagator(forcing, response).spread

        def swept(generator: np.random.Generator, count: int) -> Array:
            return kernels.tangent(self.carrying, draw(generator, local, count))

        return self._swept("D", theta, response, swept) + relative(response, self.arithmetic.unit)

    def _costate(self, err: Array) -> tuple[Array, Spread]:
        """``P^T Mu err``, and the size of the random errors of a backend in each of its steps."""
        source = self.space.weigh(err)
        costate = kernels.adjoint(self.form, source[None])[0]
        return costate, self.adjoint(source, costate).spread + relative(source, self.arithmetic.unit)

    # Errors that a sweep carries along

    @property
    def carrying(self) -> StepForm:
        """The linearisation that carries errors along: a coefficient that errs by more than it is enters with that.

        The mean square of a backend's coefficient c + dc is ``c^2 + var(dc)``, other than ``c^2`` only where dc is not
        small against c. There the larger of the two stands for it, so that a slope of relu is one wherever it may be,
        and all others stay as they are.
        """
        if self.form not in self._carrying:
            self._carrying[self.form] = self._opened()
        return self._carrying[self.form]

    def _opened(self) -> StepForm:
        form, changed = self.form, dict[str, Array]()
        names = [op.name for op in form.program.operations if op.kind == "scale"]
        for chunk in self.chunks():
            for name in names:
                own, error = chunk.form.channel(name), chunk.numbers[name].deviation
                if not (error > np.abs(own)).any():
                    continue
                channel = changed.setdefault(name, form.channel(name).copy())
                rows = chunk.rows if len(channel) > 1 else slice(None)
                channel[rows] = np.copysign(np.maximum(np.abs(own), error), own)
        return form.changed(channels=changed) if changed else form

    def _swept(self, operator: str, tensor: Array, value: Array, sample: Callable[..., Array]) -> Spread:
        """Independent errors of each step, and those that are the same in all steps."""
        spread = self._measured(sample)
        if not self._persistent():
            return _beyond_first_order(spread, value)
        step = 2.0**-20 / max(self.arithmetic.unit, self.arithmetic.operand)

        perturbed = self._all_perturbed(step)

        def persistent(_: np.random.Generator, count: int) -> Array:
            forms = itertools.islice(perturbed, count)
            return np.stack([evaluate(operator, form, self.space, tensor) - value for form in forms]) / step

        return _beyond_first_order(spread + self._measured(persistent), value)

    def _persistent(self) -> bool:
        """Whether there are errors that do not change from step to step."""
        return self.arithmetic.operand > 0 or bool(self._constant())

    def _constant(self) -> list[Operation]:
        """Scales whose channel is the same at all steps, such as a leak."""
        form = self.form
        scales = [op for op in form.program.operations if op.kind == "scale"]
        return [op for op in scales if form.n_steps > 1 and form.places[op.name].row_stride == 0]

    def _all_perturbed(self, step: float) -> Iterator[StepForm]:
        """As many random linearisations as samples, the same each time; kept for the next question where small."""
        if self.form not in self._forms:
            generator = np.random.default_rng(0)
            made = (self._perturbed(generator, step) for _ in range(self._count))
            if self.form.nbytes * self._count > _KEPT_BYTES:
                return made
            self._forms[self.form] = list(made)
        return iter(self._forms[self.form])

    def _perturbed(self, generator: np.random.Generator, step: float) -> StepForm:
        """The linearisation with errors that are the same in all steps, times `step`: their effect is linear in it.

        The weights are rounded to operands of the matrix product. Channels that are constant, such as a leak, err by
        what their numbers do, where they are equal all alike: one minus a leak by two roundings, a pole by those of its
        exponentials, and one that is a parameter, or one, by none. Dense Jacobians made of them are rounded once more,
        alike in all units where little is added to the diagonal, or in each for itself. Signs are random and sizes are
        not, so that few samples say how large the effect of a single number is.
        """
        sign = partial(generator.choice, (-1.0, 1.0))
        form, constant = self.form, self._constant()
        entry = np.hypot(self.arithmetic.operand, self.arithmetic.unit if constant else 0.0)
        weights = {name: weight * (1.0 + step * entry * sign(weight.shape)) for name, weight in form.weights.items()}
        channels, old = {}, {view.register for view in form.program.old}
        for op in constant:
            channel = form.channel(op.name)
            numbers, index = np.unique(channel, return_inverse=True)
            signs = np.asarray(sign(numbers.shape))
            error = next(self.chunks()).numbers[op.name].deviation * signs[index.reshape(channel.shape)]
            if op.source is not None and op.source.register in old:  # the diagonal of a dense Jacobian
                error = error + entry * channel * (sign() + sign(channel.shape))
            channels[op.name] = channel + step * error
        return form.changed(channels=channels, weights=weights)

    @property
    def _alone(self) -> bool:
        """Whether there are enough random errors of each entry, which other units then have no say in."""
        return self.starts.size <= _SMALL

    @property
    def _few(self) -> int:
        """Number of random errors that are pooled: more where there are few units."""
        return max(_LEAST_SAMPLES, -(-_SAMPLES // self.form.n_states))

    @property
    def _count(self) -> int:
        """Number of random errors."""
        return _SAMPLES if self._alone else self._few

    def _measured(self, sample: Callable[[np.random.Generator, int], Array]) -> Spread:
        """Root mean square of random errors, entry by entry where there are enough.

        `sample` makes some of them, first axis: of a small problem many at once, of a large one each alone.
        """
        return _root(self._mean_squares(sample, _SAMPLES), _SAMPLES) if self._alone else self._pooled(sample)

    def _pooled(self, sample: Callable[[np.random.Generator, int], Array]) -> Spread:
        """The same of few: of each entry, or over the units of a part of the state where more."""
        squares = self._mean_squares(sample, self._few)
        if np.ndim(squares) > 1:
            squares = pooled_over_units(self.form, squares)
        return _root(squares, self._few)

    @serial_blas
    def _mean_squares(self, sample: Callable[[np.random.Generator, int], Array], count: int) -> Array:
        generator, sizes = np.random.default_rng(0), at_once(count, self.starts.size)
        with np.errstate(over="ignore", invalid="ignore"):  # a deviation that is not finite is said to explain all
            return np.asarray(sum(np.square(sample(generator, size)).sum(axis=0) for size in sizes) / count)

    def _transposed(self, g: Array, extra: int = 0, samples: int = 0) -> tuple[Array, Spread, Array]:
        """See `gradient_errors`."""
        return gradient_errors(self.form, self.arithmetic, self.chunks(), g, extra, samples)

    # Helpers

    @property
    def floor(self) -> float:
        """Absolute error below the smallest normal number: of a few lost numbers for each entry, times a weight."""
        lost = (
            4
            * self.arithmetic.underflow
            * max(1.0, max(float(np.abs(weight).max()) for weight in self.form.weights.values()))
        )
        return max(lost, _VANISHING)

    def _floor(self, result: Any) -> Comparison:
        comparison: Comparison = result.comparison() if isinstance(result, Tensors) else result
        absolute = np.full(comparison.error.shape, self.floor)
        return Comparison(comparison.error, comparison.spread + Spread(absolute, absolute))


def _root(squares: Array, count: int) -> Spread:
    """Deviation and, of so many random errors, worst case."""
    deviation = np.sqrt(squares)
    return Spread(deviation, np.sqrt(count) * deviation)


def pooled_over_units(form: StepForm, squares: Array) -> Array:
    """Mean squares (..., H), or their means over the units of a part of the state where these are larger.

    Few samples may all be small in an entry by chance; its neighbours then say how large they should be.
    """
    widths = np.cumsum([view.width for view in form.program.new])[:-1]
    pooled = [
        np.broadcast_to(np.mean(part, axis=-1, keepdims=True), part.shape)
        for part in np.split(squares, widths, axis=-1)
    ]
    return np.maximum(squares, np.concatenate(pooled, axis=-1))


def _before(y: Array) -> Array:
    """The state that each step starts from, zero for the first: (B, T, H)."""
    return np.concatenate([np.zeros_like(y[:, :1]), y[:, :-1]], axis=1)


def _beyond_first_order(spread: Spread, value: Array) -> Spread:
    """Errors of a product that are not small against it: of ``D (1 + e)`` twice, ``2 e + e^2``."""
    size = float(np.linalg.norm(value))
    part = float(np.linalg.norm(spread.deviation)) / size if size else 0.0
    return spread.times(1.0 + part) if np.isfinite(part) else spread
