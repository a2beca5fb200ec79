"""Line attractor: a number between 0 and 1 is held and reported."""

from __future__ import annotations

import numpy as np

from kpref._validate import integer
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import Duration, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["line_attractor"]


@task(
    inputs=("fixation", "value"),
    outputs=("fixation", "value"),
    sources=(
        "github.com/meeree/kpflow, custom_tasks/line_attractor.py, as its first line describes it (its code does not "
        "run)",
    ),
)
def line_attractor(
    n_trials: int = 100,
    *,
    seed: int = 0,
    stimulus: Duration = 30,
    delay: Duration = 30,
    response: Duration = 30,
    values: int = 1,
    noise: float = 0.1 * 2**0.5,
) -> Trials:
    """Hold a number between 0 and 1, and report it when the fixation goes off.

    Inputs are the fixation, 1 until the response, and the number during the stimulus; targets are the fixation, and the
    number during the response. All steps are scored.

    Parameters
    ----------
    n_trials : int
    seed : int
    stimulus, delay, response : int or tuple of int
        Steps of each period, or the smallest and the largest number; the delay may have none.
    values : int
        How many numbers are held at once, each with a channel of its own.
    noise : float
        Standard deviation of the noise in every input and step.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    number = integer("values", values, 1)
    time = timeline(rng, n_trials, {"stimulus": stimulus, "delay": delay, "response": response}, optional=("delay",))
    inputs = blank(n_trials, time.n_steps, 1 + number)
    held = rng.uniform(0.0, 1.0, (n_trials, 1, number))
    inputs[:, :, 0] = time.before("response")
    inputs[:, :, 1:] = time.during("stimulus")[:, :, None] * held
    targets = np.concatenate([inputs[:, :, :1], time.during("response")[:, :, None] * held], axis=2)
    return Trials(with_noise(inputs, noise, rng, time.lengths), targets, lengths=time.lengths)
