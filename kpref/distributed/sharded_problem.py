"""What a sharded flow is asked about: trials, measure and initial states, and how these are cut into shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import finite_array, instance, integer, precision, short
from kpref.distributed.shards import Shard
from kpref.distributed.stored_trials import trial_source
from kpref.flow_inputs import time_grid
from kpref.integrate import Tableau
from kpref.models.base import Field, Map, Model
from kpref.space import TrajectorySpace
from kpref.trials import Trials

__all__ = ["Problem"]

#: Numbers in the states of a shard, unless its size is given: a choice by the problem alone, as bits depend on it.
_NUMBERS = 1 << 21


class Problem:
    """Trials, which `ShardedFlow` describes, and their cuts; arguments are as there.

    `shape`: (B, T, H) of the states. `bounds`: the trials of each shard.
    """

    def __init__(
        self,
        model: Model,
        trials: Trials | str | os.PathLike[str],
        shard_size: int | None,
        z0: npt.ArrayLike | None,
        measure: str | npt.ArrayLike,
        dtype: npt.DTypeLike,
        dt: float | None,
        times: npt.ArrayLike | None,
        method: str | Tableau | None,
    ) -> None:
        instance("model", model, Map | Field, "one of kpref.models")
        self._source, self.dtype = trial_source(trials), precision(dtype)
        n_trials, n_steps, _ = self._source.shape
        self.shape = (n_trials, n_steps, model.n_states)
        self._options: dict[str, Any] = {"dtype": self.dtype}
        grid = None
        if isinstance(model, Field):
            grid = time_grid(times, dt, np.broadcast_to(0.0, (1, n_steps, 1)))
            self._options |= {"times": grid, "method": method}
        elif not (dt is times is method is None):
            raise ValueError(f"dt, times and method are for models in continuous time; {model} is a map")
        self._mu = TrajectorySpace((n_trials, n_steps, 1), measure, grid, self._source.lengths).mu
        self._z0 = _starts(z0, n_trials, model.n_states)
        size = max(1, _NUMBERS // (n_steps * model.n_states)) if shard_size is None else shard_size
        number = -(-n_trials // integer("shard_size", size, 1))
        ends = [n_trials * index // number for index in range(number + 1)]
        self.bounds = tuple(map(slice, ends, ends[1:]))

    def shards(self) -> list[Shard]:
        """The trials in shards, each with its part of the measure and of the initial states."""
        z0, source = self._z0, self._source
        starts = [z0[part] if z0 is not None and z0.ndim == 2 else z0 for part in self.bounds]
        return [
            Shard(index, part, source, part, self._mu[part], start, self._options)
            for index, (part, start) in enumerate(zip(self.bounds, starts, strict=True))
        ]

    def parts(self, q: Any) -> Iterator[Array]:
        """The part of each shard of an array (B, T, H), whose slices are read when they are needed."""
        if tuple(getattr(q, "shape", ())) != self.shape:
            shown = tuple(q.shape) if hasattr(q, "shape") else short(q)
            raise ValueError(f"q must be an array of shape {self.shape}; got {shown}")
        return (np.ascontiguousarray(q[part]) for part in self.bounds)

    def difference(self, other: Problem) -> str | None:
        """What two problems differ in, in one word or two; None if a model is asked the same by both."""
        starts = [np.zeros(1) if problem._z0 is None else problem._z0 for problem in (self, other)]
        same: Mapping[str, bool] = {
            "trials": self._source.same(other._source),
            "states": self.shape == other.shape,
            "shards": self.bounds == other.bounds,
            "initial states": bool(np.all(starts[0] == starts[1])) if self.shape == other.shape else True,
            "measure": self._mu.shape == other._mu.shape and bool((self._mu == other._mu).all()),
            "precision": self.dtype == other.dtype,
        }
        return next((what for what, agrees in same.items() if not agrees), None)


def _starts(z0: npt.ArrayLike | None, trials: int, units: int) -> Array | None:
    if z0 is None:
        return None
    starts = finite_array("z0", z0)
    if starts.shape not in ((units,), (trials, units)):
        raise ValueError(f"z0 must have shape ({units},) or ({trials}, {units}); got {starts.shape}")
    return starts
