"""Lengths: how many of the T rows of each trial exist.

Trials of different lengths stand in one array (B, T, ...), padded at the end. What stands in the padding is no step of
any trial: nothing is computed from it, and it carries no weight. That is not what a loss mask says, whose steps exist
and are only not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._validate import check_shape, first_index, numeric_array

__all__ = ["check_lengths", "joined", "points", "without_tail"]


def check_lengths(lengths: ArrayLike, n_trials: int, n_steps: int) -> NDArray[np.int64]:
    """Lengths of trials as a read-only int64 vector.

    `lengths`: shape (B,); from 1 to T each. `n_trials`, `n_steps`: B and T.
    Returns shape (B,).
    Raises ValueError, which names the trial, if they are no integers, not one for each trial, or out of range.
    """
    given = numeric_array("lengths", lengths, "iu")
    check_shape("lengths", given, shape=(n_trials,))
    outside = (given < 1) | (given > n_steps)
    if outside.any():
        index = first_index(outside)
        raise ValueError(f"lengths holds {given[index]} at trial {index[0]}; expected 1 to {n_steps} steps")
    checked = np.array(given, dtype=np.int64)
    checked.setflags(write=False)
    return checked


def points(lengths: NDArray[np.int64], n_steps: int) -> NDArray[np.bool_]:
    """Which points exist, shape (B, T)."""
    return np.arange(n_steps) < lengths[:, None]


def without_tail(array: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """A copy of an array (B, T, ...) with zeros in the rows that do not exist, whatever stood there."""
    copy = np.array(array, order="C")
    copy[~points(lengths, array.shape[1])] = 0
    return copy


def joined(name: str, value: Any, trailing: Sequence[str], kinds: str = "biuf") -> tuple[Any, NDArray[np.int64] | None]:
    """A sequence of arrays of different lengths as one array, padded with zeros, and the lengths.

    Anything else is returned as it is, with None. `trailing` are the axes behind that of the steps, `kinds` those of
    the numbers as in `numeric_array`.
    """
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        value = list(value)
    if not isinstance(value, list | tuple):
        return value, None
    try:
        sizes = [len(part) for part in value]
    except TypeError:  # numbers
        return value, None
    if len(set(sizes)) < 2:
        return value, None
    parts = [numeric_array(f"{name}[{index}]", part, kinds) for index, part in enumerate(value)]
    for index, part in enumerate(parts):
        check_shape(f"{name}[{index}]", part, shape=(f"T_{index}", *(trailing if index == 0 else parts[0].shape[1:])))
        if not len(part):
            raise ValueError(f"{name}[{index}] must have at least one step; got shape {part.shape}")
    whole = np.zeros((len(parts), max(sizes), *parts[0].shape[1:]), np.result_type(*parts))
    for row, part in zip(whole, parts, strict=True):
        row[: len(part)] = part
    return whole, np.array(sizes, dtype=np.int64)
