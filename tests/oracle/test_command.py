"""``kpref verify`` and ``kpref golden``: exit statuses, what is printed where, files, bad backends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from apparatus.kept_worker import KeptWorker

import kpref
from kpref import cli, save_checkpoint
from kpref.commands.verify import make_flow
from kpref.models import GRU, Rate
from kpref.oracle import flow_backend
from kpref.oracle.arithmetic import get_arithmetic
from kpref.oracle.backend import BackendFault
from kpref.oracle.figure import draw_report
from kpref.oracle.grid import PROBLEMS
from kpref.oracle.isolation import IsolatedBackend, Worker
from kpref.oracle.problem import rounded
from kpref.oracle.verdict import Report
from kpref.oracle.verification import verify

BACKENDS = """
import os, sys, time
import numpy as np
from kpref.oracle import Arithmetic, flow_backend

def right(flow):
    print("a word on standard output"); os.write(1, b"another one")
    return flow_backend(flow, "float32")

def wrong(flow):
    backend = flow_backend(flow)
    P = backend.P
    def late(q):
        y = P(q)
        y[1, 3:, 2] *= 1 + 1e-6
        return y
    backend.P = late
    return backend

def coarser(flow):
    backend = flow_backend(flow, "float32")
    backend.states = np.float32(backend.states)
    backend.arithmetic = Arithmetic("mine", 2.0**-53, elementary={"sigmoid": 5})
    backend.metrics = None
    return backend

def crashing(flow):
    backend = flow_backend(flow)
    backend.K = lambda q: os.abort()
    return backend

def hanging(flow):
    time.sleep(1000)

def raising(flow):
    raise OSError("no such device")

def leaving(flow):
    sys.exit(0)

def empty(flow):
    return object()

forked = []

def forking(flow):
    if not forked:
        forked.append(os.fork())
    if forked == [0]:
        time.sleep(1000)
    return flow_backend(flow)
