"""Trials: what a network receives at each step of each trial, what it should answer, and which steps count."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._archives import read_npz, replacing
from kpref._frozen import Frozen
from kpref._validate import check_shape, finite_array, first_index, numeric_array, path_like, place, short
from kpref.lengths import check_lengths, joined, points, without_tail

_KEYS = ("inputs", "targets", "labels", "mask", "lengths", "conditions", "state_noise")
_CHANNELS = ("trial", "step", "channel")


@dataclass(frozen=True, eq=False, repr=False)
class Trials(Frozen):
    """A set of B trials of at most T steps, checked once so that nothing downstream has to check it again.

    Two kinds of zero are kept apart. Steps after the end of a trial (`lengths`) do not exist: no number of a flow
    depends on them. Steps that `mask` leaves out exist, the network runs through them, and only the loss does not
    count them.

    Parameters
    ----------
    inputs : array_like (B, T, n_in), or sequence of B arrays (T_b, n_in)
        What the network receives, float64; B, T and n_in at least 1. Arrays of different lengths are padded with
        zeros, and `lengths` is then theirs. So it is with targets, labels of steps and masks, which must agree.
    targets : array_like (B, T, n_out), optional
        What the readout should say at every step, float64.
    labels : array_like of int (B,) or (B, T), optional
        Instead of targets: the class, counted from 0, of every trial or of every step, int64.
    mask : array_like (T,) or (B, T), optional
        Weight of every step in the loss, finite, non-negative and not zero everywhere; booleans count as 0 and 1.
        Kept as float64 (B, T).
    lengths : array_like of int (B,), optional
        Number of steps of every trial, from 1 to T. Without it, zeros at the end of a trial's mask are read as padding
        if the inputs there are zero or NaN in all trials: a network that receives something lives on, and then all
        trials are taken to. A trial whose mask is zero throughout says nothing about its length. `notes` tells what
        was read; with T for every trial the mask is a loss mask and nothing else.
    conditions : array_like of int or str (B,), optional
        Which group each trial belongs to, of a task with several: int64 or str.
    state_noise : array_like (B, T, S), optional
        What is added to the S states of a map after every step, float64: a realisation of its noise, which so belongs
        to the trials as their inputs do. Padded as these are.

    Attributes
    ----------
    lengths : ndarray, shape (B,), int64
        T for every trial that is as long as the arrays.
    notes : tuple of str
        What was assumed about the trials, in sentences.

    Raises
    ------
    ValueError
        If an array is empty, has the wrong shape or kind, or holds NaN, infinity, a negative label or weight (the
        error names the trial, the step and the channel), or if both targets and labels are given. Rows after the end
        of a trial may hold anything: they are not looked at, and kept as zeros.

    Notes
    -----
    The arrays are read-only copies: later changes to what was passed in do not reach the trials.
    """

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] | None = None
    mask: NDArray[np.float64] | None = None
    lengths: NDArray[np.int64] = None  # type: ignore[assignment]  # set below if it is not given
    conditions: NDArray[Any] | None = None
    state_noise: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.targets is not None and self.labels is not None:
            raise ValueError("give targets or labels, not both")
        inputs, sizes = joined("inputs", self.inputs, ("n_in",))
        inputs = numeric_array("inputs", inputs, "biuf")
        check_shape("inputs", inputs, shape=("B", "T", "n_in"))
        for length, what in zip(inputs.shape, ("trial", "step", "input channel"), strict=True):
            if length == 0:
                raise ValueError(f"inputs must have at least one {what}; got shape {inputs.shape}")
        shape = inputs.shape[:2]
        given = sizes if self.lengths is None else check_lengths(self.lengths, *shape)
        if given is not None and sizes is not None and not np.array_equal(given, sizes):
            raise ValueError("lengths must be those of the arrays in inputs, or be left out")
        arrays: dict[str, NDArray[Any]] = {"inputs": inputs}
        for name, value, trailing in (
            ("targets", self.targets, ("n_out",)),
            ("labels", self.labels, ()),
            ("mask", self.mask, ()),
            ("state_noise", self.state_noise, ("n_states",)),
        ):
            if value is not None:
                arrays[name] = _same_steps(name, value, trailing, shape, given)
        shared = "mask" in arrays and arrays["mask"].ndim == 1
        if "mask" in arrays:
            arrays["mask"] = _full_mask(arrays["mask"], *shape)
        notes: list[str] = []
        lengths = _lengths_of(arrays, notes) if given is None else given
        if (lengths < shape[1]).any():
            arrays = _without_tails(arrays, lengths, notes)
        checked: dict[str, Any] = {"inputs": _finite("inputs", arrays["inputs"], ("B", "T", "n_in"))}
        if "targets" in arrays:
            checked["targets"] = _checked_rows("targets", arrays["targets"], (*shape, "n_out"), "output channel")
        if "state_noise" in arrays:
            checked["state_noise"] = _checked_rows("state_noise", arrays["state_noise"], (*shape, "S"), "state")
        if "labels" in arrays:
            checked["labels"] = _checked_labels(arrays["labels"], *shape)
        if "mask" in arrays:
            checked["mask"] = _checked_mask(arrays["mask"], shared)
        if self.conditions is not None:
            checked["conditions"] = _checked_conditions(self.conditions, shape[0])
        checked |= {"lengths": check_lengths(lengths, *shape), "notes": tuple(notes)}
        for name, array in checked.items():
            object.__setattr__(self, name, array)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trials:
        """Read trials from an npz file whose arrays have the names of the parameters.

        That is `inputs` and, if there, `targets` or `labels`, `mask`, `lengths`, `conditions` and `state_noise`.

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
        TypeError
            If `path` is not one.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be that of an npz file; got {short(path)}")
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
            return cls(**arrays)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trials to an npz file that `load` reads, in place of what was there: wholly, or not at all.

        Parameters
        ----------
        path : path
            Its folder must exist. The same trials make the same file.

        Raises
        ------
        OSError
            If the file cannot be written.
        TypeError
            If `path` is not one.
        """
        with replacing(path_like("path", path)) as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]  # of arrays by their names

    @property
    def n_trials(self) -> int:
        """Number of trials, B."""
        return int(self.inputs.shape[0])

    @property
    def n_steps(self) -> int:
        """Number of steps of the arrays, T: that of every trial, unless `lengths` says otherwise."""
        return int(self.inputs.shape[1])

    @property
    def n_inputs(self) -> int:
        """Number of input channels, n_in."""
        return int(self.inputs.shape[2])

    @property
    def n_points(self) -> int:
        """Number of steps that exist, over all trials."""
        return int(self.lengths.sum())

    @property
    def groups(self) -> NDArray[Any] | None:
        """What trials are told apart by, shape (B,): conditions, or else labels of trials; None if there are none."""
        if self.conditions is not None:
            return self.conditions
        return self.labels if self.labels is not None and self.labels.ndim == 1 else None

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
        chosen = self.numbers(indices)
        return self._part({name: array[chosen] for name, array in self.arrays.items()})

    def numbers(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Numbers of the trials that `indices` choose, (k,); arguments and errors as for `subset`."""
        chosen = numeric_array("indices", indices, "biu") if np.size(indices) else np.zeros(0, dtype=np.int64)
        check_shape("indices", chosen, shape=(self.n_trials,) if chosen.dtype.kind == "b" else ("k",))
        if chosen.dtype.kind == "b":
            chosen = np.flatnonzero(chosen)
        if not chosen.size:
            raise ValueError(f"indices must choose at least one trial of {self.n_trials}; got {short(indices)}")
        outside = (chosen < -self.n_trials) | (chosen >= self.n_trials)
        if outside.any():
            raise ValueError(f"there is no trial {chosen[first_index(outside)]} among {self.n_trials} trials")
        return np.asarray(chosen, dtype=np.int64) % self.n_trials

    def trimmed(self) -> Trials:
        """Leave out the steps after the end of the longest trial: the same trials in smaller arrays."""
        longest = int(self.lengths.max())
        if longest == self.n_steps:
            return self
        arrays = self.arrays
        for name, array in arrays.items():
            if array.ndim > 1:
                arrays[name] = array[:, :longest]
        return self._part(arrays)

    def in_words(self, step: str = "step") -> str:
        """How many trials there are, and of how many steps (or times, or what a step is called)."""
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        steps = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        return f"{self.n_trials:,} trials of {steps} {step}s"

    def __repr__(self) -> str:
        parts = [f"{self.n_inputs} inputs"]
        parts += [] if self.targets is None else [f"{self.targets.shape[2]} targets"]
        parts += [name for name in ("labels", "mask", "conditions") if getattr(self, name) is not None]
        parts += [] if self.state_noise is None else [f"noise of {self.state_noise.shape[2]} states"]
        return f"Trials({self.in_words()}: {', '.join(parts)})"

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that there are, by the names of the parameters: what `load` reads from an npz file."""
        return {name: getattr(self, name) for name in _KEYS if getattr(self, name) is not None}

    def _part(self, arrays: dict[str, NDArray[Any]]) -> Trials:
        """Trials of some of these arrays, with the notes: nothing is read from the mask again."""
        part = Trials(**arrays)  # type: ignore[arg-type]
        object.__setattr__(part, "notes", self.notes)
        return part


def _same_steps(
    name: str, value: Any, trailing: Sequence[str], shape: tuple[int, int], lengths: NDArray[np.int64] | None
) -> NDArray[Any]:
    """An array of answers or weights; of a sequence of arrays, padded to T steps if their lengths are the trials'."""
    kinds = "iu" if name == "labels" else "biuf"
    array, sizes = joined(name, value, trailing, kinds)
    if sizes is None:
        return numeric_array(name, array, kinds)
    wanted = np.full(shape[0], shape[1]) if lengths is None else lengths
    if len(sizes) != shape[0]:
        raise ValueError(f"{name} must have one array for each of the {shape[0]} trials; got {len(sizes)}")
    if (sizes != wanted).any():
        (trial,) = first_index(sizes != wanted)
        raise ValueError(
            f"{name}[{trial}] must have {wanted[trial]} steps, the length of its trial; got {sizes[trial]}"
        )
    return np.pad(array, [(0, 0), (0, shape[1] - array.shape[1])] + [(0, 0)] * len(trailing))


