"""Threads: the same bits for any number of them, several callers at once, forked children, BLAS left as it was."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import STRUCTURES, make_flow
from threadpoolctl import threadpool_info, threadpool_limits

import kpref
from kpref.threads import even_blocks, per_call, run_blocks, share_blocks


def threads_busy():
    """So many threads of the pool have a task."""
    return kpref.threads._busy


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_number_of_threads():
    before = kpref.get_num_threads()
    yield
    kpref.set_num_threads(before)


NAMES = ("P", "P_inverse", "J", "K", "NTK", "D_z0")


def all_bits(kind, dtype):
    """Everything a flow computes, from states to operators, as bytes; enough trials and rows for several blocks."""
    flow = make_flow(kind, (70, 30, 12), gain=0.9, dtype=dtype, measure=np.linspace(0, 1, 30))
    rng = np.random.default_rng(5)
    found = {"states": flow.states.tobytes()}
    for name in NAMES:
        for side, operator in (("", getattr(flow, name)), ("^T", getattr(flow, name).T)):
            found[name + side] = operator.apply(rng.normal(size=(3, *operator.shape_in))).tobytes()
    readout = kpref.Readout(rng.normal(size=(2, 12)))
    gradient = flow.gradient_flow(readout, targets=rng.normal(size=(70, 30, 2)))
    return found | {"gradient": gradient.grad_theta.tobytes(), "dz": gradient.dz.tobytes()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_same_bits(kind, dtype):
    found = {}
    for number in (1, 2, 4, 3, 1):
        kpref.set_num_threads(number)
        assert kpref.get_num_threads() == number
        bits = all_bits(kind, dtype)
        assert len(set(bits.values())) == len(bits)  # they are different things
        found[number] = bits
    for number in (2, 3, 4):
        assert [name for name in bits if found[number][name] != found[1][name]] == []


@given(length=st.integers(0, 5000), size=st.integers(1, 300), most=st.sampled_from([1, 2, 8, 64, 1 << 30]))
def test_even_blocks(length, size, most):
    blocks = even_blocks(length, size, most)
    assert [index for block in blocks for index in range(block.start, block.stop)] == list(range(length))
    lengths = [block.stop - block.start for block in blocks]
    assert all(count >= 1 for count in lengths)  # 3, 6, 7, 12 ... with a size of 1 had empty ones
    if length:
        assert max(lengths) - min(lengths) <= 1
        assert len(blocks) & (len(blocks) - 1) == 0
        # The nearest power of two on a logarithmic scale, or the largest with no empty block: within 2 of the size.
        assert max(lengths) <= 2 * size or len(blocks) == most


def test_blocks_do_run_on_several_threads():
    kpref.set_num_threads(3)
    barrier, seen = threading.Barrier(3, timeout=20), set()

    def task(index):
        barrier.wait()  # returns only if three blocks run at once
        seen.add(threading.get_ident())

    run_blocks(task, 3)
    assert len(seen) == 3


@pytest.mark.parametrize("number", [1, 2, 5])
def test_shared_blocks_are_done_once_and_by_the_caller_too(number):
    kpref.set_num_threads(3)
    together = threading.Barrier(min(number, 3), timeout=10)
    done, workers = [], set()

    def task(index):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            together.wait()  # for all that there are, before any takes a second
        done.append(index)

    share_blocks(task, number)
    assert sorted(done) == list(range(number))
    assert len(workers) == min(number, 3)
    assert threading.get_ident() in workers


@pytest.mark.parametrize("in_caller", [True, False])
def test_shared_blocks_end_after_an_error(in_caller):
    """Of the caller or of another thread: when it is raised nothing runs any more, and few blocks have begun."""
    kpref.set_num_threads(2)
    caller, both, begun, ended = threading.get_ident(), threading.Barrier(2, timeout=10), [], []

    def task(index):
        begun.append(index)
        if index < 2:
            both.wait()  # a block in either thread
        try:
            if (threading.get_ident() == caller) == in_caller:
                raise ArithmeticError
            time.sleep(0.001)
        finally:
            ended.append(index)

    with pytest.raises(ArithmeticError):
        share_blocks(task, 10_000)
    now = len(begun)
    assert len(ended) == now
    assert now < 10_000


def test_several_callers_at_once(rng):
    flow = make_flow("GRU", (40, 12, 8))
    q = rng.normal(size=flow.states.shape)
    wanted = flow.NTK(q)
    kpref.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: flow.NTK(q), range(24)))
    for image in images:
        np.testing.assert_array_equal(image, wanted)


def test_number_of_threads_may_change_while_others_compute(rng):
    flow = make_flow("GRU", (40, 12, 8))
    q = rng.normal(size=flow.states.shape)
    wanted = flow.P(q)
    with ThreadPoolExecutor(2) as pool:
        images = [pool.submit(flow.P, q) for _ in range(30)]
        for number in (1, 2, 3, 4, 2, 1):
            kpref.set_num_threads(number)
        for image in images:
            np.testing.assert_array_equal(image.result(timeout=60), wanted)


def blas_threads():
    return {entry["filepath"]: entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"}


@pytest.mark.parametrize("number", [1, 2])
def test_blas_is_left_as_it_was(number, rng):
    flow = make_flow("GRU", (40, 6, 8))
    kpref.set_num_threads(number)
    flow.P(np.ones(flow.states.shape))  # every library is loaded now
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        assert 2 in before.values()
        inside = []
        run_blocks(lambda index: inside.append(set(blas_threads().values())), 2)
        assert inside == [{1}, {1}]
        flow.NTK(np.ones(flow.states.shape))
        assert blas_threads() == before

        def fail(index):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_blocks(fail, 3)
        assert blas_threads() == before


def test_nothing_runs_on_after_an_error():
    kpref.set_num_threads(2)
    ended = []

    def task(index):
        if index == 0:
            raise ZeroDivisionError
        threading.Event().wait(0.05)
        ended.append(index)

    with pytest.raises(ZeroDivisionError):
        run_blocks(task, 20)
    count = len(ended)
    assert count < 19
    threading.Event().wait(0.15)
    assert len(ended) == count
    run_blocks(ended.append, 2)  # and the pool works on
    assert len(ended) == count + 2


def test_tasks_made_of_tasks_end_soon_after_an_error():
    """The second would call inner tasks for as long as it is let."""
    kpref.set_num_threads(2)
    inner, ended = [], threading.Event()

    def task(index):
        if index == 0:
            while not inner:
                threading.Event().wait(0.001)
            raise ZeroDivisionError
        try:
            run_blocks(lambda _: inner.append(threading.Event().wait(0.001)), 10**6)
        finally:
            ended.set()

    with pytest.raises(ZeroDivisionError):
        run_blocks(task, 2)
    assert ended.is_set()
    assert len(inner) < 10**5
    run_blocks(lambda _: run_blocks(inner.append, 3), 2)  # and what comes later is not given up
    assert inner.count(2) == 2


def test_threads_with_nothing_to_do_take_inner_tasks():
    """The two inner tasks wait for each other: one thread alone would never end them."""
    kpref.set_num_threads(2)
    both, told = threading.Barrier(2, timeout=60), []

    def task(index):
        if index == 1:  # the other thread is free from here on
            while threads_busy() > 1:
                threading.Event().wait(0.001)
            run_blocks(lambda _: both.wait(), 2, done=told.append)

    run_blocks(task, 2)
    assert told == [0, 1]


@pytest.mark.parametrize("raised_by_helper", [True, False])
def test_inner_tasks_of_two_threads_end_after_an_error(raised_by_helper):
    kpref.set_num_threads(2)
    both, later = threading.Barrier(2, timeout=60), []

    def task(index):
        if index == 0:
            return
        while threads_busy() > 1:
            threading.Event().wait(0.001)
        caller = threading.get_ident()

        def inner(number):
            if number < 2:
                both.wait()
                if (threading.get_ident() != caller) == raised_by_helper:
                    raise ZeroDivisionError
                threading.Event().wait(0.05)
            else:
                later.append(number)

        run_blocks(inner, 10**5)

    with pytest.raises(ZeroDivisionError):
        run_blocks(task, 2)
    assert len(later) < 10**4


@pytest.mark.parametrize("wrong", [0, -1, 1.5, 2.0, True, "2", None, float("nan"), float("inf")])
def test_wrong_numbers(wrong):
    with pytest.raises(ValueError, match="positive integer"):
        kpref.set_num_threads(wrong)


def test_numpy_integers_are_numbers():
    kpref.set_num_threads(np.int64(2))
    assert kpref.get_num_threads() == 2


CHILD = "import kpref; print(kpref.get_num_threads())"


@pytest.mark.parametrize("text, wanted", [("3", "3\n"), ("0", None), ("two", None), ("", None), ("²", None)])
def test_environment_variable(text, wanted):
    environment = os.environ | {"KPREF_NUM_THREADS": text}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, text=True, capture_output=True, timeout=60)
    if wanted is None:
        assert done.returncode != 0
        assert "KPREF_NUM_THREADS must be a positive integer" in done.stderr
    else:
        assert done.stdout == wanted


# In a process of its own: other libraries of the test run (JAX) warn of every fork.
FORK = """
import os, signal, sys, threading
sys.path.insert(0, {tests!r})
import numpy as np, kpref
from kpref.threads import run_blocks
from strategies import make_flow

