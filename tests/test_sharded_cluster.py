"""Sharded flows on the processes of a Dask cluster: the bits of this process, whoever works and whoever is killed."""

import os
import signal

import numpy as np
import pytest

import kpref
from kpref.distributed import ShardedFlow

pytestmark = pytest.mark.distributed

B, T, H = 32, 9, 12
RNG = np.random.default_rng(0)
MODEL = kpref.models.GRU.init(2, H, seed=0)
READOUT = kpref.Readout(RNG.normal(size=(3, H)))
TRIALS = kpref.Trials(RNG.normal(size=(B, T, 2)), targets=RNG.normal(size=(B, T, 3)))


def cluster(workers, threads=1):
    distributed = pytest.importorskip("distributed")
    made = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=threads, dashboard_address=None, env={"KPREF_NUM_THREADS": "1"}
    )
    return made, distributed.Client(made)


def results(flow):
    pairs = flow.eigh(3)
    modes = np.concatenate(list(flow.modes(pairs)), axis=1)
    gradient, coarse = flow.gradient(READOUT), flow.eigh(3, tol=1e-6)
    assert coarse.n_single
    pulled = flow.D_star(np.ones((B, T, H)))
    spectrum = pairs.values, pairs.vectors, coarse.vectors, modes, flow.trace(16).value
    return *spectrum, gradient.grad_theta, gradient.loss, pulled


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bits(workers):
    wanted = results(ShardedFlow(MODEL, TRIALS, shard_size=4))
    made, client = cluster(workers)
    with made, client:
        found = results(ShardedFlow(MODEL, TRIALS, client, shard_size=4, keep=1e8))
    assert all(map(np.array_equal, found, wanted))


def test_a_worker_killed_in_an_eigensolve_changes_no_bit():
    wanted = ShardedFlow(MODEL, TRIALS, shard_size=4).eigh(3)
    made, client = cluster(2)
    done = 0

    def kill_one(products):
        nonlocal done
        if done <= 5 < done + products:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        done += products

    with made, client:
        found = ShardedFlow(MODEL, TRIALS, client, shard_size=4, keep=1e8).eigh(3, progress=kill_one)
    assert done > 5
    assert np.array_equal(found.values, wanted.values)
    assert np.array_equal(found.vectors, wanted.vectors)


def test_workers_with_several_threads_are_refused():
    made, client = cluster(1, threads=2)
    with made, client, pytest.raises(ValueError, match="threads_per_worker=1"):
        ShardedFlow(MODEL, TRIALS, client)