# Lengths, and what stands after the end of a trial


def _lengths_of(arrays: dict[str, NDArray[Any]], notes: list[str]) -> NDArray[np.int64]:
    """Lengths as the mask tells them: see `Trials`. What was read, or not, goes into the notes."""
    n_trials, n_steps = arrays["inputs"].shape[:2]
    whole = np.full(n_trials, n_steps)
    if "mask" not in arrays:
        return whole
    scored = arrays["mask"] != 0
    some = scored.any(axis=1)
    starts = np.where(some, np.argmax(scored, axis=1), 0)
    if starts.any() and _hold_nothing(arrays["inputs"][points(starts, n_steps)]):
        notes.append(
            f"The mask is zero at the start of {np.count_nonzero(starts):,} of {n_trials:,} trials, where the inputs "
            "are zero too: these steps are taken to exist and only not to be scored. If they are padding, put it at "
            "the end."
        )
    lengths = np.where(some, n_steps - np.argmax(scored[:, ::-1], axis=1), n_steps)
    ended = int((lengths < n_steps).sum())
    if not ended:
        return whole
    if not _hold_nothing(arrays["inputs"][~points(lengths, n_steps)]):
        notes.append(
            f"The mask is zero at the end of {ended:,} of {n_trials:,} trials, where the inputs are not: these steps "
            "are taken to exist and only not to be scored. If they are padding, give `lengths` with the trials."
        )
        return whole
    notes.append(
        f"The zeros at the end of the mask are taken for padding, as the inputs hold nothing there either: {ended:,} "
        f"of {n_trials:,} trials end early, and {lengths.sum():,} of {n_trials * n_steps:,} steps exist. If all of "
        f"them exist and some are only not scored, give `lengths` with the trials, {n_steps} for each of them."
    )
    return lengths


