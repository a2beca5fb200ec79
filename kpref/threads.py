"""Work on blocks of trials in parallel, with the same bits for any number of threads.

The kernels release the GIL and handle one block each; blocks and the order of sums are fixed by the problem, never
by the number of threads. While blocks run, BLAS is held to one thread: its own pool inside each of ours would
oversubscribe the machine. Python functions of the user are not called from these threads: see `run_blocks`.

Tasks call NumPy's linear algebra and not SciPy's, whose wrappers of BLAS and LAPACK keep the GIL: with them one task
runs after the other. So does NumPy for matrices of up to 500 rows, one at a time (`per_call`).
"""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

from kpref._signals import signals_wait

__all__ = [
    "blas_libraries",
    "blas_names",
    "even_blocks",
    "get_num_threads",
    "one_blas_thread",
    "per_call",
    "run_blocks",
    "serial_blas",
    "set_num_threads",
    "share_blocks",
    "trial_blocks",
]

#: Rows of matrices up to which NumPy keeps the GIL.
_HELD = 500

# Trials too few for two blocks of the wanted size make two all the same, or all but one core would stand idle, if there
# are enough for products with several rows, and so many states along their trajectories that threads wake up in far
# less time.
_FEWEST_TRIALS, _STATES_FOR_TWO = 8, 1 << 16

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _default_num_threads() -> int:
    text = os.environ.get("KPREF_NUM_THREADS")
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
        raise ValueError(f"the environment variable KPREF_NUM_THREADS must be a positive integer; got {text!r}")
    return int(text)


#: Seconds after which a thread that waits for others looks whether a signal came.
_LISTENING = 0.2


class _Here(threading.local):
    """Of each thread: how many sections with one BLAS thread it is inside, and whether it belongs to the pool."""

    depth = 0
    worker = False
    given_up = threading.Event()  # of a task of the pool: nobody waits for what it does any more


_here = _Here()
_lock = threading.RLock()  # of the names below; never held while a task runs
_num_threads: int | None = None
_pool: ThreadPoolExecutor | None = None
_busy = 0  # threads of the pool that have a task
_holders = 0  # threads inside `one_blas_thread`
_before: list[tuple[Any, int]] = []  # BLAS libraries, and how many threads they had, while there are holders


def get_num_threads() -> int:
    """Number of threads that kernels use: `set_num_threads`, else KPREF_NUM_THREADS, else the usable cores."""
    global _num_threads
    if _num_threads is None:
        _num_threads = _default_num_threads()
    return _num_threads


def set_num_threads(number: int) -> None:
    """Set the number of threads that kernels use. Results do not depend on it, to the last bit.

    Raises
    ------
    ValueError
        If `number` is not a positive integer.
    """
    global _num_threads
    try:
        count = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"the number of threads must be a positive integer; got {number!r}")
    with _lock:
        _drop_pool()
        _num_threads = count


