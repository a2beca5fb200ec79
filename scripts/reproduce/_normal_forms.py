"""Normal forms of the five bifurcations of maps of one parameter, and how their states follow it.

Where a trajectory is at an equilibrium z*(mu), A = a and dF/dmu = j are constant, and

    dz[n]/dmu = j (1 - a^n) / (1 - a),      n j at a = 1,

the sum of a geometric series: the kernel of one parameter is the product of this column with itself. A flip's cycle of
two, and the rotation of Neimark and Sacker, are equilibria in coordinates that alternate, or turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from entry import Curve, Finding, Panel

from kpref import Flow
from kpref.models import UserMap

STEPS = 25
FAR = 0.3
"""Distance from the bifurcation that amplification is relative to."""


@dataclass(frozen=True)
class NormalForm:
    """A map with the parameter mu, in plain NumPy.

    Attributes
    ----------
    step, state_slope, parameter_slope : callable
        F(z, mu), dF/dz and dF/dmu for z of shape (..., H).
    side : int
        Sign of mu on the side where the equilibrium is.
    equilibrium : callable
        From mu to the state (H,).
    slopes : callable
        From mu to a and j, along the direction that mu moves the equilibrium in.
    """

    step: Callable[[Any, Any], Any]
    state_slope: Callable[[Any, Any], Any]
    parameter_slope: Callable[[Any, Any], Any]
    side: int
    equilibrium: Callable[[float], np.ndarray]
    slopes: Callable[[float], tuple[float, float]]

    def flow(self, mu: float, starts: np.ndarray) -> Flow:
        """From starts (B, H), in the measure that sums."""
        model = UserMap(
            lambda z, x, p: self.step(z, p["mu"]), starts.shape[1], n_inputs=0, parameters={"mu": mu},
            state_jacobian=lambda z, x, p: self.state_slope(z, p["mu"]),
            parameter_jacobian=lambda z, x, p: {"mu": self.parameter_slope(z, p["mu"])},
        )  # fmt: skip
        return Flow(model, np.zeros((len(starts), STEPS, 0)), z0=starts, measure="sum")

    def by_complex_step(self, mu: float, starts: np.ndarray) -> np.ndarray:
        """``dz/dmu`` (B, T, H) from the map alone."""
        z, states = starts.astype(complex), []
        for _ in range(STEPS):
            z = self.step(z, mu + 1e-30j)
            states.append(z)
        return np.asarray(np.stack(states, axis=1).imag / 1e-30)


def closed_form(form: NormalForm, mu: float) -> float:
    """Modulus of ``dz[T]/dmu`` on the equilibrium."""
    a, j = form.slopes(mu)
    return abs(j * STEPS if a == 1 else j * (1 - a**STEPS) / (1 - a))


def landscape_finding(form: NormalForm, starts: np.ndarray, expected: str, at_bifurcation: float) -> Finding:
    """How ``|dz[T]/dmu|`` depends on mu, against the closed form and, off the equilibrium, against complex steps.

    `starts` (B, H) are other states to begin from; `at_bifurcation` is the limit of the closed form at mu = 0.
    """
    mus = form.side * np.geomspace(1e-4, FAR, 40)
    found, off, difference, worst = [], [], 0.0, 0.0
    for mu in mus:
        flow = form.flow(mu, np.vstack([form.equilibrium(mu), starts]))
        column = flow.D(np.ones(1))
        truth = form.by_complex_step(mu, flow.z0)
        worst = max(worst, float(np.abs(column - truth).max() / np.abs(truth).max()))
        found.append(float(np.linalg.norm(column[0, -1])))
        off.append(np.linalg.norm(column[1:, -1], axis=-1))
        difference = max(difference, abs(found[-1] / closed_form(form, mu) - 1))
    peak = int(np.argmax(found))
    gain = found[peak] / found[-1]
    off_peaks = [
        f"{values.max():.3g} from {start[0]:g} at mu = {mus[np.argmax(values)]:.2g}"
        for start, values in zip(starts, np.array(off).T, strict=True)
    ]
    exact = difference < 1e-9 and worst < 1e-9
    agrees = exact and gain > 1.5 and abs(mus[peak]) <= 1 / STEPS
    words = (
        f"largest at mu = {mus[peak]:.2g}, {found[peak]:.3g} and {gain:.2g} times that at {mus[-1]:g} (1 / T = "
        f"{1 / STEPS:g}), {at_bifurcation:.3g} in the limit mu = 0; {expected}; off it at most "
        f"{' and '.join(off_peaks)}; closed form and complex steps to "
        f"{max(difference, worst):.0e}"
    )
    curves = [
        Curve("on the equilibrium", np.abs(mus), found, style="o"),
        Curve("closed form", np.abs(mus), [closed_form(form, mu) for mu in mus]),
    ]
    curves += [
        Curve(f"from {start[0]:g}", np.abs(mus), values, style="--")
        for start, values in zip(starts, np.array(off).T, strict=True)
    ]
    return Finding(gain, 0.0, agrees, words, Panel(curves, "|mu|", f"|dz[{STEPS}]/dmu|", "xy"))


def scalar(slope: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A derivative by the only state, as a matrix."""
    return lambda z, mu: slope(z, mu)[..., None]
