"""One step of descent on parameters beside one on the dynamics themselves: who of them makes states low-dimensional?"""

from __future__ import annotations

import numpy as np
from _networks import dimension, pytorch_network, pytorch_readout
from entry import KPFLOW, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow
from kpref.models import GRU
from kpref.rules import functional_descent
from kpref.tasks import memory_pro

TRIALS, UNITS, SEEDS = 20, 64, 4
GAINS = (0.5, 1.0, 2.0, 4.0, 8.0)

ENTRY = Entry(
    title="functional against parameter descent",
    source=f"{KPFLOW}; github.com/meeree/kpflow, examples/paper_experiment_1",
    claim="collapse comes of the network, by K, over and above the task: functional descent, without K, changes states "
    "in more dimensions than descent on parameters",
    setting=f"one step at initialisation; GRU, B {TRIALS}, T 90, H {UNITS}, memory-pro with noise, g 0.5 to 8; {SEEDS} "
    "seeds (the source: H 256, B 5000, whole trainings)",
    reports=UNKNOWN,
    quantity="dimensions of P P* Err over those of P K P* Err, at g = 1",
)


def dimensions(gain: float, seed: int) -> list[float]:
    """Of the change of the states by functional descent and by that of parameters, and of the dynamics by both."""
    trials = memory_pro(TRIALS, seed=seed)
    flow = Flow(pytorch_network(GRU, 3, UNITS, gain, seed), trials)
    err = flow.gradient_flow(pytorch_readout(3, UNITS, seed), targets=trials.targets).err
    back = flow.P.star(err)
    return [dimension(each) for each in (functional_descent(flow)(err), flow.NTK(err), back, flow.K(back))]


def find() -> Finding:
    """Dimensions over gains."""
    table = np.array([[dimensions(gain, seed) for gain in GAINS] for seed in range(SEEDS)])
    ratio = table[..., 0] / table[..., 1]
    value, error = mean_and_error(ratio[:, 1])
    mean, spread = table.mean(axis=0), table.std(axis=0, ddof=1)
    ratios = ", ".join(f"{number:.2f} at {gain:g}" for number, gain in zip(ratio.mean(axis=0), GAINS, strict=True))
    return Finding(
        value, error, bool((ratio.mean(axis=0) > 1).all()),
        f"the ratio is {ratios}: it holds up to g = 2; at g = 8 P* Err has {mean[-1, 2]:.1f} dimensions, K P* Err "
        f"{mean[-1, 3]:.1f}, P P* Err {mean[-1, 0]:.1f} and P K P* Err {mean[-1, 1]:.1f} (at g = 1 {mean[1, 2]:.1f}, "
        f"{mean[1, 3]:.1f}, {mean[1, 0]:.1f} and {mean[1, 1]:.1f})",
        Panel([Curve("P P* Err", GAINS, mean[:, 0], spread[:, 0], "o-"),
               Curve("P K P* Err", GAINS, mean[:, 1], spread[:, 1], "s-")], "g", "dimensions of dz", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
