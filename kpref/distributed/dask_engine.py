"""Shards on the workers of a Dask cluster.

Each worker holds a range of consecutive shards (`Group`), and gets one task for a product: it adds up its range as
far as the tree over all shards allows, and the rest of the tree is added here. So of M parameters a product moves M
numbers to each worker and M back, for each largest node of the tree within its range: one, if there are as many workers
as a power of two and shards a multiple of them, and a logarithm of the number of shards at most.

Workers hold nothing that is nowhere else. Groups, models and vectors are scattered, never embedded in a graph; if a
worker is lost, and with it what it held, everything is placed anew on the workers that there are, and the product is
done again, to the same bits. So it is when more workers come, as those that were lost and have been started again.
There are no actors. What is lost with the scheduler cannot be made up for, and is told.

The threads of a worker would share what is compiled, and BLAS: clusters must have one thread for tasks a worker. How
many threads kpref itself uses in a worker is said by KPREF_NUM_THREADS in its environment; `WORKER_ENVIRONMENT` is for
workers of one thread each, as many as there are cores.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from copy import copy
from functools import cached_property, partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import ref

from kpref._types import Array
from kpref._validate import short
from kpref.distributed.shards import Group, Shard, Task
from kpref.distributed.tree import Node, largest_nodes, tree_sum
from kpref.models.base import Model

__all__ = ["WORKER_ENVIRONMENT", "DaskEngine"]

#: Environment of workers, to be there before they start: Dask's setting ``distributed.nanny.pre-spawn-environ``. One
#: thread each for kpref, Numba and BLAS; and memory that is freed stays with the process, where Dask's own setting
#: gives it back to the system, which clears it anew for each array of the next product: a fifth of the time of some.
WORKER_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("KPREF_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 25),  # the largest that glibc takes
    }
)

#: How often a product is begun anew on the workers that there are.
_ATTEMPTS = 8
#: Seconds to wait for a worker where there is none, as when one that died is being restarted.
_PATIENCE = 60
#: Shards whose results may wait on the workers while they are fetched one by one.
_AHEAD = 2
#: Share of a worker's memory for flows, unless that is given: Dask begins to move data to disk at seven tenths.
_SHARE = 0.4

Result = TypeVar("Result")


class DaskEngine:
    """Workers of a cluster of Dask's.

    `client`: a `distributed.Client`. `keep`: bytes for flows on each worker; None: a share of its memory limit, nothing
    if it has none.
    """

    def __init__(self, client: Any, shards: Sequence[Shard], keep: float | None) -> None:
        try:
            distributed = import_module("distributed")
        except ImportError as error:
            raise ImportError("a client needs the package distributed (pip install 'kpref[distributed]')") from error
        if not isinstance(client, distributed.Client):
            raise TypeError(f"client must be a distributed.Client, or None for this process; got {short(client)}")
        if client.asynchronous:
            raise TypeError("client must be one that waits for results; got an asynchronous one")
        if client.scheduler is None:
            raise ValueError("client must be connected to a scheduler; got one that is closed: make another")
        self._client, self._shards, self._keep = client, tuple(shards), keep
        self._lost = (CancelledError, distributed.KilledWorker, distributed.comm.CommClosedError, OSError, TimeoutError)
        self._address = str(client.scheduler.address)
        self._places: dict[str, tuple[Node, Any]] = {}  # what each worker holds: the range, and the group's future
        self._models: list[tuple[ref[Model], Any]] = []  # what workers have of each that is still in use here
        self._turn = 0
        self._place()

    def total(self, task: Task, models: Sequence[Model], *arguments: Any) -> Array:
        """See `Engine`."""

        def attempt() -> Array:
            shared, given = self._shared(models), self._delivered(arguments)
            futures = []
            for worker, (held, group) in self._places.items():
                nodes = largest_nodes(self._root, held)
                futures.append(self._submit(worker, _totals, group, nodes, task, shared, *given[worker]))
            found: dict[Node, Array] = {}
            for totals in self._client.gather(futures):
                found |= totals
            return tree_sum(self._root, found.get)

        return self._again(attempt)

    def each(
        self, task: Task, models: Sequence[Model], arguments: Sequence[Any], own: Iterator[Any] | None = None
    ) -> Iterator[Any]:
        """See `Engine`. Some shards are worked on ahead of the one that is waited for, two a worker."""
        waiting: list[tuple[Shard, tuple[Any, ...], list[Any]]] = []
        remaining = iter(self._shards)
        while True:
            while len(waiting) < _AHEAD * max(1, len(self._places)) and (shard := next(remaining, None)) is not None:
                waiting.append((shard, () if own is None else (next(own),), []))
            if not waiting:
                return

            def attempt() -> Any:
                shared, given = self._shared(models), self._scattered(arguments)
                for shard, more, future in waiting:
                    if not future or future[0].status in ("cancelled", "lost", "error"):
                        worker, group = self._holder(shard.index)
                        mine = self._scattered(more)
                        future[:] = [self._submit(worker, _run, group, shard.index, task, shared, *given, *mine)]
                return self._client.gather(waiting[0][2][0])

            yield self._again(attempt)
            del waiting[0]

    @property
    def _root(self) -> Node:
        return 0, len(self._shards)

    def _submit(self, worker: str, *call: Any) -> Any:
        """A task where its shards are, or elsewhere if this worker is lost."""
        return self._client.submit(*call, workers=[worker], allow_other_workers=True, pure=False)

    def _holder(self, index: int) -> tuple[str, Any]:
        return next((worker, group) for worker, (held, group) in self._places.items() if held[0] <= index < held[1])

    def _again(self, attempt: Callable[[], Result]) -> Result:
        """What a function returns, called again with everything placed anew if a worker is lost meanwhile."""
        for _ in range(_ATTEMPTS):
            try:
                if not self._places or self._have_changed():
                    self._place()
                return attempt()
            except _OfTask as error:
                raise error.args[0] from None
            except self._lost as error:
                last, self._places = error, {}
        raise RuntimeError(
            f"workers were lost in each of {_ATTEMPTS} attempts at one product, the last one by {last!r}: see their "
            "logs, and whether a shard and its flow fit into their memory"
        ) from last

    def _have_changed(self) -> bool:
        """Whether a worker is lost, or there are more than have shards: those that began late, or anew."""
        workers = set(self._threads())
        return bool(set(self._places) - workers) or len(self._places) < min(len(workers), len(self._shards))

    def _place(self) -> None:
        """Give each worker its range of shards."""
        if not self._threads():
            try:
                self._client.wait_for_workers(1, timeout=_PATIENCE)
            except TimeoutError as error:
                raise RuntimeError(
                    f"the cluster at {self._address} has had no worker for {_PATIENCE} s: see their logs"
                ) from error
        threads = self._threads()
        for worker, number in threads.items():
            if number != 1:
                raise ValueError(
                    f"each worker must have one thread for tasks; {worker} has {number}: start the cluster with "
                    "threads_per_worker=1 (dask worker --nthreads 1)"
                )
        if sum(worker.startswith("inproc:") for worker in threads) > 1:
            raise ValueError(
                "workers must be processes of their own, as what is compiled is entered by one thread at a time; got "
                f"{len(threads)} that are threads of one process: start the cluster with processes=True"
            )
        workers = sorted(threads)[: len(self._shards)]
        bounds = [len(self._shards) * place // len(workers) for place in range(len(workers) + 1)]
        self._models, self._places = [], {}
        for worker, first, last in zip(workers, bounds, bounds[1:], strict=False):
            group = Group([shard.detached() for shard in self._shards[first:last]], self._keep)
            self._places[worker] = (first, last), self._client.scatter(_Boxed(group), workers=[worker], hash=False)

    def _threads(self) -> Mapping[str, int]:
        """The workers that there are, and how many threads for tasks each has."""
        try:
            return dict(self._client.nthreads())
        except Exception as error:  # of connections, of time, of a client that has closed itself: half a dozen types
            raise RuntimeError(
                f"the scheduler at {self._address} does not answer, and what its workers had is lost: start the "
                "cluster anew, and a flow on it"
            ) from error

    def _shared(self, models: Sequence[Model]) -> list[Any]:
        """Futures of models; each is sent once, as flows that are kept know it by identity."""
        found = []
        self._models = [(known, future) for known, future in self._models if known() is not None]
        for model in models:
            future = next((future for known, future in self._models if known() is model), None)
            if future is None:
                future = self._scatter(copy(model))  # or a worker in this process would hold the model itself
                self._models.append((ref(model), future))
            found.append(future)
        return found

    def _delivered(self, arguments: Sequence[Any]) -> Mapping[str, list[Any]]:
        """Futures of arguments for each worker, of copies of its own.

        So all begin at once, and none has to serve others while it works.
        """
        boxes, workers = [_Boxed(argument) for argument in arguments], list(self._places)

        async def deliver() -> list[Any]:
            scatter = partial(self._client.scatter, boxes, hash=False, asynchronous=True)
            return await asyncio.gather(*(scatter(workers=[worker]) for worker in workers))

        return dict(zip(workers, self._client.sync(deliver), strict=True))

    def _scattered(self, arguments: Sequence[Any]) -> list[Any]:
        """Futures of arguments."""
        return [self._scatter(argument) for argument in arguments]

    def _scatter(self, value: Any) -> Any:
        """A value on one worker, of which the others fetch it: to broadcast it would wait for workers that are lost."""
        self._turn += 1
        workers = list(self._places)
        return self._client.scatter(_Boxed(value), workers=[workers[self._turn % len(workers)]], hash=False)


class _OfTask(Exception):  # noqa: N818
    """An error of the system's that a task met with: raised as itself, it would pass for that of a lost worker."""


