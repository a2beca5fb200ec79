"""Which defect is it, of a trajectory? The map with a hypothetical defect, held against each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.models import GRU
from kpref.models.nonlinearity import sigmoid, sigmoid_pair
from kpref.oracle.certificates import Comparison, Judge
from kpref.oracle.hypotheses import pattern
from kpref.site_view import gru_currents

__all__ = ["explain_states"]

Array = npt.NDArray[Any]

#: Root mean square, in deviations, that rounding explains; part of the error that may be left otherwise.
_EXPLAINED, _LEFT = 3.0, 0.05


def explain_states(judge: Judge, z0: Array, states: Array, comparison: Comparison, bound: float) -> str:
    """Name the defect of a trajectory, each of whose steps starts from the trajectory itself.

    Parameters
    ----------
    judge : Judge
        At the backend's own states.
    z0 : ndarray, shape (B, H)
    states : ndarray, shape (B, T, H)
        The backend's.
    comparison : Comparison
        The residual.
    bound : float
        Deviations beyond which an entry is wrong.
    """
    own = comparison.spread.deviation
    deviation = np.maximum(own, 1e-2 * float(np.sqrt(np.mean(np.square(own)))))

    def rms(error: Array, part: Any = slice(None)) -> float:
        return float(np.sqrt(np.mean(np.square((error / deviation)[:, part]))))

    found, best, label = rms(comparison.error), np.inf, ""
    zero = judge.model.evaluate(np.zeros_like(z0), judge.inputs[0])
    if np.any(z0) and rms(states[:, :1] - zero[:, None], slice(1)) <= _EXPLAINED:
        return "z0 dropped: the trajectory starts from zero"
    if states.shape[1] > 1 and rms(states[:, :1] - z0[:, None], slice(1)) <= _EXPLAINED:
        return "time shifted by one: the states before each step for those after it"
    for name, value in _candidates(judge):
        part = slice(1, -1) if name.startswith("time") and states.shape[1] > 2 else slice(None)
        size = rms(states - np.moveaxis(value, 0, 1), part)
        if size < 0.999 * best:
            best, label = size, name
    if best <= min(_EXPLAINED, 0.5 * found):
        return label
    return pattern(comparison.ratio(), bound) or (label if best <= _LEFT * found else "")


def _candidates(judge: Judge) -> Iterator[tuple[str, Array]]:
    """Names of defects and the states (T, B, H) that each would lead to from the same starts."""
    model: Any = judge.model
    starts, inputs, parameters = judge.starts, judge.inputs, judge.model.parameters
    biases = {name: np.zeros_like(value) for name, value in parameters.items() if value.ndim == 1}
    changes = [(f"bias missing: {name} is left out", {name: value}) for name, value in biases.items()]
    if len(biases) > 1:
        changes.append(("bias missing: biases are left out", biases))
    units = model.n_states
    blocks = parameters["weight_hh"].reshape(-1, units, units)
    changes.append(("transpose: recurrent weight transposed", {"weight_hh": blocks.swapaxes(1, 2)}))
    changes.append(("recurrence: recurrent weight left out", {"weight_hh": np.zeros_like(blocks)}))
    changes.append(("inputs missing: inputs are not seen", {"weight_ih": np.zeros_like(parameters["weight_ih"])}))
    for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)) if isinstance(model, GRU) else ():
        for names in (tuple(parameters), *((name,) for name in parameters)):
            moved = {n: parameters[n].reshape(3, -1)[list(order)] for n in names}
            changes.append((f"gate order: blocks of {', '.join(names)} in the order {order}", moved))
    for name, change in changes:
        shaped = {n: np.reshape(value, parameters[n].shape) for n, value in change.items()}
        yield name, model.evaluate(starts, inputs, shaped)
    yield "zero: nothing was computed", np.zeros_like(starts)
    yield "sign: the negative of the right states", -model.evaluate(starts, inputs)
    for shift, word in ((1, "before"), (-1, "after")):
        yield f"time shifted by one: inputs of the step {word}", model.evaluate(starts, np.roll(inputs, shift, axis=0))
    if starts.shape[1] > 1:
        first = np.broadcast_to(inputs[:, :1], inputs.shape)
        yield "trials mixed: inputs of the first trial for all", model.evaluate(starts, first)
        yield "trials mixed: inputs of the neighbouring trial", model.evaluate(starts, np.roll(inputs, 1, axis=1))
    if isinstance(model, GRU):
        yield from _gru_variants(model, starts, inputs)
    elif hasattr(model, "nonlinearity"):
        linear = type(model)(**parameters, **{**model._options(), "nonlinearity": "identity"})
        yield "slope: the nonlinearity left out", linear.evaluate(starts, inputs)


def _gru_variants(model: GRU, h: Array, x: Array) -> Iterator[tuple[str, Array]]:
    """Gated units as other libraries define them."""
    reset, update, a_n, c_n = gru_currents(model.parameters, h, x)
    u, complement = sigmoid_pair(update)
    r, n = sigmoid(reset), np.tanh(c_n + sigmoid(reset) * a_n)
    yield "gate: the update gate complemented", u * n + complement * h
    units = model.n_states
    before = (r * h) @ model.parameters["weight_hh"][2 * units :].T
    if "bias_hh" in model.parameters:
        before = before + model.parameters["bias_hh"][2 * units :]
    yield "gate: the reset gate before the product", complement * np.tanh(c_n + before) + u * h
    yield "gate: the reset gate left out", complement * np.tanh(c_n + a_n) + u * h
