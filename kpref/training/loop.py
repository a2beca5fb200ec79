"""Training: steps of an optimiser along gradients that this package derives; resumed, it comes to the same bits."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import flag, function, integer, real_number
from kpref.models.base import Model
from kpref.readout import Readout
from kpref.training.batches import Batches, Source
from kpref.training.objective import Objective
from kpref.training.optimizers import Optimizer, State, clip_norm, get_optimizer
from kpref.training.run_folder import Row, RunFolder
from kpref.trials import Trials

if TYPE_CHECKING:
    from kpref.rules import Rule

__all__ = ["History", "TrainingDiverged", "TrainingResult", "train"]


class TrainingDiverged(RuntimeError):
    """The loss, its gradient or the trajectory is not finite any more.

    Attributes
    ----------
    step : int
        Steps that had been taken.
    learning_rate : float
    checkpoint : Path or None
        The newest checkpoint, from before.
    """

    def __init__(self, reason: str, step: int, learning_rate: float, checkpoint: Path | None) -> None:
        self.step, self.learning_rate, self.checkpoint = step, learning_rate, checkpoint
        kept = "" if checkpoint is None else f"; the last good checkpoint is {checkpoint}"
        super().__init__(
            f"training diverged at step {step} with a learning rate of {learning_rate:g}: {reason}; try a smaller one, "
            f"or clip gradients{kept}"
        )


@dataclass(frozen=True, eq=False)
class History:
    """What was measured at each step, before its update: arrays (steps,).

    Attributes
    ----------
    step : ndarray of int
    loss : ndarray
        On the batch of the step, with the regularisers.
    accuracy : ndarray
        NaN for a regression.
    gradient_norm : ndarray
        Before clipping.
    seconds : ndarray
        Of the step.
    """

    step: npt.NDArray[np.int64]
    loss: Array
    accuracy: Array
    gradient_norm: Array
    seconds: Array

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained network.

    Attributes
    ----------
    model : Model
    readout : Readout
    z0 : ndarray, shape (H,)
        The initial state of all trials, trained or not.
    history : History
    """

    model: Model
    readout: Readout
    z0: Array
    history: History

    __repr__ = short_repr


