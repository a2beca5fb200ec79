"""Does gradient descent change the dynamics within the leading modes of the activity that is there?"""

from __future__ import annotations

import numpy as np
from _networks import pytorch_network, pytorch_readout
from entry import GLOBAL_NTK, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow
from kpref.models import RNN
from kpref.tasks import memory_pro

TRIALS, UNITS, SEEDS, MODES = 20, 128, 5, 5
GAINS = np.array([0.5, 1.0, 2.0, 3.0])

ENTRY = Entry(
    title="self-referential bias",
    source=GLOBAL_NTK,
    claim="descent learns within the dominant modes of the joint activity of states and inputs",
    setting=f"tanh network at initialisation, B {TRIALS}, T 90, H {UNITS}, memory-pro without noise, g 0.5 to 3; the "
    f"{MODES} leading modes of V = (z, x) over trials and time; {SEEDS} seeds",
    reports=UNKNOWN,
    quantity=f"share of |K P* Err|^2 in {MODES} modes over that of |P* Err|^2, at g = 1",
)


def shares(gain: float, seed: int) -> list[float]:
    """Of the change of the dynamics, and of the error that it answers to."""
    trials = memory_pro(TRIALS, seed=seed, noise=0.0)
    flow = Flow(pytorch_network(RNN, 3, UNITS, gain, seed), trials)
    gradient = flow.gradient_flow(pytorch_readout(3, UNITS, seed), targets=trials.targets)
    old = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    activity = np.concatenate([old, flow.inputs], axis=2).reshape(TRIALS * 90, -1)
    modes = np.linalg.svd(activity, full_matrices=False)[0][:, :MODES]
    rows = [tensor.reshape(TRIALS * 90, -1) for tensor in (gradient.df, flow.P.star(gradient.err))]
    return [float(np.linalg.norm(modes.T @ row) ** 2 / np.linalg.norm(row) ** 2) for row in rows]


def find() -> Finding:
    """Shares over gains."""
    table = np.array([[shares(float(gain), seed) for gain in GAINS] for seed in range(SEEDS)])
    value, error = mean_and_error(table[:, 1, 0] / table[:, 1, 1])
    mean, spread = table.mean(axis=0), table.std(axis=0, ddof=1)
    return Finding(
        value, error, bool((mean[:, 0] > mean[:, 1]).all()),
        f"of {TRIALS * 90} modes {MODES} hold {100 * mean[:, 0].min():.1f} to {100 * mean[:, 0].max():.1f} % of the "
        f"change, and {100 * mean[:, 1].min():.1f} to {100 * mean[:, 1].max():.1f} % of the error that drives it",
        Panel([Curve("K P* Err", GAINS, mean[:, 0], spread[:, 0], "o-"),
               Curve("P* Err", GAINS, mean[:, 1], spread[:, 1], "s-")], "g", f"share in {MODES} modes"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
