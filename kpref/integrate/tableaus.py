"""Explicit Runge-Kutta methods as data: a name, a table of numbers and where they come from.

One step of a method with s stages reads, for dz/dt = f(t, z),

    k_i = f(t_n + c_i h, z_n + h sum_{j<i} a_ij k_j)   (i = 0..s-1),      z_{n+1} = z_n + h sum_i b_i k_i.

The derivative at the end of the step, k_s = f(t_n + h, z_{n+1}), is not counted among the s stages: it is the first stage of the
next step, and it may serve the error estimate and the interpolant. Methods with such an estimate are known as "first same
as last" (FSAL).

Every interpolant here is a cubic Hermite polynomial, which needs nothing but k_0 and k_s, plus a term that vanishes to second
order at both ends and so keeps the interpolated solution continuously differentiable:

    z(t_n + theta h) = z_n + h sum_i w_i(theta) k_i,
    w_i(theta) = b_i (3 theta^2 - 2 theta^3) + [i=0] theta (1 - theta)^2 - [i=s] theta^2 (1 - theta) + theta^2 (1 - theta)^2 d_i(theta).

References
----------
Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd edition (1993), chapter II.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref.integrate import _dop853 as _dop853_table
from kpref.integrate.order_conditions import OrderCondition, order_conditions, tree_text

__all__ = ["TABLEAUS", "Tableau", "get_tableau"]

FloatArray: TypeAlias = NDArray[np.float64]

CHECKED_ORDER = 5
"""Construction checks order conditions up to this order (17 trees): milliseconds, and enough to catch any slip of a digit."""


@dataclass(frozen=True, eq=False)
class Tableau:
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
        Error weights e = b - b_hat, so that h sum_i e_i k_i estimates the error of the embedded solution; entry s belongs to
        the derivative at the end of the step.
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
        If a shape is wrong, the method is implicit, or a consistency or order condition fails; names the entry or the tree.
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

    def __post_init__(self) -> None:
        for field in ("a", "b", "c", "b_error", "b_error_low", "dense_correction", "a_extra", "c_extra"):
            value = getattr(self, field)
            if value is not None:
                value = np.array(value, dtype=np.float64)
                value.setflags(write=False)
                object.__setattr__(self, field, value)
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
        """Stage weights with the derivative at the end of the step and the extra stages appended, (s+1+extra, s+1+extra)."""
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
            powers = x ** np.arange(self.dense_correction.shape[1])
            weights += (x * (1.0 - x)) ** 2 * (powers @ self.dense_correction.T)
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

    def _check_shapes(self) -> None:
        s = len(self.b) if self.b.ndim == 1 else 0
        if s == 0:
            raise ValueError(f"tableau {self.name!r}: b must be a vector of at least one weight, got shape {self.b.shape}")
        if self.a.shape != (s, s) or self.c.shape != (s,):
            raise ValueError(
                f"tableau {self.name!r}: with {s} weights in b, a must have shape {(s, s)} and c {(s,)}, "
                f"got {self.a.shape} and {self.c.shape}"
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
                f"tableau {self.name!r} is implicit: a[{i}, {j}] = {self.a_dense[i, j]!r} is on or above the diagonal, "
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
                    f"tableau {self.name!r} is inconsistent: c[{i}] = {c[i]!r} but the row sum of a is {a[i].sum()!r}"
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

    def _check_condition(self, condition: OrderCondition, claim: str) -> None:
        if not abs(condition.residual) <= condition.rounding_bound:
            raise ValueError(
                f"tableau {self.name!r} is inconsistent with {claim}: the condition of the tree "
                f"{tree_text(condition.tree)} gives {float(condition.value)!r} in place of {float(condition.expected)!r}"
            )


def _triangle(*rows: Sequence[float]) -> FloatArray:
    """The square matrix whose rows 1, 2, ... start with the given entries; row 0 and the rest are zero."""
    matrix = np.zeros((len(rows) + 1, len(rows) + 1))
    for i, row in enumerate(rows, start=1):
        matrix[i, : len(row)] = row
    return matrix


def _row(entries: Mapping[int, float], length: int) -> FloatArray:
    """A row of the given length with the listed entries."""
    row = np.zeros(length)
    for j, value in entries.items():
        row[j] = value
    return row


def _euler() -> Tableau:
    """Euler's method: Euler, *Institutionum calculi integralis* I (1768), chapter VII."""
    return Tableau("euler", _triangle(), [1.0], [0.0], 1, "Euler (1768)")


