"""Do the states of a network become low-dimensional as it learns memory-pro, whatever the gain it starts with?"""

from __future__ import annotations

import numpy as np
from _networks import dimension, pytorch_network, pytorch_readout
from entry import KPFLOW, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, Readout, Trials, train
from kpref.models import GRU
from kpref.tasks import memory_pro
from kpref.training import TrainingResult

UNITS, TRAINING, SEEDS = 64, 300, 3
GAINS = (0.5, 2.0, 8.0)

ENTRY = Entry(
    title="dynamic collapse",
    source=KPFLOW,
    claim="trained on memory-pro, networks end with states of few dimensions; those that begin with many, at large g, "
    "lose them",
    setting=f"GRU, H {UNITS}, T 30, {TRAINING} steps of Adam on 50 fresh trials, g 0.5 to 8; {SEEDS} seeds (the "
    "source: H 256, T 90, 1000 iterations)",
    reports="loss below 0.017; no number for dimensions is known to us",
    quantity="dimensions of the states before over after training, g = 8",
)


def task(n_trials: int, seed: int, noise: float = 0.1 * 2**0.5) -> Trials:
    """Short memory-pro."""
    return memory_pro(n_trials, seed=seed, noise=noise, stimulus=10, delay=10, response=10)


def network(gain: float, seed: int) -> tuple[GRU, Readout]:
    """At initialisation."""
    return pytorch_network(GRU, 3, UNITS, gain, seed), pytorch_readout(3, UNITS, seed)


def train_on_task(model: GRU, readout: Readout, seed: int) -> TrainingResult:
    """By the gradient of the parameters."""
    return train(model, readout, task, steps=TRAINING, batch_size=50, learning_rate=5e-3, clip=1.0, seed=seed)


def trained(gain: float, seed: int) -> list[float]:
    """Dimensions of the states before and after, and the loss on fresh trials."""
    model, readout = network(gain, seed)
    fresh = task(100, 10_000 + seed, noise=0.0)
    result = train_on_task(model, readout, seed)
    after = Flow(result.model, fresh)
    loss = after.gradient_flow(result.readout, targets=fresh.targets).loss
    return [dimension(Flow(model, fresh).states), dimension(after.states), loss]


def find() -> Finding:
    """Before and after, over gains."""
    table = np.array([[trained(gain, seed) for gain in GAINS] for seed in range(SEEDS)])
    value, error = mean_and_error(table[:, -1, 0] / table[:, -1, 1])
    mean, spread = table.mean(axis=0), table.std(axis=0, ddof=1)
    steps = ", ".join(f"{before:.1f} to {after:.1f} at g = {gain:g}"
                      for (before, after, _), gain in zip(mean, GAINS, strict=True))  # fmt: skip
    return Finding(
        value, error, value - 2 * error > 1,
        f"from {steps}: what begins with few gains some; losses {mean[:, 2].min():.4f} to {mean[:, 2].max():.4f}",
        Panel([Curve("before", GAINS, mean[:, 0], spread[:, 0], "o--"),
               Curve("after", GAINS, mean[:, 1], spread[:, 1], "s-")], "g", "dimensions of states"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
