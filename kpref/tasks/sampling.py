"""What every task needs to draw its trials: a generator, conditions in equal numbers, periods of time, and noise.

All that a seed decides is drawn from one generator, noise last: trials with and without noise are otherwise the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import instance, integer, real_number, short
from kpref.lengths import points, without_tail
from kpref.memory import require_memory
from kpref.trials import Trials

__all__ = ["Duration", "Timeline", "balanced", "blank", "generator", "timeline", "with_noise", "with_state_noise"]

Duration = int | tuple[int, int]
"""Steps of a period: a number, or the smallest and the largest of numbers that each trial draws one of."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The periods of B trials, one after the other.

    Attributes
    ----------
    starts, ends : dict of str to ndarray, shape (B,)
        First step of each period, and the first after it.
    lengths : ndarray, shape (B,)
        Steps of each trial.
    """

    starts: dict[str, npt.NDArray[np.int64]]
    ends: dict[str, npt.NDArray[np.int64]]
    lengths: npt.NDArray[np.int64]

    @property
    def n_steps(self) -> int:
        """Steps of the longest trial, T."""
        return int(self.lengths.max())

    def during(self, name: str) -> Array:
        """1 at the steps of a period, 0 at all others, shape (B, T)."""
        return points(self.ends[name], self.n_steps) - self.before(name)

    def before(self, name: str) -> Array:
        """1 at the steps before a period, 0 at all others, shape (B, T)."""
        return points(self.starts[name], self.n_steps).astype(float)


def generator(n_trials: int, seed: int) -> tuple[int, np.random.Generator]:
    """The number of trials, checked, for which there is memory, and the generator that all of them are drawn from."""
    n_trials = integer("n_trials", n_trials, 1)
    require_memory(200.0 * n_trials, f"a task of {n_trials} trials")  # for periods, conditions and the like
    return n_trials, np.random.default_rng(integer("seed", seed, 0))


def balanced(rng: np.random.Generator, number: int, n_trials: int) -> npt.NDArray[np.int64]:
    """One of `number` conditions a trial, in random order, each as often as any other, or once more."""
    return rng.permutation(np.arange(n_trials) % number)


def timeline(
    rng: np.random.Generator, n_trials: int, periods: Mapping[str, Duration], optional: Collection[str] = ()
) -> Timeline:
    """Periods one after the other, their steps given or drawn; those that are `optional` may have none."""
    starts, ends, end = {}, {}, np.zeros(n_trials, dtype=np.int64)
    for name, duration in periods.items():
        shortest, longest = _bounds(name, duration, 0 if name in optional else 1)
        starts[name] = end
        ends[name] = end = end + rng.integers(shortest, longest + 1, size=n_trials)
    return Timeline(starts, ends, end)


def blank(n_trials: int, n_steps: int, n_channels: int) -> Array:
    """Zeros of shape (B, T, n_channels), if there is memory for them, and for noise and copies of them."""
    require_memory(32.0 * n_trials * n_steps * n_channels, f"a task of {n_trials} trials of {n_steps} steps")
    return np.zeros((n_trials, n_steps, n_channels))


def with_noise(inputs: Array, noise: float, rng: np.random.Generator, lengths: npt.NDArray[np.int64]) -> Array:
    """Inputs with independent normal noise of this standard deviation in every channel, until the trials end."""
    deviation = real_number("noise", noise, least=0)
    if deviation:
        inputs = inputs + deviation * rng.standard_normal(inputs.shape)
    return without_tail(inputs, lengths)


def with_state_noise(trials: Trials, n_states: int, noise: float, seed: int = 0) -> Trials:
    """The same trials, with independent normal noise for the states of a map.

    Parameters
    ----------
    trials : Trials
        What noise of states they have is replaced.
    n_states : int
        States of the map: of a `kpref.models` model its ``n_states``, which for an LSTM count h and c.
    noise : float
        Standard deviation of what is added to each state after each step.
    seed : int
        Of the noise alone.

    Returns
    -------
    Trials

    Examples
    --------
    >>> import kpref
    >>> from kpref import tasks
    >>> model = kpref.models.GRU.init(3, 8, seed=0)
    >>> trials = tasks.with_state_noise(tasks.flip_flop(5), model.n_states, noise=0.05, seed=1)
    >>> kpref.Flow(model, trials).states.shape
    (5, 90, 8)
    """
    instance("trials", trials, Trials, "kpref.Trials")
    states, deviation = integer("n_states", n_states, 1), real_number("noise", noise, least=0)
    drawn = blank(trials.n_trials, trials.n_steps, states)
    drawn += deviation * np.random.default_rng(integer("seed", seed, 0)).standard_normal(drawn.shape)
    return replace(trials, state_noise=without_tail(drawn, trials.lengths))


def _bounds(name: str, duration: Duration, least: int) -> tuple[int, int]:
    bounds = duration if isinstance(duration, tuple | list) else (duration, duration)
    if len(bounds) != 2:
        raise ValueError(f"{name} must be a number of steps, or the smallest and the largest; got {short(duration)}")
    shortest = integer(name, bounds[0], least)
    longest = integer(name, bounds[1], least)
    if longest < shortest:
        raise ValueError(f"{name} must name the smaller number of steps first; got {short(duration)}")
    return shortest, longest
