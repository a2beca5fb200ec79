"""Trials of NeuroGym's environments, as examples to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpref._validate import integer, short
from kpref.trials import Trials

__all__ = ["from_neurogym"]


def from_neurogym(env: Any, n_trials: int = 100, seed: int = 0, **options: Any) -> Trials:
    """Trials of an environment of NeuroGym: its observations as inputs, its ground truth as labels or targets.

    Each trial is one of the environment's own, as long as it is there; `lengths` says so. Where the ground truth is a
    number of an action, it becomes the label of each step, 0 often standing for fixation; where actions are vectors,
    it becomes the targets.

    Parameters
    ----------
    env : str or environment
        The name under which NeuroGym registers it, such as "PerceptualDecisionMaking-v0", or the environment itself,
        whose wrappers may change new trials. It is asked for ``new_trial``, and without its wrappers for ``seed``,
        ``ob`` and ``gt``.
    n_trials : int
    seed : int
        Of the environment's own generator, a RandomState of NumPy.
    **options
        For an environment that is given by its name: what it is made with, such as ``dt=20``.

    Returns
    -------
    Trials

    Raises
    ------
    ModuleNotFoundError
        If an environment is given by its name, and NeuroGym is not installed.
    TypeError
        If it is no such environment, or options are given with one that is made already.
    ValueError
        If observations and ground truth are no arrays of numbers of the same number of steps.

    Examples
    --------
    ::

        from_neurogym("DelayMatchSample-v0", 100, seed=1, dt=20)
    """
    n_trials, seed = integer("n_trials", n_trials, 1), integer("seed", seed, 0, 2**32 - 1)
    made = _make(env, options)
    bare = getattr(made, "unwrapped", made)
    new_trial = getattr(made, "new_trial", getattr(bare, "new_trial", None))
    if not callable(new_trial) or not callable(getattr(bare, "seed", None)):
        raise TypeError(
            f"env must be an environment of NeuroGym, with new_trial, seed, ob and gt, or its name; got {short(env)}"
        )
    bare.seed(seed)
    inputs, answers = [], []
    for _ in range(n_trials):
        new_trial()
        observed, truth = np.array(bare.ob), np.array(bare.gt)
        inputs.append(observed.reshape(len(observed), -1))
        answers.append(truth)
    if answers[0].ndim == 1 and answers[0].dtype.kind in "iu":
        return Trials(_joint(inputs), labels=_joint(answers))
    return Trials(_joint(inputs), targets=_joint([truth.reshape(len(truth), -1) for truth in answers]))


def _joint(parts: list[Any]) -> Any:
    """One array where all have the same length, else the list, which `Trials` pads."""
    return np.stack(parts) if len({len(part) for part in parts}) == 1 else parts


def _make(env: Any, options: dict[str, Any]) -> Any:
    if not isinstance(env, str):
        if options:
            raise TypeError(f"options are for an environment given by its name; got {', '.join(options)} with another")
        return env
    try:
        import neurogym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the environment {env!r} needs NeuroGym, which is not installed: pip install 'kpref[neurogym]', or pip "
            "install neurogym",
            name=error.name,
        ) from error
    return neurogym.make(env, **options)
