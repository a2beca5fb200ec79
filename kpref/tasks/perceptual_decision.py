"""Perceptual decision: noisy evidence is summed up, and its sign told after a delay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kpref._validate import check_shape, numeric_array
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import Duration, balanced, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["COHERENCES", "checked_coherences", "perceptual_decision"]

COHERENCES = (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16)


@task(
    inputs=("evidence",),
    outputs=("choice",),
    sources=(
        "Britten, Shadlen, Newsome, Movshon, The analysis of visual motion: a comparison of neuronal and "
        "psychophysical performance, Journal of Neuroscience 1992",
        "Dubreuil, Valente, Beiran, Mastrogiuseppe, Ostojic, The role of population structure in computations through "
        "neural dynamics, Nature Neuroscience 2022; github.com/adrian-valente/populations_paper_code, "
        "low_rank_rnns/rdm.py, from which all numbers",
    ),
)
def perceptual_decision(
    n_trials: int = 100,
    *,
    seed: int = 0,
    fixation: Duration = 5,
    stimulus: Duration = 40,
    delay: Duration = 15,
    decision: Duration = 15,
    coherences: Sequence[int] = COHERENCES,
    noise: float = 0.03,
) -> Trials:
    """Tell the sign of the mean of a noisy input, after a delay.

    During the stimulus the input is 0.032 times the coherence. The target is +1 or -1 during the decision, and 0
    before; only the decision is scored. Conditions are the coherences, in equal numbers.

    Parameters
    ----------
    n_trials : int
    seed : int
    fixation, stimulus, delay, decision : int or tuple of int
        Steps of each period (the source's, of 20 ms), or the smallest and the largest number; fixation and delay may
        have none.
    coherences : sequence of int
        In percent; none is 0.
    noise : float
        Standard deviation of the noise in the input at every step.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    possible = checked_coherences(coherences)
    periods = {"fixation": fixation, "stimulus": stimulus, "delay": delay, "decision": decision}
    time = timeline(rng, n_trials, periods, optional=("fixation", "delay"))
    coherence = possible[balanced(rng, len(possible), n_trials)]
    evidence = blank(n_trials, time.n_steps, 1)
    evidence[:, :, 0] = time.during("stimulus") * (0.032 * coherence)[:, None]
    return Trials(
        with_noise(evidence, noise, rng, time.lengths),
        (time.during("decision") * np.sign(coherence)[:, None])[:, :, None],
        mask=time.during("decision"),
        lengths=time.lengths,
        conditions=coherence,
    )


def checked_coherences(coherences: Sequence[int]) -> npt.NDArray[np.int64]:
    """Coherences to choose from, or ValueError if there are none, or one is not a whole number, or 0."""
    given = numeric_array("coherences", coherences, "iu")
    check_shape("coherences", given, shape=("k",))
    if not given.size or not given.all():
        raise ValueError("coherences must be whole numbers, at least one of them and none 0, which has no sign to tell")
    return given.astype(np.int64)
