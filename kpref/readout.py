"""The linear readout ``y = W_out z + b_out``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpref._frozen import Frozen
from kpref._types import Array
from kpref._validate import finite_array, numeric_array
from kpref.threads import serial_blas

__all__ = ["Readout"]


class Readout(Frozen):
    """A linear readout of states.

    Parameters
    ----------
    weight : array_like, shape (n_out, H)
    bias : array_like, shape (n_out,), optional

    Raises
    ------
    ValueError
        For an empty weight, shapes that do not match, or a number that is not finite.
    """

    def __init__(self, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> None:
        self.weight: Array = finite_array("the readout weight", weight, ndim=2)
        if 0 in self.weight.shape:
            raise ValueError(f"the readout weight must have shape (n_out, H), none of them 0; got {self.weight.shape}")
        self.bias: Array | None = (
            None if bias is None else finite_array("the readout bias", bias, shape=(self.n_outputs,))
        )

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return int(self.weight.shape[0])

    @property
    def n_states(self) -> int:
        """Number H of states that the readout takes."""
        return int(self.weight.shape[1])

    @serial_blas
    def __call__(self, states: npt.ArrayLike) -> Array:
        """Outputs (..., n_out) of states (..., H).

        Raises
        ------
        ValueError
            If the number of states differs.
        """
        states = numeric_array("states", states, "biufc")
        if states.ndim < 1 or states.shape[-1] != self.n_states:
            raise ValueError(f"the readout takes states of shape (..., {self.n_states}); got {states.shape}")
        outputs = states @ self.weight.T
        return outputs if self.bias is None else outputs + self.bias

    def over(self, n_states: int, observed: slice) -> Readout:
        """The same readout of states (n_states,) of which it takes the columns `observed`; itself if it takes all."""
        if self.n_states == n_states or self.n_states != observed.stop - observed.start:
            return self
        weight = np.zeros((self.n_outputs, n_states))
        weight[:, observed] = self.weight
        return Readout(weight, self.bias)

    def __repr__(self) -> str:
        return f"Readout({self.n_states} states, {self.n_outputs} outputs{'' if self.bias is None else ', bias'})"
