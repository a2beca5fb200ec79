"""What an explicit Runge-Kutta method is: a table of numbers, checked against the conditions for its order.

One step of a method with s stages reads, for dz/dt = f(t, z),

    k_i = f(t_n + c_i h, z_n + h sum_{j<i} a_ij k_j)   (i = 0..s-1),      z_{n+1} = z_n + h sum_i b_i k_i.

The derivative at the end of the step, k_s = f(t_n + h, z_{n+1}), is not counted among the s stages: it is the first
stage of the next step, and it may serve the error estimate and the interpolant. Methods with such an estimate are
known as "first same as last" (FSAL).

Every interpolant here is a cubic Hermite polynomial, which needs nothing but k_0 and k_s, plus a term that vanishes
to second order at both ends and so keeps the interpolated solution continuously differentiable:

    z(t_n + theta h) = z_n + h sum_i w_i(theta) k_i,
    w_i(theta) = b_i (3 theta^2 - 2 theta^3) + [i=0] theta (1 - theta)^2 - [i=s] theta^2 (1 - theta)
                 + theta^2 (1 - theta)^2 d_i(theta).

References
----------
Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd edition (1993), chapter II.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._frozen import Frozen
from kpref._reprs import short_repr
from kpref._validate import finite_array, instance, integer
from kpref.integrate.order_conditions import OrderCondition, order_conditions, tree_text

__all__ = ["Tableau", "order_condition_residuals"]

FloatArray: TypeAlias = NDArray[np.float64]

CHECKED_ORDER = 5
"""Construction checks order conditions up to this order (17 trees): a millisecond, enough to catch any slip of a
digit."""


@dataclass(frozen=True, eq=False)
class Tableau(Frozen):
    """An explicit Runge-Kutta method.

    Parameters
    ----------
    name : str
        Short name, lower case.
    a : array_like, shape (s, s)
        Strictly lower triangular matrix of stage weights.
    b : array_like, shape (s,)
        Weights of the step.
    c : array_like, shape (s,)
        Stage times as fractions of the step.
    order : int
        Order p: the error of one step is O(h^{p+1}).
    source : str
        Where the numbers come from.
    b_error : array_like, shape (s,) or (s+1,), optional
        Error weights e = b - b_hat, so that h sum_i e_i k_i estimates the error of the embedded solution; entry s
        belongs to the derivative at the end of the step.
    error_order : int, optional
        Order q of the embedded solution: the estimate is O(h^{q+1}). With `b_error_low`, of the combined estimate.
    b_error_low : array_like, same shape as `b_error`, optional
        A second estimate of lower order. With both, u and v their scaled root mean squares, the error taken is
        u^2 / sqrt(u^2 + v^2 / 100).
    dense_order : int, optional
        Order of the interpolant at all theta; by default that of the cubic Hermite polynomial, min(order, 3).
    dense_correction : array_like, shape (s + 1 + extra, m), optional
        Coefficients of d_i(theta) = sum_j D[i, j] theta^j; absent, the interpolant is the cubic Hermite polynomial.
    a_extra, c_extra : array_like, shapes (extra, s + 1 + extra) and (extra,), optional
        Further stages that serve the interpolant alone.

    Attributes
    ----------
    stages : int
        Number s of stages of the step.
    fsal : bool
        Whether the error estimate takes the derivative at the end of the step.

    Raises
    ------
    ValueError
        If a shape is wrong, the method is implicit, or a consistency or order condition fails; names the entry or
        the tree.
    """

    name: str
    a: FloatArray
    b: FloatArray
    c: FloatArray
    order: int
    source: str
    b_error: FloatArray | None = None
    error_order: int | None = None
    b_error_low: FloatArray | None = None
    dense_order: int | None = None
    dense_correction: FloatArray | None = None
    a_extra: FloatArray | None = None
    c_extra: FloatArray | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for field in ("a", "b", "c", "b_error", "b_error_low", "dense_correction", "a_extra", "c_extra"):
            value = getattr(self, field)
            if value is not None or field in ("a", "b", "c"):
                object.__setattr__(self, field, finite_array(field, value))
        for field in ("order", "error_order", "dense_order"):
            value = getattr(self, field)
            if value is not None or field == "order":
                object.__setattr__(self, field, integer(field, value, 1))
        if self.dense_order is None:
            object.__setattr__(self, "dense_order", min(self.order, 3))
        self.validate()

    @property
    def stages(self) -> int:
        """Number s of stages of the step."""
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Whether the error estimate takes the derivative at the end of the step."""
        return self.b_error is not None and len(self.b_error) > self.stages

    @property
    def a_dense(self) -> FloatArray:
        """Weights a of the s stages, of the end of the step and of the extra stages, (s+1+extra, s+1+extra)."""
        s, extra = self.stages, 0 if self.a_extra is None else len(self.a_extra)
        full = np.zeros((s + 1 + extra, s + 1 + extra))
        full[:s, :s] = self.a
        full[s, :s] = self.b
        if self.a_extra is not None:
            full[s + 1 :] = self.a_extra
        return full

    @property
    def c_dense(self) -> FloatArray:
        """Stage times that go with `a_dense`, (s+1+extra,)."""
        return np.concatenate([self.c, [1.0], [] if self.c_extra is None else self.c_extra])

    def dense_weights(self, theta: ArrayLike) -> FloatArray:
        """Weights w_i(theta) of the interpolant.

        Parameters
        ----------
        theta : array_like, any shape
            Fractions of the step, usually in [0, 1].

        Returns
        -------
        ndarray, shape (*theta.shape, s + 1 + extra)
            Over the stages of `a_dense`; at theta = 0 all zero, at theta = 1 equal to b.
        """
        x = np.asarray(theta, dtype=np.float64)[..., None]
        s = self.stages
        weights = np.zeros((*x.shape[:-1], len(self.c_dense)))
        weights[..., :s] = x * x * (3.0 - 2.0 * x) * self.b
        weights[..., :1] += x * (1.0 - x) ** 2
        weights[..., s : s + 1] -= x * x * (1.0 - x)
        if self.dense_correction is not None:
            correction = np.zeros_like(weights)
            for coefficients in self.dense_correction.T[::-1]:
                correction = correction * x + coefficients
            weights += (x * (1.0 - x)) ** 2 * correction
        return weights

    def validate(self) -> None:
        """Check shapes, explicitness, consistency and the order conditions up to order min(`order`, 5).

        Raises
        ------
        ValueError
            Naming the first entry or condition that fails, with both values.
        """
        self._check_shapes()
        self._check_explicit()
        self._check_nodes()
        self._check_order()
        self._check_error_weights()
        self._check_dense()

    def _check_shapes(self) -> None:
        s = len(self.b) if self.b.ndim == 1 else 0
        if s == 0:
            raise ValueError(
                f"tableau {self.name!r}: b must be a vector of at least one weight, got shape {self.b.shape}"
            )
        if self.a.shape != (s, s) or self.c.shape != (s,):
            raise ValueError(
                f"tableau {self.name!r}: with {s} weights in b, a must have shape {(s, s)} and c shape {(s,)}; "
                f"a has {self.a.shape}, c has {self.c.shape}"
            )
        if (self.b_error is None) != (self.error_order is None):
            raise ValueError(f"tableau {self.name!r}: b_error and error_order belong together, got only one of them")
        for field in ("b_error", "b_error_low"):
            value = getattr(self, field)
            if value is not None and value.shape not in ((s,), (s + 1,)):
                raise ValueError(
                    f"tableau {self.name!r}: {field} must have shape {(s,)} or {(s + 1,)}, got {value.shape}"
                )
        extra = 0 if self.a_extra is None else len(self.a_extra)
        for field, expected in (("a_extra", (extra, s + 1 + extra)), ("c_extra", (extra,))):
            value = getattr(self, field)
            if (self.a_extra is not None or value is not None) and np.shape(value) != expected:
                raise ValueError(f"tableau {self.name!r}: {field} must have shape {expected}, got {np.shape(value)}")
        correction = self.dense_correction
        if correction is not None and (correction.ndim != 2 or len(correction) != s + 1 + extra):
            raise ValueError(
                f"tableau {self.name!r}: dense_correction must have {s + 1 + extra} rows, got shape {correction.shape}"
            )

    def _check_explicit(self) -> None:
        for i, j in np.argwhere(np.triu(self.a_dense) != 0.0):
            raise ValueError(
                f"tableau {self.name!r} is implicit: a[{i}, {j}] = {self.a_dense[i, j]} is on or above the diagonal, "
                "where an explicit method has zeros"
            )

    def _check_nodes(self) -> None:
        a, c = self.a_dense, self.c_dense
        eps = np.finfo(np.float64).eps
        for i in range(len(c)):
            if i == self.stages:
                continue  # that row is b, whose sum is the first order condition
            # i coefficients rounded once and summed with i - 1 roundings: each term off by at most i/2 + 1/2 eps.
            bound = (i + 1) * eps * max(np.abs(a[i]).sum(), abs(c[i]))
            if not abs(a[i].sum() - c[i]) <= bound:
                raise ValueError(
                    f"tableau {self.name!r} is inconsistent: c[{i}] = {c[i]} but the row sum of a is {a[i].sum()}"
                )

    def _check_order(self) -> None:
        for condition in order_conditions(self.a, self.b, min(self.order, CHECKED_ORDER)):
            self._check_condition(condition, f"order {self.order}")

    def _check_error_weights(self) -> None:
        if self.b_error is None or self.error_order is None:
            return
        # An estimate combined of two is of higher order than either of them, which only testing can confirm.
        order = 1 if self.b_error_low is not None else min(self.error_order, CHECKED_ORDER)
        for weights in (self.b_error, self.b_error_low):
            if weights is not None:
                a = self.a_dense[: len(weights), : len(weights)]
                for condition in order_conditions(a, weights, order, theta=0):
                    self._check_condition(condition, f"error weights of order {self.error_order}")

    def _check_dense(self) -> None:
        # Two points inside the step see a wrong digit; it would take a root of its polynomial at both to hide one.
        order = min(self.dense_order or 1, CHECKED_ORDER)
        for theta in (0.29, 0.83):
            for condition in order_conditions(self.a_dense, self.dense_weights(theta), order, theta):
                self._check_condition(condition, f"dense output of order {self.dense_order} at theta = {theta}")

    def _check_condition(self, condition: OrderCondition, claim: str) -> None:
        if not abs(condition.residual) <= condition.rounding_bound:
            raise ValueError(
                f"tableau {self.name!r} is inconsistent with {claim}: the condition of the tree "
                f"{tree_text(condition.tree)} gives {condition.value} in place of {condition.expected}"
            )


def order_condition_residuals(tableau: Tableau, order: int) -> dict[str, float]:
    """Residuals `Phi(t) - 1/gamma(t)` of a tableau, one for every rooted tree of at most `order` vertices.

    Parameters
    ----------
    tableau : Tableau
        The method.
    order : int
        Largest number of vertices.

    Returns
    -------
    dict of str to float
        From each tree, in bracket notation, to its residual.

    Raises
    ------
    TypeError, ValueError
        If `tableau` is no Tableau, or `order` no integer of at least 1.
    """
    instance("tableau", tableau, Tableau, 'a Tableau, such as get_tableau("rk4")')
    order = integer("order", order, 1)
    return {
        tree_text(condition.tree): float(condition.residual)
        for condition in order_conditions(tableau.a, tableau.b, order)
    }
