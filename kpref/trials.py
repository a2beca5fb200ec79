"""Trials: what a network receives at each step of each trial, what it should answer, and which steps count."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._archives import read_npz
from kpref._frozen import Frozen
from kpref._validate import check_shape, finite_array, first_index, numeric_array, place

_KEYS = ("inputs", "targets", "labels", "mask")
_CHANNELS = ("trial", "step", "channel")


@dataclass(frozen=True, eq=False)
class Trials(Frozen):
    """A set of B trials of T steps, checked once so that nothing downstream has to check it again.

    Parameters
    ----------
    inputs : array_like (B, T, n_in)
        What the network receives, float64; B, T and n_in at least 1.
    targets : array_like (B, T, n_out), optional
        What the readout should say at every step, float64.
    labels : array_like of int (B,) or (B, T), optional
        Instead of targets: the class, counted from 0, of every trial or of every step, int64.
    mask : array_like (T,) or (B, T), optional
        Weight of every step in the loss, finite, non-negative and not zero everywhere; booleans count as 0 and 1.
        Kept as float64 (B, T).

    Raises
    ------
    ValueError
        If an array is empty, has the wrong shape or kind, or holds NaN, infinity, a negative label or weight (the
        error names the trial, the step and the channel), or if both targets and labels are given.

    Notes
    -----
    The arrays are read-only copies: later changes to what was passed in do not reach the trials.
    """

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] | None = None
    mask: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        inputs = finite_array("inputs", self.inputs, shape=("B", "T", "n_in"), axes=_CHANNELS)
        for length, what in zip(inputs.shape, ("trial", "step", "input channel"), strict=True):
            if length == 0:
                raise ValueError(f"inputs must have at least one {what}; got shape {inputs.shape}")
        if self.targets is not None and self.labels is not None:
            raise ValueError("give targets or labels, not both")
        checked = {"inputs": inputs}
        if self.targets is not None:
            checked["targets"] = _checked_targets(self.targets, *inputs.shape[:2])
        if self.labels is not None:
            checked["labels"] = _checked_labels(self.labels, *inputs.shape[:2])
        if self.mask is not None:
            checked["mask"] = _checked_mask(self.mask, *inputs.shape[:2])
        for name, array in checked.items():
            object.__setattr__(self, name, array)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trials:
        """Read trials from an npz file with the array `inputs` and, if there, `targets` or `labels`, and `mask`.

        Parameters
        ----------
        path : path
            An npz file; it is never unpickled.

        Returns
        -------
        Trials

        Raises
        ------
        OSError
            If the file cannot be opened.
        ValueError
            If it is not an npz file, is truncated, holds Python objects, lacks `inputs`, has entries of other names,
            or its arrays are not valid trials; the error names the file and the entry.
        """
        arrays, notes = read_npz(path)
        unknown = [name for name in (*arrays, *notes) if name not in _KEYS or name in notes]
        if unknown:
            raise ValueError(
                f"{os.fspath(path)} has entries that are not arrays of trials: {', '.join(map(repr, unknown))}; "
                f"expected {', '.join(_KEYS)}"
            )
        if "inputs" not in arrays:
            raise ValueError(f"{os.fspath(path)} has no entry 'inputs'; it holds {', '.join(arrays) or 'nothing'}")
        try:
            return cls(**arrays)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    @property
    def n_trials(self) -> int:
        """Number of trials, B."""
        return int(self.inputs.shape[0])

    @property
    def n_steps(self) -> int:
        """Number of steps of every trial, T."""
        return int(self.inputs.shape[1])

    @property
    def n_inputs(self) -> int:
        """Number of input channels, n_in."""
        return int(self.inputs.shape[2])

    def subset(self, indices: ArrayLike) -> Trials:
        """Take some of the trials, in the order given.

        Parameters
        ----------
        indices : array_like of int (k,) or of bool (B,)
            Which trials, as in NumPy's indexing: negative ones count from the end, repeated ones are repeated.

        Returns
        -------
        Trials

        Raises
        ------
        ValueError
            If there is no such trial, or none is left.
        """
        chosen = numeric_array("indices", indices, "biu") if np.size(indices) else np.zeros(0, dtype=np.int64)
        check_shape("indices", chosen, shape=(self.n_trials,) if chosen.dtype.kind == "b" else ("k",))
        if chosen.dtype.kind != "b" and chosen.size:
            outside = (chosen < -self.n_trials) | (chosen >= self.n_trials)
            if outside.any():
                raise ValueError(f"there is no trial {chosen[first_index(outside)]} among {self.n_trials} trials")

        def take(array: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if array is None else array[chosen]

        return Trials(self.inputs[chosen], take(self.targets), take(self.labels), take(self.mask))


def _checked_targets(targets: ArrayLike, n_trials: int, n_steps: int) -> NDArray[np.float64]:
    checked = finite_array("targets", targets, shape=(n_trials, n_steps, "n_out"), axes=_CHANNELS)
    if checked.shape[2] == 0:
        raise ValueError(f"targets must have at least one output channel; got shape {checked.shape}")
    return checked


def _checked_labels(labels: ArrayLike, n_trials: int, n_steps: int) -> NDArray[np.int64]:
    given = numeric_array("labels", labels, "iu")
    if given.shape not in ((n_trials,), (n_trials, n_steps)):
        raise ValueError(f"labels must have shape ({n_trials},) or ({n_trials}, {n_steps}); got {given.shape}")
    checked = np.array(given, dtype=np.int64, order="C")
    bad = checked < 0  # unsigned ones beyond the range of int64 become negative too
    if bad.any():
        index = first_index(bad)
        where = place(index, _CHANNELS[: given.ndim])
        raise ValueError(f"labels holds {given[index]} at {where}; a label is a class counted from 0")
    checked.setflags(write=False)
    return checked


def _checked_mask(mask: ArrayLike, n_trials: int, n_steps: int) -> NDArray[np.float64]:
    given = finite_array("mask", mask, axes=_CHANNELS[2 - np.ndim(mask) : 2] if np.ndim(mask) in (1, 2) else None)
    if given.shape not in ((n_steps,), (n_trials, n_steps)):
        raise ValueError(f"mask must have shape ({n_steps},) or ({n_trials}, {n_steps}); got {given.shape}")
    negative = given < 0
    if negative.any():
        index = first_index(negative)
        where = place(index, _CHANNELS[2 - given.ndim : 2])
        raise ValueError(f"mask holds {given[index]} at {where}; a weight must not be negative")
    if not given.any():
        raise ValueError("mask is zero everywhere: no step counts")
    full = np.array(np.broadcast_to(given, (n_trials, n_steps)))
    full.setflags(write=False)
    return full
