"""Verdicts: what a check found, where, and how it is shown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from kpref._types import Array
from kpref.oracle.backend import BackendFault
from kpref.oracle.measured import Profile

__all__ = ["Check", "Outcome", "Place", "Report", "Verdict", "faulty"]

Verdict = Literal["pass", "defect", "not offered", "could not run"]
Outcome = Literal["right as declared", "right as measured", "wrong", "could not run"]

_HEADINGS: dict[Outcome, str] = {
    "right as declared": "PASS",
    "right as measured": "PASS AS MEASURED, NOT AS DECLARED",
    "wrong": "DEFECT",
    "could not run": "COULD NOT RUN",
}


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
        Held to the declared arithmetic, or, where what was measured is coarser, to that.
    arithmetic : str
        As declared.
    problem : str
        Model, sizes and measure.
    profile : Profile or None
        The arithmetic as measured; None where there was no factory to measure it with.
    coarser : tuple of str
        In what the measured arithmetic is coarser than the declared one.
    unmeasured : str
        Why there is no profile, where there is none.
    """

    checks: tuple[Check, ...]
    arithmetic: str
    problem: str
    profile: Profile | None = None
    coarser: tuple[str, ...] = ()
    unmeasured: str = "which takes a factory"

    @property
    def outcome(self) -> Outcome:
        """What became of the backend.

        It is right if every check that could be made passed, and at least one was: "right as declared", or "right as
        measured" if its arithmetic is coarser than declared and explains all errors.
        """
        verdicts = {check.verdict for check in self.checks}
        if "defect" in verdicts:
            return "wrong"
        if "could not run" in verdicts or "pass" not in verdicts:
            return "could not run"
        return "right as measured" if self.coarser else "right as declared"

    @property
    def passed(self) -> bool:
        """Whether the backend is right as declared."""
        return self.outcome == "right as declared"

    @property
    def defects(self) -> tuple[Check, ...]:
        """Checks that found a defect."""
        return tuple(check for check in self.checks if check.verdict == "defect")

    @property
    def exit_status(self) -> int:
        """0 right as declared, 1 wrong, 2 could not run, 3 right for its measured arithmetic, which is coarser."""
        return {"right as declared": 0, "wrong": 1, "could not run": 2, "right as measured": 3}[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "passed": self.passed,
            "outcome": self.outcome,
            "arithmetic": self.arithmetic,
            "profile": None if self.profile is None else self.profile.to_dict(),
            "coarser": list(self.coarser),
            "problem": self.problem,
            "checks": [check.to_dict() for check in self.checks],
        }

    def to_json(self) -> str:
        """As JSON, with the numbers that it does not know as text."""
        return json.dumps(_finite(self.to_dict()), indent=1, allow_nan=False)

    def __str__(self) -> str:
        head = f"{_HEADINGS[self.outcome]}: {self.problem}, {self.arithmetic}"
        return "\n".join([head, *self._arithmetic(), *(str(check) for check in self.checks)])

    def _arithmetic(self) -> list[str]:
        """What was declared and what was measured, in lines."""
        if self.profile is None:
            return [f"declared {self.arithmetic}; not measured, {self.unmeasured}"]
        lines = [f"declared {self.arithmetic}; measured: {self.profile}"]
        if self.coarser:
            lines.append(f"coarser than declared: {'; '.join(self.coarser)}")
            explained = "all errors are" if self.outcome == "right as measured" else "not all errors are"
            lines.append(f"the checks are held to what was measured: {explained} those of this arithmetic")
        return lines


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
