"""Low-rank forecasting: a latent system of few dimensions is seen through many channels, and foretold in many."""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref._validate import integer, real_number
from kpref.tasks.catalogue import task
from kpref.tasks.sampling import blank, generator
from kpref.threads import serial_blas
from kpref.trials import Trials

__all__ = ["low_rank_forecast"]


@task(
    inputs=tuple(f"x_{channel}" for channel in range(1, 101)),
    outputs=tuple(f"y_{channel}" for channel in range(1, 101)),
    sources=(
        "Hazelden, Driscoll, Shlizerman, Shea-Brown, KPFlow, arXiv:2507.06381; github.com/meeree/kpflow, "
        "custom_tasks/low_rank_forecast.py at f764ba0, from which all numbers",
    ),
)
@serial_blas
def low_rank_forecast(
    n_trials: int = 100,
    *,
    seed: int = 0,
    steps: int = 30,
    n_inputs: int = 100,
    n_outputs: int = 100,
    latent: int = 10,
    dimension: int = 100,
    noise: float = 0.01,
    system_seed: int = 0,
) -> Trials:
    """Foretell the next step of a latent linear system, of which inputs and targets are many functions.

    A latent state z of K numbers turns by ``z' = 0.8 z + 0.2 Q z``, Q orthogonal, and is observed as ``v = C z`` with
    noise, D numbers; inputs are ``sin(V_in v[n] + b_in)``, targets ``sin(V_out v[n + 1] + b_out)``. Q comes of a QR
    decomposition of a normal matrix, and the other matrices and biases are standard normal. The first z of each trial
    is. All steps are scored.

    Parameters
    ----------
    n_trials : int
    seed : int
        Of the latent states and the noise.
    steps : int
    n_inputs, n_outputs : int
        Channels: D_inp and D_targ of the source.
    latent : int
        K.
    dimension : int
        D, at least K.
    noise : float
        Standard deviation of the noise in each of the D numbers at every step.
    system_seed : int
        Of the matrices and biases: the same for trials of one system.

    Returns
    -------
    Trials
    """
    n_trials, rng = generator(n_trials, seed)
    steps, latent = integer("steps", steps, 1), integer("latent", latent, 1)
    dimension = integer("dimension", dimension, latent)
    deviation = real_number("noise", noise, least=0)
    sizes = {name: integer(name, size, 1) for name, size in (("n_inputs", n_inputs), ("n_outputs", n_outputs))}
    system = np.random.default_rng(integer("system_seed", system_seed, 0))
    rotation = np.linalg.qr(system.standard_normal((latent, latent)))[0]
    seen = system.standard_normal((dimension, latent))
    matrices = [(system.standard_normal((size, dimension)), system.standard_normal(size)) for size in sizes.values()]

    observed = blank(n_trials, steps + 1, dimension)
    state = rng.standard_normal((n_trials, latent))
    for step in range(steps + 1):
        observed[:, step] = state @ seen.T
        state = 0.8 * state + 0.2 * state @ rotation.T
    if deviation:
        observed += deviation * rng.standard_normal(observed.shape)
    (to_inputs, to_targets) = matrices
    return Trials(_sines(observed[:, :-1], *to_inputs), _sines(observed[:, 1:], *to_targets))


def _sines(observed: Array, matrix: Array, bias: Array) -> Array:
    return np.asarray(np.sin(observed @ matrix.T + bias))