def _midpoint() -> Tableau:
    """The explicit midpoint rule: Runge, Math. Ann. 46 (1895)."""
    return Tableau("midpoint", _triangle([1 / 2]), [0.0, 1.0], [0.0, 1 / 2], 2, "Runge (1895)")


def _heun() -> Tableau:
    """The explicit trapezoidal rule: Heun, Z. Math. Phys. 45 (1900)."""
    return Tableau("heun", _triangle([1.0]), [1 / 2, 1 / 2], [0.0, 1.0], 2, "Heun (1900)")


def _ralston() -> Tableau:
    """The two-stage method of least error bound: Ralston, Math. Comp. 16 (1962)."""
    return Tableau("ralston", _triangle([2 / 3]), [1 / 4, 3 / 4], [0.0, 2 / 3], 2, "Ralston (1962)")


def _ssprk3() -> Tableau:
    """The strong-stability-preserving method of order 3: Shu and Osher, J. Comput. Phys. 77 (1988)."""
    a = _triangle([1.0], [1 / 4, 1 / 4])
    return Tableau("ssprk3", a, [1 / 6, 1 / 6, 2 / 3], [0.0, 1.0, 1 / 2], 3, "Shu and Osher (1988)")


def _bosh3() -> Tableau:
    """The 3(2) pair of Bogacki and Shampine, Appl. Math. Lett. 2 (1989); its interpolant is the cubic Hermite polynomial."""
    return Tableau(
        "bosh3",
        _triangle([1 / 2], [0.0, 3 / 4]),
        [2 / 9, 1 / 3, 4 / 9],
        [0.0, 1 / 2, 3 / 4],
        3,
        "Bogacki and Shampine (1989)",
        b_error=[-5 / 72, 1 / 12, 1 / 9, -1 / 8],
        error_order=2,
    )


def _rk4() -> Tableau:
    """The classical method: Kutta, Z. Math. Phys. 46 (1901)."""
    a = _triangle([1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0])
    return Tableau("rk4", a, [1 / 6, 1 / 3, 1 / 3, 1 / 6], [0.0, 1 / 2, 1 / 2, 1.0], 4, "Kutta (1901)")


def _rk38() -> Tableau:
    """The 3/8 rule: Kutta, Z. Math. Phys. 46 (1901)."""
    a = _triangle([1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0])
    return Tableau("rk38", a, [1 / 8, 3 / 8, 3 / 8, 1 / 8], [0.0, 1 / 3, 2 / 3, 1.0], 4, "Kutta (1901)")


