"""The flip-flop: a memory of bits that short pulses set and reset."""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref._validate import flag, integer, real_number
from kpref.lengths import without_tail
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import Duration, balanced, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["flip_flop", "flip_flop_anti"]

BITS = ("bit_1", "bit_2", "bit_3")
NOISE = 0.03 * 2**0.5
"""Standard deviation of noise in the inputs, as in KPFlow."""

SOURCES = (
    "Sussillo, Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural networks, "
    "Neural Computation 2013",
    "Golub, Sussillo, FixedPointFinder, JOSS 2018; github.com/mattgolub/fixed-point-finder, "
    "examples/helper/FlipFlopData.py, from which the pulses at the first step",
    "github.com/meeree/kpflow, custom_tasks/flip_flop.py, from which steps, frequency of pulses, noise, and the anti "
    "version",
)


@task(inputs=BITS, outputs=BITS, sources=SOURCES)
def flip_flop(
    n_trials: int = 100,
    *,
    seed: int = 0,
    steps: Duration = 90,
    bits: int = 3,
    probability: float = 0.05,
    initial_pulses: bool = True,
    noise: float = NOISE,
) -> Trials:
    """Hold, of each of three channels, the sign of the last pulse.

    Inputs are pulses of one step, +1 or -1; targets are the last pulse of each channel, from its own step on, and 0
    before the first. All steps are scored.

    Parameters
    ----------
    n_trials : int
    seed : int
    steps : int or tuple of int
        Of each trial, or the smallest and the largest number.
    bits : int
        Channels.
    probability : float
        That a channel has a pulse at a step.
    initial_pulses : bool
        Whether every channel has a pulse at the first step, so that the network holds one of 2^bits memories; without,
        it may also hold that nothing came yet.
    noise : float
        Standard deviation of the noise in every input and step.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    pulses, lengths = _pulses(n_trials, rng, steps, bits, probability, initial_pulses)
    return Trials(with_noise(pulses, noise, rng, lengths), without_tail(_held(pulses), lengths), lengths=lengths)


@task(inputs=(*BITS, "rule"), outputs=BITS, sources=SOURCES)
def flip_flop_anti(
    n_trials: int = 100,
    *,
    seed: int = 0,
    steps: Duration = 90,
    bits: int = 3,
    probability: float = 0.05,
    initial_pulses: bool = True,
    noise: float = NOISE,
) -> Trials:
    """Hold the sign of the last pulse of each channel, or its opposite, as a further channel tells.

    The further channel is +1 throughout a trial (condition "pro") or -1 ("anti"), in equal numbers. The others, and
    the parameters, are those of `flip_flop`.
    """
    n_trials, rng = generator(n_trials, seed)
    pulses, lengths = _pulses(n_trials, rng, steps, bits, probability, initial_pulses)
    anti = balanced(rng, 2, n_trials)
    rule = np.broadcast_to(np.where(anti, -1.0, 1.0)[:, None, None], (*pulses.shape[:2], 1))
    inputs = with_noise(np.concatenate([pulses, rule], axis=2), noise, rng, lengths)
    targets = without_tail(rule * _held(pulses), lengths)
    return Trials(inputs, targets, lengths=lengths, conditions=np.array(["pro", "anti"])[anti])


def _pulses(
    n_trials: int, rng: np.random.Generator, steps: Duration, bits: int, probability: float, initial_pulses: bool
) -> tuple[Array, Array]:
    """Pulses (B, T, bits), none after the end of a trial, and the lengths of the trials."""
    chance = real_number("probability", probability, least=0, most=1)
    time = timeline(rng, n_trials, {"steps": steps})
    pulses = blank(n_trials, time.n_steps, integer("bits", bits, 1))
    coming = rng.random(pulses.shape) < chance
    if flag("initial_pulses", initial_pulses):
        coming[:, 0] = True
    pulses[coming] = (2.0 * rng.integers(0, 2, size=pulses.shape) - 1.0)[coming]
    return without_tail(pulses, time.lengths), time.lengths


def _held(pulses: Array) -> Array:
    """The last pulse of each channel at each step, 0 before the first."""
    steps = np.where(pulses != 0, np.arange(pulses.shape[1])[:, None], 0)  # of the first, where none came: it is 0
    return np.take_along_axis(pulses, np.maximum.accumulate(steps, axis=1), axis=1)
