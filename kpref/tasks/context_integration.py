"""Context-dependent integration: of two streams of evidence, the one that counts is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kpref.tasks.catalogue import task
from kpref.tasks.perceptual_decision import COHERENCES, checked_coherences
from kpref.tasks.sampling import Duration, balanced, blank, generator, timeline, with_noise
from kpref.trials import Trials

__all__ = ["context_integration"]

CONTEXTS = ("color", "motion")


@task(
    inputs=("color", "motion", "context_color", "context_motion"),
    outputs=("choice",),
    sources=(
        "Mante, Sussillo, Shenoy, Newsome, Context-dependent computation by recurrent dynamics in prefrontal cortex, "
        "Nature 2013",
        "Dubreuil, Valente, Beiran, Mastrogiuseppe, Ostojic, The role of population structure in computations through "
        "neural dynamics, Nature Neuroscience 2022; github.com/adrian-valente/populations_paper_code, "
        "low_rank_rnns/mante.py, from which all numbers",
    ),
)
def context_integration(
    n_trials: int = 100,
    *,
    seed: int = 0,
    fixation: Duration = 5,
    context: Duration = 17,
    stimulus: Duration = 40,
    delay: Duration = 15,
    decision: Duration = 1,
    coherences: Sequence[int] = COHERENCES,
    noise: float = 0.1,
) -> Trials:
    """Tell the sign of the mean of one of two noisy inputs, the one that the context names.

    During the stimulus the channels color and motion are a tenth of their coherences. One of the context channels is 1
    from the end of the fixation to the decision. The target is +1 or -1 during the decision, and 0 before; only the
    decision is scored. Conditions are "color" and "motion", in equal numbers.

    Parameters
    ----------
    n_trials : int
    seed : int
    fixation, context, stimulus, delay, decision : int or tuple of int
        Steps of each period (the source's, of 20 ms), or the smallest and the largest number; all but stimulus and
        decision may have none.
    coherences : sequence of int
        What both coherences are drawn from; none is 0.
    noise : float
        Standard deviation of the noise in color and motion at every step.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    possible = checked_coherences(coherences)
    periods = {
        "fixation": fixation, "context": context, "stimulus": stimulus, "delay": delay, "decision": decision,
    }  # fmt: skip
    time = timeline(rng, n_trials, periods, optional=("fixation", "context", "delay"))
    told, evidence = balanced(rng, 2, n_trials), rng.choice(possible, size=(n_trials, 2))
    streams = blank(n_trials, time.n_steps, 2)
    streams += time.during("stimulus")[:, :, None] * (0.1 * evidence)[:, None]
    cue = (time.before("decision") - time.before("context"))[:, :, None] * np.eye(2)[told][:, None]
    choice = np.sign(evidence[np.arange(n_trials), told])
    return Trials(
        np.concatenate([with_noise(streams, noise, rng, time.lengths), cue], axis=2),
        (time.during("decision") * choice[:, None])[:, :, None],
        mask=time.during("decision"),
        lengths=time.lengths,
        conditions=np.array(CONTEXTS)[told],
    )
