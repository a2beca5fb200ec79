"""Whether a gradient is that of its loss: what the steps of a report are predicted from.

    Err = dL/dz            against central differences of the loss alone, which does not run the network
    dz = -NTK Err          the gradient flow against a product with the kernel

The slopes of predicted steps (`kpref.analysis.step_test`) tell a factor of 1.001, but not one of 1.000001, from one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kpref.analysis.checks import Check
from kpref.analysis.selfcheck import largest_rounding
from kpref.flow import GradientFlow
from kpref.loss import evaluate_loss
from kpref.readout import Readout

__all__ = ["error_check", "flow_check"]

#: Steps of the differences, in changes of the outputs.
_STEPS = 2.0 ** -np.arange(5, 9)
#: Extrapolated differences that are less certain, relative to the derivative, decide nothing.
_DECISIVE = 1e-4


def error_check(gradient: GradientFlow, readout: Readout, arguments: dict[str, Any], seed: int) -> Check:
    """Compare ``<Err, v>`` for a random v with the derivative of the loss along v, by extrapolated differences.

    `arguments`: of `kpref.loss.evaluate_loss`, as the loss of the gradient was given them. `seed`: of v.
    """
    space, states = gradient.flow.space, gradient.flow.states
    v = space.clear(np.random.default_rng([seed, 4]).standard_normal(space.shape))
    v /= float(np.abs(v @ readout.weight.T).max()) or 1.0
    # The scale on which the loss bends: a residual, for a squared error; one, for the logarithm of a softmax.
    size = gradient.loss**0.5
    v *= size if arguments["loss"] == "mse" else min(size, 1.0)

    def loss(step: float) -> float:
        return evaluate_loss(states + step * v, space, readout, **arguments).value

    claimed = space.inner(gradient.err, v)
    scale = max(abs(claimed), space.norm(gradient.err) * space.norm(v) * space.n_points**-0.5)
    row: list[float] = []
    for step in _STEPS:  # Richardson's extrapolation of halved steps
        coarser, row = row, [(loss(step) - loss(-step)) / (2 * step)]
        for column, value in enumerate(coarser):
            row.append(row[column] + (row[column] - value) / (4.0 ** (column + 1) - 1))
    terms = states.size + readout.weight.size
    rounding = largest_rounding(terms) * gradient.loss / float(_STEPS[-1])
    estimate = (abs(row[-1] - row[-2]) + rounding) / (scale or 1.0)
    check = "error of the loss", "⟨Err, v⟩ = dL along v"
    if not estimate < _DECISIVE:
        words = "differences of the loss are too uncertain to tell its derivative"
        return Check(*check, 0.0, 0.0, "no difference decides", words, idle=True)
    error = abs(row[-1] - claimed) / (scale or 1.0)
    reason = f"10 times the error estimate {estimate:.1e} of extrapolated central differences"
    verdict = "" if error <= 10 * estimate else f"Err is not the derivative of the loss: it is off by {error:.1e}"
    return Check(*check, error, 10 * estimate, reason, verdict)


def flow_check(gradient: GradientFlow, largest: float, longest_sum: int) -> Check:
    """Compare the predicted change of the states, by way of the gradient, with ``-NTK Err``.

    `largest`: largest eigenvalue of the NTK: rounding is relative to ``largest |Err|``, of which dz may be a small
    part. `longest_sum`: terms in the longest sum of a product with the NTK.
    """
    space = gradient.flow.space
    size = space.norm(gradient.dz) or 1.0
    error = space.norm(gradient.dz + gradient.flow.NTK(gradient.err)) / size
    bound = largest_rounding(longest_sum) * max(1.0, largest * space.norm(gradient.err) / size)
    verdict = "" if error <= bound else f"the change by way of the gradient is not −NTK Err: it is off by {error:.1e}"
    reason = f"8 √k u for sums of k = {longest_sum:,} terms, relative to the norms of the NTK and Err"
    return Check("gradient flow", "D ∇L = NTK Err", error, bound, reason, verdict)
