"""`kpref bench` on problems so small that only its machinery counts, not its figures."""

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from kpref import Trials, cli
from kpref.analysis.api import perform
from kpref.analysis.request import prepare
from kpref.bench import in_turn, peers, reports, timing
from kpref.bench.contender_process import measure_memory
from kpref.bench.peers import CONTENDERS
from kpref.bench.reports import time_report
from kpref.bench.timing import Record, Worker
from kpref.bench.workload import MODELS, Problem, count_bytes, count_operations
from kpref.commands import bench
from kpref.models import GRU

TINY = Problem("gru", trials=3, steps=4, units=5, inputs=2, dtype="float64")
RATE = replace(TINY, model="rate", method="rk4")
ARGUMENTS = ["bench", "--trials", "3", "--steps", "4", "--states", "5", "--inputs", "2", "--repeats", "1"]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Nobody looks at these times: other threads may run on while they are taken, and rates be of small matrices."""
    monkeypatch.setattr(timing, "SETTLE", 0.0)
    monkeypatch.setattr(timing, "SQUARE", 300)
    monkeypatch.setattr(in_turn, "TIMED", 1e-5)


def peers_of(problem):
    return [name for name, kind in CONTENDERS.items() if name != "kpref" and kind.columns(problem)]


def results(name, problem):
    contender = CONTENDERS[name](problem)
    built = contender.build()
    columns = [column for column in contender.columns(problem) if column != "build"]
    return {column: contender.to_numpy(contender.apply(built, column)) for column in columns}


def test_operations_are_those_of_the_products_by_hand():
    """B T = 12 rows; a GRU multiplies each by a (15, 5) and a (15, 2) matrix: 75 and 30 multiply-adds."""
    counted = count_operations(TINY)
    p, j = 2 * 12 * 75, 2 * 12 * (75 + 30)
    assert counted == {"build": j, "P": p, "P^T": p, "K": 2 * j, "NTK": 2 * p + 2 * j}
    assert count_operations(replace(TINY, model="rnn"))["P"] == p // 3


def test_bytes_are_those_of_what_is_read_and_written_by_hand():
    """A GRU of 5 units: 4 channels that states go through, 4 that parameters do, 5 in all; (x, 1) and states."""
    points, tensor = 12, 12 * 5
    p, j, d = (points * each for each in (4 * 5, 4 * 5 + 3 + 5, 5 * 5 + 3 + 5))
    counted = {"build": d + tensor, "P": p + 2 * tensor, "P^T": p + 2 * tensor, "K": 2 * (j + tensor)}
    assert count_bytes(TINY) == {key: 8 * value for key, value in {**counted, "NTK": 2 * (d + tensor)}.items()}
    assert count_bytes(replace(TINY, dtype="float32"))["P"] == 4 * counted["P"]


def test_operations_that_no_state_reaches_are_not_counted():
    """Of an LRU of 5 features and 3 complex states: not B, which inputs alone go through, but C, V and W."""
    counted, rows = count_operations(replace(TINY, model="lru")), 2 * 12
    assert counted["P"] == rows * (5 * 6 + 2 * 5 * 5)
    assert counted["K"] == 2 * rows * (5 * 2 + 2 * 5 * 6 + 2 * 5 * 5 + 6 * 5 + 5 * 6 + 2 * 5 * 5)


def test_operations_of_layers_by_hand():
    """A second layer of a GRU has two (15, 5) matrices; K goes through the one on the new state below again."""
    counted = count_operations(replace(TINY, model="stacked-gru"))
    p, f = 2 * 12 * 3 * 75, 2 * 12 * (3 * 75 + 30)
    k = 2 * (f + 2 * 12 * 75)
    assert counted == {"build": f, "P": p, "P^T": p, "K": k, "NTK": 2 * p + k}
    lstm = count_operations(replace(TINY, model="lstm"))
    assert (lstm["P"], lstm["K"]) == (2 * 12 * 100, 2 * 2 * 12 * 140)


@pytest.mark.parametrize("name", ["gru", "low-rank", "stacked-lstm", "rate"])
def test_products_in_turn_are_those_of_the_floor(name):
    """Of P all; of K those by arrays of two axes, and by biases, which have a column."""
    problem = replace(TINY, model=name, method="rk4" if name == "rate" else None)
    stages = 4 if name == "rate" else 1
    operations, evaluations = count_operations(problem), problem.trials * problem.steps * stages
    for column, products in in_turn.products_of(problem).items():
        made = 2 * evaluations * sum(product.inner * product.columns for product in products)
        assert made == operations[column] if column in ("P", "P^T") else made >= operations[column]


def test_products_and_bytes_in_turn_take_longer_the_slower_the_bytes():
    fast, slow = (in_turn.measure_in_turn(TINY, "P", bandwidth, 1) for bandwidth in (1e18, 1e3))
    assert 0 < fast < slow


def test_operations_of_a_field_count_every_stage():
    """B N s = 48 rows, each multiplied by a (5, 5) and a (5, 2) matrix: 25 and 10 multiply-adds."""
    p, f = 2 * 48 * 25, 2 * 48 * (25 + 10)
    counted = {"forward": f, "build": f, "P": p, "P^T": p, "NTK": 2 * p + 2 * f, "gradient": 2 * f + p}
    assert count_operations(RATE) == counted
    assert count_operations(replace(RATE, method="euler"))["P"] == p // 4


def test_sizes_that_are_not_given_depend_on_the_network():
    def problem(*arguments):
        parser = argparse.ArgumentParser()
        bench.add_arguments(parser)
        return bench.read_problem(parser.parse_args(arguments))

    assert problem() == Problem("gru", 100, 90, 128, 3, "float64")
    assert problem("--model", "rate") == Problem("rate", 100, 200, 256, 3, "float64", "rk4")
    assert problem("--model", "rate", "--method", "heun", "--steps", "7").method == "heun"
    with pytest.raises(ValueError, match="--method is for networks in continuous time; gru is a map"):
        problem("--method", "rk4")


def test_gradient_is_the_derivative_of_the_loss():
    """Central differences of step 1e-5 in one direction: rounding 1e-11 of a loss of order one, truncation 1e-10."""
    contender = CONTENDERS["kpref"](RATE)
    gradient = contender.apply(contender.build(), "gradient")
    direction = np.random.default_rng(2).normal(size=gradient.size) / np.sqrt(gradient.size)

    def loss(theta):
        flow = contender.make_flow(0).rerun(contender.model.with_vector(theta))
        return 0.5 * np.sum(RATE.weights[:, None] * (flow - contender.tensor) ** 2)

    center = contender.model.vector
    difference = (loss(center + 1e-5 * direction) - loss(center - 1e-5 * direction)) / 2e-5
    assert difference == pytest.approx(gradient @ direction, abs=1e-9)
    assert abs(difference) > 1e-3


def test_run_without_peers(capsys, tmp_path):
    file = tmp_path / "bench.json"
    assert cli.main([*ARGUMENTS, "--no-peers", "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert "gru, 3 trials x 4 steps x 5 states, 2 inputs, float64" in output
    assert all(len(line) <= 100 for line in output.splitlines())
    rows = {line[:20].strip(): line[20:].split() for line in output.splitlines()}
    assert rows["milliseconds"][:5] == ["build", "P", "P^T", "K", "NTK"]
    assert len(rows["in turn"]) == 5
    assert "jax" not in output
    assert list(tmp_path.iterdir()) == [file]
    content = json.loads(file.read_text())
    architectures = {library["architecture"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert all(f"for {architecture}" in content["libraries"] for architecture in architectures)
    assert f"libraries: {content['libraries']}" in output
    seconds = content["records"]["kpref"]["seconds"]
    assert [len(seconds[column]) for column in TINY.columns] == [2, 3, 3, 3, 3]
    assert all(value > 0 for column in seconds.values() for value in column)
    # The printed ratio pairs the only round's seconds with the rates before them, one for each column: two decimals.
    floor = max(content["operations"]["P"] / content["rates"][1], content["bytes"]["P"] / content["bandwidths"][1])
    assert len(content["rates"]) == len(TINY.columns)
    assert float(rows["over the floor"][1]) == pytest.approx(np.median(seconds["P"]) / floor, abs=0.006)


def test_run_of_a_rate_network_without_peers(capsys):
    assert cli.main([*ARGUMENTS, "--no-peers", "--model", "rate", "--method", "bosh3"]) == 0
    output = capsys.readouterr().out
    assert "rate by bosh3, 3 trials x 4 steps x 5 states, 2 inputs, float64" in output
    assert all(len(line) <= 100 for line in output.splitlines())
    rows = {line[:20].strip(): line[20:].split() for line in output.splitlines()}
    assert rows["milliseconds"][:6] == ["forward", "build", "P", "P^T", "NTK", "gradient"]
    assert all(float(ratio) > 0 for ratio in rows["over the floor"])


@pytest.mark.parametrize("name", [name for name, known in MODELS.items() if known.is_continuous])
def test_fields_start_and_step_where_they_run(name):
    """Of voltages near zero, or steps of tens of milliseconds, nothing would be left."""
    problem = Problem(name, 2, 20, 4, 2, "float64", "rk4")
    flow = CONTENDERS["kpref"](problem).make_flow(0)
    assert np.isfinite(flow.states).all()
    if name == "hodgkin-huxley":
        assert (np.abs(flow.states[:, 0, :4] + 65.0) < 1.0).all()


@pytest.mark.backends
@pytest.mark.parametrize(
    "problem",
    [
        *(replace(TINY, model=model) for model in ("rnn", "leaky", "lstm", "stacked-gru", "low-rank")),
        replace(RATE, method="euler"),
    ],
    ids=lambda problem: f"{problem.model} {problem.method}",
)
def test_peers_compute_the_same(problem):
    """Sums of at most 12 terms of order one through 4 steps: far fewer than 1000 roundings in any entry.

    What the benchmark itself finds, for a GRU and RK4, is looked at below.
    """
    for package in ("jax", "diffrax", "torch"):
        pytest.importorskip(package)
    ours = results("kpref", problem)
    seen = set()
    for name in peers_of(problem):
        eps = np.finfo(CONTENDERS[name](problem).dtype).eps
        for column, theirs in results(name, problem).items():
            seen.add(column)
            difference = np.max(np.abs(theirs - ours[column]))
            assert difference < 1000 * eps * np.max(np.abs(ours[column])), (name, column)
    assert seen == set(ours)


@pytest.mark.backends
@pytest.mark.parametrize("problem, packages", [(TINY, ("jax", "torch")), (RATE, ("diffrax", "jax"))])
def test_run_with_peers(capsys, tmp_path, problem, packages):
    for package in packages:
        pytest.importorskip(package)
    file = tmp_path / "bench.json"
    assert cli.main([*ARGUMENTS, "--model", problem.model, "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert all(f"{package} over kpref" in output for package in packages)
    assert all(len(line) <= 100 for line in output.splitlines())
    records = json.loads(file.read_text())["records"]
    assert list(records) == ["kpref", *peers_of(problem)]
    for name in peers_of(problem):
        assert records[name]["error"] is None
        assert 0 < records[name]["difference"] < (1e-3 if "torch" in name else 1e-12)
        assert all(len(seconds) > 0 for seconds in records[name]["seconds"].values())


OPTIONS = {"repeats": 1, "no_peers": False, "json": None, "quiet": True, "report": False, "fast": False,
           "thorough": False}  # fmt: skip


@pytest.mark.parametrize("problem", [TINY, RATE])
def test_peers_that_are_not_installed_are_left_out(monkeypatch, problem):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "measure", lambda problem, names, repeats, bar: asked.append(names) or failed())
    with pytest.raises(ValueError, match="kpref itself failed on this problem: why"):
        bench.run(SimpleNamespace(**vars(problem), **OPTIONS))
    assert asked == [["kpref"]]


def failed():
    return timing.Benchmark(TINY, 1, "", {"kpref": Record(error="why")})


def test_folder_that_is_not_there(capsys, tmp_path):
    assert cli.main([*ARGUMENTS, "--json", str(tmp_path / "missing" / "bench.json")]) == 2
    assert capsys.readouterr().err.startswith("kpref: error: cannot write ")
    assert list(tmp_path.iterdir()) == []


def test_contender_that_cannot_start_says_why():
    with Worker("kpref", replace(TINY, units=0)) as worker:
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
    """A float32 contender may be 3e-4 off."""

    class Stub:
        def __init__(self, dtype, value):
            self.record, self.value = Record(dtype=dtype, seconds={"build": [], "P": []}), value

        def ask(self, file, **request):
            np.save(file, np.array([1.0, self.value]))

    workers = {"kpref": Stub("float64", 0.5), "other": Stub("float32", 0.5 + wrong)}
    timing.compare(workers)
    assert (workers["other"].record.error is None) == agrees
    assert workers["kpref"].record.error is None


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_what_was_allocated():
    """A block that is freed again counts; the bounds leave 8 MiB for what the allocator keeps or gives back."""
    size = 64 * 2**20

    class Allocates:
        def build(self):
            return np.ones(size // 8).sum()

        def apply(self, built, column):
            return built

    _, _, peak = measure_memory(Allocates(), "P")
    assert abs(peak - size) < 8 * 2**20


@pytest.mark.backends
def test_jacobians_larger_than_memory_are_refused_before_they_are_made(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(
        peers, "require_memory", lambda needed, what: (_ for _ in ()).throw(MemoryError(f"{what}: {needed:.0f}"))
    )
    with pytest.raises(MemoryError, match=rf"storing the state Jacobians: {1.5 * 4 * 3 * 4 * 5 * 5:.0f}"):
        CONTENDERS["torch.func stored"](TINY)


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_is_timed_part_by_part():
    model, trials = GRU.init(2, 3, seed=0), Trials(np.random.default_rng(0).normal(size=(2, 4, 2)))
    found = time_report(prepare([model, model], trials, fast=True))
    assert found.networks == 2
    assert {"spectrum of K", "comparisons", "figures and report"} < set(found.seconds)
    assert max(found.seconds.values()) < sum(found.seconds.values()) <= 2 * found.total + 0.1  # two networks at a time
    assert "figures and report" in str(found)
    assert found.processor is None or found.processor > 0
    assert found.products >= 2 * 2 * 3  # two networks, two operators, three modes: one at least for each residual
    assert f"{found.products} products" in str(found)


def test_products_of_modes_count_at_what_one_takes(monkeypatch):
    model, trials = GRU.init(2, 3, seed=0), Trials(np.random.default_rng(0).normal(size=(2, 4, 2)))
    study = perform(prepare([model], trials, fast=True), 0.0, str, str).study
    monkeypatch.setattr(reports, "_seconds_of_one", lambda op: {"NTK": 10.0, "P P*": 1.0}[op.name])
    (analysis,) = study.analyses
    ntk, propagator = analysis.ntk_modes.n_products, analysis.propagator_modes.n_products
    assert reports._products_of_modes(study) == (ntk + propagator, 10.0 * ntk + propagator)
