"""Kernels near the bifurcations of fields, against the derivatives of solutions that are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from entry import COLLAPSE, UNKNOWN, Curve, Entry, Finding, Panel, report

from kpref import Flow
from kpref.models import Hopf, Pitchfork, SaddleNode, Transcritical

END, OMEGA = 8.0, 2.0
RATES = np.array([-0.8, -0.4, -0.1, -0.05, 0.05, 0.1, 0.4, 0.8])

ENTRY = Entry(
    title="normal forms of fields",
    source=COLLAPSE,
    claim="kernels near the saddle-node, transcritical, pitchfork and Hopf bifurcations are those of normal forms",
    setting=f"r from {RATES[0]:g} to {RATES[-1]:g}, t up to {END:g} (saddle-node: r < 0), rk4 with 40 and 80 steps",
    reports=UNKNOWN,
    quantity="largest difference of dz/dr from the closed form, relative, 80 steps",
)


def saddle_node(t: np.ndarray, r: complex, start: float) -> np.ndarray:
    """With s = sqrt(-r): ``z = -s tanh(s t + c)``."""
    s = np.sqrt(-r + 0j)
    return np.asarray(-s * np.tanh(s * t + np.arctanh(-start / s)))[:, None]


def transcritical(t: np.ndarray, r: complex, start: float) -> np.ndarray:
    """The logistic function."""
    grown = np.exp(r * t)
    return np.asarray(start * grown / (1 + start * (grown - 1) / r))[:, None]


def pitchfork(t: np.ndarray, r: complex, start: float) -> np.ndarray:
    """A logistic function of z^2."""
    grown = np.exp(2 * r * t)
    return np.asarray(start * np.sqrt(grown / (1 + start**2 * (grown - 1) / r)))[:, None]


def hopf(t: np.ndarray, r: complex, start: float) -> np.ndarray:
    """The radius as the pitchfork, the phase omega t."""
    return np.asarray(pitchfork(t, r, start) * np.stack([np.cos(OMEGA * t), np.sin(OMEGA * t)], axis=1))


FORMS: dict[str, tuple[Callable[[float], Flow], Callable[..., np.ndarray], list[float]]] = {
    "saddle-node": (lambda r: SaddleNode(r), saddle_node, [-0.1]),
    "transcritical": (lambda r: Transcritical(r), transcritical, [0.1]),
    "pitchfork": (lambda r: Pitchfork(r), pitchfork, [0.1]),
    "Hopf": (lambda r: Hopf(r, OMEGA, trainable=["mu"]), hopf, [0.1, 0.0]),
}


def derivatives(name: str, r: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """``dz/dr`` (T, H) by kpref, and of the closed form by a complex step."""
    model, solution, start = FORMS[name]
    times = np.linspace(0, END, steps + 1)
    flow = Flow(model(r), z0=[start], times=times)
    return flow.D(np.ones(1))[0], solution(times, r + 1e-30j, start[0]).imag / 1e-30


def find() -> Finding:
    """Errors for two step sizes, and the derivative at the end."""
    errors, curves, peaks = np.zeros(2), [], []
    for name in FORMS:
        rates = RATES[RATES < 0] if name == "saddle-node" else RATES
        ends = []
        for r in rates:
            for index, steps in enumerate((40, 80)):
                found, exact = derivatives(name, float(r), steps)
                errors[index] = max(errors[index], np.abs(found - exact).max() / np.abs(exact).max())
            ends.append(np.linalg.norm(found[-1]))
        curves.append(Curve(name, rates, ends, style="o-"))
        peaks.append(f"{max(ends):.3g} at r = {rates[np.argmax(ends)]:g} ({name})")
    order = np.log2(errors[0] / errors[1])
    return Finding(
        float(errors[1]), 0.0, errors[1] < 1e-3 and abs(order - 4) < 0.5,
        f"all four agree with the closed forms at the order of the method ({order:.2f}); at the end of the interval "
        f"the largest derivatives are {', '.join(peaks)}",
        Panel(curves, "r", f"|dz({END:g})/dr|", "y"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
