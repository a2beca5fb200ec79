"""A backend in a process of its own: one that hangs is killed, one that crashes takes nothing else with it.

The two processes talk over the pipes that stand for standard input and output at the start of the child, which then
points its own standard output at standard error: whatever the backend prints, it cannot disturb the conversation.
A message is one line of JSON and the float64 numbers of the arrays whose shapes the line gives. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Self, cast

import numpy as np

from kpref._types import Array
from kpref.flow import Flow
from kpref.oracle.arithmetic import Arithmetic, get_arithmetic
from kpref.oracle.backend import Backend, BackendFault, timeout_fault
from kpref.oracle.problem import describe

__all__ = ["IsolatedBackend", "receive", "send"]


def send(file: BinaryIO, message: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Write a message with arrays of float64."""
    plain = [np.asarray(array, dtype="<f8", order="C") for array in arrays]
    head = {**message, "shapes": [array.shape for array in plain]}
    file.write(json.dumps(head).encode() + b"\n")
    for array in plain:
        file.write(array.tobytes())
    file.flush()


def receive(file: BinaryIO) -> tuple[dict[str, Any], list[Array]]:
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


class IsolatedBackend(Backend):
    """A backend that a factory makes in a child process; a context manager.

    `factory`: ``module:function``; it is given a `Flow` and returns what `kpref.oracle.backend` describes. The current
    directory is importable. `arithmetic`: by default what the backend says. `timeout`: seconds for one call, and for
    starting up. `tell`: called with the name of each operator before it is applied.
    Raises BackendFault if the backend cannot be made.
    """

    def __init__(
        self,
        factory: str,
        flow: Flow,
        arithmetic: str | Arithmetic | None = None,
        timeout: float = 60.0,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.shape = (flow.states.shape[0], flow.states.shape[1], flow.states.shape[2])
        self.n_parameters = flow.model.n_parameters
        self._factory, self._problem = factory, describe(flow)
        self._timeout, self._tell = timeout, tell
        self._process: subprocess.Popen[bytes] | None = None
        self._offered: dict[str, bool] = {}
        self._metrics: tuple[str, ...] = ()
        self._unreadable: BackendFault | None = None
        self._declared = arithmetic
        self.arithmetic = get_arithmetic(arithmetic or "float64")
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def offers(self, operator: str) -> bool:
        """See `Backend.offers`."""
        return self._offered.get(operator, False)

    def states(self) -> Array:
        """See `Backend.states`."""
        return self._ask("states", [])[0]

    def __call__(self, operator: str, tensor: Array) -> Array:
        """See `Backend.__call__`."""
        return self._ask(operator, [tensor])[0]

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

    def check_independence(self, operator: str, first: Array, second: Array) -> None:
        """See `Backend.check_independence`."""
        self._ask(operator, [first, second])

    def _start(self) -> None:
        command = [sys.executable, "-m", "kpref.oracle.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        description, arrays = self._problem
        message = {
            "factory": self._factory,
            "arithmetic": None if self._declared is None else get_arithmetic(self._declared).to_dict(),
            "description": description,
            "names": list(arrays),
        }
        answer, _ = self._exchange("backend", message, list(arrays.values()))
        self.arithmetic = get_arithmetic(answer["arithmetic"])
        self._offered = answer["offered"]
        self._metrics, fault = tuple(answer["metrics"]), answer["metrics_fault"]
        self._unreadable = None if fault is None else BackendFault(fault[0], "metrics", fault[1])

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, operator: str, tensors: list[Array], message: Mapping[str, Any] | None = None) -> list[Array]:
        if self._tell is not None:
            self._tell(operator)
        if self._process is None:  # the last one hung or crashed
            self._start()
        answer: list[Array] = self._exchange(operator, message or {"operator": operator}, tensors)[1]
        return answer

    def _exchange(self, operator: str, message: Mapping[str, Any], arrays: list[Array]) -> Any:
        """Send a message and wait for its answer, in a thread: reading and writing pipes knows no time limit."""
        process, outcome = self._process, []
        assert process is not None
        requests, answers = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)

        def converse() -> None:
            try:
                send(requests, message, arrays)
                outcome.append(receive(answers))
            except (OSError, EOFError, ValueError):
                pass  # it died, or was killed below

        thread = threading.Thread(target=converse, daemon=True, name="kpref-verify")
        thread.start()
        try:
            thread.join(self._timeout)
            if thread.is_alive():
                raise timeout_fault(operator, self._timeout)
            if not outcome:
                raise BackendFault("crashed", operator, f"{operator} ended the process{_reason(process)}")
        except BaseException:
            self._stop()
            thread.join()
            raise
        answer = outcome[0]
        if "fault" in answer[0]:
            raise BackendFault(answer[0]["fault"], operator, answer[0]["message"])
        return answer


def _reason(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(5)
    except subprocess.TimeoutExpired:
        return ": it closed its end of the pipe"
    if status >= 0:
        return f" with exit status {status}"
    try:
        return f" by signal {signal.Signals(-status).name}"
    except ValueError:
        return f" by signal {-status}"
