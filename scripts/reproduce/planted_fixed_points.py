"""Students of a teacher with planted fixed points: how many do they learn, by gradient descent and by Shampoo?"""

from __future__ import annotations

import numpy as np
from entry import COLLAPSE, GLOBAL_NTK, UNKNOWN, Curve, Entry, Finding, Panel, mean_and_error, report

from kpref import Flow, fixed_points, train
from kpref.models import RNN
from kpref.rules import shampoo
from kpref.tasks import fixed_point_teacher, teacher_fixed_points
from kpref.training import GradientDescent

UNITS, TRIALS, STEPS, SEEDS = 90, 30, 60, 2
PLANTED = (0, 5, 30)
RATES = {"gradient descent": (0.03, 0.3), "Shampoo": (0.02, 0.1)}

ENTRY = Entry(
    title="planted fixed points",
    source=f"{GLOBAL_NTK}; {COLLAPSE}",
    claim="students of teachers with 0, 5 or 30 planted fixed points are harder to train the more there are, and "
    "Shampoo trains them where gradient descent does not",
    setting=f"tanh student of gain 0.5, H {UNITS}, B {TRIALS}, T 40, {STEPS} steps, W and b trained, the "
    f"better of two learning rates each; {SEEDS} seeds",
    reports=UNKNOWN,
    quantity="loss by gradient descent over that by Shampoo, 30 points",
)


def trained(points: int, way: str, rate: float, seed: int) -> tuple[float, int]:
    """Loss relative to that before, and number of stable fixed points of the student."""
    teacher = fixed_point_teacher(points, n_states=UNITS, teacher_seed=seed)
    trials = teacher_fixed_points(TRIALS, seed=seed, points=points, n_states=UNITS, teacher_seed=seed)
    rng = np.random.default_rng([seed, points, 1])
    student = RNN(
        teacher.model.parameters["weight_ih"], 0.5 * rng.normal(size=(UNITS, UNITS)) / UNITS**0.5,
        bias_hh=np.zeros(UNITS), trainable=["weight_hh", "bias_hh"],
    )  # fmt: skip
    result = train(
        student, teacher.readout, trials, steps=STEPS, optimizer=GradientDescent(), learning_rate=rate,
        dtype="float64", trainable=["weight_hh", "bias_hh"], rule=shampoo(1e-3) if way == "Shampoo" else None,
    )  # fmt: skip
    after = Flow(result.model, trials)
    found = fixed_points(result.model, starts=after.states[:, -1])
    loss = after.gradient_flow(teacher.readout, targets=trials.targets).loss
    return loss / float(result.history.loss[0]), int(np.sum(found.n_unstable[~found.slow] == 0))


def best(points: int, way: str, seed: int) -> tuple[float, int]:
    """At the learning rate with the smaller loss."""
    return min(trained(points, way, rate, seed) for rate in RATES[way])


def find() -> Finding:
    """Both ways for all numbers of points."""
    table = np.array([[[best(points, way, seed) for way in RATES] for points in PLANTED] for seed in range(SEEDS)])
    value, error = mean_and_error(table[:, -1, 0, 0] / table[:, -1, 1, 0])
    losses, counts = np.moveaxis(table.mean(axis=0), -1, 0)
    words = "; ".join(
        f"{points} points: loss falls to {by[0]:.1e} (gradient) and {by[1]:.1e} (Shampoo) of its size, "
        f"{number[0]:.1f} and {number[1]:.1f} stable points"
        for points, by, number in zip(PLANTED, losses, counts, strict=True)
    )
    harder = bool((np.diff(losses[:, 0]) > 0).all())
    return Finding(
        value, error, harder and value > 1, words,
        Panel([Curve(way, PLANTED, losses[:, index], style="o-") for index, way in enumerate(RATES)],
              "planted points", "loss after over before", "y"),
    )  # fmt: skip


if __name__ == "__main__":
    report(ENTRY, find)
