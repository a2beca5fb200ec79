"""What was measured of a backend's arithmetic, in what it is coarser than what was declared, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kpref.oracle.arithmetic import Arithmetic, Error

__all__ = ["Profile"]

#: By how many units errors exceed what is declared before that is said.
_FUZZ = 0.25


@dataclass(frozen=True)
class Profile:
    """What was measured; None for what was not.

    Attributes
    ----------
    storage, operand, accumulate, result : float or None
        Unit roundoffs, as of `Arithmetic`; of operands and results 0 where they are as fine as what is measured of the
        others.
    smallest, largest : float or None
        Range.
    elementary : dict of str to (float, float)
        Largest errors of functions in units of their value and of one, whichever is larger.
    unknown : dict of str to str
        What was not measured, and why.
    """

    storage: float | None = None
    operand: float | None = None
    accumulate: float | None = None
    result: float | None = None
    smallest: float | None = None
    largest: float | None = None
    elementary: Mapping[str, Error] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    def coarser_than(self, declared: Arithmetic) -> tuple[str, ...]:
        """In what it is coarser than an arithmetic, one sentence each."""
        found = []
        if (self.storage or 0.0) > declared.states:
            found.append(f"numbers are stored with {_bits(self.storage)} bits{_known(self.storage)}")
        for what, measured, allowed in (
            ("operands of products are rounded to", self.operand, max(declared.operand, declared.unit)),
            ("results of products are rounded to", self.result, max(declared.result, declared.unit)),
            ("sums in products are kept to", self.accumulate, declared.accumulate),
        ):
            # What is stored so short anyhow is no finding of its own.
            if (measured or 0.0) > max(allowed, self.storage or 0.0):
                found.append(f"{what} {_bits(measured)} bits{_known(measured)}")
        for name, error in self._errors_in(max(declared.unit, self.storage or 0.0)).items():
            most = declared.error_of(name)
            # Of values up to one: at one the larger of the two counts, near zero the second.
            pairs = ((max(error), max(most)), (error[1], most[1]))
            if any(own > 1.02 * limit + _FUZZ for own, limit in pairs):
                found.append(f"{name} errs by up to {_units(error)}, where it is declared to err by {_units(most)}")
        if self.smallest is not None and self.smallest > declared.smallest:
            found.append(f"numbers below {self.smallest:.2g} are lost, where {declared.smallest:.2g} is declared")
        return tuple(found)

    def _errors_in(self, unit: float) -> dict[str, Error]:
        """Errors of functions in another unit than that of storage: states may be kept finer than the rest."""
        ratio = (self.storage or unit) / unit
        return {name: (ratio * of_value, ratio * of_one) for name, (of_value, of_one) in self.elementary.items()}

    def arithmetic(self, declared: Arithmetic) -> Arithmetic:
        """The declared arithmetic with what was measured to be coarser."""

        def coarser(name: str, measured: float | None) -> float:
            return max(float(getattr(declared, name)), measured or 0.0)

        unit = coarser("unit", self.storage if (self.storage or 0.0) > declared.states else None)
        operand, result = coarser("operand", self.operand), coarser("result", self.result)
        measured = self._errors_in(unit)
        functions = {*declared.elementary, *measured}
        return replace(
            declared,
            name=f"{declared.name}, as measured",
            unit=unit,
            states=coarser("states", self.storage),
            operand=operand if operand > unit else 0.0,
            result=result if result > unit else 0.0,
            accumulate=coarser("accumulate", self.accumulate),
            smallest=coarser("smallest", self.smallest),
            largest=min(declared.largest, self.largest or np.inf),
            elementary={
                name: tuple(np.maximum(declared.error_of(name), measured.get(name, (0.0, 0.0))))
                for name in sorted(functions)
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `Profile` takes it as keywords."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        functions = {name: list(error) for name, error in self.elementary.items()}
        return plain | {"elementary": functions, "unknown": dict(self.unknown)}

    def __str__(self) -> str:
        parts = []
        if self.storage:
            parts.append(f"stored with {_bits(self.storage)} bits{_known(self.storage)}")
        for what, unit in (("operands", self.operand), ("sums", self.accumulate), ("results", self.result)):
            if unit is not None:
                parts.append(f"{what} {f'of {_bits(unit)} bits{_known(unit)}' if unit else 'as stored'}")
        parts += [f"{name} up to {_units(error)}" for name, error in self.elementary.items()]
        if self.smallest is not None and self.largest is not None:
            parts.append(f"range {self.smallest:.2g} to {self.largest:.2g}")
        parts += [f"{name} not measured ({reason})" for name, reason in self.unknown.items()]
        return "; ".join(parts)


def _bits(unit: float | None) -> int:
    return int(-np.log2(unit or 1.0))


def _known(unit: float | None) -> str:
    names = {8: "bfloat16", 11: "float16 and TF32", 24: "float32", 53: "float64"}
    name = names.get(_bits(unit))
    return f", as in {name}" if name else ""


def _units(error: Error) -> str:
    of_value, of_one = error
    if of_one > of_value:
        return f"{of_one:.3g} units of one"
    return f"{of_value:.3g} u" if not of_one else f"{of_value:.3g} u or {of_one:.3g} units of one"