def even_blocks(length: int, size: int, most: int = 1 << 30) -> list[slice]:
    """Cut ``range(length)`` into blocks of about `size`, a power of two of them so that 2, 4, ... threads share evenly.

    No block is empty, and their lengths differ by one at most. The cut depends on the problem alone, never on the
    number of threads. Nothing is cut into no blocks.
    """
    if length == 0:
        return []
    nearest = 1 << max(0, round(math.log2(length / size)))  # beyond the length if that is 3, 6, 7 ... and the size 1
    count = min(most, nearest, 1 << (length.bit_length() - 1))
    bounds = [length * block // count for block in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]


def trial_blocks(trials: int, size: int, states: int) -> list[slice]:
    """Blocks of about `size` trials, two at least if there is work for two: `states` entries along all trajectories."""
    if trials >= _FEWEST_TRIALS and states >= _STATES_FOR_TWO:
        size = min(size, -(-trials // 2))
    return even_blocks(trials, size)


def run_blocks(
    task: Callable[[int], object],
    number: int,
    *,
    here: bool = False,
    done: Callable[[int], object] | None = None,
) -> None:
    """Call ``task(0) ... task(number - 1)`` on the threads; returns, or raises, when all of them have ended.

    A task that calls this function again runs the inner tasks itself, one after another, and so does not wait for a
    thread that waits for it; threads that have nothing to do take inner tasks from it, so that the last of a few long
    tasks has all of them. After an error, or an interrupt of the caller, no other task begins, nor does an inner one:
    a task that is made of such ends soon. No lock is held while tasks run: several Python threads may call at once,
    and share the pool. The context variables of the caller, NumPy's ``errstate`` among them, hold inside the tasks.

    `task`: code of this package that takes the GIL's release well; with `here` anything. `here`: run all tasks in the
    calling thread, in order: for tasks that call Python functions of the user, which may keep scratch memory, contexts
    or locks. `done`: called in the calling thread with the index of each task that has ended, in order.
    """
    with one_blas_thread():
        idle = get_num_threads() - _busy if _here.worker else get_num_threads()
        if here or number == 1 or get_num_threads() == 1 or idle < 1:
            for index in range(number):
                _unless_given_up()
                task(index)
                if done is not None:
                    done(index)
            return
        if _here.worker:
            return _take_turns(task, number, min(idle, number - 1), done)
        with _handed_out(task, range(number), threading.Event()) as futures:
            for index, future in enumerate(futures):
                _wait_for(future)
                if done is not None:
                    done(index)


def share_blocks(task: Callable[[int], object], number: int) -> None:
    """As `run_blocks`, for work of few milliseconds: the calling thread takes blocks as the others do.

    So nothing waits for a thread that is slow to wake: if it comes too late, all is done. But an interrupt of the
    caller is heard only when the block that it works on has ended.
    """
    helpers = min(number, get_num_threads()) - 1
    if helpers < 1 or _here.worker:
        return run_blocks(task, number, here=True)
    with one_blas_thread():
        _take_turns(task, number, helpers)


def _take_turns(
    task: Callable[[int], object], number: int, helpers: int, done: Callable[[int], object] | None = None
) -> None:
    """The tasks in the calling thread, and in as many others of the pool as come in time; `done` as in `run_blocks`."""
    left, given_up = iter(range(number)), threading.Event()  # whoever is free takes the next
    ended, told = [False] * (number if done is not None else 0), 0

    def take(own: bool) -> None:
        try:
            for index in left:
                if given_up.is_set():
                    return
                if own:  # an inner task ends with the one that it belongs to
                    _unless_given_up()
                task(index)
                if done is not None:
                    ended[index] = True
                    if own:
                        tell(done)
        except BaseException:
            given_up.set()
            raise

    def tell(done: Callable[[int], object]) -> None:
        nonlocal told
        while told < number and ended[told]:
            done(told)
            told += 1

    with _handed_out(lambda _: take(own=False), range(helpers), given_up) as futures:
        take(own=True)
        for future in futures:
            if not future.cancel():
                _wait_for(future)
        if done is not None:
            tell(done)


def _unless_given_up() -> None:
    """In a thread of the pool, raise CancelledError if nobody waits for the task that it has."""
    if _here.worker and _here.given_up.is_set():
        raise CancelledError


@contextmanager
def _handed_out(
    task: Callable[[int], object], indices: Iterable[int], given_up: threading.Event
) -> Iterator[list[Future[None]]]:
    """Tasks on the threads of the pool; who leaves by an error or an interrupt lets no block write on afterwards."""
    futures: list[Future[None]] = []
    try:
        with _lock:  # `set_num_threads` may not close the pool between the first task and the last
            pool = _thread_pool()
            for index in indices:
                futures.append(pool.submit(copy_context().run, _run, task, index, given_up))
        yield futures
    except BaseException:
        given_up.set()
        for future in futures:
            future.cancel()
        wait(futures)
        raise


def per_call(rows: int) -> int:
    """How many matrices of so many rows to give to a function of `numpy.linalg` at once, so that it releases the GIL.

    It does for loops of more than 500 elements, of which it counts rows of matrices.
    """
    return _HELD // max(rows, 1) + 1


def _wait_for(future: Future[None]) -> None:
    """Return or raise as the task does; a signal that comes just before the thread sleeps is heard a little later."""
    while True:
        try:
            return future.result(timeout=_LISTENING)
        except TimeoutError:
            if future.done():  # it may be the task's own
                return future.result()


def _run(task: Callable[[int], object], index: int, given_up: threading.Event) -> None:
    """A task in a thread of the pool."""
    global _busy
    _here.given_up = given_up
    with _lock:
        _busy += 1
    try:
        task(index)
    finally:
        with _lock:
            _busy -= 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's and SciPy's products have one thread inside; `run_blocks` has all of them there too.

    The last bits of a product depend on the number of its threads; and OpenBLAS's go on spinning for a while after it,
    which nearly halves the speed of kernels that run next. The limit is one of the process: it is lifted when the last
    thread leaves. Some 3 us for the first thread to enter, nothing for those inside.
    """
    global _holders
    if _here.depth == 0:
        with _lock:
            if _holders == 0:
                # As `ThreadpoolController.limit` does, which asks for versions and names too: ten times as long.
                for library in _blas_controllers():
                    _before.append((library, library.num_threads))
                    library.set_num_threads(1)
            _holders += 1
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
        if _here.depth == 0:
            with _lock:
                _holders -= 1
                if _holders == 0:
                    _lift_limit()


def serial_blas(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A decorator: the function runs inside `one_blas_thread`, in the thread that calls it."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with one_blas_thread():
            return function(*args, **kwargs)

    return call


def _lift_limit() -> None:
    while _before:
        library, threads = _before.pop()
        library.set_num_threads(threads)


@cache
def _blas_libraries() -> ThreadpoolController:
    """The BLAS libraries of NumPy and SciPy. A limit reaches only what is loaded, so both are loaded first."""
    import_module("numpy.linalg")
    import_module("scipy.linalg.cython_blas")  # its OpenBLAS is the one that the kernels call

    return ThreadpoolController()


@cache
def _blas_controllers() -> list[Any]:
    return [library for library in _blas_libraries().lib_controllers if library.user_api == "blas"]


def blas_libraries() -> list[dict[str, Any]]:
    """What threadpoolctl knows of the BLAS libraries of NumPy and SciPy."""
    return [library for library in _blas_libraries().info() if library["user_api"] == "blas"]


def blas_names() -> str:
    """The BLAS libraries in use, and the processor that each has chosen its code for: it makes a factor in speed."""
    names = {
        f"{library['internal_api']} {library['version']} for {library.get('architecture', 'this processor')}"
        for library in blas_libraries()
    }
    return ", ".join(sorted(names))


def _thread_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = _started_pool(get_num_threads())
    return _pool


def _started_pool(number: int) -> ThreadPoolExecutor:
    """A pool all of whose threads run: an interrupt while one starts would leave it to nobody, and no process ends."""
    all_there = threading.Event()
    pool = ThreadPoolExecutor(number, thread_name_prefix="kpref", initializer=_begin_worker)
    with signals_wait():
        try:
            for _ in range(number):
                pool.submit(all_there.wait)
        finally:
            all_there.set()
    return pool


def _begin_worker() -> None:
    """A thread of the pool works only while its caller is inside `one_blas_thread`."""
    _here.worker, _here.depth = True, 1


def _drop_pool() -> None:
    global _pool
    if _pool is not None:
        _pool.shutdown(wait=False)  # what others have handed to it still runs
        _pool = None


def _after_fork() -> None:
    """A forked child has none of the other threads, and may have inherited a held lock and their limit of BLAS."""
    global _lock, _pool, _holders, _busy
    _lock, _pool, _holders, _busy = threading.RLock(), None, int(_here.depth > 0), 0
    if _holders == 0:
        _lift_limit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
