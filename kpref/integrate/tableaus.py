"""Explicit Runge-Kutta methods as data: a name, a table of numbers and where they come from.

Each function below is one method and names its source; `get_tableau` finds a method by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kpref._types import FloatArray
from kpref.integrate import _dop853 as _dop853_table
from kpref.integrate.tableau import Tableau

__all__ = ["TABLEAUS", "Tableau", "get_tableau"]


def _triangle(*rows: Sequence[float]) -> FloatArray:
    """The square matrix whose rows 1, 2, ... start with the given entries; row 0 and the rest are zero."""
    matrix = np.zeros((len(rows) + 1, len(rows) + 1))
    for i, row in enumerate(rows, start=1):
        matrix[i, : len(row)] = row
    return matrix


def _vector(*values: float) -> FloatArray:
    """A vector of coefficients."""
    return np.array(values)


def _row(entries: Mapping[int, float], length: int) -> FloatArray:
    """A row of the given length with the listed entries."""
    row = np.zeros(length)
    for j, value in entries.items():
        row[j] = value
    return row


def _euler() -> Tableau:
    """Euler's method: Euler, *Institutionum calculi integralis* I (1768), chapter VII."""
    return Tableau("euler", _triangle(), b=_vector(1.0), c=_vector(0.0), order=1, source="Euler (1768)")


def _midpoint() -> Tableau:
    """The explicit midpoint rule: Runge, Math. Ann. 46 (1895)."""
    a = _triangle([1 / 2])
    return Tableau("midpoint", a, b=_vector(0.0, 1.0), c=_vector(0.0, 1 / 2), order=2, source="Runge (1895)")


def _heun() -> Tableau:
    """The explicit trapezoidal rule: Heun, Z. Math. Phys. 45 (1900)."""
    a = _triangle([1.0])
    return Tableau("heun", a, b=_vector(1 / 2, 1 / 2), c=_vector(0.0, 1.0), order=2, source="Heun (1900)")


def _ralston() -> Tableau:
    """The two-stage method of least error bound: Ralston, Math. Comp. 16 (1962)."""
    a = _triangle([2 / 3])
    return Tableau("ralston", a, b=_vector(1 / 4, 3 / 4), c=_vector(0.0, 2 / 3), order=2, source="Ralston (1962)")


def _ssprk3() -> Tableau:
    """The strong-stability-preserving method of order 3: Shu and Osher, J. Comput. Phys. 77 (1988)."""
    return Tableau(
        "ssprk3",
        _triangle([1.0], [1 / 4, 1 / 4]),
        b=_vector(1 / 6, 1 / 6, 2 / 3),
        c=_vector(0.0, 1.0, 1 / 2),
        order=3,
        source="Shu and Osher (1988)",
    )


