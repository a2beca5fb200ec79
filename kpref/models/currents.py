"""Networks of units that are driven by currents ``W m + U x + b``: their weights, and constraints on the recurrent one.

m are rates of the units, or whatever else they send. W is the trained array V itself, or V under constraints:
``W = V * mask`` (sparse connectivity), and by Dale's law ``W_ij = |V_ij| sign_j``, all that unit j sends having its
sign. Both are ``W = V * c``, ``dW = dV * c`` with the same

    c = mask * sign(V) * sign_j,

for the slope of ``|V|`` is ``sign(V)``, zero at zero as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, integer, short
from kpref.models.base import Array, Parameters
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.step import StepModel, network_sizes
from kpref.program import Builder, View
from kpref.step_form import Entry

__all__ = ["CurrentNetwork", "each_unit", "excitatory_units", "magnitude", "with_one"]


class CurrentNetwork(StepModel):
    """What they share: parameters ``weight_ih`` (H, n_inputs), ``weight_hh`` (H, H), ``bias`` (H,), and others (H,).

    Attributes
    ----------
    n_units : int
        H.
    states_of_a_unit : int
        How many parts the state has.
    nonlinearity : Nonlinearity
    mask : ndarray, shape (H, H), or None
        What each entry of the recurrent array is multiplied by.
    dale : ndarray, shape (H,), or None
        Sign of all that each unit sends.
    """

    states_of_a_unit: ClassVar[int] = 1
    mask: Array | None = None
    dale: Array | None = None

    def __init__(
        self,
        given: Mapping[str, npt.ArrayLike | None],
        nonlinearity: str,
        trainable: Sequence[str] | None,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        self.n_units, self.n_inputs = network_sizes(type(self).__name__, given["weight_hh"], given["weight_ih"])
        self.n_states = self.states_of_a_unit * self.n_units
        units = self.n_units
        shapes = {"weight_ih": (units, self.n_inputs), "weight_hh": (units, units)}
        checked = {
            name: finite_array(name, value, shape=shapes.get(name, (units,)))
            for name, value in given.items()
            if value is not None
        }
        super().__init__(checked, trainable)

    def _constrain(self, mask: npt.ArrayLike | None, dale: npt.ArrayLike | None) -> None:
        """Set `mask` and `dale`."""
        units = self.n_units
        if mask is not None:
            self.mask = finite_array("mask", mask, shape=(units, units))
        if dale is not None:
            self.dale = finite_array("dale", dale, shape=(units,))
            if not (np.abs(self.dale) == 1).all():
                raise ValueError(f"dale must hold the sign of each unit, 1 or -1; got {short(self.dale.tolist())}")

    @property
    def n_units_in_all(self) -> int:
        """H."""
        return self.n_units

    @property
    def in_words(self) -> str:
        """Units, and their nonlinearity."""
        return f"{type(self).__name__} of {self.n_units} units ({self.nonlinearity.name})"

    def _columns(self, part: int) -> slice:
        """Columns of the state of a part."""
        return slice(part * self.n_units, (part + 1) * self.n_units)

    def _factor(self, array: Array) -> Array | float:
        """What the recurrent array is multiplied by to give W; and a change of it, to give that of W."""
        factor: Array | float = 1.0 if self.mask is None else self.mask
        return factor if self.dale is None else factor * np.sign(array.real) * self.dale

    def _current(self, parameters: Parameters, sent: Array, x: Array) -> Array:
        """``W m + U x + b``."""
        array = parameters["weight_hh"]
        weight = array if self.mask is None and self.dale is None else array * self._factor(array)
        current = sent @ weight.T + x @ parameters["weight_ih"].T
        return current + parameters["bias"] if "bias" in parameters else current

    def _write_current(self, build: Builder, sent: View) -> View:
        """The currents; "recurrent" multiplies the variable "rates", "driven" the variable "drive"."""
        current = build.register(self.n_units)
        build.product(current, sent, "recurrent", "rates")
        build.product(current, None, "driven", "drive")
        return current

    def entries(self) -> tuple[Entry, ...]:
        """W and ``(U, b)``."""
        units, inputs = slice(0, self.n_units), self.n_inputs
        found = (
            Entry("weight_ih", "driven", units, units, slice(0, inputs)),
            Entry("weight_hh", "recurrent", units, units, units, factor=self._factor(self.parameters["weight_hh"])),
            Entry("bias", "driven", units, units, slice(inputs, inputs + 1)),
        )
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        return {"drive": with_one(x) if "bias" in self.parameters else x}


def with_one(x: Array) -> Array:
    """``(x, 1)``, (..., n + 1)."""
    return np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)


def magnitude(array: Array) -> Array:
    """``|array|``, analytic away from zero; ``np.sign(array)`` is its slope."""
    return array * np.sign(array.real)


def each_unit(name: str, value: npt.ArrayLike, units: int) -> Array:
    """A positive number, shared or one for each unit, (H,)."""
    given = finite_array(name, value)
    if given.shape not in ((), (units,)):
        raise ValueError(f"{name} must be a number or have shape ({units},); got shape {given.shape}")
    if (given <= 0).any():
        raise ValueError(f"{name} must be positive; got {given.min()}")
    return given


def excitatory_units(count: int, units: int) -> int:
    """A number of units that are excitatory."""
    if integer("n_excitatory", count, 0) > units:
        raise ValueError(f"n_excitatory must be at most the number of units, {units}; got {count}")
    return int(count)
