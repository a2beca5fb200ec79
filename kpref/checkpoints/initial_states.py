"""Learnt initial states: one array, or one for each part of a unit's state, of one layer or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import finite_array
from kpref.checkpoints.sources import listed
from kpref.models import Model

__all__ = ["initial_shape", "initial_states"]


def initial_states(rest: Arrays, names: Sequence[str], model: Model) -> NDArray[np.float64]:
    """The learnt initial state of a network, put together in the order of its state.

    `rest`: name -> array, beside the recurrent layers. `names`: of one array for the whole state or, of a network whose
    state has several parts, one for each part: h, c.
    Returns shape (n_states,) or (B, n_states).
    Raises ValueError if there is no array of a name, there are too many or too few, or a shape does not match.
    """
    missing = [name for name in names if name not in rest]
    if missing:
        raise ValueError(
            f"there is no array {missing[0]!r} for z0= (--z0) beside the recurrent layer; got {listed(rest)}"
        )
    if len(names) == 1:
        whole = initial_shape(rest[names[0]], model.n_states, 1)
        if whole is not None:
            return finite_array(names[0], rest[names[0]].reshape(whole[1:]))
    parts = tuple(model.parts)  # layer by layer: h_l0, c_l0, h_l1, c_l1
    n_units = model.n_states // len(parts)
    n_layers = model.n_units_in_all // n_units
    letters = [part.partition("_")[0] for part in parts[: len(parts) // n_layers]]
    if len(names) != len(letters):
        raise ValueError(
            f"z0 (--z0) must name {' and '.join(letters)}, the parts of the state of {model}, in this order, "
            f"separated by commas on the command line; got {listed(names)}"
        )
    values = [_by_layer(name, rest[name], n_units, n_layers) for name in names]
    pieces = [value[layer] for layer in range(n_layers) for value in values]
    trials = np.broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
    return np.concatenate([np.broadcast_to(piece, (*trials, n_units)) for piece in pieces], axis=-1)


def initial_shape(array: NDArray[Any], n_units: int, n_layers: int) -> tuple[int, ...] | None:
    """(L, H) or (L, B, H) if an array can hold initial states of so many layers, with or without an axis for one."""
    shape = array.shape
    if n_layers == 1:
        shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
        shape = shape[1:] if len(shape) == 2 and shape[0] == 1 else shape
        shape = (1, *shape)
    elif len(shape) == 3 and shape[1] == 1:
        shape = (shape[0], shape[2])
    fits = len(shape) in (2, 3) and shape[0] == n_layers and shape[-1] == n_units and 0 not in shape
    return shape if fits else None


def _by_layer(name: str, array: NDArray[Any], n_units: int, n_layers: int) -> NDArray[np.float64]:
    """Initial states of the layers, (L, H) or (L, B, H)."""
    array = finite_array(name, array)
    shape = initial_shape(array, n_units, n_layers)
    if shape is None:
        one = f"({n_units},), or (B, {n_units}) for one initial state a trial, with or without an axis of length 1"
        several = f"({n_layers}, {n_units}), or ({n_layers}, B, {n_units}) for one initial state a trial"
        raise ValueError(
            f"{name} must have shape {f'{one} before it' if n_layers == 1 else several}; got {array.shape}"
        )
    return finite_array(name, array.reshape(shape))
