"""Who works on the shards: the protocol, and this process itself.

An engine maps a task over shards and adds up what comes of it, in the order of `kpref.distributed.tree`. Tasks are pure
functions, so that what is lost can be done again, by anybody. Another engine would implement these two methods alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from kpref._types import Array
from kpref.distributed.shards import Group, Shard, Task
from kpref.models.base import Model

__all__ = ["Engine", "InProcess"]


class Engine(Protocol):
    """What a sharded flow needs of those who work for it."""

    def total(self, task: Task, models: Sequence[Model], *arguments: Any) -> Array:
        """The sum over shards of arrays of one shape, in float64, in the order of the tree.

        `task`: called with a `LoadedShard`, whose flows are those of the models, and the arguments, which all shards
        share.
        """

    def each(
        self, task: Task, models: Sequence[Model], arguments: Sequence[Any], own: Iterator[Any] | None = None
    ) -> Iterator[Any]:
        """What the task makes of each shard, in their order; the last argument of each is its `own`, if there are."""


class InProcess:
    """Shard after shard, in this process."""

    def __init__(self, shards: Sequence[Shard], keep: float) -> None:
        self._group = Group(shards, keep)

    def total(self, task: Task, models: Sequence[Model], *arguments: Any) -> Array:
        """See `Engine`."""
        return self._group.total(self._group.held, task, models, *arguments)

    def each(
        self, task: Task, models: Sequence[Model], arguments: Sequence[Any], own: Iterator[Any] | None = None
    ) -> Iterator[Any]:
        """See `Engine`."""
        for shard in self._group.shards:
            more = () if own is None else (next(own),)
            yield self._group.run(shard.index, task, models, *arguments, *more)
