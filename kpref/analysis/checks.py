"""What a check is: an identity, how far it is from holding, how far it may be, and what that means."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One identity, how far it is from holding, and how far it may be."""

    name: str
    identity: str  # the equation tested
    # error, bound: relative; the check is passed if both are finite and error <= bound
    error: float
    bound: float
    reason: str  # where the bound comes from
    verdict: str = ""  # what was found, in a sentence; empty where error and bound say it all
    # there was nothing to test, such as an operator that is zero: this neither speaks for the operators nor against
    # them
    idle: bool = False

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound, and both are numbers."""
        return math.isfinite(self.error) and math.isfinite(self.bound) and self.error <= self.bound

    @property
    def status(self) -> str:
        """``"pass"``, ``"FAIL"``, or ``"nothing to test"``."""
        if not self.passed:
            return "FAIL"
        return "nothing to test" if self.idle else "pass"
