"""Certificates: is the error of a claimed product explained by rounding, and if not, where does it begin?

P, P^T and P^-1 are judged by residuals that are local in time, so that chaos amplifies nothing:

    P:    r[n] = y[n] - A[n] y[n-1] - q[n]          P^T:  r[n] = l[n] - A[n+1]^T l[n+1] - g[n]
    P^-1: r[n] = q[n] - (y[n] - A[n] y[n-1])        states:  r[n] = z[n+1] - F(z[n], x[n])

evaluated in float64 and held against the standard deviation that the backend's own rounding can give each entry
(`kpref.oracle.products`). J, J^T and K are compared with their values. What a whole sweep does to errors (NTK,
gradient) is found by sending random errors of the local size through the exact sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref import kernels
from kpref.linearize import SiteForm, linearize
from kpref.models.base import SiteModel
from kpref.oracle import products
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.coefficients import Spread, relative, sum_error
from kpref.space import TrajectorySpace

__all__ = ["Comparison", "Judge"]

Array = npt.NDArray[Any]

#: Random errors that are sent through a sweep: enough that their mean square, pooled over units, is sharp.
_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class Comparison:
    """Errors of a claimed result and what rounding explains of them, entry by entry.

    Attributes
    ----------
    error : ndarray
        Residual or difference.
    spread : Spread
        Standard deviation and worst case of what rounding can do.
    """

    error: Array
    spread: Spread

    def ratio(self, worst: bool = False) -> Array:
        """``|error|`` over the standard deviation (or over the worst case); zero over zero is zero."""
        size = self.spread.worst if worst else self.spread.deviation
        magnitude = np.abs(self.error)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(magnitude == 0, 0.0, magnitude / size)


class Judge:
    """The reference linearisation at agreed states, and what an arithmetic may do to products with it.

    Parameters
    ----------
    model : SiteModel
        With parameters that the arithmetic can hold.
    starts : ndarray, shape (B, T, H)
        The state that each step starts from.
    inputs : ndarray, shape (B, T, n_in)
    space : TrajectorySpace
    arithmetic : Arithmetic
    """

    def __init__(
        self, model: SiteModel, starts: Array, inputs: Array, space: TrajectorySpace, arithmetic: Arithmetic
    ) -> None:
        self.model, self.space, self.arithmetic = model, space, arithmetic
        self.starts = np.ascontiguousarray(np.moveaxis(starts, 1, 0))
        self.inputs = np.ascontiguousarray(np.moveaxis(inputs, 1, 0))
        form = linearize(model, self.starts, self.inputs)
        if not isinstance(form, SiteForm):
            raise TypeError(f"certificates need a model in site form; got {type(model).__name__}")
        self.form: SiteForm = form

    def chunks(self) -> Any:
        """The linearisation with the errors of a backend's coefficients, a few rows at a time."""
        return products.chunks(self.model, self.form, self.starts, self.inputs, self.arithmetic)

    # Local certificates

    def states(self, states: Array) -> Comparison:
        """Residual of a trajectory that starts from the judge's own starting states."""
        result = _Tensors(states.shape)
        for chunk in self.chunks():
            expected = self.model.evaluate(self.starts[chunk.rows], self.inputs[chunk.rows])
            claimed = np.moveaxis(states[:, chunk.rows], 1, 0)
            result.put(chunk.rows, claimed - expected, chunk.errors.value + relative(claimed, self.arithmetic.unit))
        return self._floor(result)

    def propagator(self, q: Array, y: Array) -> Comparison:
        """Residual of ``y = P q``."""
        before = np.concatenate([np.zeros_like(y[:, :1]), y[:, :-1]], axis=1)
        return self._tangent_residual(before, y, q)

    def propagator_inverse(self, y: Array, q: Array) -> Comparison:
        """Difference of ``q = P^-1 y``."""
        before = np.concatenate([np.zeros_like(y[:, :1]), y[:, :-1]], axis=1)
        return self._tangent_residual(before, y, q)

    def _tangent_residual(self, before: Array, y: Array, q: Array) -> Comparison:
        result, unit = _Tensors(y.shape), self.arithmetic.unit
        for chunk in self.chunks():
            part = chunk.rows
            carried, spread = products.jacobian(chunk, np.moveaxis(before[:, part], 1, 0))
            now, forcing = np.moveaxis(y[:, part], 1, 0), np.moveaxis(q[:, part], 1, 0)
            spread = spread + relative(now, unit) + relative(forcing, unit)
            result.put(part, now - carried - forcing, spread)
        return self._floor(result)

    def adjoint(self, g: Array, costate: Array) -> Comparison:
        """Residual of ``l = P^T g``."""
        result, unit = _Tensors(g.shape), self.arithmetic.unit
        now, forcing = np.moveaxis(costate, 1, 0), np.moveaxis(g, 1, 0)
        result.put(slice(len(now) - 1, None), now[-1:] - forcing[-1:], relative(now[-1:], unit))
        for chunk in self.chunks():
            first = max(chunk.rows.start, 1)
            if first == chunk.rows.stop:
                continue
            later = np.zeros((chunk.rows.stop - chunk.rows.start, *now.shape[1:]))
            later[first - chunk.rows.start :] = now[first : chunk.rows.stop]
            carried, spread = products.jacobian_transpose(chunk, later)
            keep = slice(first - chunk.rows.start, None)
            target = slice(first - 1, chunk.rows.stop - 1)
            spread = spread[keep] + relative(now[target], unit) + relative(forcing[target], unit)
            result.put(target, now[target] - carried[keep] - forcing[target], spread)
        return self._floor(result)

    def parameter_jacobian(self, theta: Array, y: Array) -> Comparison:
        """Difference of ``y = J theta``."""
        recurrent, driven = self.form.layout.pack(theta[None])
        result = _Tensors(y.shape)
        for chunk in self.chunks():
            value, spread = products.parameter_product(chunk, recurrent[0], driven[0])
            result.put(chunk.rows, np.moveaxis(y[:, chunk.rows], 1, 0) - value, spread)
        return self._floor(result)

    def parameter_transpose(self, g: Array, theta: Array) -> Comparison:
        """Difference of ``theta = J^T g``."""
        value, spread = self._transpose_value(g)
        return self._floor(Comparison(theta - value, spread))

    # Compositions

    def kernel(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = K q = J J^T Mu q``."""
        weighed = self.space.weigh(q)
        theta, theta_spread = self._transpose_value(weighed, extra=1)
        return self._image(theta, theta_spread, y)

    def gradient(self, err: Array, theta: Array) -> Comparison:
        """Difference of ``theta = J^T P^T Mu Err``."""
        costate, noise = self._noisy_costate(err)
        value, spread = self._transpose_value(costate, extra=1)
        return self._floor(
            Comparison(theta - value, spread + self._pooled(kernels.parameter_transpose(self.form, noise)))
        )

    def tangent_kernel(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = NTK q = P J J^T P^T Mu q``."""
        costate, noise = self._noisy_costate(q)
        theta, theta_spread = self._transpose_value(costate, extra=1)
        theta_noise = kernels.parameter_transpose(self.form, noise) + self._draw(theta_spread)
        forcing = kernels.parameter_product(self.form, theta[None])
        response = kernels.tangent(self.form, forcing)[0]
        local = self.parameter_jacobian(theta, forcing[0]).spread + self.propagator(forcing[0], response).spread
        forcing_noise = kernels.parameter_product(self.form, theta_noise) + self._draw(local)
        swept = kernels.tangent(self.form, forcing_noise)
        return self._floor(
            Comparison(y - response, self._pooled(swept, axis=2) + relative(response, self.arithmetic.unit))
        )

    def _noisy_costate(self, err: Array) -> tuple[Array, Array]:
        """``P^T Mu err``, and random errors of a backend in it."""
        source = self.space.weigh(err)
        costate = kernels.adjoint(self.form, source[None])[0]
        local = self.adjoint(source, costate).spread + relative(source, self.arithmetic.unit)
        return costate, kernels.adjoint(self.form, self._draw(local))

    def _image(self, theta: Array, theta_spread: Spread, y: Array) -> Comparison:
        """Difference of ``y = J theta`` where theta carries an error."""
        local = self.parameter_jacobian(theta, y)
        carried = kernels.parameter_product(self.form, self._draw(theta_spread))
        return Comparison(local.error, local.spread + self._pooled(carried, axis=2))

    def _transpose_value(self, g: Array, extra: int = 0) -> tuple[Array, Spread]:
        """``J^T g`` and the error that a backend may make; `extra` roundings of g on the way."""
        layout, unit = self.form.layout, self.arithmetic.unit
        sums = [layout.zeros(1, np.float64) for _ in range(4)]  # terms, their squares, magnitudes, error variances
        worst = layout.zeros(1, np.float64)
        for chunk in self.chunks():
            terms, spread = products.parameter_terms(chunk, np.moveaxis(g[:, chunk.rows], 1, 0))
            spread = spread + relative(terms, unit, 1 + extra)
            flat = terms.reshape(-1, terms.shape[2] * terms.shape[3])
            deviation, most = spread.deviation.reshape(flat.shape), spread.worst.reshape(flat.shape)
            m, x = chunk.variable.reshape(len(flat), -1), chunk.drive.reshape(len(flat), -1)
            m_error = np.broadcast_to(chunk.errors.variable.deviation, chunk.variable.shape).reshape(m.shape)
            self._accumulate(sums, worst, flat, deviation, most, m, m_error, x)
        count = self.form.n_steps * self.form.n_trials
        pack = [layout.unpack(*pair)[0] for pair in sums]
        spread = sum_error(pack[0], pack[1], pack[2], count, self.arithmetic)
        return pack[0], spread + Spread(np.sqrt(pack[3]), layout.unpack(*worst)[0]) + relative(pack[0], unit, 2)

    @staticmethod
    def _accumulate(
        sums: Any, worst: Any, flat: Array, deviation: Array, most: Array, m: Array, m_error: Array, x: Array
    ) -> None:
        columns = sums[0][0].shape[2]
        pairs = [(1, x, np.zeros_like(x), flat, deviation, most)]
        if columns:
            pairs.append((0, m, m_error, flat[:, :columns], deviation[:, :columns], most[:, :columns]))
        for which, left, left_error, right, right_error, right_worst in pairs:
            sums[0][which][0] += left.T @ right
            sums[1][which][0] += np.square(left).T @ np.square(right)
            sums[2][which][0] += np.abs(left).T @ np.abs(right)
            sums[3][which][0] += np.square(left).T @ np.square(right_error) + np.square(left_error).T @ np.square(right)
            worst[which][0] += np.abs(left).T @ right_worst + left_error.T @ np.abs(right)

    # Helpers

    def _draw(self, spread: Spread) -> Array:
        """Random errors of this size, the same for the same problem."""
        generator = np.random.default_rng(0)
        samples = max(8, -(-_SAMPLES // self.form.n_states))
        return generator.standard_normal((samples, *spread.deviation.shape)) * spread.deviation

    def _pooled(self, samples: Array, axis: int | None = None) -> Spread:
        """Root mean square over samples, and over an axis of the tensor."""
        squares = np.square(samples).mean(axis=0)
        if axis is not None:
            squares = np.broadcast_to(squares.mean(axis=axis, keepdims=True), squares.shape)
        deviation = np.sqrt(squares)
        return Spread(deviation, np.sqrt(len(samples)) * deviation)

    def _floor(self, result: Any) -> Comparison:
        """Below the smallest normal number errors are absolute."""
        comparison: Comparison = result.comparison() if isinstance(result, _Tensors) else result
        least = self.arithmetic.unit * self.arithmetic.smallest
        absolute = np.full(comparison.error.shape, 4 * least)
        return Comparison(comparison.error, comparison.spread + Spread(absolute, absolute))


class _Tensors:
    """Error and spread (B, T, H), filled a few rows at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._arrays = [np.zeros(shape) for _ in range(3)]

    def put(self, rows: slice, error: Array, spread: Spread) -> None:
        for target, part in zip(self._arrays, (error, spread.deviation, spread.worst), strict=True):
            target[:, rows] = np.moveaxis(np.broadcast_to(part, error.shape), 0, 1)

    def comparison(self) -> Comparison:
        error, deviation, worst = self._arrays
        return Comparison(error, Spread(deviation, worst))
