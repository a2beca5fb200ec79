"""The 25 non-stiff problems of DETEST, and a comparison with SciPy's solvers on them.

`python tests/apparatus/detest.py` prints, for every problem and adaptive method, the error at the end and the
number of evaluations of the right-hand side beside those of `scipy.integrate.solve_ivp` at the same tolerances.

References
----------
Hull, Enright, Fellen, Sedgwick, *Comparing numerical methods for ordinary differential equations*, SIAM J. Numer.
Anal. 9 (1972). Enright, Pryce, *Two FORTRAN packages for assessing initial value methods*, ACM TOMS 13 (1987), for
the constants of C5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from kpref.integrate.solve import adaptive

__all__ = ["PROBLEMS", "Comparison", "Problem", "compare", "reference", "table"]

FloatArray: TypeAlias = NDArray[np.float64]
VectorField: TypeAlias = Callable[[float, FloatArray], FloatArray]

SCIPY_METHODS = {"dopri5": "RK45", "tsit5": "RK45", "dop853": "DOP853"}
"""The solver of SciPy that each method is measured against: the one of its order."""


@dataclass(frozen=True, eq=False)
class Problem:
    """An initial value problem on [0, 20].

    Attributes
    ----------
    name : str
        Letter of the class and number.
    title : str
        What it models.
    f : callable
        f(t, y) with y of shape (..., H), to the same shape.
    z0 : ndarray, shape (H,)
        Initial state.
    t_end : float
        Final time.
    """

    name: str
    title: str
    f: VectorField
    z0: FloatArray
    t_end: float = 20.0

    def rhs(self, t: float, z: FloatArray, interval: int) -> FloatArray:
        """The vector field in the form that `kpref.integrate` takes."""
        return self.f(t, z)


def _columns(*columns: FloatArray) -> FloatArray:
    """Components, each (...), to a state (..., H)."""
    return np.stack(columns, axis=-1)


def _predator_prey(t: float, y: FloatArray) -> FloatArray:
    prey, predator = y[..., 0], y[..., 1]
    return _columns(2.0 * prey * (1.0 - predator), -predator * (1.0 - prey))


def _linear_reaction(t: float, y: FloatArray) -> FloatArray:
    return _columns(-y[..., 0] + y[..., 1], y[..., 0] - 2.0 * y[..., 1] + y[..., 2], y[..., 1] - y[..., 2])


def _nonlinear_reaction(t: float, y: FloatArray) -> FloatArray:
    return _columns(-y[..., 0], y[..., 0] - y[..., 1] ** 2, y[..., 1] ** 2)


def _torus(t: float, y: FloatArray) -> FloatArray:
    r = np.hypot(y[..., 0], y[..., 1])
    return _columns(-y[..., 1] - y[..., 0] * y[..., 2] / r, y[..., 0] - y[..., 1] * y[..., 2] / r, y[..., 0] / r)


def _rigid_body(t: float, y: FloatArray) -> FloatArray:
    return _columns(y[..., 1] * y[..., 2], -y[..., 0] * y[..., 2], -0.51 * y[..., 0] * y[..., 1])


def _decay_chain(rates: FloatArray) -> VectorField:
    """Every species decays at its rate into the next; the last is stable."""

    def f(t: float, y: FloatArray) -> FloatArray:
        flow = rates * y[..., :-1]
        derivative = np.zeros_like(y)
        derivative[..., :-1] -= flow
        derivative[..., 1:] += flow
        return derivative

    return f


def _diffusion(t: float, y: FloatArray) -> FloatArray:
    derivative = -2.0 * y
    derivative[..., 1:] += y[..., :-1]
    derivative[..., :-1] += y[..., 1:]
    return derivative


SUN_MASS = 1.00000597682
PLANET_MASSES = np.array(
    [0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778]
)
GRAVITY = 2.95912208286
PLANET_START = np.array(
    [
        [3.42947415189, 3.35386959711, 1.35494901715],
        [6.64145542550, 5.97156957878, 2.18231499728],
        [11.2630437207, 14.6952576794, 6.27960525067],
        [-30.1552268759, 1.65699966404, 1.43785752721],
        [-21.1238353380, 28.4465098142, 15.3882659679],
        [-0.557160570446, 0.505696783289, 0.230578543901],
        [-0.415570776342, 0.365682722812, 0.169143213293],
        [-0.325325669158, 0.189706021964, 0.0877265322780],
        [-0.0240476254170, -0.287659532608, -0.117219543175],
        [-0.176860753121, -0.216393453025, -0.0148647893090],
    ]
)
"""Positions, then velocities, of Jupiter, Saturn, Uranus, Neptune and Pluto relative to the sun."""


def _outer_planets(t: float, y: FloatArray) -> FloatArray:
    position, velocity = np.split(y.reshape(*y.shape[:-1], 10, 3), 2, axis=-2)
    pull = position / np.sum(position**2, axis=-1, keepdims=True) ** 1.5
    apart = position[..., None, :, :] - position[..., :, None, :]
    cubes = np.sum(apart**2, axis=-1) ** 1.5
    cubes[..., range(5), range(5)] = 1.0  # a planet does not attract itself: the distance vector there is zero
    mutual = np.einsum("k,...jki->...ji", PLANET_MASSES, apart / cubes[..., None])
    # The sun itself is attracted, by m_k y_k / r_k^3 from each of the other planets.
    indirect = np.einsum("k,...ki->...i", PLANET_MASSES, pull)[..., None, :] - PLANET_MASSES[:, None] * pull
    acceleration = GRAVITY * (-(SUN_MASS + PLANET_MASSES)[:, None] * pull + mutual - indirect)
    return np.concatenate([velocity, acceleration], axis=-2).reshape(y.shape)


def _orbit(t: float, y: FloatArray) -> FloatArray:
    position, velocity = y[..., :2], y[..., 2:]
    return np.concatenate([velocity, -position / np.sum(position**2, axis=-1, keepdims=True) ** 1.5], axis=-1)


def _orbit_start(eccentricity: float) -> FloatArray:
    return np.array([1.0 - eccentricity, 0.0, 0.0, np.sqrt((1.0 + eccentricity) / (1.0 - eccentricity))])


def _bessel(t: float, y: FloatArray) -> FloatArray:
    return _columns(y[..., 1], -y[..., 1] / (t + 1.0) - (1.0 - 0.25 / (t + 1.0) ** 2) * y[..., 0])


BESSEL_START = np.sqrt(2.0 / np.pi) * np.array([np.sin(1.0), np.cos(1.0) - 0.5 * np.sin(1.0)])
"""J_{1/2}(1) and its derivative, from J_{1/2}(x) = sqrt(2 / (pi x)) sin x."""


def _van_der_pol(t: float, y: FloatArray) -> FloatArray:
    return _columns(y[..., 1], (1.0 - y[..., 0] ** 2) * y[..., 1] - y[..., 0])


def _duffing(t: float, y: FloatArray) -> FloatArray:
    return _columns(y[..., 1], y[..., 0] ** 3 / 6.0 - y[..., 0] + 2.0 * np.sin(2.78535 * t))


def _falling_body(t: float, y: FloatArray) -> FloatArray:
    return _columns(y[..., 1], 0.032 - 0.4 * y[..., 1] ** 2)


def _pursuit(t: float, y: FloatArray) -> FloatArray:
    return _columns(y[..., 1], np.sqrt(1.0 + y[..., 1] ** 2) / (25.0 - t))


def _unit(size: int) -> FloatArray:
    return np.eye(size)[0]


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("A1", "exponential decay", lambda t, y: -y, np.array([1.0])),
        Problem("A2", "a special Riccati equation", lambda t, y: -(y**3) / 2.0, np.array([1.0])),
        Problem("A3", "an oscillating rate", lambda t, y: y * np.cos(t), np.array([1.0])),
        Problem("A4", "logistic growth", lambda t, y: y / 4.0 * (1.0 - y / 20.0), np.array([1.0])),
        Problem("A5", "a spiral curve", lambda t, y: (y - t) / (y + t), np.array([4.0])),
        Problem("B1", "two conflicting populations", _predator_prey, np.array([1.0, 3.0])),
        Problem("B2", "a linear chemical reaction", _linear_reaction, np.array([2.0, 0.0, 1.0])),
        Problem("B3", "a nonlinear chemical reaction", _nonlinear_reaction, np.array([1.0, 0.0, 0.0])),
        Problem("B4", "a curve on a torus", _torus, np.array([3.0, 0.0, 0.0])),
        Problem("B5", "Euler's rigid body", _rigid_body, np.array([0.0, 1.0, 1.0])),
        Problem("C1", "a radioactive decay chain", _decay_chain(np.ones(9)), _unit(10)),
        Problem("C2", "a decay chain of rising rates", _decay_chain(np.arange(1.0, 10.0)), _unit(10)),
        Problem("C3", "diffusion on 10 points", _diffusion, _unit(10)),
        Problem("C4", "diffusion on 51 points", _diffusion, _unit(51)),
        Problem("C5", "five outer planets", _outer_planets, PLANET_START.reshape(-1)),
        Problem("D1", "an orbit of eccentricity 0.1", _orbit, _orbit_start(0.1)),
        Problem("D2", "an orbit of eccentricity 0.3", _orbit, _orbit_start(0.3)),
        Problem("D3", "an orbit of eccentricity 0.5", _orbit, _orbit_start(0.5)),
        Problem("D4", "an orbit of eccentricity 0.7", _orbit, _orbit_start(0.7)),
        Problem("D5", "an orbit of eccentricity 0.9", _orbit, _orbit_start(0.9)),
        Problem("E1", "Bessel's equation of order 1/2", _bessel, BESSEL_START),
        Problem("E2", "van der Pol's equation", _van_der_pol, np.array([2.0, 0.0])),
        Problem("E3", "Duffing's equation", _duffing, np.array([0.0, 0.0])),
        Problem("E4", "a falling body", _falling_body, np.array([30.0, 0.0])),
        Problem("E5", "a linear pursuit", _pursuit, np.array([0.0, 0.0])),
    )
}
"""The problems by name, in the order of the paper."""


@cache
def reference(name: str) -> FloatArray:
    """The state at the end of a problem, by SciPy's DOP853 at tolerances of 1e-13: shape (H,)."""
    problem = PROBLEMS[name]
    result = solve_ivp(problem.f, (0.0, problem.t_end), problem.z0, method="DOP853", rtol=1e-13, atol=1e-13)
    return result.y[:, -1]