def _dopri5() -> Tableau:
    """The 5(4) pair of Dormand and Prince, J. Comput. Appl. Math. 6 (1980).

    The interpolant of order 4 is Shampine's (Math. Comp. 46, 1986), in the form of Hairer's program DOPRI5.
    """
    correction = [
        -12715105075 / 11282082432,
        0.0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    ]
    return Tableau(
        "dopri5",
        _triangle(
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
        ),
        [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
        [0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0],
        5,
        "Dormand and Prince (1980)",
        b_error=[71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40],
        error_order=4,
        dense_order=4,
        dense_correction=np.array(correction)[:, None],
    )


def _tsit5() -> Tableau:
    """The 5(4) pair of Tsitouras, Comput. Math. Appl. 62 (2011), with its interpolant of order 4."""
    # The free coefficients are the paper's; the first column follows from the row sums, as the paper prescribes.
    a = _triangle(
        [0.0],
        [0.0, 0.3354806554923569885444268742502307746751],
        [0.0, -6.359448489975074843148159912383825625953, 4.362295432869581411017727318190886861028],
        [
            0.0,
            -11.74888356406282787774717033978577296189,
            7.495539342889836208304604784564358155658,
            -0.09249506636175524925650207933207191611350,
        ],
        [
            0.0,
            -12.92096931784710929170611868178335939542,
            8.159367898576158643180400794539253485182,
            -0.07158497328140099722453054252582973869127,
            -0.02826905039406838290900305721271224146718,
        ],
    )
    a[1:, 0] = [
        0.161,
        -0.008480655492356988544426874250230774675122,
        2.897153057105493432130432594192938764925,
        5.325864828439256604428877920840511317836,
        5.861455442946420028659251486982647890394,
    ]
    correction = [
        -1.0530884977290216,
        0.1017,
        2.490627285651252793,
        -16.54810288924490272,
        47.37952196281928122,
        -34.87065786149660974,
        2.5,
    ]
    return Tableau(
        "tsit5",
        a,
        [
            0.09646076681806522951816731316512876333712,
            0.01,
            0.4798896504144995747752495322905965199130,
            1.379008574103741893192274821856872770756,
            -3.290069515436080679901047585711363850116,
            2.324710524099773982415355918398765796109,
        ],
        [0.0, 0.161, 0.327, 0.9, 0.9800255409045096857298102862870245954942, 1.0],
        5,
        "Tsitouras (2011)",
        b_error=[
            0.001780011052225771443378550607539534775944,
            0.0008164344596567469032236360633682468624618,
            -0.007880878010261996010314727672526304238628,
            0.1447110071732629075371658794719892385400,
            -0.5823571654525552250199376106520421794260,
            0.4580821059291869466616365188325542974428,
            -1 / 66,
        ],
        error_order=4,
        dense_order=4,
        dense_correction=np.array(correction)[:, None],
    )


def _dop853() -> Tableau:
    """The method of order 8 of Hairer, Norsett and Wanner (1993), after Dormand and Prince.

    Its error estimates of order 5 and 3 combine to one that behaves like O(h^8); three extra stages give an interpolant of order 7.
    """
    d0, d1, d2, d3 = (_row(_dop853_table.INTERPOLANT[i], 16) for i in range(4))
    b = _row(_dop853_table.WEIGHTS, 12)
    return Tableau(
        "dop853",
        np.array([_row(_dop853_table.STAGES.get(i, {}), 12) for i in range(12)]),
        b,
        _dop853_table.NODES,
        8,
        "Hairer, Norsett and Wanner (1993)",
        b_error=_row(_dop853_table.ERROR_ORDER_5, 12),
        error_order=7,
        b_error_low=b - _row(_dop853_table.WEIGHTS_ORDER_3, 12),
        dense_order=7,
        # d_0 + theta (d_1 + (1 - theta) (d_2 + theta d_3)) in powers of theta.
        dense_correction=np.stack([d0, d1 + d2, d3 - d2, -d3], axis=1),
        a_extra=np.array([_row(_dop853_table.EXTRA_STAGES[i], 16) for i in (13, 14, 15)]),
        c_extra=_dop853_table.EXTRA_NODES,
    )


TABLEAUS: dict[str, Tableau] = {
    tableau.name: tableau
    for tableau in (
        _euler(),
        _midpoint(),
        _heun(),
        _ralston(),
        _ssprk3(),
        _bosh3(),
        _rk4(),
        _rk38(),
        _dopri5(),
        _tsit5(),
        _dop853(),
    )
}
"""The methods that are known by name, in order of their order."""


def get_tableau(method: str | Tableau) -> Tableau:
    """The tableau of a name; a tableau is returned as it is.

    Parameters
    ----------
    method : str or Tableau
        One of the names in `TABLEAUS`, or a method of one's own.

    Returns
    -------
    Tableau

    Raises
    ------
    ValueError
        If no method has that name; lists those that exist.
    TypeError
        If `method` is neither a string nor a Tableau.
    """
    if isinstance(method, Tableau):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method must be the name of a tableau or a Tableau, got {type(method).__name__}")
    if method not in TABLEAUS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(TABLEAUS)}")
    return TABLEAUS[method]
