"""Whole trainings of memory-pro, by parameters and by the dynamics themselves, to one loss: whose states collapse?"""

from __future__ import annotations

import numpy as np
from _networks import dimension
from dynamic_collapse import GAINS, TRAINING, UNITS, network, task, train_on_task
from entry import KPFLOW, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, Readout, Trials

TRIALS, SEEDS, MOST = 50, 3, 2000

ENTRY = Entry(
    title="functional against parameter training",
    source=f"{KPFLOW}; github.com/meeree/kpflow, examples/paper_experiment_1",
    claim="the collapse is the network's, over and above the task's: trained without parameters, states keep more "
    "dimensions than trained by them",
    setting=f"GRU, H {UNITS}, T 30, memory-pro, g 0.5 to 8; parameters: {TRAINING} steps of Adam; functional: descent "
    f"on a forcing at each trial and step, by P* Err, Polyak's steps, to the loss that parameters reached on the same "
    f"{TRIALS} trials; {SEEDS} seeds (the source: descent on states, H 256, T 90, B 5000)",
    reports=UNKNOWN,
    quantity="dimensions of the states by functional over those by parameter training, g = 2",
)


def forced(flow: Flow, readout: Readout, targets: np.ndarray, loss: float) -> tuple[np.ndarray, int]:
    """States (B, T, H) after descent on a forcing q, ``z' = F(z) + q``, down to a loss; and its steps.

    ``q - L / |P* Err|^2 P* Err`` is Polyak's step for a least loss of zero, which some forcing has. Along the forced
    states P is that of the network at them.
    """
    q, step = np.zeros(flow.space.shape), 0
    while True:
        at = Flow(flow.model, Trials(flow.inputs, targets=targets, state_noise=q))
        gradient = at.gradient_flow(readout, targets=targets)
        if gradient.loss <= loss or step == MOST:
            return at.states, step
        change = at.P.star(gradient.err)
        q, step = q - gradient.loss / at.space.norm(change) ** 2 * change, step + 1


def dimensions(gain: float, seed: int) -> list[float]:
    """Of the states before, after training by parameters, and by the dynamics; the loss of both, steps of the last."""
    (model, readout), trials = network(gain, seed), task(TRIALS, 10_000 + seed, noise=0.0)
    before, result = Flow(model, trials), train_on_task(model, readout, seed)
    after = Flow(result.model, trials)
    loss = after.gradient_flow(result.readout, targets=trials.targets).loss
    states, steps = forced(before, readout, trials.targets, loss)
    reached = float(np.square(readout(states) - trials.targets).mean())
    return [*(dimension(each) for each in (before.states, after.states, states)), loss, reached, steps]


def find() -> Finding:
    """Over gains."""
    table = np.array([[dimensions(gain, seed) for gain in GAINS] for seed in range(SEEDS)])
    ratio = table[..., 2] / table[..., 1]
    value, error = mean_and_error(ratio[:, 1])
    mean, spread = table.mean(axis=0), table.std(axis=0, ddof=1)
    ends = ", ".join(f"{row[2]:.1f} against {row[1]:.1f} from {row[0]:.1f} at g = {gain:g}"
                     for row, gain in zip(mean, GAINS, strict=True))  # fmt: skip
    return Finding(
        value, error, bool((ratio.mean(axis=0) > 1).all()),
        f"functional against parameters: {ends}: functional descent leaves states about as many dimensions as they "
        "begin with or more, parameters bring all networks to a few, more than they had where these were few; losses "
        f"{mean[:, 3].min():.4f} to {mean[:, 3].max():.4f}, functional {mean[:, 4].min():.4f} to "
        f"{mean[:, 4].max():.4f} after {table[..., 5].min():.0f} to {table[..., 5].max():.0f} steps",
        Panel([Curve(name, GAINS, mean[:, column], spread[:, column], style)
               for column, (name, style) in enumerate([("before", "o--"), ("parameters", "s-"), ("functional", "^-")])],
              "g", "dimensions of states", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