def _hold_nothing(inputs: NDArray[Any]) -> bool:
    return bool(((inputs == 0) | np.isnan(inputs)).all())


def _without_tails(
    arrays: dict[str, NDArray[Any]], lengths: NDArray[np.int64], notes: list[str]
) -> dict[str, NDArray[Any]]:
    """The arrays with zeros after the end of each trial; the notes say which held something else there."""
    n_steps, cleared, others = arrays["inputs"].shape[1], {}, []
    for name, array in arrays.items():
        if array.shape[:2] != (len(lengths), n_steps):  # labels of trials, or a wrong shape, which is reported later
            cleared[name] = array
            continue
        if name in ("inputs", "targets") and array[~points(lengths, n_steps)].any():
            others.append(name)
        cleared[name] = without_tail(array, lengths)
        cleared[name].setflags(write=False)  # so that the check of its entries makes no other copy
    if others:
        notes.append(
            f"After the ends of trials, {' and '.join(others)} held other numbers than zero: they are not looked at."
        )
    return cleared


# Checks of the single arrays


def _finite(name: str, array: NDArray[Any], shape: Sequence[int | str]) -> NDArray[np.float64]:
    try:
        return finite_array(name, array, shape=shape, axes=_CHANNELS)
    except ValueError as error:
        if array.ndim == 3 and array.dtype.kind == "f" and np.isnan(array[:, -1]).all(axis=1).any():
            raise ValueError(f"{error}; if trials end before, give their lengths") from None
        raise


