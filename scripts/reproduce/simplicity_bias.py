"""Low-rank forecasting: do the states change in as many dimensions as the error has, or in fewer?"""

from __future__ import annotations

import numpy as np
from _networks import dimension, pytorch_network, pytorch_readout
from entry import KPFLOW, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow
from kpref.models import GRU
from kpref.tasks import low_rank_forecast

TRIALS, UNITS, GAIN, SEEDS = 20, 256, 8.0, 2
SIZES = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500])

ENTRY = Entry(
    title="simplicity bias",
    source=f"{KPFLOW}; github.com/meeree/kpflow, examples/simplicity_bias",
    claim="descent changes the states in fewer dimensions than the error has, as far as inputs have few",
    setting=f"GRU at initialisation, B {TRIALS}, T 30, H {UNITS}, g = {GAIN:g}, low-rank forecasting without noise, "
    f"D_inp and D_targ 1 to {SIZES[-1]}, {len(SIZES)} each; {SEEDS} seeds (the source: 20 each, up to 500)",
    reports=UNKNOWN,
    quantity="share of the grid where dz has fewer dimensions than Err",
)


def dimensions(n_inputs: int, n_outputs: int, seed: int) -> list[float]:
    """Of the change of the states, the error and the states."""
    trials = low_rank_forecast(TRIALS, seed=seed, n_inputs=n_inputs, n_outputs=n_outputs, noise=0.0)
    flow = Flow(pytorch_network(GRU, n_inputs, UNITS, GAIN, seed), trials)
    gradient = flow.gradient_flow(pytorch_readout(n_outputs, UNITS, seed), targets=trials.targets)
    return [dimension(tensor) for tensor in (gradient.dz, gradient.err, flow.states)]


def find() -> Finding:
    """The grid."""
    table = np.array([[[dimensions(int(n_inputs), int(n_outputs), seed) for n_outputs in SIZES] for n_inputs in SIZES]
                      for seed in range(SEEDS)])  # fmt: skip
    fewer = table[..., 0] < table[..., 1]
    value, error = mean_and_error(fewer.mean(axis=(1, 2)))
    change, of_error, _ = np.moveaxis(table.mean(axis=0), -1, 0)
    by_inputs = change.mean(axis=1)
    few = ", ".join(map(str, SIZES[~fewer.all(axis=(0, 1))]))
    return Finding(
        value, error, value > 0.8,
        f"dz has {change.min():.1f} to {change.max():.1f} dimensions, Err {of_error.min():.1f} to "
        f"{of_error.max():.1f}: an error of D_targ channels has at most D_targ dimensions, and P K P* gives it more "
        f"where these are few (D_targ {few}), fewer only where they are many; from D_inp 1 to {SIZES[-1]} those of dz "
        f"go from {by_inputs[0]:.1f} to {by_inputs[-1]:.1f} (mean over D_targ), from D_targ 1 to {SIZES[-1]} from "
        f"{change[:, 0].mean():.1f} to {change[:, -1].mean():.1f} (mean over D_inp)",
        Panel([Curve(f"dz, D_inp {size}", SIZES, row, style="o-") for size, row in zip(SIZES, change, strict=True)]
              + [Curve("Err", SIZES, of_error.mean(axis=0), style="k--")], "D_targ", "dimensions", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
