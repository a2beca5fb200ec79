"""Leading eigenfunctions of K and of the NTK over trials and time: are they patterns of the activity that is there?"""

from __future__ import annotations

import numpy as np
from dynamic_collapse import TRAINING, UNITS, network, task, train_on_task
from entry import GLOBAL_NTK, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, eigh

TRIALS, SEEDS, LEADING, MODES = 20, 4, 5, 5

ENTRY = Entry(
    title="eigenfunctions over time",
    source=GLOBAL_NTK,
    claim="leading eigenfunctions of the kernel follow the dominant modes, over trials and time, of the joint activity "
    "of states and inputs",
    setting=f"GRU, g = 1, B {TRIALS}, T 30, H {UNITS}, memory-pro without noise, before and after {TRAINING} steps of "
    f"Adam; the {LEADING} leading eigenfunctions, the {MODES} leading modes of V = (z, x); {SEEDS} seeds",
    reports=UNKNOWN,
    quantity=f"share of the {LEADING} leading eigenfunctions of the NTK within {MODES} modes of V, after training",
)


def shares_and_profiles(flow: Flow, seed: int) -> tuple[list[float], np.ndarray]:
    """Of K and of the NTK: shares within the modes of V, and the rms of their first eigenfunction over time (2, T)."""
    old = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    activity = np.concatenate([old, flow.inputs], axis=2).reshape(-1, UNITS + flow.inputs.shape[2])
    modes = np.linalg.svd(activity, full_matrices=False)[0][:, :MODES]
    shares, profiles = [], []
    for op in (flow.K, flow.NTK):
        vectors = eigh(op, LEADING, seed=seed).vectors
        rows = vectors.reshape(LEADING, len(modes), UNITS)
        kept = np.square(np.einsum("pm,kph->kmh", modes, rows)).sum(axis=(1, 2)) / np.square(rows).sum(axis=(1, 2))
        shares.append(float(kept.mean()))
        profiles.append(np.sqrt(np.square(vectors[0]).mean(axis=(0, 2))))
    return shares, np.array(profiles)


def find() -> Finding:
    """Before and after training."""
    shares, profiles = [], []
    for seed in range(SEEDS):
        model, readout = network(1.0, seed)
        trials = task(TRIALS, 10_000 + seed, noise=0.0)
        after = train_on_task(model, readout, seed).model
        found = [shares_and_profiles(Flow(each, trials), seed) for each in (model, after)]
        shares.append([share for share, _ in found])
        profiles.append([profile for _, profile in found])
    table = np.array(shares)  # seed, before or after, K or NTK
    value, error = mean_and_error(table[:, 1, 1])
    mean, shapes = table.mean(axis=0), np.array(profiles).mean(axis=0)
    late = [[float(np.square(shape[20:]).sum() / np.square(shape).sum()) for shape in pair] for pair in shapes]
    names = [f"{op} {when}" for when in ("before", "after") for op in ("K", "NTK")]
    return Finding(
        value, error, bool(mean.min() > 0.5),
        f"shares of K {mean[0, 0]:.2f} before and {mean[1, 0]:.2f} after, of the NTK {mean[0, 1]:.2f} and "
        f"{mean[1, 1]:.2f} (of a random tensor {MODES / (30 * TRIALS):.3f}); the response, a third of the steps, holds "
        f"{late[0][0]:.0%} of the first eigenfunction of K and {late[0][1]:.0%} of that of the NTK before, "
        f"{late[1][0]:.0%} and {late[1][1]:.0%} after",
        Panel([Curve(name, np.arange(1, 31), shape, style=style) for name, shape, style in
               zip(names, shapes.reshape(4, -1), ("C0--", "C1--", "C0-", "C1-"), strict=True)],
              "step", "rms of the first eigenfunction"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
