"""`Flow`: a model run over its trials, with the operators of its linearised dynamics. The front door of kpref."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref import operators
from kpref._validate import check_shape, finite_array, numeric_array
from kpref.gradient import GradientFlow
from kpref.linearize import SiteForm, linearize
from kpref.loss import evaluate_loss
from kpref.memory import require_memory
from kpref.models.base import Model
from kpref.operators import TensorOperator
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.threads import run_blocks

__all__ = ["Flow", "run"]

Array = npt.NDArray[Any]

#: Trials that the forward pass handles in one block.
_TRIALS_PER_BLOCK = 32


class Flow:
    """A discrete-time model on given trials: its trajectory and the operators of the K-P flow along it.

    Building it runs the model and computes the coefficients of its linearisation, O(B T H) numbers for each; the
    operators share them.

    Parameters
    ----------
    model : Model
    inputs : array_like, shape (B, T, n_inputs)
    z0 : array_like, shape (H,) or (B, H), optional
        Initial states, shared or one a trial; zero by default.
    measure : {"mean", "sum"} or array_like
        Weights of trials and time in the inner product; see `TrajectorySpace`.
    dtype : {float64, float32}
        Precision of the operators. The trajectory and the linearisation are computed in float64 in any case.

    Attributes
    ----------
    model : Model
    inputs : ndarray, shape (B, T, n_inputs)
    z0 : ndarray, shape (B, H)
    states : ndarray, shape (B, T, H)
        z[1..T], read-only.
    space : TrajectorySpace
    P, P_inverse, J, K, NTK, D_z0 : TensorOperator
        See `kpref.operators.propagation`.

    Raises
    ------
    ValueError
        If shapes do not match, a number is not finite, or the trajectory overflows (names trial and step).
    MemoryError
        Before anything is allocated, if the flow would not fit.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> model = kpref.models.GRU.init(n_inputs=3, n_states=16, seed=0)
    >>> flow = kpref.Flow(model, np.random.default_rng(0).normal(size=(5, 20, 3)))
    >>> flow.NTK(np.ones(flow.states.shape)).shape
    (5, 20, 16)
    """

    def __init__(
        self,
        model: Model,
        inputs: npt.ArrayLike,
        z0: npt.ArrayLike | None = None,
        measure: str | npt.ArrayLike = "mean",
        dtype: npt.DTypeLike = np.float64,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model must be one of kpref.models; got {type(model).__name__}")
        self.model = model
        self.dtype: np.dtype[Any] = _precision(dtype)
        self.inputs: Array = _inputs(inputs, model, self.dtype)
        trials, steps, _ = self.inputs.shape
        shape = (trials, steps, model.n_states)
        self.z0: Array = _initial_states(z0, trials, model.n_states)
        self.space = TrajectorySpace(shape, measure)
        drive = np.ascontiguousarray(self.inputs.swapaxes(0, 1))
        trajectory = run(model, drive, self.z0)
        self.linearization: SiteForm = linearize(model, trajectory[:-1], drive, self.dtype)
        self.states: Array = trajectory[1:].swapaxes(0, 1)
        self.states.flags.writeable = False

    @cached_property
    def P(self) -> TensorOperator:
        """Linearised flow propagator: how a change of the dynamics travels through time."""
        return operators.propagator(self.linearization, self.space)

    @cached_property
    def P_inverse(self) -> TensorOperator:
        """Inverse of the propagator: the forcing that a response comes from."""
        return operators.propagator_inverse(self.linearization, self.space)

    @cached_property
    def J(self) -> TensorOperator:
        """Parameter Jacobian: what a parameter step does to the dynamics at each point."""
        return operators.parameter_jacobian(self.linearization, self.space)

    @cached_property
    def K(self) -> TensorOperator:
        """Parameter operator ``K = J J*``."""
        return operators.kernel(self.linearization, self.space)

    @cached_property
    def NTK(self) -> TensorOperator:
        """Neural tangent kernel of the states, ``D D* = P K P*``."""
        return operators.neural_tangent_kernel(self.linearization, self.space)

    @cached_property
    def D_z0(self) -> TensorOperator:
        """``dZ/dz0``: initial states (B, H) to trajectories."""
        return operators.initial_state_jacobian(self.linearization, self.space)

    def gradient_flow(
        self,
        readout: Readout,
        targets: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        loss: str = "mse",
        mask: npt.ArrayLike | None = None,
        at: str = "all",
    ) -> GradientFlow:
        """What gradient descent on a loss would do to the parameters, the dynamics and the states.

        Parameters are those of `kpref.loss.evaluate_loss`.
        """
        value = evaluate_loss(self.states, self.space, readout, targets, labels, loss, mask, at)
        return GradientFlow(self, value)

    def with_model(self, model: Model) -> Flow:
        """The same trials, initial states and measure under another model."""
        return Flow(model, self.inputs, self.z0, self.space.mu, self.dtype)

    def __repr__(self) -> str:
        return f"Flow({self.model}, states {self.states.shape}, measure {self.space.measure!r}, {self.dtype})"


def run(model: Model, drive: Array, z0: Array) -> Array:
    """Run a map over its inputs, blocks of trials in parallel.

    Parameters
    ----------
    model : Model
    drive : ndarray, shape (T, B, n_inputs)
    z0 : ndarray, shape (B, H)

    Returns
    -------
    ndarray, shape (T + 1, B, H)
        z[0..T], time first.

    Raises
    ------
    ValueError
        If a state is not finite; names trial and step.
    """
    steps, trials, _ = drive.shape
    trajectory = np.empty((steps + 1, trials, model.n_states))
    trajectory[0] = z0
    blocks = [slice(start, start + _TRIALS_PER_BLOCK) for start in range(0, trials, _TRIALS_PER_BLOCK)]

    def task(index: int) -> None:
        block = blocks[index]
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, with the place
            for step in range(steps):
                trajectory[step + 1, block] = model.step(trajectory[step, block], drive[step, block])

    run_blocks(task, len(blocks))
    finite = np.isfinite(trajectory).all(axis=2)
    if not finite.all():
        step = int(np.argmin(finite.all(axis=1)))
        trial = int(np.argmin(finite[step]))
        raise ValueError(
            f"the trajectory overflows: the state of trial {trial} is not finite after step {step - 1} "
            f"(largest state before it: {np.abs(trajectory[step - 1, trial]).max():.3g})"
        )
    return trajectory


def _precision(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        precision = np.dtype(dtype)
    except TypeError:
        raise ValueError(f"dtype must be float64 or float32; got {dtype!r}") from None
    if precision not in (np.float64, np.float32):
        raise ValueError(f"dtype must be float64 or float32; got {precision}")
    return precision


def _inputs(inputs: npt.ArrayLike, model: Model, dtype: np.dtype[Any]) -> Array:
    """The inputs, checked; that there is memory for the flow as well, before they are copied."""
    given = numeric_array("inputs", inputs, "biuf")
    check_shape("inputs", given, ndim=3)
    if 0 in given.shape:
        raise ValueError(f"inputs must have at least one trial, step and channel; got shape {given.shape}")
    if given.shape[2] != model.n_inputs:
        raise ValueError(f"inputs must have shape (B, T, {model.n_inputs}) for this model; got {given.shape}")
    _check_memory(model, given.shape[0], given.shape[1], dtype)
    return finite_array("inputs", given, axes=("trial", "step", "channel"))


def _initial_states(z0: npt.ArrayLike | None, trials: int, units: int) -> Array:
    if z0 is None:
        return np.zeros((trials, units))
    array = finite_array("z0", z0)
    if array.shape not in ((units,), (trials, units)):
        raise ValueError(f"z0 must have shape ({units},) or ({trials}, {units}); got {array.shape}")
    return np.broadcast_to(array, (trials, units))


def _check_memory(model: Model, trials: int, steps: int, dtype: np.dtype[Any]) -> None:
    """States and coefficients, and three tensors for a product with the NTK; in one precision and float64 states.

    The inputs are there three times: as given, time first, and among the coefficients.
    """
    states = model.n_states * (8.0 + dtype.itemsize * (model.n_gates + 2 + 3))
    inputs = model.n_inputs * (16.0 + dtype.itemsize)
    require_memory(trials * steps * (states + inputs), f"a flow of {model} over {trials} trials of {steps} steps")