def _checked_rows(name: str, array: NDArray[Any], shape: Sequence[int | str], what: str) -> NDArray[np.float64]:
    """Finite numbers for every step, at least one; `what` each is of."""
    checked = _finite(name, array, shape)
    if checked.shape[2] == 0:
        raise ValueError(f"{name} must have at least one {what}; got shape {checked.shape}")
    return checked


def _checked_labels(given: NDArray[Any], n_trials: int, n_steps: int) -> NDArray[np.int64]:
    if given.shape not in ((n_trials,), (n_trials, n_steps)):
        raise ValueError(f"labels must have shape ({n_trials},) or ({n_trials}, {n_steps}); got {given.shape}")
    checked = np.array(given, dtype=np.int64, order="C")
    bad = checked < 0  # unsigned ones beyond the range of int64 become negative too
    if bad.any():
        index = first_index(bad)
        where = place(index, _CHANNELS[: given.ndim])
        what = "steps" if given.ndim == 2 else "trials"
        hint = f"give {what} that do not count any class, and 0 in the mask"
        raise ValueError(f"labels holds {given[index]} at {where}; a label is a class counted from 0: {hint}")
    checked.setflags(write=False)
    return checked


def _full_mask(given: NDArray[Any], n_trials: int, n_steps: int) -> NDArray[Any]:
    """The mask of every trial, a view."""
    if given.shape not in ((n_steps,), (n_trials, n_steps)):
        raise ValueError(f"mask must have shape ({n_steps},) or ({n_trials}, {n_steps}); got {given.shape}")
    return np.broadcast_to(given, (n_trials, n_steps))


def _checked_mask(given: NDArray[Any], shared: bool) -> NDArray[np.float64]:
    """The weights; `shared`: they were given once for all trials."""
    axes = _CHANNELS[:2]
    if shared:  # an error names no trial; that of the longest trial holds all that is left of it
        longest = given[int(np.argmax((given != 0).sum(axis=1)))]
        _check_weights(finite_array("mask", longest, axes=axes[1:]), axes[1:])
    checked = finite_array("mask", given, axes=axes)
    _check_weights(checked, axes)
    if not checked.any():
        raise ValueError("mask is zero everywhere: no step counts")
    return checked


def _check_weights(mask: NDArray[np.float64], axes: Sequence[str]) -> None:
    negative = mask < 0
    if negative.any():
        index = first_index(negative)
        raise ValueError(f"mask holds {mask[index]} at {place(index, axes)}; a weight must not be negative")


def _checked_conditions(conditions: ArrayLike, n_trials: int) -> NDArray[Any]:
    given = numeric_array("conditions", conditions, "iuU")
    check_shape("conditions", given, shape=(n_trials,))
    if given.dtype == np.uint64 and (given > np.iinfo(np.int64).max).any():
        raise ValueError(f"conditions holds {given.max()}; an integer must fit into 64 bits with a sign")
    checked = np.array(given, dtype=np.int64 if given.dtype.kind in "iu" else None)
    checked.setflags(write=False)
    return checked
