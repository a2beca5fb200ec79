"""Verdicts: what a check found, where, and how it is shown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from kpref._types import Array
from kpref.oracle.backend import BackendFault

__all__ = ["Check", "Place", "Report", "Verdict", "faulty"]

Verdict = Literal["pass", "defect", "not offered", "could not run"]


@dataclass(frozen=True)
class Place:
    """An entry of a tensor or of the parameters.

    Attributes
    ----------
    trial, step, stage, unit : int or None
    parameter : str or None
        Such as ``weight_hh[3, 1]``.
    ratio : float
        Error there over the standard deviation that rounding explains.
    """

    ratio: float
    trial: int | None = None
    step: int | None = None
    unit: int | None = None
    parameter: str | None = None
    stage: int | None = None

    def __str__(self) -> str:
        if self.parameter is not None:
            return self.parameter
        parts = ((name, getattr(self, name)) for name in ("trial", "step", "stage", "unit"))
        return ", ".join(f"{name} {index}" for name, index in parts if index is not None)


@dataclass(frozen=True, eq=False)
class Check:
    """One check of a backend.

    Attributes
    ----------
    identifier : str
        Such as ``P.residual``.
    operator : str
    meaning : str
        One line.
    equation : str
    verdict : {"pass", "defect", "not offered", "could not run"}
    figure : float or None
        Largest error over the standard deviation that rounding explains.
    bound : float or None
        What the figure was held to.
    worst_case : float or None
        Largest error over the worst case of rounding; above 1 no order of operations explains it.
    first, largest : Place or None
        First violation in the order of time, and the largest.
    message : str
    guess : str or None
        Class of defect that explains the violation.
    map : ndarray or None
        Largest ratio over units for each trial and step, (B, T).
    """

    identifier: str
    operator: str
    meaning: str
    equation: str
    verdict: Verdict
    figure: float | None = None
    bound: float | None = None
    worst_case: float | None = None
    first: Place | None = None
    largest: Place | None = None
    message: str = ""
    guess: str | None = None
    map: Array | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, without the map."""
        plain = {name: value for name, value in asdict(self).items() if name != "map"}
        for name in ("figure", "worst_case"):
            if plain[name] is not None and not np.isfinite(plain[name]):
                plain[name] = repr(plain[name])
        return plain

    def __str__(self) -> str:
        figure = "" if self.figure is None else f"{self.figure:10.3g} of {self.bound:g}"
        text = f"{self.verdict:<14}{self.identifier:<26}{figure:<20}{self.meaning}"
        for line in filter(None, (self._where(), self.guess and f"explained by: {self.guess}", self.message)):
            text += f"\n{'':<14}{line}"
        return text

    def _where(self) -> str:
        if self.first is None or self.largest is None:
            return ""
        return f"first at {self.first}; largest at {self.largest}, {self.largest.ratio:.3g} deviations"


@dataclass(frozen=True, eq=False)
class Report:
    """The verdict on a backend.

    Attributes
    ----------
    checks : tuple of Check
    arithmetic : str
    problem : str
        Model, sizes and measure.
    """

    checks: tuple[Check, ...]
    arithmetic: str
    problem: str

    @property
    def passed(self) -> bool:
        """Whether every check that could be made passed, and at least one was."""
        verdicts = {check.verdict for check in self.checks}
        return "pass" in verdicts and not verdicts & {"defect", "could not run"}

    @property
    def defects(self) -> tuple[Check, ...]:
        """Checks that found a defect."""
        return tuple(check for check in self.checks if check.verdict == "defect")

    @property
    def exit_status(self) -> int:
        """0 pass, 1 defect, 2 could not run."""
        verdicts = {check.verdict for check in self.checks}
        if "defect" in verdicts:
            return 1
        return 0 if self.passed else 2

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "passed": self.passed,
            "arithmetic": self.arithmetic,
            "problem": self.problem,
            "checks": [check.to_dict() for check in self.checks],
        }

    def to_json(self) -> str:
        """As JSON, with the numbers that it does not know as text."""
        return json.dumps(_finite(self.to_dict()), indent=1, allow_nan=False)

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "DEFECT" if self.defects else "COULD NOT RUN"
        return "\n".join([f"{verdict}: {self.problem}, {self.arithmetic}", *(str(check) for check in self.checks)])


def faulty(blank: Check, fault: BackendFault) -> Check:
    """A backend that raises or hangs could not be judged; one that answers with nonsense is wrong."""
    verdict: Verdict = "could not run" if fault.could_not_run else "defect"
    return replace(blank, verdict=verdict, message=str(fault), guess=None)


def _finite(value: Any) -> Any:
    """The same structure with the numbers that JSON does not know as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) and not np.isfinite(value) else value
