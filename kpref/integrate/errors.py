"""The error of an integration that cannot go on."""

from __future__ import annotations

import numpy as np

__all__ = ["IntegrationError"]


class IntegrationError(ValueError):
    """An initial value problem could not be integrated to the end.

    Raised when a derivative is not finite, a solution blows up in finite time, the step underflows, or the steps
    run out.

    Parameters
    ----------
    reason : str
        What happened, without a full stop.
    trial : int
        Index of the trial that it happened in.
    time : float
        Time of the last accepted state.
    state : ndarray, shape (H,)
        Last accepted state of that trial.

    Attributes
    ----------
    reason, trial, time, state
        As given.
    """

    def __init__(self, reason: str, trial: int, time: float, state: np.ndarray) -> None:
        self.reason = reason
        self.trial = int(trial)
        self.time = float(time)
        self.state = np.array(state)
        shown = np.array2string(
            self.state, precision=6, threshold=8, edgeitems=3, separator=", ", max_line_width=10_000
        )
        super().__init__(f"{reason}; trial {self.trial}, last accepted state at t = {self.time!r}: z = {shown}")

    def in_block(self, first: int) -> IntegrationError:
        """The same error where the trials were a block that starts at trial `first`."""
        return IntegrationError(self.reason, self.trial + first, self.time, self.state)