def _bosh3() -> Tableau:
    """The 3(2) pair of Bogacki and Shampine, Appl. Math. Lett. 2 (1989); cubic Hermite in between."""
    return Tableau(
        "bosh3",
        _triangle([1 / 2], [0.0, 3 / 4]),
        b=_vector(2 / 9, 1 / 3, 4 / 9),
        c=_vector(0.0, 1 / 2, 3 / 4),
        order=3,
        source="Bogacki and Shampine (1989)",
        b_error=_vector(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        error_order=2,
    )


def _rk4() -> Tableau:
    """The classical method: Kutta, Z. Math. Phys. 46 (1901)."""
    return Tableau(
        "rk4",
        _triangle([1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]),
        b=_vector(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=_vector(0.0, 1 / 2, 1 / 2, 1.0),
        order=4,
        source="Kutta (1901)",
    )


def _rk38() -> Tableau:
    """The 3/8 rule: Kutta, Z. Math. Phys. 46 (1901)."""
    return Tableau(
        "rk38",
        _triangle([1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0]),
        b=_vector(1 / 8, 3 / 8, 3 / 8, 1 / 8),
        c=_vector(0.0, 1 / 3, 2 / 3, 1.0),
        order=4,
        source="Kutta (1901)",
    )


def _dopri5() -> Tableau:
    """The 5(4) pair of Dormand and Prince, J. Comput. Appl. Math. 6 (1980).

    The interpolant of order 4 is Shampine's (Math. Comp. 46, 1986), in the form of Hairer's program DOPRI5.
    """
    correction = _vector(
        -12715105075 / 11282082432,
        0.0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    )
    return Tableau(
        "dopri5",
        _triangle(
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
        ),
        b=_vector(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        c=_vector(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
        order=5,
        source="Dormand and Prince (1980)",
        b_error=_vector(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        error_order=4,
        dense_order=4,
        dense_correction=correction[:, None],
    )


def _tsit5() -> Tableau:
    """The 5(4) pair of Tsitouras, Comput. Math. Appl. 62 (2011), with its interpolant of order 4."""
    a = _triangle(
        [0.161],
        [-0.008480655492356988544426874250230774675122, 0.3354806554923569885444268742502307746751],
        [
            2.897153057105493432130432594192938764925,
            -6.359448489975074843148159912383825625953,
            4.362295432869581411017727318190886861028,
        ],
        [
            5.325864828439256604428877920840511317836,
            -11.74888356406282787774717033978577296189,
            7.495539342889836208304604784564358155658,
            -0.09249506636175524925650207933207191611350,
        ],
        [
            5.861455442946420028659251486982647890394,
            -12.92096931784710929170611868178335939542,
            8.159367898576158643180400794539253485182,
            -0.07158497328140099722453054252582973869127,
            -0.02826905039406838290900305721271224146718,
        ],
    )
    correction = _vector(
        -1.0530884977290216,
        0.1017,
        2.490627285651252793,
        -16.54810288924490272,
        47.37952196281928122,
        -34.87065786149660974,
        2.5,
    )
    return Tableau(
        "tsit5",
        a,
        b=_vector(
            0.09646076681806522951816731316512876333712,
            0.01,
            0.4798896504144995747752495322905965199130,
            1.379008574103741893192274821856872770756,
            -3.290069515436080679901047585711363850116,
            2.324710524099773982415355918398765796109,
        ),
        c=_vector(0.0, 0.161, 0.327, 0.9, 0.9800255409045096857298102862870245954942, 1.0),
        order=5,
        source="Tsitouras (2011)",
        b_error=_vector(
            0.001780011052225771443378550607539534775944,
            0.0008164344596567469032236360633682468624618,
            -0.007880878010261996010314727672526304238628,
            0.1447110071732629075371658794719892385400,
            -0.5823571654525552250199376106520421794260,
            0.4580821059291869466616365188325542974428,
            -1 / 66,
        ),
        error_order=4,
        dense_order=4,
        dense_correction=correction[:, None],
    )


def _dop853() -> Tableau:
    """The method of order 8 of Hairer, Norsett and Wanner (1993), after Dormand and Prince.

    Its error estimates of order 5 and 3 combine to one that behaves like O(h^8); three extra stages give an
    interpolant of order 7.
    """
    d0, d1, d2, d3 = (_row(_dop853_table.INTERPOLANT[i], 16) for i in range(4))
    b = _row(_dop853_table.WEIGHTS, 12)
    return Tableau(
        "dop853",
        np.array([_row(_dop853_table.STAGES.get(i, {}), 12) for i in range(12)]),
        b=b,
        c=np.array(_dop853_table.NODES),
        order=8,
        source="Hairer, Norsett and Wanner (1993)",
        b_error=_row(_dop853_table.ERROR_ORDER_5, 12),
        error_order=7,
        b_error_low=b - _row(_dop853_table.WEIGHTS_ORDER_3, 12),
        dense_order=7,
        # d_0 + theta (d_1 + (1 - theta) (d_2 + theta d_3)) in powers of theta: d_2 theta and -d_2 theta^2, and so on.
        dense_correction=np.stack([d0, d1 + d2, d3 - d2, -d3], axis=1),
        a_extra=np.array([_row(_dop853_table.EXTRA_STAGES[i], 16) for i in (13, 14, 15)]),
        c_extra=np.array(_dop853_table.EXTRA_NODES),
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
