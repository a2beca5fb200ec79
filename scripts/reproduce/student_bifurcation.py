"""A student learns to follow a teacher beyond its first bifurcation: what becomes of the NTK as it crosses its own?"""

from __future__ import annotations

import numpy as np
from entry import COLLAPSE, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, effective_dimension, train
from kpref.models import RNN
from kpref.spectra import trace
from kpref.tasks import tanh_teacher, teacher_tanh
from kpref.training import GradientDescent

UNITS, INPUTS, START, TARGET, SEEDS = 32, 16, 0.6, 1.2, 2
PARTS = (10,) * 8 + (60,) * 5

ENTRY = Entry(
    title="first learned bifurcation of a student",
    source=f"{COLLAPSE}; github.com/meeree/kpflow, examples/rnn_student_teacher",
    claim="the first learned bifurcation comes with a sharp fall of the effective rank of the state NTK",
    setting=f"tanh student, W orthogonal times {START:g}, teacher of gain {TARGET:g}, H {UNITS}, T 40, B 32; W alone "
    f"by gradient descent, {sum(PARTS)} steps; {SEEDS} seeds (the source: H 64, B 128, 9000 steps of rate 0.01)",
    reports=UNKNOWN,
    quantity="effective dimension of the NTK at the crossing over that at the start",
)


def history(seed: int) -> np.ndarray:
    """Spectral radius of W, effective dimension and trace of the NTK, loss: one row a part of the training."""
    sizes = {"n_states": UNITS, "teacher_seed": seed}
    teacher = tanh_teacher(gain=TARGET, **sizes)
    trials = teacher_tanh(32, seed=seed, gain=TARGET, **sizes)
    rng = np.random.default_rng(seed)
    weight = START * np.linalg.qr(rng.normal(size=(UNITS, UNITS)))[0]
    model: RNN = RNN(teacher.model.parameters["weight_ih"], weight, trainable=["weight_hh"])
    rows = []
    for steps in (*PARTS, 0):
        flow = Flow(model, trials)
        radius = np.abs(np.linalg.eigvals(model.parameters["weight_hh"])).max()
        loss = flow.gradient_flow(teacher.readout, targets=trials.targets).loss
        rows.append([radius, float(effective_dimension(flow.NTK)), float(trace(flow.NTK)), loss])
        if steps:
            found = train(
                model, teacher.readout, trials, steps=steps, optimizer=GradientDescent(), learning_rate=0.5, clip=1.0,
                dtype="float64", trainable=["weight_hh"],
            )  # fmt: skip
            model = found.model
    return np.array(rows)


def find() -> Finding:
    """At the first part whose spectral radius exceeds one, the origin has lost its stability."""
    runs = [history(seed) for seed in range(SEEDS)]
    crossed = [int(np.argmax(run[:, 0] > 1)) for run in runs if (run[:, 0] > 1).any()]
    rows = [(run[at, 1] / run[0, 1], run[:, 1].min() / run[0, 1]) for run, at in zip(runs, crossed, strict=False)]
    losses = f"loss {np.mean([run[0, 3] for run in runs]):.3f} to {np.mean([run[-1, 3] for run in runs]):.4f}"
    curves = [Curve(f"seed {seed}", run[:, 0], run[:, 1], style="o-") for seed, run in enumerate(runs)]
    panel = Panel(curves, "spectral radius of W", "effective dimension of the NTK", "y")
    if len(crossed) < SEEDS:
        radius = max(run[:, 0].max() for run in runs)
        return Finding(np.nan, 0.0, False, f"no crossing in {SEEDS - len(crossed)} of {SEEDS} runs, radius up to "
                       f"{radius:.2f}; {losses}", panel)  # fmt: skip
    value, error = mean_and_error([row[0] for row in rows])
    return Finding(
        value, error, value < 0.5,
        f"radii {START:g} to {np.mean([run[-1, 0] for run in runs]):.2f}, {losses}; dimensions "
        f"{np.mean([run[0, 1] for run in runs]):.1f} at the start, "
        f"{np.mean([run[at, 1] for run, at in zip(runs, crossed, strict=True)]):.1f} at the crossing, at least "
        f"{np.mean([run[:, 1].min() for run in runs]):.1f}: a fall, but the whole NTK stays far from rank one; in "
        f"steps {', '.join(str(int(np.cumsum((0, *PARTS))[at])) for at in crossed)} the origin had become unstable",
        panel,
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
