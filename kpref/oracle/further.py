"""Certificates of the operators that follow from others: D, derivatives by initial states, and all transposes.

    P^-T: r[n] = q[n] - (g[n] - A[n+1]^T g[n+1])      the residual of P^T with its two tensors exchanged
    D:    r[n] = y[n] - A[n] y[n-1] - J_theta[n] theta
    D_z0: r[n] = y[n] - A[n] y[n-1],                  where y[-1] is the perturbation of the initial states

are local in time. ``D^T = J^T P^T``, ``D_z0^T = A[0]^T (P^T g)[0]``, ``K^T = Mu J J^T``, ``NTK^T = Mu D D^T`` and
``Mu D``, the transpose of the gradient, are compared with their values: the last three are operators of the measure in
which every point weighs one, weighed afterwards.
"""

from __future__ import annotations

import copy

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.kernels import reference
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import evaluate
from kpref.oracle.random_errors import draw
from kpref.oracle.spreads import Spread, relative
from kpref.space import TrajectorySpace

__all__ = ["FullJudge"]


class FullJudge(Judge):
    """A `Judge` of all operators."""

    @property
    def _unweighed(self) -> Judge:
        """The same judge in the measure in which every point weighs one."""
        other = copy.copy(self)
        other.space = TrajectorySpace(self.space.shape, "sum")
        return other

    def adjoint_inverse(self, g: Array, q: Array) -> Comparison:
        """Difference of ``q = P^-T g``."""
        exchanged = self.adjoint(q, g)
        return Comparison(exchanged.error, exchanged.spread)

    def sensitivity_residual(self, theta: Array, y: Array) -> Comparison:
        """Residual of ``y = D theta``."""
        forcing = kernels.parameter_product(self.form, theta[None])[0]
        local = self.propagator(forcing, y)
        return Comparison(local.error, local.spread + self.parameter_jacobian(theta, forcing).spread)

    def sensitivity_transpose(self, g: Array, theta: Array) -> Comparison:
        """Difference of ``theta = D^T g``."""
        return self._unweighed.gradient(g, theta)

    def initial_response(self, start: Array, y: Array) -> Comparison:
        """Residual of ``y = D_z0 start``, start of shape (B, H)."""
        before = np.concatenate([start[:, None], y[:, :-1]], axis=1)
        return self._tangent_residual(before, y, np.zeros_like(y))

    def initial_transpose(self, g: Array, start: Array) -> Comparison:
        """Difference of ``start = D_z0^T g``, start of shape (B, H)."""
        form = self.form
        costate = kernels.adjoint(form, g[None])[0]
        local = self.adjoint(g, costate).spread
        first = next(iter(self.chunks()))
        arriving = np.zeros((first.form.n_steps, form.n_trials, form.n_states))
        arriving[0] = costate[:, 0]
        own = self._backward(first, arriving)[1][0]
        value = evaluate("D_z0_T", form, self.space, g)

        def swept(generator: np.random.Generator, count: int) -> Array:
            noise = kernels.adjoint(self.carrying, draw(generator, local, count))
            return reference.jacobian_transpose(self.carrying, 0, noise[:, :, 0])

        spread = own + self._swept("D_z0_T", g, value, swept) + relative(value, self.arithmetic.unit)
        return self._floor(Comparison(start - value, spread))

    def kernel_transpose(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = K^T q = Mu J J^T q``."""
        return self._weighed(self._unweighed.kernel(q, np.zeros_like(y)), y)

    def tangent_kernel_transpose(self, q: Array, y: Array) -> Comparison:
        """Difference of ``y = NTK^T q = Mu D D^T q``."""
        return self._weighed(self._unweighed.tangent_kernel(q, np.zeros_like(y)), y)

    def gradient_transpose(self, theta: Array, y: Array) -> Comparison:
        """Difference of ``y = Mu D theta``."""
        value = evaluate("D", self.form, self.space, theta)
        return self._weighed(Comparison(-value, self.sensitivity(theta)), y)

    def _weighed(self, zero: Comparison, y: Array) -> Comparison:
        """The difference of an answer from a weighed value; `zero`: that of zero from it before it is weighed."""
        weigh = self.space.weigh
        value = weigh(-zero.error)
        carried = Spread(weigh(zero.spread.deviation), weigh(zero.spread.worst))
        return self._floor(Comparison(y - value, carried + relative(value, self.arithmetic.unit, 2)))