@dataclass(frozen=True)
class Comparison:
    """One problem and method against SciPy at the same tolerances.

    Attributes
    ----------
    problem, method : str
        Names.
    error, scipy_error : float
        Largest error of a component at the end.
    evaluations, scipy_evaluations : int
        All calls of the right-hand side.
    """

    problem: str
    method: str
    error: float
    scipy_error: float
    evaluations: int
    scipy_evaluations: int

    @property
    def error_ratio(self) -> float:
        """Our error by SciPy's."""
        return self.error / self.scipy_error

    @property
    def evaluation_ratio(self) -> float:
        """Our evaluations by SciPy's."""
        return self.evaluations / self.scipy_evaluations


def compare(name: str, method: str, rtol: float = 1e-8, atol: float = 1e-8) -> Comparison:
    """Solve a problem with `method` and with SciPy's solver of the same order.

    Parameters
    ----------
    name : str
        A key of `PROBLEMS`.
    method : str
        "dopri5", "tsit5" or "dop853".
    rtol, atol : float
        Tolerances of both.

    Returns
    -------
    Comparison
    """
    problem = PROBLEMS[name]
    span, solver = (0.0, problem.t_end), SCIPY_METHODS[method]
    ours = adaptive(problem.rhs, span, problem.z0[None], method, rtol=rtol, atol=atol)
    theirs = solve_ivp(problem.f, span, problem.z0, method=solver, rtol=rtol, atol=atol)
    exact = reference(name)
    return Comparison(
        name,
        method,
        float(np.max(np.abs(ours.states[-1, 0] - exact))),
        float(np.max(np.abs(theirs.y[:, -1] - exact))),
        ours.n_evaluations,
        theirs.nfev,
    )


def table(comparisons: Iterable[Comparison]) -> str:
    """Comparisons as lines of text."""
    lines = [
        f"{'':3} {'method':7} {'error':>9} {'SciPy':>9} {'ratio':>7} {'evaluations':>12} {'SciPy':>6} {'ratio':>6}"
    ]
    for c in comparisons:
        lines.append(
            f"{c.problem:3} {c.method:7} {c.error:9.2e} {c.scipy_error:9.2e} {c.error_ratio:7.2f} "
            f"{c.evaluations:12d} {c.scipy_evaluations:6d} {c.evaluation_ratio:6.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(compare(name, method) for name in PROBLEMS for method in SCIPY_METHODS))
