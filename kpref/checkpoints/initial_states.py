"""Learnt initial states: one array, or one for each part of a unit's state, of one layer or of several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpref._archives import Arrays
from kpref._validate import finite_array
from kpref.checkpoints.sources import listed
from kpref.models import Model

__all__ = ["initial_shape", "initial_states"]

_OF_A_LAYER = re.compile(r"(.+)_l(\d+)")


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
    parts, of_layers = model.parts, [_OF_A_LAYER.fullmatch(part) for part in model.parts]
    n_layers = len({match[2] for match in of_layers if match}) if all(of_layers) else 1
    one = dict(list(parts.items())[: len(parts) // n_layers])  # layer by layer: h_l0, c_l0, h_l1, c_l1
    if len(names) != len(one):
        called = [part.partition("_l")[0] if n_layers > 1 else part for part in one]
        raise ValueError(
            f"z0 (--z0) must name {' and '.join(called)}, the parts of the state of {model}, in this order, "
            f"separated by commas on the command line; got {listed(names)}"
        )
    values = [
        _by_layer(name, rest[name], part.stop - part.start, n_layers)
        for name, part in zip(names, one.values(), strict=True)
    ]
    pieces = [value[layer] for layer in range(n_layers) for value in values]
    trials = np.broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
    return np.concatenate([np.broadcast_to(piece, (*trials, piece.shape[-1])) for piece in pieces], axis=-1)


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