kpref.set_num_threads(2)
flow = make_flow("GRU", (40, 6, 8))
q = np.random.default_rng(0).normal(size=flow.states.shape)
wanted = flow.NTK(q)  # the pool is running, BLAS has been used

def child():
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a child that hangs is ended, and that is its status
        same = np.array_equal(flow.NTK(q), wanted) and np.array_equal(make_flow("GRU", (40, 6, 8)).NTK(q), wanted)
        os._exit(0 if same else 3)
    return os.waitpid(pid, 0)[1]

assert child() == 0
# Forked while another thread is inside a kernel, and holds the lock.
inside, leave = threading.Event(), threading.Event()
def block(index):
    inside.set()
    leave.wait(30)
other = threading.Thread(target=run_blocks, args=(block, 2))
other.start()
assert inside.wait(30)
assert child() == 0
leave.set()
other.join()
assert np.array_equal(flow.NTK(q), wanted)  # the parent works on
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(flow.model.flatten, [flow.model.parameters])[0].size == flow.model.n_parameters
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_forked_children():
    code = FORK.format(tests=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_matrices_that_are_solved_together_are_enough():
    """NumPy releases the GIL for more than 500 rows in a call."""
    assert [per_call(rows) for rows in (1, 250, 400, 500, 501, 4000)] == [501, 3, 2, 2, 1, 1]
    assert all(per_call(rows) * rows > 500 >= (per_call(rows) - 1) * rows for rows in range(1, 600))
