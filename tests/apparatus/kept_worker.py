"""A process for backends that serves one test after another: to start one takes longer than most tests do in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kpref.oracle.isolation import Worker

__all__ = ["KeptWorker"]


class KeptWorker(Worker):
    """A `Worker` that outlives those who stop theirs, unless its backend hung or crashed; `end` ends it."""

    def importing_from(self, path: Sequence[str]) -> KeptWorker:
        """This one; it imports from these places, if it has not been started yet."""
        if self._process is None:
            self._path = list(path)
        return self

    def stop(self) -> None:
        """See `Worker.stop`: another test has it next."""

    def end(self) -> None:
        """End the process, if there is one."""
        super().stop()

    def _exchange(self, *conversation: Any) -> Any:
        try:
            return super()._exchange(*conversation)
        except BaseException:  # the process is no more
            self.end()
            raise
