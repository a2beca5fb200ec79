"""Cells on the workers of a Dask cluster: each in a process of its own there, with the same limits as here.

A task starts the process on its worker and waits for it. If the sweep ends, however it does, its client is gone, the
scheduler wants the task no more, and the task ends the process; if a worker dies, its processes end with it, and
another worker is given their cells. What comes of them is kept by the sweep alone, so that no two write in its folder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from kpref._validate import short
from kpref.sweeps.cell_process import CellProcess, Outcome

__all__ = ["Cluster", "connected"]

#: Seconds between looks at a process, on a worker.
_LOOK = 0.05
#: Cells that are handed out for each thread of the cluster: one that runs, and one that waits for its end.
_AHEAD = 2
#: How Dask calls a worker that ends, as it does where its scheduler is lost.
_ENDING = ("closing", "closed", "failed")


class Cluster:
    """The workers that a client of Dask's knows.

    Raises ImportError if distributed is not there, TypeError for something else than a client that waits for results,
    ValueError for one that is closed, RuntimeError if there is no worker.
    """

    def __init__(self, client: Any) -> None:
        distributed = _distributed()
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise TypeError(f"client must be a distributed.Client that waits for results; got {short(client)}")
        if client.scheduler is None:
            raise ValueError("client must be connected to a scheduler; got one that is closed: make another")
        self._client = client
        threads = sum(client.nthreads().values())
        if not threads:
            raise RuntimeError(f"the cluster at {client.scheduler.address} has no worker: start some, and sweep again")
        self.width = _AHEAD * threads

    def start(
        self, settings: Mapping[str, Any], metrics: tuple[str, ...], seconds: float | None, memory: int | None
    ) -> _ClusterCell:
        """Hand a cell to the workers; arguments as for `CellProcess`."""
        future = self._client.submit(_run, dict(settings), metrics, seconds, memory, pure=False)
        return _ClusterCell(future, str(self._client.scheduler.address))


class _ClusterCell:
    """A cell that was handed out; see `kpref.sweeps.cell_process.Running`."""

    def __init__(self, future: Any, address: str) -> None:
        self._future, self._address = future, address

    def outcome(self) -> Outcome | None:
        """See `Running`."""
        if not self._future.done():
            return None
        if self._future.status in ("cancelled", "lost"):
            raise RuntimeError(
                f"the scheduler at {self._address} was lost; what is over is kept: start the cluster anew, and sweep on"
            )
        try:
            found: Outcome | None = self._future.result()
        except _distributed().KilledWorker:
            return {"failed": "crashed", "error": "the workers that it was given to were lost, one after another"}
        return found or {"failed": "crashed", "error": "the worker that ran it was closed"}

    def stop(self) -> None:
        """See `Running`."""
        self._future.cancel()


def connected(address: str | None, file: str | os.PathLike[str] | None) -> Any:
    """A client of the cluster at an address, or whose scheduler has written one into a file.

    Raises ImportError if distributed is not there, OSError if there is no such file or nobody answers.
    """
    distributed = _distributed()
    where = address
    if file is not None:
        address = _written(file)
        where = f"{address}, which {os.fspath(file)} names"
    try:
        return distributed.Client(address)
    except (OSError, ValueError) as error:
        raise OSError(f"no scheduler of Dask's answers at {where}: {error}") from error


def _written(file: str | os.PathLike[str]) -> str:
    """The address that a scheduler has written into a file. Dask's client would wait for a file that is not there."""
    try:
        found: Any = json.loads(Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        found = error
    if isinstance(found, dict) and isinstance(address := found.get("address"), str) and address:
        return address
    raise OSError(
        f"{os.fspath(file)} must hold the address of a scheduler in JSON, as dask scheduler --scheduler-file writes; "
        f"got {short(found)}"
    )


def _distributed() -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        raise ImportError("a cluster needs the package distributed (pip install 'kpref[distributed]')") from error


def _run(
    settings: dict[str, Any], metrics: tuple[str, ...], seconds: float | None, memory: int | None
) -> Outcome | None:
    """On a worker: the outcome of a cell; None if nobody wants it any more."""
    worker = _distributed().get_worker()
    key = worker.get_current_task()
    process = CellProcess(settings, metrics, seconds, memory, alone=False)
    try:
        while (outcome := process.outcome()) is None:
            task = worker.state.tasks.get(key)
            if task is None or task.state == "cancelled" or worker.status.name in _ENDING:
                return None
            time.sleep(_LOOK)
        return outcome
    finally:
        process.stop()
