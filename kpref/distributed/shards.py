"""Shards: flows over some of the trials, with the weights that these have among all of them.

P does not mix trials, and K couples them by a sum over trials of vectors of as many numbers as there are parameters.
So a flow over all trials is one for each shard, whose measure is that of the whole, cut (an explicit array of weights),
and sums over shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.distributed.stored_trials import StoredTrials, TrialSource
from kpref.distributed.tree import Node, tree_sum
from kpref.flow import Flow
from kpref.models.base import Model

__all__ = ["Group", "LoadedShard", "Shard", "Task", "bytes_of"]


#: How many models have flows that are kept: an alignment has two, and a training a new one at each step.
_MODELS = 2

#: What is done with each shard; a function that a pickle can tell by its name. It may not keep what it is given.
Task = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Shard:
    """Some of the trials, and all that their flows need but the model."""

    index: int
    trials: slice  # among all trials
    source: TrialSource | StoredTrials
    within: slice  # among those of the source
    weights: Array  # (b, T), of the measure over all trials
    z0: Array | None  # (H,) or (b, H)
    options: Mapping[str, Any]  # of `Flow`, the same for all shards

    def detached(self) -> Shard:
        """The same without the trials of others."""
        source = self.source.cut(self.within)
        within = self.within if source is self.source else slice(0, self.within.stop - self.within.start)
        return Shard(self.index, self.trials, source, within, self.weights, self.z0, self.options)

    def flow(self, model: Model) -> Flow:
        """Run the model over the trials."""
        with self.named():
            trials, _ = self.source.take(self.within)
            return Flow(model, trials, self.z0, self.weights, **self.options)

    @contextmanager
    def named(self) -> Iterator[None]:
        """What is wrong with some of the trials says which."""
        try:
            yield
        except ValueError as error:
            raise ValueError(
                f"in the shard of trials {self.trials.start} to {self.trials.stop - 1}: {error}"
            ) from error


@dataclass(frozen=True, eq=False)
class LoadedShard:
    """What a task is given of a shard: flows of each model, the mask of the loss, and the place among all trials."""

    flows: tuple[Flow, ...]
    shard: Shard

    @property
    def index(self) -> int:
        """Number of the shard."""
        return self.shard.index

    def flow(self, model: Model) -> Flow:
        """A flow of another model, which nobody keeps."""
        return self.shard.flow(model)

    def answers(self) -> tuple[Mapping[str, Any], Array | None]:
        """Targets and labels, whichever there are, and the mask."""
        trials, mask = self.shard.source.take(self.shard.within)
        found = {name: getattr(trials, name) for name in ("targets", "labels") if getattr(trials, name) is not None}
        return found, mask


class Group:
    """Consecutive shards that one process works on, and the flows that it keeps while there is room for them.

    Shards are gone through in the same order again and again: those that came first stay, and no other takes the place
    of one of them. But flows of other models than the two that were asked for last are let go, and those of the one
    that is not asked for now if there is no room. What is kept changes no bit, and is not in a pickle.

    `keep`: bytes; None until the process that works on them has said how many.
    """

    def __init__(self, shards: Sequence[Shard], keep: float | None) -> None:
        self.shards, self.keep = tuple(shards), keep
        self._kept: dict[int, dict[Flow, float]] = {}  # of each shard, with their bytes
        self._recent: list[Model] = []  # those asked for last

    def __reduce__(self) -> tuple[Any, ...]:
        return Group, (self.shards, self.keep)

    @property
    def held(self) -> Node:
        """The range of its shards."""
        return self.shards[0].index, self.shards[-1].index + 1

    def total(self, node: Node, task: Task, models: Sequence[Model], *arguments: Any) -> Array:
        """The sum over the shards of a node of what a task makes of each, in float64."""

        def known(part: Node) -> Array | None:
            if part[1] - part[0] > 1:
                return None
            return np.asarray(self.run(part[0], task, models, *arguments), np.float64)

        return tree_sum(node, known)

    def run(self, index: int, task: Task, models: Sequence[Model], *arguments: Any) -> Any:
        """What a task makes of one shard."""
        shard = self.shards[index - self.shards[0].index]
        return task(LoadedShard(self._flows(shard, models), shard), *arguments)

    def _flows(self, shard: Shard, models: Sequence[Model]) -> tuple[Flow, ...]:
        self._note(models)
        kept = self._kept.get(shard.index, {})
        found: tuple[Flow, ...] = ()
        for model in models:  # of which two may be the same
            known = next((flow for flow in (*kept, *found) if flow.model is model), None)
            found = (*found, known or shard.flow(model))
        if self.keep:
            new = {flow: bytes_of(flow) for flow in found if flow not in kept}
            if new and self._has_room(sum(new.values()), models):
                self._kept[shard.index] = self._kept.get(shard.index, {}) | new
        return found

    def _has_room(self, size: float, models: Sequence[Model]) -> bool:
        """Whether so many bytes more may be kept, for which flows of other models are let go if need be."""
        room = (self.keep or 0.0) - size
        if 0 <= room < self._size():
            self._let_go_all_but(models)
        return self._size() <= room

    def _note(self, models: Sequence[Model]) -> None:
        older = [model for model in self._recent if all(model is not other for other in models)]
        self._recent, before = [*older, *models][-max(_MODELS, len(models)) :], self._recent
        if any(all(model is not other for other in self._recent) for model in before):
            self._let_go_all_but(self._recent)

    def _let_go_all_but(self, models: Sequence[Model]) -> None:
        for index, kept in self._kept.items():
            self._kept[index] = {
                flow: size for flow, size in kept.items() if any(flow.model is model for model in models)
            }

    def _size(self) -> float:
        return sum(sum(kept.values()) for kept in self._kept.values())


def bytes_of(flow: Flow) -> float:
    """Bytes of the arrays that a flow holds, each counted once, and of those in float32 that products keep beside them.

    The latter are there once such products have been asked for (`kpref.operators.precision`).
    """
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [flow.dynamics, flow.inputs]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or thing is flow.model:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            while isinstance(thing.base, np.ndarray):
                thing = thing.base
            found[id(thing)] = thing.nbytes
        elif isinstance(thing, Mapping):
            waiting.extend(thing.values())
        elif isinstance(thing, tuple | list):
            waiting.extend(thing)
        elif type(thing).__module__.startswith("kpref."):
            waiting.extend(getattr(thing, "__dict__", {}).values())
    return (1.5 if flow.dtype == np.float64 else 1.0) * sum(found.values())
