"""A backend in a process of its own: one that hangs is killed, one that crashes takes nothing else with it.

The two processes talk over the pipes that stand for standard input and output at the start of the child, which then
points its own standard output at standard error: whatever the backend prints, it cannot disturb the conversation.
A message is one line of JSON and the float64 numbers of the arrays whose shapes the line gives. Nothing is pickled.

A message says itself how long it is, and whether the child is there says the system: the end of a pipe says neither,
for a process that the backend has left behind may hold it open for ever. The child leads a group of processes, which
ends with it.
"""

from __future__ import annotations

import json
import math
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Self, cast

import numpy as np

from kpref._processes import has_ended, kill_group, status_in_words
from kpref._types import Array
from kpref.flow import Flow
from kpref.oracle.arithmetic import Arithmetic, get_arithmetic
from kpref.oracle.backend import Backend, BackendFault, timeout_fault
from kpref.oracle.problem import describe

__all__ = ["IsolatedBackend", "Worker", "receive", "send"]

#: A message with its arrays; and one that is to be sent, or None when there is nothing more to say.
_Message = tuple[dict[str, Any], list[Array]]
_Request = tuple[Mapping[str, Any], Sequence[Array]] | None

#: Seconds between looks at whether a child that has not answered is still there.
_LOOK = 0.1
#: Seconds that are waited for what is there at once, unless the machine stands still.
_PATIENCE = 5.0


