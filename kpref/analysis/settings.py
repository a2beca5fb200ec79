"""What an analysis needs to be told beyond networks and trials: the loss and, in continuous time, the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kpref.lengths import points
from kpref.trials import Trials

__all__ = ["Integration", "Objective"]


@dataclass(frozen=True)
class Objective:
    """Which loss a network is judged by, and at which steps.

    Attributes
    ----------
    loss : {"mse", "cross_entropy"}
    at : {"all", "last"}
    """

    loss: str
    at: str

    def arguments(self, trials: Trials) -> dict[str, Any]:
        """Keyword arguments of `Flow.gradient_flow`."""
        wanted = {"targets": trials.targets} if self.loss == "mse" else {"labels": trials.labels}
        return {**wanted, "loss": self.loss, "mask": trials.mask, "at": self.at}

    def in_words(self, trials: Trials, step: str = "step") -> str:
        """The loss, and which of the steps that exist it counts: all, the last ones, or those that the mask scores."""
        name = {"mse": "mean squared error", "cross_entropy": "cross-entropy"}[self.loss]
        counted = points(trials.lengths, trials.n_steps)
        if self.at == "last":
            counted &= np.arange(trials.n_steps) == trials.lengths[:, None] - 1
        same_end = len(np.unique(trials.lengths)) == 1
        where = f"all {step}s" if self.at == "all" else f"last {step}{'' if same_end else ' of each trial'} only"
        weights = np.ones(1) if trials.mask is None else trials.mask[counted]
        scored = weights[weights > 0]
        words = [where] if self.at == "last" or len(scored) == len(weights) else []
        if len(scored) < len(weights):
            words.append(f"scored {step}s only ({len(scored):,} of {len(weights):,}, by the mask)")
        if len(np.unique(scored)) > 1:
            words.append("with the mask's weights")
        return f"{name}, {', '.join(words)}"


@dataclass(frozen=True)
class Integration:
    """How a network in continuous time is solved: one step from each time ``n dt`` of the trials to the next.

    Attributes
    ----------
    dt : float
        In the unit of time of the network.
    method : str
        A name of `kpref.integrate.TABLEAUS`.
    input_kind : {"hold", "linear", "cubic"}
        How inputs extend between the times of the trials.
    """

    dt: float
    method: str = "rk4"
    input_kind: str = "hold"

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `Flow`."""
        return {"dt": self.dt, "method": self.method, "input_kind": self.input_kind}

    def in_words(self) -> str:
        """For the head of a report."""
        inputs = {"hold": "held", "linear": "linear", "cubic": "cubic"}[self.input_kind]
        return f"continuous time, method {self.method} with step {self.dt:g}, inputs {inputs} between the times"
