"""Certificates: is the error of a claimed product explained by rounding, and if not, where does it begin?

P, P^T and P^-1 are judged by residuals that are local in time, so that chaos amplifies nothing:

    P:    r[n] = y[n] - A[n] y[n-1] - q[n]          P^T:  r[n] = l[n] - A[n+1]^T l[n+1] - g[n]
    P^-1: r[n] = q[n] - (y[n] - A[n] y[n-1])        states:  r[n] = z[n+1] - F(z[n], x[n])

evaluated in float64 and held against the standard deviation that the backend's own rounding can give each entry
(`kpref.oracle.products`). J, J^T and K are compared with their values. What a whole sweep does to errors (NTK,
gradient) is found by sending random errors of the local size through the exact sweep.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.linearize import linearize
from kpref.models.step import StepModel
from kpref.oracle import products
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.coefficients import Spread, relative, sum_error
from kpref.oracle.evaluation import evaluate
from kpref.site_view import SiteForm, site_kernels, site_view
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


#: Errors below it are not judged: their squares, which the analysis adds, are zero in float64.
_VANISHING = 1e-150


class Judge:
    """The reference linearisation at agreed states, and what an arithmetic may do to products with it.

    Parameters
    ----------
    model : StepModel
        With parameters that the arithmetic can hold.
    starts : ndarray, shape (B, T, H)
        The state that each step starts from.
    inputs : ndarray, shape (B, T, n_in)
    space : TrajectorySpace
    arithmetic : Arithmetic
    """

    def __init__(
        self, model: StepModel, starts: Array, inputs: Array, space: TrajectorySpace, arithmetic: Arithmetic
    ) -> None:
        self.model, self.space, self.arithmetic = model, space, arithmetic
        self.starts = np.ascontiguousarray(np.moveaxis(starts, 1, 0))
        self.inputs = np.ascontiguousarray(np.moveaxis(inputs, 1, 0))
        step: Any = linearize(model, self.starts, self.inputs)
        self.step: Any = step
        self.form: SiteForm = site_view(step)

    def with_arithmetic(self, arithmetic: Arithmetic) -> Judge:
        """The same judge for another arithmetic."""
        other = copy.copy(self)
        other.arithmetic = arithmetic
        return other

    def chunks(self) -> Any:
        """The linearisation with the errors of a backend's coefficients, a few rows at a time."""
        return products.chunks(self.model, self.form, self.starts, self.inputs, self.arithmetic)

    def residual(self, operator: str, answer: Array) -> Array:
        """What P or P^T turns into this answer; of other operators the answer itself."""
        if operator == "P":
            return site_kernels.inverse(self.form, answer[None])[0]
        if operator == "P_T":
            return site_kernels.inverse_transpose(self.form, answer[None])[0]
        return answer

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
        noise = iter(self._transpose_noise(weighed, theta_spread))
        local = self.parameter_jacobian(theta, y)
        carried = self._pooled(lambda _: site_kernels.parameter_product(self.form, next(noise)[None])[0])
        return Comparison(local.error, local.spread + carried)

    def gradient(self, err: Array, theta: Array) -> Comparison:
        """Difference of ``theta = J^T P^T Mu Err``."""
        costate, local = self._costate(err)
        value, spread = self._transpose_value(costate, extra=1)

        def swept(generator: np.random.Generator) -> Array:
            return site_kernels.sensitivity_transpose(self.form, _draw(generator, local))[0]

        return self._floor(Comparison(theta - value, spread + self._swept("gradient", err, value, swept)))

    def tangent_kernel(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = NTK q = P J J^T P^T Mu q``."""
        costate, local = self._costate(q)
        theta, theta_spread = self._transpose_value(costate, extra=1)
        theta_noise = iter(self._transpose_noise(costate, theta_spread))
        forcing = site_kernels.parameter_product(self.form, theta[None])[0]
        response = site_kernels.tangent(self.form, forcing[None])[0]
        later = self.parameter_jacobian(theta, forcing).spread + self.propagator(forcing, response).spread

        def swept(generator: np.random.Generator) -> Array:
            noise = site_kernels.adjoint(self.form, _draw(generator, local))
            noise = site_kernels.parameter_transpose(self.form, noise) + next(theta_noise)
            noise = site_kernels.parameter_product(self.form, noise) + _draw(generator, later)
            return site_kernels.tangent(self.form, noise)[0]

        spread = self._swept("NTK", q, response, swept) + relative(response, self.arithmetic.unit)
        return self._floor(Comparison(y - response, spread))

    def sensitivity(self, theta: Array) -> Spread:
        """What rounding does to ``D theta = P J theta``."""
        forcing = site_kernels.parameter_product(self.form, theta[None])[0]
        response = site_kernels.tangent(self.form, forcing[None])[0]
        local = self.parameter_jacobian(theta, forcing).spread + self.propagator(forcing, response).spread

        def swept(generator: np.random.Generator) -> Array:
            return site_kernels.tangent(self.form, _draw(generator, local))[0]

        return self._swept("D", theta, response, swept) + relative(response, self.arithmetic.unit)

    def _costate(self, err: Array) -> tuple[Array, Spread]:
        """``P^T Mu err``, and the size of the random errors of a backend in each of its steps."""
        source = self.space.weigh(err)
        costate = site_kernels.adjoint(self.form, source[None])[0]
        return costate, self.adjoint(source, costate).spread + relative(source, self.arithmetic.unit)

    def _transpose_noise(self, g: Array, spread: Spread) -> Array:
        """Random errors (samples, M) of ``J^T g``, of which `spread` is the size, for use where J multiplies it.

        An operand of its sums, ``G g`` or m, errs alike in a whole row or column of a parameter. J adds these up where
        states point in one direction for long, so that errors drawn for each entry alone would come out too small;
        these stand for those of the sums.
        """
        layout, arithmetic = self.form.layout, self.arithmetic
        generator = np.random.default_rng(1)
        recurrent, driven = layout.zeros(self._count, np.float64)
        columns = recurrent.shape[2]
        for chunk in self.chunks():
            terms, own = products.parameter_terms(chunk, np.moveaxis(g[:, chunk.rows], 1, 0))
            deviation = (own + relative(terms, arithmetic.unit, 2) + relative(terms, arithmetic.operand)).deviation
            flat = terms.reshape(-1, terms.shape[2] * terms.shape[3])
            m, x = chunk.variable.reshape(len(flat), -1), chunk.drive.reshape(len(flat), -1)
            m_error = np.broadcast_to(chunk.errors.variable.deviation, chunk.variable.shape).reshape(m.shape)
            m_error = np.hypot(m_error, arithmetic.operand * np.abs(m))
            for sample in range(self._count):
                noise = (generator.standard_normal(terms.shape) * deviation).reshape(flat.shape)
                wrong_x = generator.standard_normal(x.shape) * arithmetic.operand * x
                driven[sample] += x.T @ noise + wrong_x.T @ flat
                if columns:
                    wrong_m = generator.standard_normal(m.shape) * m_error
                    recurrent[sample] += m.T @ noise[:, :columns] + wrong_m.T @ flat[:, :columns]
        independent = generator.standard_normal((self._count, layout.size)) * spread.deviation
        return layout.unpack(recurrent, driven) + independent

    # Errors that a sweep carries along

    def _swept(self, operator: str, tensor: Array, value: Array, sample: Callable[..., Array]) -> Spread:
        """Independent errors of each step, and those that are the same in all steps."""
        spread = self._pooled(sample)
        if not self._persistent():
            return spread
        step = 2.0**-20 / max(self.arithmetic.unit, self.arithmetic.operand)

        def persistent(generator: np.random.Generator) -> Array:
            return (evaluate(operator, self._perturbed(generator, step), self.space, tensor) - value) / step

        return spread + self._pooled(persistent)

    def _persistent(self) -> bool:
        """Whether there are errors that do not change from step to step."""
        return self.arithmetic.operand > 0 or self.form.gates.shape[0] == 1

    def _perturbed(self, generator: np.random.Generator, step: float) -> SiteForm:
        """The linearisation with errors that are the same in all steps, times `step`: their effect is linear in it.

        The weights are rounded to operands of the matrix product. Coefficients that are constant, such as a leak, are
        rounded once, and one that all units share errs alike in all; dense Jacobians made of them are rounded once.
        """
        form, unit = self.form, self.arithmetic.unit
        constant = form.gates.shape[0] == 1
        entry = np.hypot(self.arithmetic.operand, unit if constant else 0.0)
        weight = form.weight * (1.0 + step * entry * generator.standard_normal(form.weight.shape))
        changed: dict[str, Any] = {"weight": weight}
        if constant:
            shared = 2 * generator.standard_normal(2)
            own = generator.standard_normal(form.decay.shape)
            changed["gates"] = form.gates * (1.0 + step * unit * shared[0])
            changed["decay"] = form.decay * (1.0 + step * entry * (shared[1] + own))
        return replace(form, **changed)

    @property
    def _count(self) -> int:
        """Number of random errors: more where there are few units to pool."""
        return max(8, -(-_SAMPLES // self.form.n_states))

    def _pooled(self, sample: Callable[[np.random.Generator], Array]) -> Spread:
        """Root mean square of random errors: of each entry, or over the units of a tensor where that is more.

        Few samples may all be small in an entry by chance; its neighbours then say how large they should be.
        """
        generator, count = np.random.default_rng(0), self._count
        squares = sum(np.square(sample(generator)) for _ in range(count)) / count
        if np.ndim(squares) == 3:
            squares = np.maximum(squares, np.mean(squares, axis=2, keepdims=True))
        deviation = np.sqrt(squares)
        return Spread(deviation, np.sqrt(count) * deviation)

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

    @property
    def floor(self) -> float:
        """Absolute error below the smallest normal number: of a few lost numbers for each entry, times a weight."""
        lost = 4 * self.arithmetic.underflow * max(1.0, float(np.abs(self.form.weight).max()))
        return max(lost, _VANISHING)

    def _floor(self, result: Any) -> Comparison:
        comparison: Comparison = result.comparison() if isinstance(result, _Tensors) else result
        absolute = np.full(comparison.error.shape, self.floor)
        return Comparison(comparison.error, comparison.spread + Spread(absolute, absolute))


def _draw(generator: np.random.Generator, spread: Spread) -> Array:
    """Random errors of this size, as a batch of one."""
    return (generator.standard_normal(spread.deviation.shape) * spread.deviation)[None]


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