"""

SMALL = ["--trials", "3", "--steps", "6", "--states", "5"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(kpref.__file__).parents[1]))
    (tmp_path / "others.py").write_text(BACKENDS)
    return tmp_path


@pytest.fixture(scope="module")
def worker():
    worker = KeptWorker()
    yield worker
    worker.end()


@pytest.fixture
def one_process(worker, monkeypatch):
    """For all commands whose process is not the question."""
    monkeypatch.setattr("kpref.commands.verify.Worker", lambda: worker)


def arguments(*words):
    return cli.build_parser("verify").parse_args(["verify", "m:f", *words])


def test_a_pass_prints_the_report_and_nothing_else(capfd, folder):
    assert cli.main(["verify", "others:right", *SMALL, "--json", "report.json", "--figure", "report.png"]) == 0
    output = capfd.readouterr()
    assert output.out.startswith("PASS: Flow(GRU(3 inputs, 5 states")
    assert ", float32\n" in output.out
    assert "word" not in output.out
    assert "a word on standard output" in output.err
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"]
    assert report["arithmetic"] == "float32"
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("one_process")
def test_an_arithmetic_coarser_than_declared_is_an_outcome_of_its_own(capfd, folder):
    """Declared in full, in a process of its own: what is stored in float32 is no arithmetic of 53 bits."""
    assert cli.main(["verify", "others:coarser", *SMALL, "--json", "report.json"]) == 3
    first, measured, reason, *_ = capfd.readouterr().out.splitlines()
    assert first.startswith("PASS AS MEASURED, NOT AS DECLARED: Flow(GRU(3 inputs, 5 states")
    assert first.endswith(", mine")
    assert measured.startswith("declared mine; measured: stored with 24 bits, as in float32")
    assert reason.startswith("coarser than declared: numbers are stored with 24 bits")
    assert json.loads((folder / "report.json").read_text())["outcome"] == "right as measured"
    assert cli.main(["verify", "others:coarser", *SMALL, "--accept-measured"]) == 0


@pytest.mark.usefixtures("one_process")
def test_a_defect_is_placed(capfd, folder):
    assert cli.main(["verify", "others:wrong", *SMALL, "--json", "report.json"]) == 1
    assert "first at trial 1, step 3, unit 2" in capfd.readouterr().out
    [check] = [c for c in json.loads((folder / "report.json").read_text())["checks"] if c["identifier"] == "P.residual"]
    assert (check["first"]["trial"], check["first"]["step"], check["first"]["unit"]) == (1, 3, 2)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    "factory, message",
    [
        ("others:crashing", "K ended the process by signal SIGABRT"),
        ("others:hanging", "backend did not answer within 2 seconds"),
        ("others:leaving", "SystemExit"),
        ("nowhere:right", "No module named 'nowhere'"),
    ],
)
def test_what_cannot_run_is_a_verdict_too(factory, message, capfd):
    timeout = "2" if factory == "others:hanging" else "60"
    assert cli.main(["verify", factory, *SMALL, "--timeout", timeout]) == 2
    output = capfd.readouterr()
    assert output.out.startswith("COULD NOT RUN: ")
    assert message in output.out
    assert "Traceback" not in output.out


def test_what_cannot_be_made_says_so():
    """As the command does it, in one process for all."""
    flow = PROBLEMS["gru-plain"].build()
    with Worker() as worker:
        for factory, message in (
            ("others:raising", "OSError: no such device"),
            ("others:nowhere", "has no attribute 'nowhere'"),
            ("others", "module:function"),
        ):
            with pytest.raises(BackendFault, match=message):
                IsolatedBackend(factory, flow, worker=worker)
        report = verify(IsolatedBackend("others:empty", flow, worker=worker), flow)
    assert report.exit_status == 2
    assert str(report).startswith("COULD NOT RUN: ")
    assert "not offered" in str(report)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX")
def test_a_backend_that_leaves_a_process_behind_holds_nobody_up():
    """It would hold the standard error of the command open, which whoever reads that waits for."""
    command = [sys.executable, "-m", "kpref.cli", "verify", "others:forking", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stdout.startswith("PASS: ")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--json", "nowhere/report.json"], "is not a folder"),
        (["--trials-file", "trials.npz"], "--trials-file needs --checkpoint"),
        (["--checkpoint", "nowhere.npz"], "No such file"),
        (["--checkpoint", "nowhere.npz", "--no-bias"], "--no-bias is about a random network"),
        (["--model", "gru", "--layers", "3"], "--layers is an option that networks of kind gru do not have"),
        (["--model", "rnn", "--nonlinearity", "erf"], "nonlinearity must be one of tanh, relu, identity"),
        (["--exact", "--model", "gru"], "problems of whole numbers are of linear, "),
        (["--exact", "--measure", "mean"], "has the measure sum"),
    ],
)
def test_problems_that_cannot_be_made_are_one_line(words, message, capfd):
    assert cli.main(["verify", "others:right", *words]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("words", [["--timeout", "0"], ["--seed", "-1"], ["--arithmetic", "float8"], ["--trials", "0"]])
def test_wrong_usage(words):
    with pytest.raises(SystemExit, match="^2$"):
        cli.main(["verify", "others:right", *words])


def test_the_problem_is_random_or_a_trained_network(folder):
    flow = make_flow(arguments("--model", "rnn", "--trials", "2", "--steps", "3", "--states", "4", "--measure", "sum"))
    assert type(flow.model).__name__ == "RNN"
    assert flow.states.shape == (2, 3, 4)
    assert flow.space.measure == "sum"
    assert flow.z0.all()
    assert all(value.all() for value in flow.model.parameters.values())
    other = make_flow(arguments("--model", "rnn", "--trials", "2", "--steps", "3", "--states", "4", "--seed", "1"))
    assert not np.array_equal(flow.inputs, other.inputs)

    model = GRU.init(2, 5, 0)
    save_checkpoint("network.npz", model)
    np.savez("trials.npz", inputs=np.ones((3, 4, 2)))
    flow = make_flow(arguments("--checkpoint", "network.npz", "--trials-file", "trials.npz"))
    np.testing.assert_array_equal(flow.model.vector, model.vector)
    np.testing.assert_array_equal(flow.inputs, np.ones((3, 4, 2)))
    assert make_flow(arguments("--checkpoint", "network.npz", "--steps", "7")).states.shape == (20, 7, 5)

    save_checkpoint("rate.npz", Rate.init(2, 5, 0))
    with pytest.raises(ValueError, match="rate.npz holds a network in continuous time; only maps"):
        make_flow(arguments("--checkpoint", "rate.npz"))


def test_options_of_a_random_network():
    words = "--model leaky --nonlinearity erf --no-bias --zero-start --constrained --train-alpha --leak inside"
    flow = make_flow(arguments(*SMALL, *words.split(), "--measure", "trailing", "--trainable", "weight_hh,alpha"))
    assert list(flow.model.parameters) == ["weight_ih", "weight_hh", "alpha"]
    assert flow.model.trainable == ("weight_hh", "alpha")
    assert flow.model.options["nonlinearity"] == "erf"
    assert flow.model.options["leak"] == "inside"
    assert set(np.unique(flow.model.dale)) <= {-1.0, 1.0}
    assert not flow.z0.any()
    assert not flow.space.mu[:, -1].all()
    assert make_flow(arguments(*SMALL, "--model", "stacked-gru", "--layers", "3")).model.n_layers == 3
    assert make_flow(arguments("--exact")).states.shape == (3, 5, 8)


@pytest.mark.usefixtures("one_process")
def test_every_bit_of_whole_numbers(capfd):
    assert cli.main(["verify", "others:right", "--exact", "--no-bias", "--trials", "2"]) == 0
    assert "NTK.exact" in capfd.readouterr().out
    assert cli.main(["verify", "others:wrong", "--exact"]) == 1
    assert "P.exact" in capfd.readouterr().out


def test_golden_there_and_back(capfd, folder):
    assert cli.main(["golden", "export", "out", *SMALL, "--arithmetic", "float32", "--model", "leaky"]) == 0
    assert sorted(os.listdir("out")) == ["README.md", "answers", "manifest.json", "probes", "problem.npz"]
    assert cli.main(["golden", "export", "out", *SMALL]) == 2
    assert cli.main(["golden", "check", "out"]) == 2  # nothing is offered yet
    flow = make_flow(arguments(*SMALL, "--model", "leaky"))
    backend = flow_backend(rounded(flow, get_arithmetic("float32")), "float32")
    probes = np.load("out/probes/K.npz")["probes"]
    for factor, status in ((1.0, 0), (1.01, 1)):
        np.savez("out/answers/K.npz", answers=np.stack([factor * backend.K(probe) for probe in probes]))
        assert cli.main(["golden", "check", "out", "--json", "out.json", "--figure", "out.png"]) == status
    assert json.loads(Path("out.json").read_text())["passed"] is False
    assert cli.main(["golden", "check", "nowhere"]) == 2
    assert "explained by: factor" in capfd.readouterr().out


def test_the_figure_shows_maps_and_needs_one(folder):
    flow = PROBLEMS["gru-plain"].build()
    backend = flow_backend(flow)
    backend.P = lambda q: np.full(q.shape, 1e30)
    report = verify(backend, flow)
    assert report.defects
    assert draw_report(report).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_report(Report((), "float64", ""))
