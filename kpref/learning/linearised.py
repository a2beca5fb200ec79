"""Gradient flow of the linearised network on a squared error, in closed form by the eigenmodes of its output NTK.

The linearised network is ``y(p) = y0 + D (p - p0)``, D the derivative of the outputs by all that is trained, and its
loss a quadratic form of the error e = y - y*,

    L = 1/2 <e, e>_M,      M = (2 / n_out) mu s,

with the measure mu and the density s of the loss (`kpref.loss`). Gradient flow, at unit learning rate, is

    dp/dt = -D^T M e,      de/dt = -D D^T M e = -NTK_M e,

self-adjoint in the inner product of M. With its eigenvalues lambda_i, eigenfunctions phi_i and c_i = <phi_i, e0>_M

    p(t) - p0 = -sum_i (1 - exp(-lambda_i t)) / lambda_i  c_i D^T M phi_i,
    L(t) = 1/2 sum_i exp(-2 lambda_i t) c_i^2,

and y(t) follows from p(t), at points that are not scored too. Without all of the modes, the rest of e0, orthogonal to
those that there are, decays at rates between 0 and that of the slowest of them: this bounds what is left out. See
Jacot, Gabriel and Hongler (2018), and Lee et al. (2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, integer, real_number
from kpref.flow import Flow
from kpref.learning.output_kernel import of_states, output_sensitivity
from kpref.loss import density, evaluate_loss
from kpref.operators import TensorOperator
from kpref.readout import Readout
from kpref.spectra import eigh
from kpref.spectra.symmetric import SymmetricForm

__all__ = ["LinearisedTraining", "linearised_training"]


@dataclass(frozen=True, eq=False)
class LinearisedTraining:
    """Training of a linearised network. Made by `kpref.learning.linearised_training`.

    Time is the learning rate times the number of steps, in the limit of small ones.

    Attributes
    ----------
    sensitivity : TensorOperator
        D, from parameters (M,) to outputs; its output space has the measure M of the loss.
    initial_outputs : ndarray, shape (B, T, n_out)
        y0.
    initial_error : ndarray, shape (B, T, n_out)
        e0, zero at points that are not scored.
    rates : ndarray, shape (k,)
        lambda_i, in descending order.
    modes : ndarray, shape (k, B, T, n_out)
        phi_i, orthonormal in M.
    coefficients : ndarray, shape (k,)
        c_i.
    rest : float
        Squared norm of what e0 has outside of the modes.
    rest_rate : float
        The fastest that it may decay: zero if no eigenvalue is left out.
    """

    sensitivity: TensorOperator
    initial_outputs: Array
    initial_error: Array
    rates: Array
    modes: Array
    coefficients: Array
    rest: float
    rest_rate: float

    __repr__ = short_repr

    def parameters(self, time: float) -> Array:
        """Change of the parameters up to a time, ``p(t) - p0``, (M,); the readout's come last."""
        time = real_number("time", time, least=0)
        rates = np.maximum(self.rates, 0.0)  # those that rounding has put below zero stand still
        slow = rates * time < 1e-300
        spans = np.where(slow, time, -np.expm1(-rates * time) / np.where(slow, 1.0, rates))
        along = np.tensordot(spans * self.coefficients, self.modes, axes=1)
        return np.asarray(-self.sensitivity.T(self.sensitivity.space_out.weigh(along)))

    def outputs(self, time: float) -> Array:
        """Outputs at a time, (B, T, n_out), those that are not scored among them."""
        return np.asarray(self.initial_outputs + self.sensitivity(self.parameters(time)))

    def loss(self, times: npt.ArrayLike) -> Array:
        """The loss at times (...): what is outside of the modes standing still, and so an upper bound."""
        return self._decayed(_times(times)) + 0.5 * self.rest

    def least_loss(self, times: npt.ArrayLike) -> Array:
        """A lower bound of the loss at times (...): what is outside of the modes as fast as the slowest of them."""
        at = _times(times)
        return self._decayed(at) + 0.5 * self.rest * np.exp(-2 * self.rest_rate * at)

    def deviation(self, outputs: npt.ArrayLike, time: float) -> float:
        """How far actual training has left the linearised one: ``|y - y_lin(t)| / |y_lin(t) - y0|``, norms of M.

        `outputs`: shape (B, T, n_out); of the network at that time. Near zero training is lazy; where it is of order
        one, features have changed: it is rich (Chizat, Oyallon and Bach 2019).
        """
        space = self.sensitivity.space_out
        predicted = self.outputs(time)
        moved = space.norm(predicted - self.initial_outputs)
        if moved == 0:
            raise ValueError(
                "the linearised outputs have not moved: take a time above zero, and an error to learn from"
            )
        found = finite_array("outputs", outputs, shape=predicted.shape, axes=("trial", "step", "output"))
        return space.norm(found - predicted) / moved

    def _decayed(self, times: Array) -> Array:
        decay = np.exp(-2 * np.maximum(self.rates, 0.0) * times[..., None])
        return np.asarray(0.5 * (decay * np.square(self.coefficients)).sum(axis=-1))


def _times(times: npt.ArrayLike) -> Array:
    """Times, checked."""
    at = finite_array("times", times)
    if (at < 0).any():
        raise ValueError(f"times must be at least 0; got {at.min()}")
    return at


def linearised_training(
    flow: Flow,
    readout: Readout,
    targets: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    at: str = "all",
    trainable_readout: bool = True,
    modes: int | None = None,
) -> LinearisedTraining:
    """Gradient flow of the linearised network on the mean squared error, at all times at once.

    Parameters
    ----------
    flow : Flow
    readout : Readout
    targets : array_like, shape (B, T, n_out)
    mask : array_like, shape (B, T) or broadcastable to it, optional
    at : {"all", "last"}
        As for `kpref.loss.evaluate_loss`.
    trainable_readout : bool
        Whether the readout is trained too.
    modes : int, optional
        How many of the leading modes to use. By default all that there are, which is exact, and takes a dense solver
        for a matrix of as many rows as scored numbers or parameters, whichever are fewer.

    Returns
    -------
    LinearisedTraining

    Raises
    ------
    TypeError, ValueError
        As `kpref.loss.evaluate_loss` does, and if `modes` is out of range.
    MemoryError
        Before anything is allocated, if the modes would not fit.
    """
    wide = of_states(flow, readout)
    value = evaluate_loss(flow.states, flow.space, wide, targets, mask=mask, at=at)
    weights = (2.0 / readout.n_outputs) * flow.space.mu * density(flow.space, mask, at)
    sensitivity = output_sensitivity(flow, readout, trainable_readout, weights)
    kernel = sensitivity.gram("NTK of the loss")
    scored = SymmetricForm(kernel).size
    rank = min(scored, sensitivity.shape[1])
    number = rank if modes is None else integer("modes", modes, 1, rank)
    found = eigh(kernel, number, method="dense" if number == rank else "auto")
    space = sensitivity.space_out
    error = np.where(weights[:, :, None] > 0, value.outputs - np.asarray(targets, dtype=float), 0.0)
    coefficients = np.array([space.inner(mode, error) for mode in found.vectors])
    rest = error - np.tensordot(coefficients, found.vectors, axes=1)
    left = space.inner(rest, rest) if number < scored else 0.0
    return LinearisedTraining(
        sensitivity, value.outputs, error, found.values, found.vectors, coefficients, left,
        0.0 if number == rank else max(float(found.values[-1]), 0.0),
    )  # fmt: skip
