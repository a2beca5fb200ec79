"""Rate networks of excitatory and inhibitory units: Dale's law by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import flag, integer, real_number
from kpref.memory import require_memory
from kpref.models.base import Field
from kpref.models.currents import each_unit, excitatory_units
from kpref.models.leaky import LeakyNetwork
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import register

__all__ = ["ExcitatoryInhibitory"]


class ExcitatoryInhibitory(Field, LeakyNetwork):
    """The rate network ``tau dz/dt = -z + W phi(z) + U x + b`` of units that excite or inhibit all that they reach.

    Of Song, Yang and Wang (PLoS Computational Biology 12, 2016): the first E units are excitatory, the others
    inhibitory, and none reaches itself,

        W_ij = |V_ij| sign_j for i != j,    W_ii = 0,    dW_ij = sign(V_ij) sign_j dV_ij,

    with phi >= 0, so that what a unit sends has one sign. Coefficients and program are those of `kpref.models.leaky`;
    other masks, and signs in another order, are for `Rate`.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        V.
    bias : array_like, shape (H,), optional
    n_excitatory : int
        E, at most H.
    tau : float or array_like of shape (H,)
        Time constant, positive, in the unit of time of the flow; shared or one a unit.
    nonlinearity : {"relu", "softplus", "sigmoid"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, or a number that is not finite or out of its range.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        n_excitatory: int = 1,
        tau: npt.ArrayLike = 1.0,
        nonlinearity: str = "relu",
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, nonlinearity, trainable)
        get_nonlinearity(nonlinearity, ("relu", "softplus", "sigmoid"))
        units = self.n_units
        self.n_excitatory = excitatory_units(n_excitatory, units)
        self._constrain(1.0 - np.eye(units), np.where(np.arange(units) < self.n_excitatory, 1.0, -1.0))
        self.tau = each_unit("tau", tau, units)
        self.gate = np.broadcast_to(1.0 / self.tau, (units,)).copy()
        self.decay = -self.gate

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_units: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        n_excitatory: int | None = None,
        tau: npt.ArrayLike = 1.0,
        nonlinearity: str = "relu",
    ) -> Self:
        """A random network, four fifths of its units excitatory by default.

        As the authors begin: ``|V_ij|`` of a gamma distribution of shape 2, as much larger from inhibitory units as
        there are fewer of these, so that both kinds balance on average. The variances of a row add up to `gain`
        squared: the radius of the spectrum, but for what does not balance (Rajan and Abbott, Phys. Rev. Lett. 97,
        2006). Inputs are N(0, 1 / n_inputs).
        """
        n_inputs, n_units = integer("n_inputs", n_inputs, 1), integer("n_units", n_units, 1)
        gain, bias = real_number("gain", gain, least=0), flag("bias", bias)
        excitatory = excitatory_units(-(-4 * n_units // 5) if n_excitatory is None else n_excitatory, n_units)
        generator = np.random.default_rng(integer("seed", seed, 0))
        require_memory(16.0 * n_units * (n_units + n_inputs), f"{n_units = }, {n_inputs = }")
        ratio = excitatory / max(n_units - excitatory, 1)
        scale = np.where(np.arange(n_units) < excitatory, 1.0, max(ratio, 1.0))
        weight = generator.gamma(2.0, scale, size=(n_units, n_units)) * (gain / np.sqrt(2 * np.square(scale).sum()))
        inputs = generator.normal(size=(n_units, n_inputs)) / n_inputs**0.5
        return cls(inputs, weight, np.zeros(n_units) if bias else None, excitatory, tau, nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"n_excitatory": self.n_excitatory, "tau": self.tau, "nonlinearity": self.nonlinearity.name}

    @property
    def in_words(self) -> str:
        """Units by kind, and nonlinearity."""
        others = self.n_units - self.n_excitatory
        return f"Rate of {self.n_excitatory} excitatory and {others} inhibitory units ({self.nonlinearity.name})"


register(
    "excitatory-inhibitory",
    ExcitatoryInhibitory,
    ExcitatoryInhibitory.init,
    variants=({"nonlinearity": "softplus"},),
)
