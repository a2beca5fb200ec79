"""Small systems in continuous time: Lorenz, van der Pol, and the normal forms of four bifurcations.

None of them has inputs. Their parameters are numbers, arrays of shape (). Each class states its vector field and,
beside it, the derivatives by states and by parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array
from kpref.models.base import Array, DenseField, Parameters

__all__ = ["Hopf", "Lorenz63", "Pitchfork", "SaddleNode", "Transcritical", "VanDerPol"]


class _Autonomous(DenseField):
    """A field without inputs, whose parameters are numbers."""

    n_inputs = 0

    def __init__(self, parameters: Mapping[str, npt.ArrayLike], trainable: Sequence[str] | None) -> None:
        checked = {name: finite_array(name, value, shape=()) for name, value in parameters.items()}
        super().__init__(checked, trainable)


class Lorenz63(_Autonomous):
    """The convection model of Lorenz, chaotic at its default parameters. States (x, y, z).

    ``dx/dt = sigma (y - x)``, ``dy/dt = x (rho - z) - y``, ``dz/dt = x y - beta z``. Differentiating,

        df/d(x, y, z) = [[-sigma, sigma, 0], [rho - z, -1, -x], [y, x, -beta]],
        df/dsigma = (y - x, 0, 0),   df/drho = (0, x, 0),   df/dbeta = (0, 0, -z).

    Parameters
    ----------
    sigma, rho, beta : float
        Prandtl number, relative Rayleigh number, aspect ratio.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For a parameter that is not a finite number.

    References
    ----------
    Lorenz, Deterministic nonperiodic flow, Journal of the Atmospheric Sciences 20 (1963), equations 25-27.
    """

    n_states = 3

    def __init__(
        self,
        sigma: npt.ArrayLike = 10.0,
        rho: npt.ArrayLike = 28.0,
        beta: npt.ArrayLike = 8.0 / 3.0,
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__({"sigma": sigma, "rho": rho, "beta": beta}, trainable)

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        sigma, rho, beta = parameters["sigma"], parameters["rho"], parameters["beta"]
        first, second, third = z[..., 0], z[..., 1], z[..., 2]
        return np.stack(
            [sigma * (second - first), first * (rho - third) - second, first * second - beta * third], axis=-1
        )

    def state_jacobian(self, z: Array, x: Array) -> Array:
        """Derivative by the states, as the class derives it."""
        jacobian = np.zeros((*z.shape, 3))
        jacobian[..., 0, 0] = -self.parameters["sigma"]
        jacobian[..., 0, 1] = self.parameters["sigma"]
        jacobian[..., 1, 0] = self.parameters["rho"] - z[..., 2]
        jacobian[..., 1, 1] = -1.0
        jacobian[..., 1, 2] = -z[..., 0]
        jacobian[..., 2, 0] = z[..., 1]
        jacobian[..., 2, 1] = z[..., 0]
        jacobian[..., 2, 2] = -self.parameters["beta"]
        return jacobian

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """Derivatives by the parameters, as the class derives them."""
        columns = {name: np.zeros(z.shape) for name in self.parameters}
        columns["sigma"][..., 0] = z[..., 1] - z[..., 0]
        columns["rho"][..., 1] = z[..., 0]
        columns["beta"][..., 2] = -z[..., 2]
        return columns


class VanDerPol(_Autonomous):
    """The oscillator of van der Pol, ``x'' - mu (1 - x**2) x' + x = 0``. States (x, y = x').

    ``dx/dt = y``, ``dy/dt = mu (1 - x**2) y - x``. Differentiating,

        df/d(x, y) = [[0, 1], [-2 mu x y - 1, mu (1 - x**2)]],   df/dmu = (0, (1 - x**2) y).

    Parameters
    ----------
    mu : float
        Strength of the nonlinear damping; positive for a limit cycle.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For a parameter that is not a finite number.

    References
    ----------
    Van der Pol, On relaxation-oscillations, Philosophical Magazine 2 (1926).
    """

    n_states = 2

    def __init__(self, mu: npt.ArrayLike, trainable: Sequence[str] | None = None) -> None:
        super().__init__({"mu": mu}, trainable)

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        position, speed = z[..., 0], z[..., 1]
        return np.stack([speed, parameters["mu"] * (1.0 - position**2) * speed - position], axis=-1)

    def state_jacobian(self, z: Array, x: Array) -> Array:
        """Derivative by the states, as the class derives it."""
        position, speed, mu = z[..., 0], z[..., 1], self.parameters["mu"]
        jacobian = np.zeros((*z.shape, 2))
        jacobian[..., 0, 1] = 1.0
        jacobian[..., 1, 0] = -2.0 * mu * position * speed - 1.0
        jacobian[..., 1, 1] = mu * (1.0 - position**2)
        return jacobian

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """Derivative by mu, as the class derives it."""
        column = np.zeros(z.shape)
        column[..., 1] = (1.0 - z[..., 0] ** 2) * z[..., 1]
        return {"mu": column}


class _ScalarNormalForm(_Autonomous):
    """A normal form on the line with one parameter r."""

    n_states = 1

    def __init__(self, r: npt.ArrayLike, trainable: Sequence[str] | None = None) -> None:
        super().__init__({"r": r}, trainable)

    @abstractmethod
    def _slope(self, z: Array) -> Array:
        """``df/dz``, entry by entry."""

    @abstractmethod
    def _parameter_slope(self, z: Array) -> Array:
        """``df/dr``, entry by entry."""

    def state_jacobian(self, z: Array, x: Array) -> Array:
        """Derivative by the state, as the class derives it."""
        return self._slope(z)[..., None]

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """Derivative by r, as the class derives it."""
        return {"r": self._parameter_slope(z)}


class SaddleNode(_ScalarNormalForm):
    """Normal form of the saddle-node bifurcation, ``dz/dt = r + z**2``: df/dz = 2 z, df/dr = 1.

    With this sign the two equilibria exist for r < 0: -sqrt(-r), stable, and sqrt(-r), unstable. For r > 0, and from
    above the unstable one, solutions reach infinity in finite time.

    Parameters
    ----------
    r : float
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For a parameter that is not a finite number.

    References
    ----------
    Strogatz, *Nonlinear Dynamics and Chaos* (1994), section 3.1.
    """

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return parameters["r"] + z**2

    def _slope(self, z: Array) -> Array:
        return 2.0 * z

    def _parameter_slope(self, z: Array) -> Array:
        return np.ones_like(z)


class Transcritical(_ScalarNormalForm):
    """Normal form of the transcritical bifurcation, ``dz/dt = r z - z**2``: df/dz = r - 2 z, df/dr = z.

    The equilibria 0 and r exchange stability at r = 0; for r > 0, z = r is the stable one.

    Parameters
    ----------
    r : float
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For a parameter that is not a finite number.

    References
    ----------
    Strogatz, *Nonlinear Dynamics and Chaos* (1994), section 3.2.
    """

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return parameters["r"] * z - z**2

    def _slope(self, z: Array) -> Array:
        return self.parameters["r"] - 2.0 * z

    def _parameter_slope(self, z: Array) -> Array:
        return z.copy()


class Pitchfork(_ScalarNormalForm):
    """Normal form of the supercritical pitchfork bifurcation, ``dz/dt = r z - z**3``: df/dz = r - 3 z**2, df/dr = z.

    For r > 0 the equilibria -sqrt(r) and sqrt(r) are stable and 0 is not; for r <= 0 there is 0 alone, stable.

    Parameters
    ----------
    r : float
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For a parameter that is not a finite number.

    References
    ----------
    Strogatz, *Nonlinear Dynamics and Chaos* (1994), section 3.4.
    """

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return parameters["r"] * z - z**3

    def _slope(self, z: Array) -> Array:
        return self.parameters["r"] - 3.0 * z**2

    def _parameter_slope(self, z: Array) -> Array:
        return z.copy()


class Hopf(_Autonomous):
    """Normal form of the supercritical Hopf bifurcation: ``dw/dt = (mu + i omega) w - |w|**2 w`` for w = x + i y.

    In Cartesian coordinates, with s = x**2 + y**2,

        dx/dt = mu x - omega y - s x,   dy/dt = omega x + mu y - s y,
        df/d(x, y) = [[mu - s - 2 x**2, -omega - 2 x y], [omega - 2 x y, mu - s - 2 y**2]],
        df/dmu = (x, y),   df/domega = (-y, x).

    The cubic coefficient is -1, real: radius and phase separate, dR/dt = mu R - R**3 and dphi/dt = omega. For mu > 0
    the circle R = sqrt(mu) is a stable limit cycle.

    Parameters
    ----------
    mu : float
        Growth rate of the equilibrium at 0.
    omega : float
        Angular frequency, in radians per unit of time.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For a parameter that is not a finite number.

    References
    ----------
    Kuznetsov, *Elements of Applied Bifurcation Theory*, 3rd edition (2004), section 3.4.
    """

    n_states = 2

    def __init__(self, mu: npt.ArrayLike, omega: npt.ArrayLike, trainable: Sequence[str] | None = None) -> None:
        super().__init__({"mu": mu, "omega": omega}, trainable)

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        first, second = z[..., 0], z[..., 1]
        growth = parameters["mu"] - (first**2 + second**2)
        omega = parameters["omega"]
        return np.stack([growth * first - omega * second, omega * first + growth * second], axis=-1)

    def state_jacobian(self, z: Array, x: Array) -> Array:
        """Derivative by the states, as the class derives it."""
        first, second = z[..., 0], z[..., 1]
        growth = self.parameters["mu"] - (first**2 + second**2)
        omega = self.parameters["omega"]
        jacobian = np.empty((*z.shape, 2))
        jacobian[..., 0, 0] = growth - 2.0 * first**2
        jacobian[..., 0, 1] = -omega - 2.0 * first * second
        jacobian[..., 1, 0] = omega - 2.0 * first * second
        jacobian[..., 1, 1] = growth - 2.0 * second**2
        return jacobian

    def parameter_jacobian(self, z: Array, x: Array) -> dict[str, Array]:
        """Derivatives by the parameters, as the class derives them."""
        return {"mu": z.copy(), "omega": np.stack([-z[..., 1], z[..., 0]], axis=-1)}