def train(
    model: Model,
    readout: Readout,
    trials: Source,
    *,
    steps: int,
    loss: str = "mse",
    at: str = "all",
    optimizer: str | Optimizer = "adam",
    learning_rate: float = 1e-3,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: npt.DTypeLike = "float32",
    trainable: Sequence[str] | None = None,
    z0: npt.ArrayLike | None = None,
    weight_decay: float = 0.0,
    activity: float = 0.0,
    clip: float | None = None,
    rule: Rule | None = None,
    folder: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: Callable[[int, float], object] | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a network by gradients of this package.

    Parameters
    ----------
    model, readout, loss, at, dtype, trainable, z0, weight_decay, activity, rule, **options
        As `kpref.training.Objective` takes them.
    trials : Trials or callable
        Given trials, or ``trials(n_trials, seed) -> Trials``, which draws `batch_size` fresh ones for each step, such
        as the `trials` of a task of `kpref.tasks`.
    steps : int
        In all, those before a resumption among them.
    optimizer : {"gradient", "momentum", "nesterov", "adam", "adamw"}, Adam or GradientDescent
    learning_rate : float
    batch_size : int, optional
        Trials of a step; of given ones all by default.
    seed : int
        Of the order of trials.
    clip : float, optional
        The largest norm of a gradient, see `kpref.training.clip_norm`.
    folder : path, optional
        Where settings, checkpoints and metrics are kept (`kpref.training.run_folder`); without it nothing is written.
    checkpoint_every : int, optional
        Steps from one checkpoint to the next, a tenth of `steps` by default. The first and the last are written always.
    resume : bool
        Go on where the training in the folder stopped; to the same bits as one that never did, with the same versions
        on the same machine. If False, the folder must be new.
    progress : callable, optional
        Called with the number of steps done and the loss.

    Returns
    -------
    TrainingResult

    Raises
    ------
    TrainingDiverged
        If a number is not finite any more. What was written until then stays.
    ValueError, TypeError
        If an argument is not as said above, the loss is not finite at first, or the folder holds something else or a
        training with other settings.
    OSError
        If a file cannot be written, or another process trains in the folder; it is named.
    """
    steps = integer("steps", steps, least=0)
    learning_rate = real_number("learning_rate", learning_rate, above=0)
    clip = None if clip is None else real_number("clip", clip, above=0)
    way, resume = get_optimizer(optimizer), flag("resume", resume)
    if progress is not None:
        function("progress", progress, "the number of steps and the loss")
    every = integer("checkpoint_every", max(1, steps // 10) if checkpoint_every is None else checkpoint_every, least=1)
    batches = Batches(trials, batch_size, seed)
    objective = Objective(
        model, readout, batches.first, loss=loss, at=at, trainable=trainable, z0=z0, weight_decay=weight_decay,
        activity=activity, dtype=dtype, rule=rule, **options,
    )  # fmt: skip
    settings = {
        **_settings(objective, batches, options), "optimizer": repr(way), "learning_rate": learning_rate, "clip": clip,
        "rule": None if rule is None else _rule_as_text(rule), "activity": activity, "z0": _digest(objective.start.z0),
    }  # fmt: skip
    _require_finite(objective, batches)  # before anything is written
    with nullcontext() if folder is None else RunFolder(folder, settings, batches.first, resume) as place:
        run = _Run(objective, way, learning_rate, clip, place)
        run.go(batches, steps, every, progress)
    network = objective.network(run.vector)
    return TrainingResult(network.model, network.readout, np.array(network.z0), run.history())


class _Run:
    """A training as it goes: its parameters, the state of its optimiser, and what it has measured."""

    def __init__(
        self, objective: Objective, way: Optimizer, rate: float, clip: float | None, folder: RunFolder | None
    ) -> None:
        self.objective, self.way, self.rate, self.clip, self.folder = objective, way, rate, clip, folder
        self.vector = objective.vector.astype(objective.dtype)
        self.state: State = way.start(self.vector)
        self.done, self.rows, self.saved = 0, list[Row](), -1
        if folder is None:
            return
        found = folder.newest({"vector": self.vector, **self.state})
        if found is not None:
            self.done, arrays = found
            self.saved = self.done
            self.vector = arrays.pop("vector").copy()
            self.state = {name: array.copy() for name, array in arrays.items()}
        self.rows = folder.rows(self.done)

    def go(self, batches: Batches, steps: int, every: int, progress: Callable[[int, float], object] | None) -> None:
        """Take steps until there have been `steps`.

        Raises ValueError if there have been more already.
        """
        if self.done > steps:
            raise ValueError(f"steps must be at least the {self.done} that the training has taken already; got {steps}")
        while self.done < steps:
            if self.done % every == 0:
                self.save()
            began = time.perf_counter()
            metrics, gradient = self._evaluated(batches.at(self.done, self.objective))
            norm = clip_norm(gradient, self.clip)
            if not math.isfinite(metrics.loss) or not math.isfinite(norm):
                raise self._diverged(f"the {'gradient' if math.isfinite(metrics.loss) else 'loss'} is not finite")
            with np.errstate(all="ignore"):  # what is not finite any more is told at the next step
                self.way.update(self.vector, gradient, self.state, self.rate)
            row = (self.done, metrics.loss, metrics.accuracy, norm, time.perf_counter() - began)
            self.rows.append(row)
            if self.folder is not None:
                self.folder.record(row)
            self.done += 1
            if progress is not None:
                progress(self.done, metrics.loss)
        self.save()

    def _evaluated(self, batch: Any) -> Any:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return self.objective.evaluate(self.vector, batch)
        except ValueError as error:  # of numbers that are not finite: all else has been checked
            raise self._diverged(str(error)) from error

    def _diverged(self, reason: str) -> TrainingDiverged:
        kept = None
        if self.folder is not None:
            self.folder.flush()
            kept = self.folder.checkpoint(self.saved)
        return TrainingDiverged(reason, self.done, self.rate, kept)

    def save(self) -> None:
        """Write a checkpoint, unless it is there."""
        if self.folder is None or self.saved == self.done:
            return
        network = self.objective.network(self.vector)
        self.folder.save(self.done, network, {"vector": self.vector, **self.state}, "z0" in self.objective.names)
        self.saved = self.done

    def history(self) -> History:
        """What was measured."""
        columns: list[Any] = [list(column) for column in zip(*self.rows, strict=True)] or [[]] * 5
        step, loss, accuracy, norm, seconds = columns
        return History(
            np.array(step, np.int64), np.array(loss, float), np.array(accuracy, float), np.array(norm, float),
            np.array(seconds, float),
        )  # fmt: skip


def _require_finite(objective: Objective, batches: Batches) -> None:
    """ValueError if the first step cannot be taken: no learning rate is to blame for that."""
    with np.errstate(over="ignore", invalid="ignore"):
        metrics, gradient = objective.evaluate(objective.vector, batches.at(0, objective))
        if math.isfinite(metrics.loss) and math.isfinite(clip_norm(gradient, None)):
            return
    raise ValueError(
        f"the loss or its gradient is not finite in {objective.dtype} before the first step: make inputs, targets or "
        "initial parameters smaller"
    )


def _settings(objective: Objective, batches: Batches, options: dict[str, Any]) -> dict[str, Any]:
    """What a resumed training must share, by the names of the arguments."""
    source, start = batches.source, objective.start
    model = start.model
    if isinstance(source, Trials):
        trials = _digest(*(array for _, array in sorted(source.arrays.items())))
    else:
        trials = _digest(*(array for _, array in sorted(batches.first.arrays.items())))
    numbers = {name: np.asarray(value).tolist() for name, value in model.options.items()}
    return {
        "model": f"{type(model).__name__} {_as_text(numbers)}",
        "parameters": _digest(*model.parameters.values(), start.readout.weight, start.readout.bias),
        "trials": trials,
        "trainable": list(objective.names),
        "loss": objective.loss, "at": objective.at, "dtype": objective.dtype.name,
        "weight_decay": objective.weight_decay, "batch_size": batches.size, "seed": batches.seed,
        "options": {name: _as_text(value) for name, value in options.items()},
    }  # fmt: skip


def _rule_as_text(rule: Rule) -> str:
    """The name of a rule and the values that it was made with, the same in every process."""
    if not inspect.isfunction(rule):
        return f"{type(rule).__module__}.{type(rule).__qualname__}"
    made_with = {name: value for name, value in inspect.getclosurevars(rule).nonlocals.items() if not callable(value)}
    return f"{rule.__module__}.{rule.__qualname__} {_as_text(made_with)}"


def _as_text(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_as_text(item)}" for name, item in value.items()) + "}"
    return repr(np.asarray(value).tolist() if isinstance(value, np.ndarray) else value)


def _digest(*arrays: Any) -> str:
    """Of arrays, to the last bit."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]
