"""Is K the bottleneck of the gradient flow, and P not?"""

from __future__ import annotations

import numpy as np
from _networks import pytorch_network
from entry import KPFLOW, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, effective_dimension
from kpref.models import GRU
from kpref.spectra import kernel_effective_dimension
from kpref.tasks import memory_pro

TRIALS, UNITS, SEEDS = 20, 32, 3
GAINS = (0.5, 1.0, 2.0, 4.0)

ENTRY = Entry(
    title="K is low-rank, P is not",
    source=KPFLOW,
    claim="of the two operators K is of low rank and a bottleneck of learning, while P is of high rank",
    setting=f"GRU at initialisation, B {TRIALS}, T 30, H {UNITS} (the source: H 256, T 90), memory-pro without noise, "
    f"g 0.5 to 4; {SEEDS} seeds",
    reports=UNKNOWN,
    quantity="effective dimension of P P* over that of K, smallest over g",
)


def dimensions(gain: float, seed: int) -> tuple[float, float]:
    """Of K, exactly, and of ``P P*``, estimated."""
    trials = memory_pro(TRIALS, seed=seed, noise=0.0, stimulus=10, delay=10, response=10)
    flow = Flow(pytorch_network(GRU, 3, UNITS, gain, seed), trials)
    return float(kernel_effective_dimension(flow)), float(effective_dimension(flow.P.gram()))


def find() -> Finding:
    """Both for all gains."""
    table = np.array([[dimensions(gain, seed) for gain in GAINS] for seed in range(SEEDS)])
    value, error = mean_and_error((table[..., 1] / table[..., 0]).min(axis=1))
    mean, spread = table.mean(axis=0), table.std(axis=0, ddof=1)
    fewer = int((table[:, -1, 1] < table[:, -1, 0]).sum())
    return Finding(
        value, error, value - 2 * error > 1,
        f"of {TRIALS * 30 * UNITS} dimensions K uses {mean[:, 0].min():.0f} to {mean[:, 0].max():.0f}, P P* "
        f"{mean[:, 1].min():.0f} to {mean[:, 1].max():.0f}: at g = 4, in {fewer} of {SEEDS} seeds, fewer than K, where "
        "a few directions that grow dominate it",
        Panel([Curve("K", GAINS, mean[:, 0], spread[:, 0], "o-"),
               Curve("P P*", GAINS, mean[:, 1], spread[:, 1], "s-")], "g", "effective dimension", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
