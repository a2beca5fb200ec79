"""Lyapunov exponents of known systems, and of random networks: prints them with their errors.

``python scripts/lyapunov.py --figure lyapunov.png`` from a checkout; one or two minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kpref import Flow, models
from kpref.plots import STYLE
from kpref.spectra.lyapunov import Lyapunov, TooShort, lyapunov_exponents, propagator_growth, trial_norms

#: Sprott, *Chaos and Time-Series Analysis* (2003), at sigma = 10, rho = 28, beta = 8/3.
LORENZ = np.array([0.9056, 0.0, -14.5723])
GAINS = (0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 2.5, 3.0)
SHOWN = {0.8: "#0072b2", 2.0: "#009e73", 3.0: "#d55e00"}
LARGE, SMALL, DT = 256, 100, 0.1


def lorenz() -> Lyapunov:
    """64 trials from around the attractor."""
    step, count, discard = 0.01, 22000, 2000
    starts = np.array([1.0, 1.0, 20.0]) + 3.0 * np.random.default_rng(0).normal(size=(64, 3))
    flow = Flow(models.Lorenz63(), None, starts, times=step * np.arange(count + 1), method="dopri5")
    found = lyapunov_exponents(flow, discard=discard)
    print(
        f"Lorenz 63: 64 trials of {step * (count - discard):g} units of time, {step * discard:g} before them discarded"
    )
    print(f"(dopri5, steps of {step:g}; a QR decomposition every {(count - discard) / len(found.times):.0f} steps)\n")
    print("| exponent | interval, 95 % | literature | difference |\n| --- | --- | --- | --- |")
    for estimate, known in zip(found.estimates, LORENZ, strict=True):
        value, (low, high) = estimate.value, estimate.interval()
        percent = f" ({abs(value / known - 1):.2%})" if known else ""
        print(f"| {value:.4f} | {low:.4f} to {high:.4f} | {known:.4f} | {value - known:+.4f}{percent} |")
    print(f"\nsum {found.mean.sum():.8f}; trace of the Jacobian {-(10 + 1 + 8 / 3):.8f}\n")
    return found


def network(gain: float, seed: int, steps: int, units: int = SMALL, trials: int = 4) -> Flow:
    """A rate network without input, ``dz/dt = -z + W tanh(z)``, W_ij normal of variance gain^2 / H."""
    starts = np.random.default_rng([seed, 1]).normal(size=(trials, units))
    field = models.Rate.init(1, units, seed, gain=gain, bias=False)
    return Flow(field, np.zeros((trials, steps + 1, 1)), starts, dt=DT)


def by_hand(weight: np.ndarray, start: np.ndarray, steps: int, frame: np.ndarray) -> np.ndarray:
    """Exponents by a loop that shares no code with kpref: Runge-Kutta for state and frame, Gram-Schmidt each step."""

    def slope(both: np.ndarray) -> np.ndarray:
        z, vectors = both[:, :1], both[:, 1:]
        return np.hstack([weight @ np.tanh(z) - z, weight @ ((1 - np.tanh(z) ** 2) * vectors) - vectors])

    both, total = np.hstack([start[:, None], frame]), np.zeros(frame.shape[1])
    for _ in range(steps):
        k1 = slope(both)
        k2 = slope(both + DT / 2 * k1)
        k3 = slope(both + DT / 2 * k2)
        k4 = slope(both + DT * k3)
        both = both + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        for column in range(1, both.shape[1]):
            known = both[:, 1:column]
            for _ in range(2):
                both[:, column] -= known @ (known.T @ both[:, column])
            length = np.linalg.norm(both[:, column])
            both[:, column] /= length
            total[column - 1] += np.log(length)
    return total / (steps * DT)


def independent(steps: int = 600, units: int = SMALL) -> None:
    """Compare with the loop, on a chaotic network."""
    flow = network(3.0, 0, steps, units, trials=1)
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((units, units)))[0]
    theirs = by_hand(flow.model.parameters["weight_hh"], flow.z0[0], steps, frame)
    ours = lyapunov_exponents(flow).values[0]
    print(f"Rate network, {units} units, gain 3, {steps * DT:g} time constants, against a loop written on its own\n")
    for name, values in (("kpref", ours), ("loop", theirs)):
        print(
            f"  {name:5s}  "
            + " ".join(f"{value:+.4f}" for value in values[[0, 1, 2, 3, -2, -1]])
            + "  (first 4, last 2)"
        )
    print(f"  largest difference {np.abs(ours - theirs).max():.1e}\n")


def largest_interval(found: Lyapunov) -> str:
    """Of the first exponent of the system, if the trials tell it."""
    try:
        low, high = found.estimates[0].interval()
    except TooShort:
        return "[too short to tell]"
    return f"[{low:+.4f}, {high:+.4f}]"


def over_gain() -> np.ndarray:
    """Largest exponent of three networks for each gain: (gains, networks)."""
    print(f"Rate networks of {LARGE} units without input: largest exponent after 100 time constants, over 200 more;")
    print("three networks each, 2 trials (in brackets the interval of the system's exponent, 95 %)\n")
    print("| gain | largest exponents | mean |\n| --- | --- | --- |")
    table = np.empty((len(GAINS), 3))
    for row, gain in enumerate(GAINS):
        found = [lyapunov_exponents(network(gain, seed, 3000, LARGE, 2), k=4, discard=1000) for seed in range(3)]
        table[row] = [each.mean[0] for each in found]
        cells = ", ".join(f"{each.mean[0]:+.4f} {largest_interval(each)}" for each in found)
        print(f"| {gain:g} | {cells} | {table[row].mean():+.4f} |", flush=True)
    print()
    return table


def draw_lorenz(ax: Axes, found: Lyapunov) -> None:
    """Differences from the literature against the length of the trajectory."""
    elapsed = found.times - 20.0
    keep = elapsed >= 2.0
    for index, color in enumerate(("#d55e00", "#5b6470", "#0072b2")):
        difference = found.running[:, keep, index] - LORENZ[index]
        middle, spread = difference.mean(axis=0), difference.std(axis=0)
        ax.fill_between(elapsed[keep], middle - spread, middle + spread, color=color, alpha=0.2, lw=0)
        estimate = found.estimates[index]
        label = f"$\\lambda_{index + 1}$ = {estimate.value:.4f} ± {estimate.standard_error:.4f}"
        ax.plot(elapsed[keep], middle, color=color, label=label)
    ax.axhline(0, color="#1f2933", lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="time", ylabel="exponent minus literature", ylim=(-0.75, 0.75), xlim=(2, elapsed[-1]))
    ax.legend(title="mean of 64 trials; band: one trial's deviation", title_fontsize=9.5)
    ax.set_title("Lorenz: exponents settle as time goes on")


def draw_gains(ax: Axes, table: np.ndarray) -> None:
    """Largest exponent against gain."""
    ax.axhline(0, color="#1f2933", lw=0.8)
    line = np.array([0.5, 1.1])
    ax.plot(line, line - 1, ":", color="#5b6470", label="g - 1: rest state of infinitely many units")
    ax.plot(GAINS, table, "o", color="#8a94a0", ms=4, label=["networks", None, None])
    ax.plot(GAINS, table.mean(axis=1), color="#1f2933", label="mean of three networks")
    for gain, color in SHOWN.items():
        ax.plot(gain, table[GAINS.index(gain)].mean(), "o", color=color, ms=8)
    ax.text(2.95, 0.012, "chaos", ha="right", va="bottom")
    ax.text(2.95, -0.012, "order", ha="right", va="top")
    ax.set(xlabel="gain g", ylabel="largest exponent (per time constant)")
    ax.legend(loc="lower right")
    ax.set_title(f"Rate networks, {LARGE} units: chaos needs gain")


def draw_spectra(ax: Axes) -> None:
    """All exponents of a network for three gains."""
    ax.axhline(0, color="#1f2933", lw=0.8)
    for gain, color in SHOWN.items():
        found = lyapunov_exponents(network(gain, 0, 3000), discard=1000)
        place = np.arange(1, SMALL + 1)
        ax.errorbar(place, found.mean, found.trial_error, fmt="o-", ms=2.5, lw=1, color=color, label=f"g = {gain:g}")
    ax.set(xlabel="index i", ylabel="exponent $\\lambda_i$ (per time constant)")
    ax.legend()
    ax.set_title(f"All exponents of a network of {SMALL} units")


def draw_growth(ax: Axes) -> None:
    """Growth of the propagator in time, and the norm of P on the whole trial."""
    print("Norm of P on each trial of 50 time constants (measure: mean), three gains\n")
    for gain, color in SHOWN.items():
        flow = network(gain, 0, 500)
        growth = propagator_growth(flow)
        norms = trial_norms(flow)
        print(f"  g = {gain:g}: " + ", ".join(f"{norm:.4g}" for norm in norms))
        time = DT * np.arange(growth.shape[1])
        ax.plot(time, growth.T / np.log(10), color=color, lw=0.8, alpha=0.35)
        ax.plot(time, growth.mean(axis=0) / np.log(10), color=color, lw=2, label=f"g = {gain:g}")
    ax.axhline(0, color="#1f2933", lw=0.8)
    ax.set(xlabel="time (time constants)", ylabel=r"$\log_{10}\,\|\Phi(t, 0)\|$", xlim=(0, time[-1]))
    ax.legend(title="thin: trials, thick: mean", title_fontsize=9.5)
    ax.set_title("How far an early perturbation grows in it")


def main() -> None:
    """Print the figures and draw the picture."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    found = lorenz()
    independent()
    table = over_gain()
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 8.4), layout="constrained")
        (first, second), (third, fourth) = figure.subplots(2, 2)
        draw_lorenz(first, found)
        draw_gains(second, table)
        draw_spectra(third)
        draw_growth(fourth)
        if arguments.figure:
            figure.savefig(arguments.figure)


if __name__ == "__main__":
    main()
