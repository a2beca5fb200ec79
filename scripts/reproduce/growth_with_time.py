"""How a network's sensitivity to its recurrent weight grows with the length of a trial, below, at and above g = 1."""

from __future__ import annotations

import numpy as np
from entry import BLOG, COLLAPSE, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, operator_norm
from kpref.models import Linear
from kpref.spectra import frobenius_squared

UNITS, SEEDS = 16, 4
LENGTHS = np.array([16, 32, 64, 128, 256])
GAINS = (0.9, 1.0, 1.05)

ENTRY = Entry(
    title="growth with T below, at and above g = 1",
    source=f"{BLOG}; {COLLAPSE}",
    claim="the sensitivity of h' = g h grows as T^(3/2) at g = 1, and exponentially above",
    setting=f"z' = W z without input, W orthogonal times g; H 1 and {UNITS}, T {LENGTHS[0]} to {LENGTHS[-1]}, measure "
    f"'sum'; {SEEDS} seeds",
    reports="T^(3/2) at g = 1, exponential above",
    quantity=f"exponent of |dZ/dW| (operator norm) at g = 1, H {UNITS}, last doubling of T",
)


def sensitivity(gain: float, units: int, steps: int, seed: int) -> Flow:
    """A network that starts anywhere on the unit sphere and turns."""
    rng = np.random.default_rng([seed, units])
    weight = gain * np.linalg.qr(rng.normal(size=(units, units)))[0]
    start = rng.normal(size=units)
    model = Linear(np.zeros((units, 1)), weight if units > 1 else [[gain]], trainable=["weight_hh"])
    return Flow(model, np.zeros((1, steps, 1)), z0=start / np.linalg.norm(start), measure="sum")


def exponents(gain: float, units: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Operator norms of ``dZ/dW`` for all lengths, and its Frobenius norms."""
    flows = [sensitivity(gain, units, steps, seed) for steps in LENGTHS]
    norms = np.array([float(operator_norm(flow.D)) for flow in flows])
    return norms, np.array([float(frobenius_squared(flow.D)) ** 0.5 for flow in flows])


def find() -> Finding:
    """Slopes at the last doubling of the length."""
    scalar = {gain: exponents(gain, 1, 0)[0] for gain in GAINS}
    networks = [exponents(1.0, UNITS, seed) for seed in range(SEEDS)]
    last = [np.log2(norms[-1] / norms[-2]) for norms, _ in networks]
    value, error = mean_and_error(last)
    frobenius, _ = mean_and_error([np.log2(both[-1] / both[-2]) for _, both in networks])
    of_one = np.log2(scalar[1.0][-1] / scalar[1.0][-2])
    steps = LENGTHS[-1] - LENGTHS[-2]
    rate = np.log(scalar[1.05][-1] / scalar[1.05][-2] * LENGTHS[-2] / LENGTHS[-1]) / steps
    still = scalar[0.9][-1] / scalar[0.9][-2]
    agrees = abs(value - 1.5) < 0.05 and abs(of_one - 1.5) < 0.02 and abs(rate / np.log(1.05) - 1) < 0.02
    return Finding(
        value, error, bool(agrees),
        f"one state: exponent {of_one:.3f} at g = 1, T g^T at g = 1.05 (rate {rate:.4f}, log g {np.log(1.05):.4f}), "
        f"bounded at 0.9 (factor {still:.4f} for the last doubling); of {UNITS} states the Frobenius norm has the "
        f"exponent {frobenius:.2f} too",
        Panel([Curve(f"H 1, g = {gain:g}", LENGTHS, norms) for gain, norms in scalar.items()]
              + [Curve(f"H {UNITS}, g = 1", LENGTHS, networks[0][0], style="o")], "T", "|dZ/dW|", "xy"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
