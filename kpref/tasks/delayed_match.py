"""Delayed match to sample: were the first and the second stimulus the same?"""

from __future__ import annotations

import numpy as np

from kpref.tasks.catalogue import task
from kpref.tasks.sampling import Duration, balanced, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["delayed_match"]

PAIRS = ("A-A", "A-B", "B-A", "B-B")


@task(
    inputs=("A", "B"),
    outputs=("match",),
    sources=(
        "Miller, Erickson, Desimone, Neural mechanisms of visual working memory in prefrontal cortex of the macaque, "
        "Journal of Neuroscience 1996",
        "Dubreuil, Valente, Beiran, Mastrogiuseppe, Ostojic, The role of population structure in computations through "
        "neural dynamics, Nature Neuroscience 2022; github.com/adrian-valente/populations_paper_code, "
        "low_rank_rnns/dms.py, from which all numbers",
    ),
)
def delayed_match(
    n_trials: int = 100,
    *,
    seed: int = 0,
    fixation: Duration = 5,
    sample: Duration = 25,
    delay: Duration = (25, 150),
    test: Duration = 25,
    decision: Duration = 50,
    noise: float = 0.03,
) -> Trials:
    """Tell whether two stimuli, with a delay of unknown length between them, were the same.

    One of the channels A and B is 1 during the sample, and one of them during the test. The target is +1 during the
    decision if it was the same, else -1, and 0 before; only the decision is scored, and with it the trial ends.
    Conditions are "A-A", "A-B", "B-A" and "B-B", in equal numbers.

    Parameters
    ----------
    n_trials : int
    seed : int
    fixation, sample, delay, test, decision : int or tuple of int
        Steps of each period (the source's, of 20 ms), or the smallest and the largest number; fixation and delay may
        have none.
    noise : float
        Standard deviation of the noise in both inputs at every step.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    periods = {"fixation": fixation, "sample": sample, "delay": delay, "test": test, "decision": decision}
    time = timeline(rng, n_trials, periods, optional=("fixation", "delay"))
    pair = balanced(rng, len(PAIRS), n_trials)
    first, second = np.divmod(pair, 2)
    inputs = blank(n_trials, time.n_steps, 2)
    for period, stimulus in (("sample", first), ("test", second)):
        inputs += time.during(period)[:, :, None] * np.eye(2)[stimulus][:, None]
    same = np.where(first == second, 1.0, -1.0)
    return Trials(
        with_noise(inputs, noise, rng, time.lengths),
        (time.during("decision") * same[:, None])[:, :, None],
        mask=time.during("decision"),
        lengths=time.lengths,
        conditions=np.array(PAIRS)[pair],
    )
