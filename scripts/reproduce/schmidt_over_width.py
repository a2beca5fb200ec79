"""Does K of a GRU become a Kronecker product as the network grows?"""

from __future__ import annotations

import numpy as np
from _networks import pytorch_network
from entry import KPFLOW, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow
from kpref.models import GRU
from kpref.spectra import schmidt_spectrum

TRIALS, STEPS, INPUTS, SEEDS = 10, 15, 3, 4
WIDTHS = np.array([16, 32, 64, 128])

ENTRY = Entry(
    title="Schmidt rank of K against H",
    source=KPFLOW,
    claim="the Schmidt rank of a GRU's K tends to one with the size of the network (a conjecture)",
    setting=f"PyTorch's initialisation without biases, normal inputs, B {TRIALS}, T {STEPS}, H {WIDTHS[0]} to "
    f"{WIDTHS[-1]}; {SEEDS} seeds, exact",
    reports=UNKNOWN,
    quantity="slope of log(effective Schmidt rank - 1) against log H",
)


def find() -> Finding:
    """Excess of the rank over one."""
    excess = np.empty((SEEDS, len(WIDTHS)))
    for seed in range(SEEDS):
        inputs = np.random.default_rng(seed).normal(size=(TRIALS, STEPS, INPUTS))
        for column, units in enumerate(WIDTHS):
            flow = Flow(pytorch_network(GRU, INPUTS, int(units), 1.0, seed), inputs)
            excess[seed, column] = schmidt_spectrum(flow).effective_rank - 1
    slopes = [np.polyfit(np.log(WIDTHS), np.log(row), 1)[0] for row in excess]
    value, error = mean_and_error(slopes)
    mean = excess.mean(axis=0)
    return Finding(
        value, error, value + 3 * error < -0.5,
        f"the rank is {1 + mean[0]:.4f} at H {WIDTHS[0]} and {1 + mean[-1]:.4f} at H {WIDTHS[-1]}: with PyTorch's "
        "weights currents, and so the differences between the gates of units, shrink with H",
        Panel([Curve("GRU", WIDTHS, mean, excess.std(axis=0, ddof=1), "o-")], "H", "Schmidt rank - 1", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
