"""What is lost and cannot be made up for is told in words, and soon: schedulers, disks, workers that do not come back.

The scheduler and a worker, one alone, since what is compiled is entered by one thread at a time, live in this process.
"""

import gc
import time

import numpy as np
import pytest

import kpref
from kpref.distributed import ShardedFlow
from kpref.distributed import tasks_of_shards as tasks
from kpref.sweeps.cell_cluster import Cluster

pytestmark = pytest.mark.distributed

MODEL = kpref.models.GRU.init(2, 4, seed=0)
TRIALS = kpref.Trials(np.random.default_rng(0).normal(size=(8, 5, 2)), targets=np.ones((8, 5, 3)))
READOUT = kpref.Readout(np.ones((3, 4)))
THETA = np.ones(MODEL.n_parameters)


@pytest.fixture
def cluster():
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    # How long a client waits for a scheduler that does not answer: 30 seconds if nobody says otherwise.
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as made,
    ):
        yield made


def test_a_lost_scheduler_is_told(cluster):
    with cluster.get_client() as client:
        flow = ShardedFlow(MODEL, TRIALS, client, shard_size=2)
        assert np.array_equal(flow.gram @ THETA, ShardedFlow(MODEL, TRIALS, shard_size=2).gram @ THETA)
        cluster.sync(cluster.scheduler.close)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="scheduler at .* does not answer"):
                flow.gram @ THETA
            with pytest.raises(RuntimeError, match="scheduler at .* does not answer"):
                list(flow.states())


def test_workers_that_do_not_come_back_are_told(cluster, monkeypatch):
    monkeypatch.setattr("kpref.distributed.dask_engine._PATIENCE", 0.1)
    with cluster.get_client() as client:
        flow = ShardedFlow(MODEL, TRIALS, client, shard_size=2)
        cluster.scale(0)
        cluster.sync(cluster._correct_state)
        with pytest.raises(RuntimeError, match="has had no worker"):
            flow.gram @ THETA
        cluster.scale(1)
        assert np.array_equal(flow.gram @ THETA, ShardedFlow(MODEL, TRIALS, shard_size=2).gram @ THETA)


def test_a_full_disk_is_no_lost_worker(cluster, tmp_path, monkeypatch):
    calls = []

    def full(shard, *arguments):
        calls.append(shard.index)
        if shard.index == 2:
            raise OSError(28, "No space left on device", "modes")
        return save(shard, *arguments)

    save = tasks.save_lifted
    with cluster.get_client() as client:
        flow = ShardedFlow(MODEL, TRIALS, client, shard_size=2)
        pairs = flow.eigh(2)
        monkeypatch.setattr(tasks, "save_lifted", full)
        with pytest.raises(OSError, match=r"No space left on device: 'modes'"):
            flow.save_modes(pairs, tmp_path / "modes")
    assert not list(tmp_path.iterdir())


def test_files_that_vanish_are_no_lost_worker(cluster, tmp_path):
    np.savez(tmp_path / "trials.npz", inputs=TRIALS.inputs)
    with cluster.get_client() as client:
        flow = ShardedFlow(MODEL, tmp_path / "trials.npz", client, shard_size=2)
        (tmp_path / "trials.npz").unlink()
        with pytest.raises(FileNotFoundError, match=r"trials\.npz"):
            flow.gram @ THETA


@pytest.mark.parametrize("client", ["tcp://127.0.0.1:8786", 3, MODEL])
def test_clients_that_are_none_are_refused(client):
    pytest.importorskip("distributed")
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client"):
        ShardedFlow(MODEL, TRIALS, client)


def test_a_client_that_is_closed_is_refused(cluster):
    client = cluster.get_client()
    client.close()
    for take in (lambda: ShardedFlow(MODEL, TRIALS, client), lambda: Cluster(client)):
        with pytest.raises(ValueError, match="client must be connected to a scheduler; got one that is closed"):
            take()


def test_workers_hold_the_models_that_are_in_use_alone(cluster):
    """A training that looks at the network of each step leaves none behind."""
    with cluster.get_client() as client:
        flow = ShardedFlow(MODEL, TRIALS, client, shard_size=2, keep=1e9)
        for _ in range(5):
            flow = flow.training_step(READOUT).flow
            flow.gram @ THETA
        gc.collect()
        assert len(flow._engine._models) <= 2
        # Nothing but the worker's group of shards and models that are in use; Dask lets go of others a moment later.
        for _ in range(100):
            held = sum(len(keys) for keys in client.has_what().values())
            if held <= 3:
                break
            time.sleep(0.05)
        assert held <= 3


def test_workers_that_share_a_process_are_refused(cluster):
    with cluster.get_client() as client:
        cluster.scale(2)
        client.wait_for_workers(2)
        with pytest.raises(ValueError, match="2 that are threads of one process.*processes=True"):
            ShardedFlow(MODEL, TRIALS, client)
