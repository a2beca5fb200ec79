"""Effective dimension of K over trials and time against the gain, beside that of its Kronecker core."""

from __future__ import annotations

import numpy as np
from _networks import pytorch_network
from entry import GLOBAL_NTK, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow
from kpref.models import RNN
from kpref.spectra import kernel_effective_dimension
from kpref.tasks import memory_pro

TRIALS, UNITS, SEEDS = 20, 256, 3
GAINS = np.linspace(0, 3, 7)

ENTRY = Entry(
    title="dimension of K against g",
    source=f"{GLOBAL_NTK}; github.com/meeree/kpflow, examples/effrank_verify_math",
    claim="the effective dimension of K over trials and time follows the curve of the Kronecker core, for all gains",
    setting=f"tanh network, B {TRIALS}, T 90, H {UNITS}, no bias, memory-pro without noise, g 0 to 3 times PyTorch's "
    f"initial weights; {SEEDS} seeds (the source: 20 gains, 1 seed)",
    reports=UNKNOWN,
    quantity="largest relative difference of the two curves, mean over seeds",
)


def dimensions(gain: float, seed: int) -> tuple[float, float]:
    """Of K, exactly, and of ``V V^T``, V = (z[n], x[n])."""
    trials = memory_pro(TRIALS, seed=seed, noise=0.0)
    flow = Flow(pytorch_network(RNN, 3, UNITS, gain, seed), trials)
    old = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    v = np.concatenate([old, flow.inputs], axis=2).reshape(TRIALS * 90, -1)
    gram = v.T @ v
    return float(kernel_effective_dimension(flow, ("trial", "time"))), float(np.trace(gram) ** 2 / np.sum(gram**2))


def find() -> Finding:
    """Both curves for each seed."""
    table = np.array([[dimensions(float(gain), seed) for gain in GAINS] for seed in range(SEEDS)])
    of_k, of_core = table[..., 0], table[..., 1]
    gap = np.abs(of_k / of_core - 1)
    value, error = mean_and_error(gap.max(axis=1))
    mean, spread = table.mean(axis=0), table.std(axis=0, ddof=1)
    return Finding(
        value, error, value < 0.2,
        f"from g = 0 to {GAINS[-1]:g} the core has {mean[0, 1]:.2f} to {mean[-1, 1]:.2f} dimensions and K "
        f"{mean[0, 0]:.2f} to {mean[-1, 0]:.2f}; the difference is the gates phi', which the core leaves out: "
        f"{100 * gap[:, 2].mean():.1f} % at g = {GAINS[2]:g}, {100 * gap[:, -1].mean():.1f} % at g = {GAINS[-1]:g}",
        Panel([Curve("K, exact", GAINS, mean[:, 0], spread[:, 0], "o-"),
               Curve("core", GAINS, mean[:, 1], spread[:, 1], "s--")], "g", "effective dimension"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
