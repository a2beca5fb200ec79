"""Directions to be reported later: memory-pro, memory-anti, delay-pro and delay-anti, alone and mixed.

A direction (cos a, sin a) is shown; when the fixation goes off, the network answers with it (pro) or with its opposite
(anti). In the memory tasks it is shown at the beginning alone and has to be held, in the delay tasks it stays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import Duration, balanced, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["delay_anti", "delay_pro", "memory_anti", "memory_pro", "mixed"]

CHANNELS = ("fixation", "cosine", "sine")
RULES = ("memory_pro", "memory_anti", "delay_pro", "delay_anti")
NOISE = 0.1 * 2**0.5
"""Standard deviation of noise in the inputs, as in KPFlow."""

SOURCES = (
    "Yang, Joglekar, Song, Newsome, Wang, Task representations in neural networks trained to perform many cognitive "
    "tasks, Nature Neuroscience 2019",
    "Driscoll, Shenoy, Sussillo, Flexible multitask computation in recurrent networks utilizes shared dynamical "
    "motifs, Nature Neuroscience 2024",
    "Hazelden, Driscoll, Shlizerman, Shea-Brown, KPFlow, arXiv:2507.06381; github.com/meeree/kpflow, "
    "custom_tasks/memory_pro.py and mix_multi_tasks.py",
)


@task(inputs=CHANNELS, outputs=CHANNELS, sources=SOURCES)
def memory_pro(
    n_trials: int = 100,
    *,
    seed: int = 0,
    stimulus: Duration = 30,
    delay: Duration = 30,
    response: Duration = 30,
    noise: float = NOISE,
    angles: npt.ArrayLike | None = None,
) -> Trials:
    """Hold a direction that was shown, and report it when the fixation goes off.

    Inputs are the fixation, 1 until the response, and the cosine and sine of the angle, during the stimulus; targets
    are the fixation, and the cosine and sine during the response. All steps are scored. The bundled networks learnt
    this task; the trials bundled with them have no noise and 100 angles that are evenly spaced.

    Parameters
    ----------
    n_trials : int
    seed : int
    stimulus, delay, response : int or tuple of int
        Steps of each period, or the smallest and the largest number, of which each trial draws its own; the delay may
        be none.
    noise : float
        Standard deviation of the noise in every input and step.
    angles : array_like, shape (n_trials,), optional
        In radians; by default drawn, uniformly.

    Returns
    -------
    Trials

    Examples
    --------
    >>> from kpref import tasks
    >>> tasks.memory_pro(5, delay=(10, 50))
    Trials(5 trials of 90 to 109 steps: 3 inputs, 3 targets)
    """
    return _respond(n_trials, seed, {"stimulus": stimulus, "delay": delay, "response": response}, noise, angles, 0)


@task(inputs=CHANNELS, outputs=CHANNELS, sources=SOURCES)
def memory_anti(
    n_trials: int = 100,
    *,
    seed: int = 0,
    stimulus: Duration = 30,
    delay: Duration = 30,
    response: Duration = 30,
    noise: float = NOISE,
    angles: npt.ArrayLike | None = None,
) -> Trials:
    """Hold a direction that was shown, and report its opposite when the fixation goes off.

    Channels and parameters are those of `memory_pro`.
    """
    return _respond(n_trials, seed, {"stimulus": stimulus, "delay": delay, "response": response}, noise, angles, 1)


@task(inputs=CHANNELS, outputs=CHANNELS, sources=SOURCES)
def delay_pro(
    n_trials: int = 100,
    *,
    seed: int = 0,
    stimulus: Duration = 30,
    delay: Duration = 30,
    response: Duration = 30,
    noise: float = NOISE,
    angles: npt.ArrayLike | None = None,
) -> Trials:
    """Report a direction, which stays on, when the fixation goes off.

    Channels and parameters are those of `memory_pro`; the inputs show the direction until the end of the trial.
    """
    return _respond(n_trials, seed, {"stimulus": stimulus, "delay": delay, "response": response}, noise, angles, 2)


@task(inputs=CHANNELS, outputs=CHANNELS, sources=SOURCES)
def delay_anti(
    n_trials: int = 100,
    *,
    seed: int = 0,
    stimulus: Duration = 30,
    delay: Duration = 30,
    response: Duration = 30,
    noise: float = NOISE,
    angles: npt.ArrayLike | None = None,
) -> Trials:
    """Report the opposite of a direction, which stays on, when the fixation goes off.

    Channels and parameters are those of `memory_pro`; the inputs show the direction until the end of the trial.
    """
    return _respond(n_trials, seed, {"stimulus": stimulus, "delay": delay, "response": response}, noise, angles, 3)


@task(inputs=(*CHANNELS, *RULES), outputs=CHANNELS, sources=SOURCES)
def mixed(
    n_trials: int = 100,
    *,
    seed: int = 0,
    context: Duration = 30,
    stimulus: Duration = 30,
    delay: Duration = 30,
    response: Duration = 30,
    noise: float = NOISE,
    angles: npt.ArrayLike | None = None,
) -> Trials:
    """Do memory-pro, memory-anti, delay-pro or delay-anti, as was told at the beginning.

    During the context one of four channels is 1 and says which task follows; the fixation is on from its beginning.
    The other channels and parameters are those of `memory_pro`. Conditions are the names of the four tasks, in equal
    numbers.

    Parameters
    ----------
    n_trials : int
    seed : int
    context, stimulus, delay, response : int or tuple of int
        Steps of each period, or the smallest and the largest number.
    noise : float
        Standard deviation of the noise in every input and step.
    angles : array_like, shape (n_trials,), optional
        In radians; by default drawn, uniformly.

    Returns
    -------
    Trials
    """
    periods = {"context": context, "stimulus": stimulus, "delay": delay, "response": response}
    return _respond(n_trials, seed, periods, noise, angles, None)


def _respond(
    n_trials: int,
    seed: int,
    periods: dict[str, Duration],
    noise: float,
    angles: npt.ArrayLike | None,
    rule: int | None,
) -> Trials:
    """Trials of one of the `RULES`; of all of them, which the context tells, if `rule` is None."""
    n_trials, rng = generator(n_trials, seed)
    drawn = rng.uniform(0.0, 2 * np.pi, n_trials)
    turned = drawn if angles is None else finite_array("angles", angles, shape=(n_trials,))
    time = timeline(rng, n_trials, periods, optional=("delay",))
    rules = balanced(rng, len(RULES), n_trials) if rule is None else np.full(n_trials, rule)
    direction = np.stack([np.cos(turned), np.sin(turned)], axis=1)[:, None]
    shown = np.where((rules >= 2)[:, None], 1.0 - time.before("stimulus"), time.during("stimulus"))

    inputs = blank(n_trials, time.n_steps, len(CHANNELS) + (len(RULES) if rule is None else 0))
    inputs[:, :, 0] = time.before("response")
    inputs[:, :, 1:3] = shown[:, :, None] * direction
    if rule is None:
        inputs[:, :, 3:] = time.during("context")[:, :, None] * np.eye(len(RULES))[rules][:, None]
    answer = np.where(rules % 2 == 1, -1.0, 1.0)[:, None, None] * direction
    targets = np.concatenate([inputs[:, :, :1], time.during("response")[:, :, None] * answer], axis=2)
    return Trials(
        with_noise(inputs, noise, rng, time.lengths),
        targets,
        lengths=time.lengths,
        conditions=np.array(RULES)[rules] if rule is None else None,
    )
