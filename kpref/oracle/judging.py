"""Problems of the grid judged in processes of their own, some at once and ahead of who asks for them.

Judging and answering take turns: while a backend computes, its judge waits, and the other way round. Two judges, each
with a backend of its own, keep two cores busy. A judge is code of this package and imports nothing of the backend's,
which stays in its `kpref.oracle.isolation.Worker`; so what a judge pickles can be trusted. Processes share the cores:
more threads than these would wait for each other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, TypeAlias, cast

from kpref._signals import Terminated, orderly_ends
from kpref.oracle.backend import BackendFault
from kpref.oracle.isolation import IsolatedBackend, Worker
from kpref.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from kpref.oracle.integers import NotExact
    from kpref.oracle.verdict import Report

    Outcome: TypeAlias = Report | BackendFault | NotExact

__all__ = ["Judges", "Question", "judge"]

#: Questions that a judge has at a time: the next one waits for it, so that it never waits for us.
_AT_ONCE = 2

#: What libraries that backends are made of take their number of threads from, unless it is set.
_THREADS = ("KPREF_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Question:
    """A problem of the grid, with its seed, and the backend that is to be verified on it."""

    problem: str
    seed: int
    factory: str  # module:function
    arithmetic: str | None  # None for what the backend declares
    timeout: float  # seconds for one call


def judge(question: Question, worker: Worker) -> Outcome:
    """What `kpref.oracle.verify` says of a backend on a problem, or why it says nothing; in this process."""
    from kpref.oracle.exact import verify_exact
    from kpref.oracle.grid import PROBLEMS
    from kpref.oracle.integers import NotExact
    from kpref.oracle.verification import verify

    problem = PROBLEMS[question.problem]
    try:
        flow = problem.build(question.seed)
        backend = IsolatedBackend(question.factory, flow, question.arithmetic, question.timeout, worker=worker)
        return (verify_exact if problem.exact else verify)(backend, flow, seed=question.seed)
    except (BackendFault, NotExact) as fault:
        return fault


class Judges:
    """Processes that judge; they end with `stop`, and with the process that started them.

    `path`: places that backends are imported from.
    """

    def __init__(self, number: int, path: Sequence[str]) -> None:
        context = get_context("spawn")  # a copy of this process would have its threads' locks and none of its threads
        self._busy: dict[Connection, list[Question]] = {}
        self._ahead: deque[Question] = deque()
        self._network: dict[Connection, str] = {}  # that each judge was asked about last
        self._outcomes: dict[Question, Outcome] = {}
        self._processes = []
        for _ in range(number):
            ours, theirs = context.Pipe()
            arguments = theirs, list(path), max(1, get_num_threads() // number)
            process = context.Process(target=_serve, args=arguments, daemon=True, name="kpref-judge")
            process.start()
            theirs.close()
            self._processes.append(process)
            self._busy[ours] = []

    def expect(self, questions: Iterable[Question]) -> None:
        """Say which questions will be asked, in their order, so that they are answered ahead."""
        self._ahead.extend(questions)
        self._hand_out()

    def outcome(self, question: Question) -> Outcome:
        """What comes of a question; each is asked once.

        Raises RuntimeError if the judge ended without an answer.
        """
        asked = any(question in asked for asked in self._busy.values())
        if not asked and question not in self._outcomes:
            if question in self._ahead:  # tests come in another order than was said
                self._ahead.remove(question)
            self._ahead.appendleft(question)
        self._hand_out()
        while question not in self._outcomes:
            for connection in wait([connection for connection, asked in self._busy.items() if asked]):
                self._receive(cast("Connection", connection))
            self._hand_out()
        return self._outcomes.pop(question)

    def stop(self) -> None:
        """End the processes and their backends: each sees the end of its pipe, or is ended."""
        for connection in self._busy:
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def _receive(self, connection: Connection) -> None:
        try:
            self._outcomes[self._busy[connection].pop(0)] = connection.recv()
        except EOFError:
            raise RuntimeError(
                "a process that judges ended without an answer; its error is on standard error"
            ) from None

    def _hand_out(self) -> None:
        """Give the next questions to who has fewest."""
        while self._ahead:
            connection, waiting = min(self._busy.items(), key=lambda item: len(item[1]))
            if len(waiting) == _AT_ONCE:
                return
            waiting.append(question := self._next(connection))
            self._ahead.remove(question)
            self._network[connection] = _network_of(question)
            connection.send(question)

    def _next(self, connection: Connection) -> Question:
        """Of the network that the judge was asked about last, whose code is loaded, or the first."""
        last = self._network.get(connection)
        return next((question for question in self._ahead if _network_of(question) == last), self._ahead[0])


def _network_of(question: Question) -> str:
    from kpref.oracle.grid import PROBLEMS

    return PROBLEMS[question.problem].model


def _serve(connection: Connection, path: list[str], threads: int) -> None:
    """Answer questions until the other end of the pipe is closed, or this process is told to end."""
    set_num_threads(threads)
    for name in _THREADS:  # of the backend
        os.environ.setdefault(name, str(threads))
    ends = EOFError, OSError, KeyboardInterrupt, Terminated
    with suppress(*ends), orderly_ends(), Worker(path) as worker:
        while True:
            connection.send(judge(connection.recv(), worker))
