"""Sine generation: a constant input chooses the frequency of an oscillation."""

from __future__ import annotations

import numpy as np

from kpref._validate import integer, real_number
from kpref.lengths import without_tail
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import Duration, balanced, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["sine_generation"]

_WAVES = 51


@task(
    inputs=("frequency",),
    outputs=("sine",),
    sources=(
        "Sussillo, Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural "
        "networks, Neural Computation 2013",
    ),
)
def sine_generation(
    n_trials: int = 100,
    *,
    seed: int = 0,
    steps: Duration = 100,
    dt: float = 0.2,
    waves: int = _WAVES,
    noise: float = 0.0,
) -> Trials:
    """Generate a sine wave of the frequency that a constant input names.

    Wave j = 1, ..., 51 has the angular frequency 0.04 j + 0.1 in the unit of time, the time constant of the network;
    the input is j / 51 + 0.25 at every step, and the target sin(omega n dt) at step n = 0, 1, .... All steps are
    scored. Conditions are the numbers j, in equal numbers.

    Parameters
    ----------
    n_trials : int
    seed : int
    steps : int or tuple of int
        Of each trial, or the smallest and the largest number.
    dt : float
        Time between two steps; for a network in continuous time that of its flow too.
    waves : int
        How many of the 51 waves there are, spread evenly over them from the slowest on.
    noise : float
        Standard deviation of the noise in the input at every step.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    interval = real_number("dt", dt, above=0)
    possible = np.linspace(1, _WAVES, integer("waves", waves, 1, _WAVES)).round().astype(np.int64)
    time = timeline(rng, n_trials, {"steps": steps})
    wave = possible[balanced(rng, len(possible), n_trials)]
    inputs = blank(n_trials, time.n_steps, 1) + (wave / _WAVES + 0.25)[:, None, None]
    phases = np.outer(0.04 * wave + 0.1, interval * np.arange(time.n_steps))
    targets = without_tail(np.sin(phases), time.lengths)[:, :, None]
    return Trials(with_noise(inputs, noise, rng, time.lengths), targets, lengths=time.lengths, conditions=wave)
