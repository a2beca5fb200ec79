"""Which trials a step of training sees: a function of the seed and the number of the step alone.

So a training that is resumed sees what one that never stopped would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kpref._types import Array
from kpref._validate import instance, integer, short
from kpref.training.objective import Objective
from kpref.trials import Trials

__all__ = ["Batches", "Source", "drawn"]

#: Trials, or what draws some: ``(n_trials, seed) -> Trials``.
Source = Trials | Callable[[int, int], Trials]


def drawn(source: Callable[[int, int], Trials], n_trials: int, seed: int, step: int) -> Trials:
    """Fresh trials of a step.

    Raises
    ------
    TypeError
        If the function returns something else.
    """
    own = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint32)[0])
    trials = source(n_trials, own)
    instance("what trials(n_trials, seed) returns", trials, Trials, "kpref.Trials")
    return trials


class Batches:
    """The batches of a training.

    Of given trials all, or in batches of `size`: every epoch has an order of its own, drawn from the seed and its
    number, and leaves out what does not fill a last batch.
    """

    def __init__(self, source: Source, size: int | None, seed: int) -> None:
        self.source, self.size, self.seed = source, size, integer("seed", seed, least=0)
        self._epoch, self._order = -1, np.zeros(0, np.intp)
        if size is not None:
            integer("batch_size", size, least=1)
        if isinstance(source, Trials):
            self.first = source
            if size is not None and size > source.n_trials:
                raise ValueError(f"batch_size must be at most the {source.n_trials} trials; got {size}")
        elif not callable(source):
            raise TypeError(
                "trials must be kpref.Trials or a function (n_trials, seed) -> Trials, as the method trials of a task; "
                f"got {short(source)}"
            )
        elif size is None:
            raise ValueError("batch_size is needed where trials are drawn: how many each step")
        else:
            self.first = drawn(source, size, self.seed, 0)

    def at(self, step: int, objective: Objective) -> Any:
        """The batch of a step, as the objective takes it.

        Raises
        ------
        ValueError, TypeError
            If trials that are drawn do not belong to the objective, or nothing of the batch is scored.
        """
        if not isinstance(self.source, Trials):
            assert self.size is not None
            return objective.batch(drawn(self.source, self.size, self.seed, step))
        if self.size is None or self.size == self.source.n_trials:
            return None
        return objective.batch(self._chosen(step))

    def _chosen(self, step: int) -> Array:
        assert self.size is not None
        epoch, place = divmod(step, self.first.n_trials // self.size)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.first.n_trials)
            self._epoch = epoch
        return self._order[place * self.size : (place + 1) * self.size]
