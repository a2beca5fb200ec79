"""Numbers for people: how many digits, which signs, and how errors and intervals stand beside them."""

from __future__ import annotations

import math

__all__ = ["LEVEL", "number", "percent", "with_error", "with_interval"]

#: Of the intervals that a report states.
LEVEL = 0.95

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """A number for people: ``0.0316``, ``169,000``, ``2.1×10⁻¹⁴``, ``−∞``."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value).replace("inf", "∞").replace("-", "−").replace("nan", "–")
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    exponent = int(power)
    if -4 <= exponent < 6:
        rounded = float(f"{mantissa}e{power}")
        return f"{rounded:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")
    return f"{mantissa.replace('-', '−')}×10{str(exponent).translate(_SUPERSCRIPTS)}"


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage, with so many digits behind the point: ``69 %``."""
    return f"{100 * share:.{digits}f} %"


def with_error(value: float, error: float | None) -> str:
    """A number with its error; the number has no more digits than that supports."""
    if value != value:
        return "–"
    if not error or error != error:
        return number(value)
    digits = 2 + _power(value) - _power(error) if value else 2
    return f"{number(value, max(2, min(digits, 5)))} ± {number(error, 2)}"


def with_interval(value: float, low: float, high: float) -> str:
    """A number with its interval, all to the same place: ``3.78 (3.70 to 3.86)``.

    The last place is the second digit of half the width, within two and five digits of the largest of the three.
    """
    if value != value:
        return "–"
    if not low < high:
        return number(value)
    largest = max(abs(value), abs(low), abs(high))
    if not math.isfinite(largest):
        return f"{number(value, 2)} ({number(low, 2)} to {number(high, 2)})"
    place = max(min(_power((high - low) / 2) - 1, _power(largest) - 1), _power(largest) - 4)
    shown, below, above = (_to_place(part, place) for part in (value, low, high))
    if below == above:  # known to more digits than anybody reads
        return shown
    return f"{shown} ({below} to {above})"


def _to_place(value: float, place: int) -> str:
    rounded = round(value, -place) + 0.0  # + 0.0: no -0
    if rounded == 0:
        return "0"
    return number(rounded, max(1, _power(rounded) - place + 1))


def _power(value: float) -> int:
    return int(f"{value:e}".split("e")[1])
