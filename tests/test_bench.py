"""`kpref bench` on problems so small that only its machinery counts, not its figures."""

import importlib.util
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kpref import bench, bench_peers, bench_worker, cli
from kpref.bench import Record, Worker
from kpref.bench_peers import CONTENDERS, MODELS, OPERATORS, Problem

TINY = Problem("gru", trials=3, steps=4, states=5, inputs=2, dtype="float64")
ARGUMENTS = ["bench", "--trials", "3", "--steps", "4", "--states", "5", "--inputs", "2", "--repeats", "1"]
PEERS = [name for name in CONTENDERS if name != "kpref"]


def results(name, problem):
    contender = CONTENDERS[name](problem)
    built = contender.build()
    return {operator: contender.to_numpy(contender.apply(built, operator)) for operator in OPERATORS}


def test_operations_are_those_of_the_products_by_hand():
    """B T = 12 rows; a GRU multiplies each by a (15, 5) and a (15, 2) matrix: 75 and 30 multiply-adds."""
    counted = bench.count_operations(TINY)
    p, j = 2 * 12 * 75, 2 * 12 * (75 + 30)
    assert counted == {"build": j, "P": p, "P^T": p, "K": 2 * j, "NTK": 2 * p + 2 * j}
    assert bench.count_operations(replace(TINY, model="rnn"))["P"] == p // 3


def test_run_without_peers(capsys, tmp_path):
    file = tmp_path / "bench.json"
    assert cli.main([*ARGUMENTS, "--no-peers", "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert "gru, 3 trials x 4 steps x 5 states, 2 inputs, float64" in output
    assert all(len(line) <= 100 for line in output.splitlines())
    rows = {line[:20].strip(): line[20:].split() for line in output.splitlines()}
    assert rows["milliseconds"][:5] == ["build", "P", "P^T", "K", "NTK"]
    assert "jax" not in output
    assert list(tmp_path.iterdir()) == [file]
    content = json.loads(file.read_text())
    seconds = content["records"]["kpref"]["seconds"]
    assert [len(seconds[column]) for column in bench.COLUMNS] == [2, 3, 3, 3, 3]
    assert all(value > 0 for column in seconds.values() for value in column)
    # The printed ratio pairs the only round's seconds with the rate before them (one for each column), to two decimals.
    floor = content["operations"]["P"] / content["rates"][1]
    assert len(content["rates"]) == len(bench.COLUMNS)
    assert float(rows["over the floor"][1]) == pytest.approx(np.median(seconds["P"]) / floor, abs=0.006)


@pytest.mark.backends
@pytest.mark.parametrize("model", MODELS)
def test_peers_compute_the_same_operators(model):
    """Sums of at most 12 terms of order one through 4 steps: far fewer than 1000 roundings in any entry."""
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    problem = replace(TINY, model=model)
    ours = results("kpref", problem)
    for name in PEERS:
        eps = np.finfo(CONTENDERS[name](problem).dtype).eps
        for operator, theirs in results(name, problem).items():
            assert np.max(np.abs(theirs - ours[operator])) < 1000 * eps * np.max(np.abs(ours[operator])), name


@pytest.mark.backends
def test_run_with_peers(capsys, tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    file = tmp_path / "bench.json"
    assert cli.main([*ARGUMENTS, "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert "jax over kpref" in output
    assert "torch over kpref" in output
    records = json.loads(file.read_text())["records"]
    assert list(records) == list(CONTENDERS)
    for name in PEERS:
        assert records[name]["error"] is None
        assert 0 < records[name]["difference"] < (1e-3 if "torch" in name else 1e-12)
        assert all(len(seconds) > 0 for seconds in records[name]["seconds"].values())


def test_peers_that_are_not_installed_are_left_out(monkeypatch):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "measure", lambda problem, names, repeats: asked.append(names) or failed())
    with pytest.raises(ValueError, match="kpref itself failed on this problem: why"):
        bench.run(SimpleNamespace(**vars(TINY), repeats=1, no_peers=False, json=None))
    assert asked == [["kpref"]]


def failed():
    return bench.Benchmark(TINY, 1, {"kpref": Record(error="why")})


def test_folder_that_is_not_there(capsys, tmp_path):
    assert cli.main([*ARGUMENTS, "--json", str(tmp_path / "missing" / "bench.json")]) == 2
    assert capsys.readouterr().err.startswith("kpref: error: cannot write ")
    assert list(tmp_path.iterdir()) == []


def test_contender_that_cannot_start_says_why():
    with Worker("kpref", replace(TINY, states=0)) as worker:
        assert worker.record.error.startswith("ValueError: ")
        assert worker.ask(do="build") == []


def test_contender_that_is_killed_is_reported():
    with Worker("kpref", TINY) as worker:
        assert len(worker.ask(do="build")) == 1
        worker.process.kill()
        assert worker.ask(do="build") == []
        assert "SIGKILL" in worker.record.error


@pytest.mark.parametrize("wrong, agrees", [(1e-6, True), (1e-2, False), (np.nan, False)])
def test_contender_with_other_results_is_not_timed(wrong, agrees):
    """Half the digits of float32 are 3.4e-4."""

    class Stub:
        def __init__(self, dtype, value):
            self.record, self.value = Record(dtype=dtype), value

        def ask(self, file, **request):
            np.save(file, np.array([1.0, self.value]))

    workers = {"kpref": Stub("float64", 0.5), "other": Stub("float32", 0.5 + wrong)}
    bench.compare(workers)
    assert (workers["other"].record.error is None) == agrees
    assert workers["kpref"].record.error is None


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_what_was_allocated():
    """A block that is freed again counts; the bounds leave 8 MiB for what the allocator keeps or gives back."""
    size = 64 * 2**20

    class Allocates:
        def build(self):
            return np.ones(size // 8).sum()

        def apply(self, built, operator):
            return built

    _, _, peak = bench_worker.measure_memory(Allocates())
    assert abs(peak - size) < 8 * 2**20


@pytest.mark.backends
def test_jacobians_larger_than_memory_are_refused_before_they_are_made(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(
        bench_peers, "require_memory", lambda needed, what: (_ for _ in ()).throw(MemoryError(f"{what}: {needed:.0f}"))
    )
    with pytest.raises(MemoryError, match=rf"storing the state Jacobians: {1.5 * 4 * 3 * 4 * 5 * 5:.0f}"):
        CONTENDERS["torch.func stored"](TINY)
