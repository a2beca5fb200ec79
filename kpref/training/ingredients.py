"""What a training is made of, by the names and numbers that a command line or a table of settings has for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpref.models.base import Model
from kpref.models.registry import registered
from kpref.readout import Readout
from kpref.training.batches import Source
from kpref.trials import Trials

__all__ = ["BATCH", "Given", "fresh_trials", "given", "random_network"]

#: Trials that a task is trained on at each step, if nobody says how many.
BATCH = 64


@dataclass(frozen=True, eq=False)
class Given:
    """What a network learns, and how it is judged.

    Attributes
    ----------
    source : Trials or callable
        What `kpref.train` takes.
    n_inputs, n_outputs : int
    loss, at : str
    """

    source: Source
    n_inputs: int
    n_outputs: int
    loss: str
    at: str


def given(task: str | None, trials: str | None, loss: str | None = None, at: str | None = None) -> Given:
    """A task, by its name, or the trials of a file, with the loss that is meant for them unless one is given.

    Raises ValueError, TypeError, OSError if there is no such task or the file does not hold trials to learn from.
    """
    if task is not None:
        from kpref import tasks  # type: ignore[attr-defined]

        known = tasks.get(task)
        first = known.trials(1)
        return Given(known.trials, first.n_inputs, len(known.outputs), loss or known.loss, at or known.at)
    assert trials is not None
    found = Trials.load(trials)
    if found.targets is None and found.labels is None:
        raise ValueError(f"{trials} has neither targets nor labels to train on")
    outputs = int(found.labels.max()) + 1 if found.targets is None else found.targets.shape[2]  # type: ignore[union-attr]
    own = "cross_entropy" if found.targets is None else "mse"
    return Given(found, found.n_inputs, outputs, loss or own, at or "all")


def random_network(kind: str, what: Given, units: int, seed: int, gain: float) -> tuple[Model, Readout]:
    """A random network, and a readout as PyTorch's linear layers begin."""
    model = registered()[kind].init(what.n_inputs, units, seed, gain=gain)
    seen = model.observed.stop - model.observed.start
    rng = np.random.default_rng([seed, 1])
    largest = 1 / np.sqrt(seen)
    weight = rng.uniform(-largest, largest, (what.n_outputs, seen))
    return model, Readout(weight, rng.uniform(-largest, largest, what.n_outputs))


def fresh_trials(task: str, most: int, seed: int) -> Trials:
    """Trials that no training with this seed has seen: those that a task sets apart, up to so many, or new ones."""
    from kpref import tasks

    known = tasks.get(task)
    if not known.held_out:
        return known.trials(most, seed + 1)
    return known.trials(min(most, known.held_out), part="test")
