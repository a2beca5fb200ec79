"""How long each part of a report took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

__all__ = ["Sections", "in_words", "together"]


class Sections:
    """Tells the phases of some work on, and notes the seconds that each lasts: up to the next, or to `closed`."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell, self._seconds = tell, dict[str, float]()
        self._current: tuple[str, float] | None = None

    def __call__(self, phase: str) -> None:
        """The phase before has ended, and this one begins."""
        self._end()
        self._current = (phase, time.perf_counter())
        self._tell(phase)

    def closed(self) -> dict[str, float]:
        """Seconds of each phase; the last one ends here."""
        self._end()
        return self._seconds

    def _end(self) -> None:
        if self._current is not None:
            phase, began = self._current
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began
            self._current = None


def together(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds of the same phases of several networks, added."""
    total: dict[str, float] = {}
    for part in parts:
        for phase, seconds in part.items():
            total[phase] = total.get(phase, 0.0) + seconds
    return total


def in_words(seconds: Mapping[str, float]) -> str:
    """The costliest first."""
    order = sorted(seconds, key=lambda phase: -seconds[phase])
    return ", ".join(f"{phase} {seconds[phase]:.1f}" for phase in order)
