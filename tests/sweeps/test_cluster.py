"""Cells on the workers of a Dask cluster: the table of this process, and nothing left of a sweep that ends."""

import threading

import pytest

from kpref import cli
from kpref.sweeps import cell_cluster, read_grid, run, sweep

pytestmark = pytest.mark.distributed

GRID = 'metrics = ["loss"]\n[grid]\nseed = [0, 1, 2]\n[fixed]\ntask = "flip_flop"\nsteps = 0\n'


class Elsewhere:
    """In place of a process: ended at once, but that of seed 2, which is where `stopped` is asked for."""

    hangs = False
    started, stopped = threading.Event(), threading.Event()

    def __init__(self, settings, metrics, seconds, memory, alone):
        assert not alone
        self.settings, self.metrics = settings, metrics

    def outcome(self):
        if self.settings["seed"] == 2:
            Elsewhere.started.set()
        if self.settings["seed"] == 2 and Elsewhere.hangs:
            return None
        if self.settings["seed"] == 1:
            return {"failed": "raised", "error": "so"}
        return {"metrics": {name: [0.1, 0.0] for name in self.metrics}}

    def stop(self):
        if self.settings["seed"] == 2:
            Elsewhere.stopped.set()


@pytest.fixture
def cluster(monkeypatch):
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    for module in (cell_cluster, run):
        monkeypatch.setattr(module, "CellProcess", Elsewhere)
    Elsewhere.hangs = False
    Elsewhere.started.clear()
    Elsewhere.stopped.clear()
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as made,
    ):
        yield made


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    return read_grid(tmp_path / "grid.toml")


def test_workers_give_the_table_of_this_process(cluster, grid, tmp_path):
    here = sweep(grid, tmp_path / "here", workers=2)
    with cluster.get_client() as client:
        there = sweep(grid, tmp_path / "there", client=client)
    assert (there.cells, there.failed) == (3, 1)
    assert there.table.read_bytes() == here.table.read_bytes()


def test_a_sweep_that_ends_leaves_no_process_on_a_worker(cluster, grid, tmp_path):
    Elsewhere.hangs = True

    def interrupt(tally):
        if tally.done + tally.failed == 2:
            raise KeyboardInterrupt

    with cluster.get_client() as client, pytest.raises(KeyboardInterrupt):
        sweep(grid, tmp_path / "out", client=client, progress=interrupt)
    assert Elsewhere.stopped.wait(10)


def test_a_client_that_is_gone_is_a_sweep_that_ends(cluster, grid, tmp_path):
    """As when the process of the sweep is killed: the scheduler notices, and tells the workers."""
    Elsewhere.hangs = True
    client = cluster.get_client()
    cell = cell_cluster.Cluster(client).start({"seed": 2}, ("loss",), None, None)
    assert Elsewhere.started.wait(10)
    assert cell.outcome() is None
    assert not Elsewhere.stopped.is_set()
    client.close()
    assert Elsewhere.stopped.wait(10)


def test_a_lost_scheduler_is_told_and_what_is_over_is_kept(cluster, grid, tmp_path):
    Elsewhere.hangs = True
    with cluster.get_client() as client:

        def lose(tally):
            if tally.done + tally.failed == 2 and cluster.scheduler.status.name == "running":
                cluster.sync(cluster.scheduler.close)

        with pytest.raises(RuntimeError, match="scheduler at .* was lost; what is over is kept"):
            sweep(grid, tmp_path / "out", client=client, progress=lose)
    assert [kept is not None for _, kept in run.states(grid, tmp_path / "out")] == [True, True, False]


def test_the_command_finds_a_cluster_by_its_address(cluster, grid, tmp_path, capsys):
    words = ["sweep", str(tmp_path / "grid.toml"), "-o", str(tmp_path / "out")]
    assert cli.main([*words, "--cluster", cluster.scheduler_address]) == 1  # a cell failed
    assert "3 cells, 1 of them failed" in capsys.readouterr().out
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client"):
        sweep(grid, tmp_path / "out", client=cluster.scheduler_address)


def test_the_command_finds_a_cluster_by_its_file(cluster, grid, tmp_path, capsys):
    with cluster.get_client() as client:
        client.write_scheduler_file(str(tmp_path / "scheduler.json"))
    words = ["sweep", str(tmp_path / "grid.toml"), "-o", str(tmp_path / "out")]
    assert cli.main([*words, "--scheduler-file", str(tmp_path / "scheduler.json")]) == 1
    assert "3 cells, 1 of them failed" in capsys.readouterr().out


def test_a_scheduler_file_without_a_scheduler_is_one_sentence(tmp_path, capsys):
    dask = pytest.importorskip("dask")
    (tmp_path / "grid.toml").write_text(GRID)
    written = {
        "empty": "{}",
        "deep": "[" * 99_999,
        "text": "tcp:",
        "number": '{"address": 3}',
        "nobody": '{"address": "tcp://127.0.0.1:9"}',
    }
    words = ["sweep", str(tmp_path / "grid.toml"), "-o", str(tmp_path / "out")]
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        for name in (*written, "missing"):
            if name in written:
                (tmp_path / name).write_text(written[name])
            assert cli.main([*words, "--scheduler-file", str(tmp_path / name)]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert name in said
    assert not (tmp_path / "out").exists()


def test_nobody_at_an_address_is_one_sentence(tmp_path, capsys):
    dask = pytest.importorskip("dask")
    (tmp_path / "grid.toml").write_text(GRID)
    words = ["sweep", str(tmp_path / "grid.toml"), "-o", str(tmp_path / "out")]
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        assert cli.main([*words, "--cluster", "tcp://127.0.0.1:9"]) == 2
    assert "no scheduler of Dask's answers at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
