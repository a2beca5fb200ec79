"""The landscapes ``|d_mu alpha_T|`` of the five normal forms of maps, over the parameter and where the state begins."""

from __future__ import annotations

from importlib import import_module

import numpy as np
from _normal_forms import STEPS, NormalForm
from entry import COLLAPSE, UNKNOWN, Curve, Entry, Finding, Panel, report

FORMS = ("saddle_node", "transcritical", "pitchfork", "flip", "neimark_sacker")
MUS, STARTS, NEAR = np.linspace(-0.3, 0.3, 121), np.linspace(-0.3, 0.3, 60), 3 / STEPS
"""Of even number, so that no start is at the equilibrium that does not move; and what is near the bifurcation."""

ENTRY = Entry(
    title="landscapes of normal forms",
    source=COLLAPSE,
    claim="near each of the five bifurcations |d_mu alpha| is amplified: a ridge in the plane of mu and first state",
    setting=f"saddle-node, transcritical, pitchfork, flip, Neimark-Sacker of maps; T {STEPS}, {len(MUS)} mu in +-0.3 "
    f"by {len(STARTS)} starts in +-0.3, where all states on the way stay below 1",
    reports=UNKNOWN,
    quantity=f"of five forms, those whose |d_mu alpha_T| is largest at |mu| <= {NEAR:g} for most starts",
)


def landscape(form: NormalForm, states: int) -> tuple[np.ndarray, float]:
    """``|dz[T]/dmu|`` (mus, starts), NaN where a state leaves the unit ball; and its error against complex steps."""
    starts = np.zeros((len(STARTS), states))
    starts[:, 0] = STARTS
    found, worst = np.full((len(MUS), len(STARTS)), np.nan), 0.0
    for row, mu in enumerate(MUS):
        z, inside = starts, np.ones(len(starts), dtype=bool)
        for _ in range(STEPS):
            z = np.where(inside[:, None], form.step(z, mu), 0.0)
            inside &= np.linalg.norm(z, axis=1) < 1
        if not inside.any():
            continue
        flow = form.flow(float(mu), starts[inside])
        column, truth = flow.D(np.ones(1)), form.by_complex_step(float(mu), starts[inside])
        worst = max(worst, float(np.abs(column - truth).max() / np.abs(truth).max()))
        found[row, inside] = np.linalg.norm(column[:, -1], axis=-1)
    return found, worst


def find() -> Finding:
    """Where each start has its ridge, and how high it is above what is far away."""
    curves, told, near, worst = [], [], 0, 0.0
    for name in FORMS:
        values, error = landscape(import_module(name).FORM, 2 if name == "neimark_sacker" else 1)
        worst = max(worst, error)
        seen = np.isfinite(values).any(axis=0)
        ridge = MUS[np.nanargmax(values[:, seen], axis=0)]
        share = float((np.abs(ridge) <= NEAR).mean())
        middle = np.array([np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in values])
        gain = np.nanmax(middle) / np.nanmax(middle[np.abs(MUS) > 0.25])
        near += share > 0.5
        told.append(
            f"{name.replace('_', '-')} for {share:.0%} of starts (their median mu {np.median(ridge):.2f}; the median "
            f"over starts is at most {gain:.2g} times that beyond 0.25)"
        )
        curves.append(Curve(name.replace("_", "-"), MUS, middle))
    return Finding(
        float(near), 0.0, near == len(FORMS) and worst < 1e-9,
        f"it is largest within {NEAR:g} of the bifurcation in {', '.join(told)}: the transcritical form has no ridge "
        "there, since what drives it, dF/dmu = alpha, goes to zero with the equilibrium mu, and far away states grow "
        f"towards it for longer; complex steps to {worst:.0e}",
        Panel(curves, "mu", f"median over starts of |dz[{STEPS}]/dmu|", "y"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