class _Boxed:
    """A value that a worker gets in memory of NumPy's own.

    Arrays that Dask sends begin at any byte of what it received, and NumPy multiplies those that are not aligned in
    another way, to other last bits.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    @cached_property
    def _pickled(self) -> bytes:
        """Made once for all workers. Protocol 5 would let Dask take the arrays out of the pickle."""
        return bytes(import_module("cloudpickle").dumps(self.value, protocol=4))

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self._pickled,)


def _opened(pickled: bytes) -> _Boxed:
    """What a worker makes of it; it comes from the client, whose functions it runs anyway."""
    return _Boxed(pickle.loads(pickled))


def _values(boxed: Sequence[_Boxed]) -> list[Any]:
    return [box.value for box in boxed]


def _totals(
    group: _Boxed, nodes: list[Node], task: Task, models: Sequence[_Boxed], *arguments: _Boxed
) -> dict[Node, Array]:
    held = _opened_group(group)
    with _told_apart():
        return {node: held.total(node, task, _values(models), *_values(arguments)) for node in nodes}


def _run(group: _Boxed, index: int, task: Task, models: Sequence[_Boxed], *arguments: _Boxed) -> Any:
    with _told_apart():
        return _opened_group(group).run(index, task, _values(models), *_values(arguments))


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _OfTask(error) from error


def _opened_group(boxed: _Boxed) -> Group:
    """The shards of this worker, which knows how much memory it has."""
    group: Group = boxed.value
    if group.keep is None:
        group.keep = _SHARE * (import_module("distributed").get_worker().memory_manager.memory_limit or 0)
    return group
