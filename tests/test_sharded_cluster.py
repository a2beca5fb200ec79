"""Sharded flows on the processes of a Dask cluster: the bits of this process, whoever works and whoever is killed."""

import os
import signal

import numpy as np
import pytest

import kpref
from kpref.distributed import ShardedFlow
from kpref.distributed.dask_engine import DaskEngine

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
    step = flow.training_step(READOUT)
    step = step.flow.training_step(step.readout, step.state)
    trained = step.flow.model.vector, step.readout.weight, step.loss
    spectrum = pairs.values, pairs.vectors, coarse.vectors, modes, flow.trace(16).value
    return *spectrum, gradient.grad_theta, gradient.loss, pulled, *trained


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bits(workers, monkeypatch):
    """Those too that come when a flow has been made, as the workers of a queue do, and those that start anew."""
    wanted = results(ShardedFlow(MODEL, TRIALS, shard_size=4))
    made, client = cluster(workers)
    with made, client:
        with monkeypatch.context() as early:
            early.setattr(DaskEngine, "_threads", lambda engine: dict([min(client.nthreads().items())]))
            flow = ShardedFlow(MODEL, TRIALS, client, shard_size=4, keep=1e8)
        assert len(flow._engine._places) == 1
        found = results(flow)
        assert len(flow._engine._places) == workers
    assert all(map(np.array_equal, found, wanted))


def two_steps(flow, between=lambda: None):
    step = flow.training_step(READOUT)
    between()
    return step.flow.training_step(step.readout, step.state).flow.model.vector


def test_a_worker_killed_in_an_eigensolve_or_a_training_changes_no_bit():
    here = ShardedFlow(MODEL, TRIALS, shard_size=4)
    wanted = here.eigh(3)
    made, client = cluster(2)
    done = 0

    def kill():
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    def kill_one(products):
        nonlocal done
        if done <= 5 < done + products:
            kill()
        done += products

    with made, client:
        flow = ShardedFlow(MODEL, TRIALS, client, shard_size=4, keep=1e8)
        found = flow.eigh(3, progress=kill_one)
        trained = two_steps(flow, kill)
    assert done > 5
    assert np.array_equal(found.values, wanted.values)
    assert np.array_equal(found.vectors, wanted.vectors)
    assert np.array_equal(trained, two_steps(here))


def test_workers_with_several_threads_are_refused():
    made, client = cluster(1, threads=2)
    with made, client, pytest.raises(ValueError, match="threads_per_worker=1"):
        ShardedFlow(MODEL, TRIALS, client)