def send(file: BinaryIO, message: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Write a message with arrays of float64."""
    plain = [np.asarray(array, dtype="<f8", order="C") for array in arrays]
    head = {**message, "shapes": [array.shape for array in plain]}
    file.write(json.dumps(head).encode() + b"\n")
    for array in plain:
        file.write(array.tobytes())
    file.flush()


def receive(file: BinaryIO) -> _Message:
    """Read a message.

    Raises EOFError if the other side is gone.
    """
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other process closed the pipe")
    message = json.loads(line)
    arrays = []
    for shape in message.pop("shapes"):
        size = 8 * math.prod(shape)
        data = file.read(size)
        if len(data) < size:
            raise EOFError("the other process closed the pipe")
        arrays.append(np.frombuffer(data, dtype="<f8").reshape(shape).astype(np.float64))
    return message, arrays


class Worker:
    """A child process that makes backends and applies their operators; a context manager.

    It starts when it is first asked for something, and again after it was ended. `path`: places that it imports from
    beside its own.
    """

    def __init__(self, path: Sequence[str] = ()) -> None:
        self._path = list(path)
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread()  # that talks to the process, as long as it runs
        self._requests, self._answers = queue.SimpleQueue[_Request](), queue.SimpleQueue[_Message | None]()
        #: How often it was started: a backend is gone with the process that it was made in.
        self.starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def ask(self, operator: str, message: Mapping[str, Any], arrays: Sequence[Array], timeout: float) -> _Message:
        """Send a message and wait for its answer.

        Raises BackendFault if that is one, or does not come within so many seconds, or the process ends first.
        """
        try:
            answer = self._exchange(operator, message, arrays, timeout)
        except BaseException:
            self.stop()
            raise
        if "fault" in answer[0]:
            raise BackendFault(answer[0]["fault"], operator, answer[0]["message"])
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process, and the thread that talks to it: reading and writing pipes knows no time limit."""
        command = [sys.executable, "-m", "kpref.oracle.worker", *self._path]
        # A group of its own, in which all processes are that the backend starts.
        self._process = process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        self._requests, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
        talk = (process, self._requests, self._answers)
        self._thread = threading.Thread(target=_converse, args=talk, daemon=True, name="kpref-verify")
        self._thread.start()
        self.starts += 1
        return process

    def load(self, factory: str, timeout: float) -> None:
        """Import a factory.

        Raises BackendFault if there is none of this name.
        """
        self.ask("backend", {"load": factory}, [], timeout)

    def _exchange(self, operator: str, message: Mapping[str, Any], arrays: Sequence[Array], timeout: float) -> _Message:
        """The answer to a message; raises when there is none, and the process is then of no use."""
        process = self._process or self._start()
        self._requests.put((message, arrays))
        answer = self._awaited(process, operator, timeout)
        if answer is None:
            raise BackendFault("crashed", operator, f"{operator} ended the process{_reason(process)}")
        return answer

    def _awaited(self, process: subprocess.Popen[bytes], operator: str, timeout: float) -> _Message | None:
        """The answer; None if the process ended without one."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            with suppress(queue.Empty):
                return self._answers.get(timeout=min(left, _LOOK))
            if has_ended(process):
                kill_group(process)  # what it still said is in the pipe, whose end comes when no other process holds it
                with suppress(queue.Empty):
                    return self._answers.get(timeout=_PATIENCE)
                return None
        raise timeout_fault(operator, timeout)

    def stop(self) -> None:
        """End the process, and all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        kill_group(process)
        process.wait()
        self._requests.put(None)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():  # it has the pipes, which another process holds open
            return
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # of the rest of a message that nobody reads any more
                cast(BinaryIO, pipe).close()


def _converse(
    process: subprocess.Popen[bytes], requests: queue.SimpleQueue[_Request], answers: queue.SimpleQueue[_Message | None]
) -> None:
    """Put requests to a process, and its answers back, until None is asked; None is the answer of one that is gone."""
    while (request := requests.get()) is not None:
        try:
            send(cast(BinaryIO, process.stdin), *request)
            answers.put(receive(cast(BinaryIO, process.stdout)))
        except (OSError, EOFError, ValueError):  # it died, or was killed
            answers.put(None)


def _reason(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, as the end of a sentence."""
    end = time.monotonic() + _PATIENCE
    while not has_ended(process):
        if time.monotonic() > end:
            return ": it closed its end of the pipe"
        time.sleep(0.01)
    kill_group(process)  # while its number is its own
    return status_in_words(process.wait())


class IsolatedBackend(Backend):
    """A backend that a factory makes in a child process; a context manager.

    `factory`: ``module:function``; it is given a `Flow` and returns what `kpref.oracle.backend` describes. The current
    directory is importable. `arithmetic`: by default what the backend says. `timeout`: seconds for one call, and for
    starting up. `tell`: called with the name of each operator before it is applied. `worker`: the process, which may
    serve one backend after another; by default one of its own, which ends with the block.
    Raises BackendFault if the backend cannot be made.
    """

    def __init__(
        self,
        factory: str,
        flow: Flow,
        arithmetic: str | Arithmetic | None = None,
        timeout: float = 60.0,
        tell: Callable[[str], object] | None = None,
        worker: Worker | None = None,
    ) -> None:
        self.shape = (flow.states.shape[0], flow.states.shape[1], flow.states.shape[2])
        self.n_parameters = flow.model.n_parameters
        self._factory, self._problem = factory, describe(flow)
        self._timeout, self._tell = timeout, tell
        self._own = Worker() if worker is None else None
        self._worker = worker or cast(Worker, self._own)
        self._offered: dict[str, bool] = {}
        self._metrics: tuple[str, ...] = ()
        self._unreadable: BackendFault | None = None
        self._declared = arithmetic
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.stop()

    def offers(self, operator: str) -> bool:
        """See `Backend.offers`."""
        return self._offered.get(operator, False)

    def states(self) -> Array:
        """See `Backend.states`."""
        return self._ask("states", [])[0]

    def __call__(self, operator: str, tensor: Array) -> Array:
        """See `Backend.__call__`."""
        return self._ask(operator, [tensor])[0]

    def unjudged(self) -> dict[str, str]:
        """See `Backend.unjudged`."""
        return self._unjudged

    def metric_names(self) -> tuple[str, ...]:
        """See `Backend.metric_names`."""
        if self._unreadable is not None:
            raise self._unreadable
        return self._metrics

    def metric(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """See `Backend.metric`."""
        message = {"operator": "metrics", "metric": name, "shape": shape}
        value, standard_error = self._ask(f"metrics[{name!r}]", [], message)
        return value, standard_error

    def answers(self, operator: str, first: Array, second: Array) -> tuple[Array, Array]:
        """See `Backend.answers`."""
        one, other = self._ask(operator, [first, second])
        return one, other

    def _make(self) -> None:
        description, arrays = self._problem
        message = {
            "factory": self._factory,
            "arithmetic": None if self._declared is None else get_arithmetic(self._declared).to_dict(),
            "description": description,
            "names": list(arrays),
        }
        answer, _ = self._worker.ask("backend", message, list(arrays.values()), self._timeout)
        self._made_in = self._worker.starts
        self.arithmetic = get_arithmetic(answer["arithmetic"])
        self._offered, self.not_offered = answer["offered"], answer["not_offered"]
        self.loss_scale, self.unscaled = answer["loss_scale"]
        self._unjudged: dict[str, str] = answer["unjudged"]
        self._metrics, fault = tuple(answer["metrics"]), answer["metrics_fault"]
        self._unreadable = None if fault is None else BackendFault(fault[0], "metrics", fault[1])

    def _ask(self, operator: str, tensors: list[Array], message: Mapping[str, Any] | None = None) -> list[Array]:
        if self._tell is not None:
            self._tell(operator)
        if not self._worker.running or self._worker.starts != self._made_in:  # the last one hung or crashed
            self._make()
        return self._worker.ask(operator, message or {"operator": operator}, tensors, self._timeout)[1]
