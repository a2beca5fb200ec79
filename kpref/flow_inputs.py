"""What a flow is given: inputs, initial states and times, checked against the model and against the memory there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import check_shape, finite_array, numeric_array, real_number
from kpref.integrate import check_times
from kpref.lengths import joined
from kpref.memory import require_memory
from kpref.models.base import DenseModel, Field, Model
from kpref.models.step import StepModel
from kpref.trials import Trials

__all__ = ["field_inputs", "initial_states", "map_inputs", "state_noise", "time_grid", "with_lengths"]


def with_lengths(inputs: Any, lengths: npt.ArrayLike | None) -> tuple[Any, Any]:
    """Inputs and the lengths of their trials; sampled inputs are cleared of what stands after the ends."""
    if not isinstance(inputs, Trials):
        inputs, sizes = joined("inputs", inputs, ("n_inputs",))
        lengths = sizes if lengths is None else lengths
        if lengths is None or inputs is None or callable(inputs) or np.shape(inputs)[2:] == (0,):
            return inputs, lengths
        inputs = Trials(inputs, lengths=lengths)  # type: ignore[arg-type]
    elif lengths is not None:
        raise ValueError("trials have lengths of their own: give lengths with an array of inputs only")
    return inputs.inputs, inputs.lengths


def state_noise(inputs: Any, model: Model) -> Array | None:
    """The noise of the states, (B, T, S), if trials have it; ValueError if they are no trials of a map of this size."""
    noise = inputs.state_noise if isinstance(inputs, Trials) else None
    if noise is None:
        return None
    if isinstance(model, Field):
        raise ValueError(
            f"state noise is added after the steps of a map; {model} is in continuous time: add noise to its inputs, "
            "or take the map of its Euler steps, LeakyRNN"
        )
    if noise.shape[2] != model.n_states:
        raise ValueError(f"state_noise must be of the {model.n_states} states of {model}; got shape {noise.shape}")
    return noise


def map_inputs(inputs: Any, model: Model, dtype: np.dtype[Any]) -> Array:
    """The inputs, checked; that there is memory for the flow as well, before they are copied."""
    given = numeric_array("inputs", inputs, "biuf")
    check_shape("inputs", given, ndim=3)
    if 0 in given.shape[:2] or given.shape[2] == 0 < model.n_inputs:
        raise ValueError(f"inputs must have at least one trial, step and channel; got shape {given.shape}")
    if given.shape[2] != model.n_inputs:
        raise ValueError(f"inputs must have shape (B, T, {model.n_inputs}) for this model; got {given.shape}")
    _check_memory(model, given.shape[0], given.shape[1], dtype)
    return finite_array("inputs", given, axes=("trial", "step", "channel"))


def initial_states(z0: npt.ArrayLike | None, trials: int, model: Model) -> Array:
    """Initial states (B, H), where the model starts unless given, for all trials or for each."""
    units = model.n_states
    array = model.start if z0 is None else finite_array("z0", z0)
    if array.shape not in ((units,), (trials, units)):
        raise ValueError(f"z0 must have shape ({units},) or ({trials}, {units}); got {array.shape}")
    return np.broadcast_to(array, (trials, units))  # read-only


def _check_memory(model: Model, trials: int, steps: int, dtype: np.dtype[Any]) -> None:
    """States and coefficients, and three tensors for a product with the NTK; in one precision and float64 states.

    The inputs are there three times: as given, time first, and among the coefficients.
    """
    if isinstance(model, StepModel):
        coefficients = sum(model.program.channels.values())
    else:
        coefficients = model.n_states * (2 + (model.n_stored if isinstance(model, DenseModel) else 0))
    states = 8.0 * model.n_states + dtype.itemsize * (coefficients + 3.0 * model.n_states)
    inputs = model.n_inputs * (16.0 + dtype.itemsize)
    require_memory(trials * steps * (states + inputs), f"a flow of {model} over {trials} trials of {steps} steps")


def time_grid(times: npt.ArrayLike | None, dt: float | None, inputs: Any) -> Array:
    """The time grid, from its times or from the step of sampled inputs."""
    if (times is None) == (dt is None):
        raise ValueError("a model in continuous time needs its time grid: give either times or dt")
    if times is not None:
        return check_times(times)
    if callable(inputs) or inputs is None:
        raise ValueError("dt needs sampled inputs, one for each time; give times with a function of time or no inputs")
    step = real_number("dt", dt, above=0)
    shape = numeric_array("inputs", inputs, "biuf").shape
    if len(shape) != 3:
        raise ValueError(f"inputs must have shape (B, T, n_inputs); got {shape}")
    return check_times(step * np.arange(shape[1]))


def field_inputs(inputs: Any, z0: Any, model: Field, times: Array, dtype: np.dtype[Any]) -> tuple[Any, Array]:
    """Inputs and initial states of a field, checked against each other."""
    length = len(times)
    if inputs is None and model.n_inputs:
        raise ValueError(f"{model} needs inputs of shape (B, {length}, {model.n_inputs}), or a function of time")
    if callable(inputs):
        source, trials = inputs, _trials_of_function(inputs, model, float(times[0]))
    elif model.n_inputs == 0:
        given = None if inputs is None else numeric_array("inputs", inputs, "biuf").shape
        starts = () if z0 is None else numeric_array("z0", z0, "biuf").shape
        if given is not None and (len(given) != 3 or given[0] == 0 or given[1:] != (length, 0)):
            raise ValueError(
                f"inputs of {model}, which has none, must be None or of shape (B, {length}, 0); got {given}"
            )
        trials = given[0] if given is not None else starts[0] if len(starts) == 2 else 1
        _check_memory(model, trials, length, dtype)
        source = np.zeros((trials, length, 0))
        source.flags.writeable = False
    else:
        source = map_inputs(inputs, model, dtype)
        trials = len(source)
        if source.shape[1] != length:
            raise ValueError(f"inputs must have one row for each of the {length} times; got shape {source.shape}")
    _check_memory(model, trials, length, dtype)
    return source, initial_states(z0, trials, model)


def _trials_of_function(inputs: Callable[[float], npt.ArrayLike], model: Field, start: float) -> int:
    shape = np.shape(inputs(start))
    if len(shape) != 2 or shape[0] == 0 or shape[1] != model.n_inputs:
        raise ValueError(
            f"the input function must return shape (B, {model.n_inputs}) for this model; got {shape} at t = {start}"
        )
    return int(shape[0])
