"""`kpref.analyze`: the same analysis as on the command line, from files or from memory, and what it looks like."""

import html.parser
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import kpref
from kpref import Readout, Trials, analyze, cli, save_checkpoint
from kpref._terminal import Progress
from kpref.analysis.effort import DEFAULT, THOROUGH
from kpref.analysis.metric_figures import dimensions
from kpref.analysis.numbers import PHASES
from kpref.analysis.planning import Plan, make_plan
from kpref.analysis.request import memory_needed, prepare
from kpref.coloring import color_trials
from kpref.models import GRU, RNN, Rate
from kpref.threads import blas_libraries

pytestmark = pytest.mark.usefixtures("blank_pictures")

B, T, N_IN, H, N_OUT = 4, 5, 2, 3, 2
OPTIONS = {"modes": 2, "seed": 3}


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return GRU.init(N_IN, H, seed=0), Readout(rng.normal(size=(N_OUT, H)), rng.normal(size=N_OUT))


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(1)
    return Trials(rng.normal(size=(B, T, N_IN)), targets=rng.normal(size=(B, T, N_OUT)))


@pytest.fixture(scope="module")
def folder(pair, trials, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    save_checkpoint(path / "before.npz", *pair)
    save_checkpoint(path / "later.npz", GRU.init(N_IN, H, seed=1), pair[1])
    np.savez(path / "trials.npz", inputs=trials.inputs, targets=trials.targets)
    return path


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def report(pair, trials, told):
    return analyze(pair, trials, progress=told.append, **OPTIONS)


def plain(metrics):
    """Without what tells where the numbers came from."""
    return {key: value for key, value in metrics.items() if key not in ("program", "files", "figures", "facts")}


def test_numbers_are_those_of_the_command_line(pair, trials, report, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])
    save_checkpoint(tmp_path / "network.npz", *pair)
    argv = ["analyze", tmp_path / "network.npz", "--trials", folder / "trials.npz", "--out", tmp_path / "out"]
    assert cli.main([*map(str, argv), "--modes=2", "--seed=3", "--quiet"]) == 0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    ours = json.loads(json.dumps(report.metrics))
    assert ours["checkpoints"][0]["eigenvalues"] == written["checkpoints"][0]["eigenvalues"]
    assert ours["checkpoints"][0]["loss"] == written["checkpoints"][0]["loss"]
    assert ours["objective"] == written["objective"]


def test_nothing_is_written_unless_asked_for(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.passed
    assert report.folder is None
    assert os.listdir(tmp_path) == []


def test_stages_are_told(told, report):
    assert len(told) == PHASES + 1
    assert told[0] == "network: running the network"
    assert told[-1] == "comparisons"


def test_short_in_words_and_as_a_table(report):
    assert re.fullmatch(r"Report\(network: loss \d\.\d+, \d+ of \d+ self-checks passed\)", repr(report))
    text = report._repr_html_()

    class Table(html.parser.HTMLParser):
        rows = 0

        def handle_starttag(self, tag, attrs):
            self.rows += tag == "tr"

    table = Table()
    table.feed(text)
    assert table.rows > 10
    assert "GRU of 3 units" in text
    assert "self-checks" in text
    assert len(text) < 20_000


def test_save(report, tmp_path):
    folder = report.save(tmp_path / "out")
    assert folder == report.folder == tmp_path / "out"
    assert sorted(os.listdir(folder)) == json.loads((folder / "metrics.json").read_text())["files"]
    assert "modes.npz" not in os.listdir(folder)
    assert str(folder) in repr(report)
    with pytest.raises(ValueError, match="figures must be one of png, svg, pdf; got 'gif'"):
        report.save(folder, figures="gif")


@pytest.fixture
def no_work(monkeypatch):
    """Stop where the work would begin, and hand over what would be done."""

    class Reached(Exception):
        pass

    def stop(request, *args):
        raise Reached(request)

    monkeypatch.setattr("kpref.analysis.api.perform", stop)

    def reach(*args, **options):
        with pytest.raises(Reached) as caught:
            analyze(*args, **options)
        return caught.value.args[0]

    return reach


def test_what_can_be_analyzed(no_work, pair, trials, folder):
    model, readout = pair
    mapping = {f"rnn.{name}_l0": value for name, value in model.parameters.items()} | {"fc.weight": readout.weight}
    request = no_work([pair, mapping, model, folder / "later.npz", str(folder / "before.npz")], trials)
    assert [network.name for network in request.networks] == ["network-1", "network-2", "network-3", "later", "before"]
    for network in request.networks[:3]:
        np.testing.assert_array_equal(network.model.vector, model.vector)
    assert request.networks[2].readout is None
    assert any("network-3 has no readout" in note for note in request.notes)
    assert [network.name for network in no_work(folder).networks] == ["before", "later"]
    assert [network.name for network in no_work().networks] == ["checkpoint_00000", "checkpoint_01500"]
    assert no_work(pair, folder / "trials.npz").trials.n_trials == B
    assert no_work(pair, trials, max_trials=2).trials.n_trials == 2
    assert no_work(Rate.init(N_IN, H, seed=0), trials, dt=0.1).integration.method == "rk4"


@pytest.mark.backends
def test_networks_of_pytorch(no_work, trials):
    torch = pytest.importorskip("torch")
    layer = torch.nn.GRU(N_IN, H)
    (network,) = no_work(layer.state_dict(), trials).networks
    np.testing.assert_allclose(network.model.parameters["weight_hh"], layer.weight_hh_l0.detach().double().numpy())


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"loss": "l2"}, ValueError, "loss must be one of auto, mse, cross_entropy; got 'l2'"),
        ({"loss": None}, ValueError, "loss must be one of"),
        ({"at": "first"}, ValueError, "at must be one of auto, all, last"),
        ({"measure": np.ones(3)}, ValueError, "measure must be one of mean, sum"),
        ({"modes": 0}, ValueError, "modes must be an integer of at least 1; got 0"),
        ({"modes": 2.0}, TypeError, "modes must be an integer"),
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0"),
        ({"seed": 2**64}, ValueError, "seed must be an integer"),
        ({"max_trials": "3"}, TypeError, "max_trials must be an integer"),
        ({"dt": 0.0}, ValueError, "dt must be a finite number above 0"),
        ({"dt": "a"}, TypeError, "dt must be a real number"),
        ({"method": "rk4"}, ValueError, "method is for networks in continuous time and needs dt,"),
        ({"method": "rk5", "dt": 1.0}, ValueError, "method must be one of"),
        ({"input_kind": "spline", "dt": 1.0}, ValueError, "input_kind must be one of hold, linear, cubic"),
        ({"dt": 1.0}, ValueError, "is a map in discrete time, for which there is no dt"),
        ({"progress": "yes"}, TypeError, "progress must be True, False or a function of a text; got str"),
        ({"nonsense": 1}, TypeError, "kpref.analyze has no argument 'nonsense'"),
        ({"out": "no/such/folder"}, OSError, "does not exist"),
    ],
)
def test_wrong_arguments(no_work, pair, trials, options, error, message):
    with pytest.raises(error, match=message):
        analyze(pair, trials, **options)


@pytest.mark.parametrize(
    "checkpoints, error, message",
    [
        (3, TypeError, "."),
        ([(RNN.init(N_IN, H, seed=0), "readout")], TypeError, "beside a model there must be a kpref.Readout or None"),
        ((RNN.init(N_IN, H, seed=0), Readout(np.ones((N_OUT, H + 1)))), ValueError, "takes 4 units, but there are 3"),
        (RNN.init(N_IN + 1, H, seed=0), ValueError, "the trials have 2 input channels, but the network in network"),
        ("nowhere.npz", FileNotFoundError, "nowhere.npz"),
        ([], ValueError, "checkpoints holds none"),
    ],
)
def test_wrong_networks(trials, checkpoints, error, message):
    with pytest.raises(error, match=message):
        analyze(checkpoints, trials)


def test_one_blas_thread_throughout(pair, trials, tmp_path):
    """The last bits of its products depend on their number: numbers and figures of a report must not."""
    seen = []

    def look(_):
        seen.append({library["num_threads"] for library in blas_libraries()})

    with threadpool_limits(2, "blas"):
        report = analyze(pair, trials, progress=look, **OPTIONS)
        report.save(tmp_path / "report", progress=look)
    assert len(seen) > PHASES
    assert set.union(*seen) == {1}


def test_wrong_trials(pair):
    with pytest.raises(TypeError, match="trials must be a path or kpref.Trials; got an array"):
        analyze(pair, np.ones((B, T, N_IN)))
    with pytest.raises(ValueError, match="trials is needed where the checkpoints are not in a folder"):
        analyze(pair)


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes are POSIX")
def test_paths_of_any_bytes_can_be_written_and_printed(pair, folder, tmp_path):
    """Latin-1, a line break, an escape sequence."""
    path = tmp_path / os.fsdecode(b"caf\xe9\n\x1b[31m.npz")
    try:
        save_checkpoint(path, pair[0])
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    request = prepare(path, folder / "trials.npz", called=f"kpref analyze {path}")
    for text in (request.networks[0].name, *request.facts, *request.facts.values(), *request.notes):
        assert text.encode()
        assert text.isprintable()


def test_a_loss_that_observes_nothing_is_found_before_the_work(pair):
    mask = np.ones((B, T))
    mask[:, -1] = 0
    labels = np.zeros(B, dtype=int)
    with pytest.raises(ValueError, match="does not fit the trials and the readout in network .*no point to observe"):
        prepare(pair, Trials(np.ones((B, T, N_IN)), labels=labels, mask=mask))


def test_memory_is_looked_for_before_it_is_taken(pair, trials, monkeypatch):
    monkeypatch.setattr("kpref.memory.available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="this analysis needs .* GiB of memory"):
        analyze(pair, trials)


# The plan


def test_plan(pair, trials):
    request = prepare([pair, pair], trials, modes=2)
    plan = make_plan(request)
    assert plan.memory == memory_needed(request.networks, trials, 2)
    assert plan.operations > 0
    assert plan.seconds > 0
    more = make_plan(prepare([pair], Trials(np.ones((10 * B, T, N_IN)))))
    assert more.operations == pytest.approx(5 * plan.operations)  # ten times the trials, half the networks


def test_a_plan_in_words():
    text = str(Plan(2.0**31, 2**32, 1e12, 1e10, 1))
    assert text.splitlines()[0] == "memory    2 GiB of 4 GiB available"
    assert "about 2 minutes" in text
    assert "1 Tflop of products at the 10 GFLOP/s measured now" in text


def test_plan_runs_and_writes_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kpref.analysis.numbers.analyze_checkpoint", lambda *args, **options: pytest.fail("a run"))
    assert cli.main(["analyze", str(folder), "--plan", "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert all(
        word in output.out
        for word in ("network   before: GRU", "memory    ", "time      about", "mean squared error, all steps")
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="signals of this kind are POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing(tmp_path, number):
    def heard():  # whoever started us may ignore signals, as `nohup` and `&` do
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "kpref", "analyze", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as run:
        assert "running the network" in run.stderr.readline()
        run.send_signal(number)
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 128 + number
    assert errors.splitlines()[-1] in ("kpref: ended by SIGTERM", "kpref: interrupted")
    assert os.listdir(tmp_path) == []


def test_progress_is_told_in_the_thread_of_the_caller(pair, trials):
    """It is a function of the user's: of two networks, which else are worked on side by side."""
    threads = set()
    analyze([pair, pair], trials, progress=lambda _: threads.add(threading.get_ident()), fast=True)
    assert threads == {threading.get_ident()}


def test_a_first_look(pair):
    """On 16 trials, with 3 modes and without Schmidt ranks, unless these are given; and the report says so."""
    rng = np.random.default_rng(3)
    many = Trials(rng.normal(size=(30, 5, N_IN)), targets=rng.normal(size=(30, 5, N_OUT)))
    report = analyze(pair, many, fast=True)
    (found,) = report.metrics["checkpoints"]
    assert report.passed
    assert found["shape"]["trials"] == 16
    assert len(report.study.analyses[0].ntk_modes.values) == 3
    assert not [key for key in found["metrics"] if "schmidt" in key]
    note = "A report in short, on 16 of the 30 trials, with 3 modes and no Schmidt ranks: without fast it is whole."
    assert note in report.study.notes
    (sizes,) = dimensions(report.study, color_trials(many))
    assert "Schmidt" not in sizes.title + sizes.caption
    assert "C: the total strength" in sizes.caption
    request = prepare(pair, many, fast=True, max_trials=4, modes=2)
    assert (request.trials.n_trials, request.modes) == (4, 2)
    assert (prepare(pair, many).modes, prepare(pair, many).effort) == (10, DEFAULT)
    with pytest.raises(TypeError, match="fast must be True or False"):
        prepare(pair, many, fast="yes")


def test_a_thorough_report(pair, trials):
    """More of everything, estimates with smaller errors, and its parts and their seconds in the footer."""
    request = prepare(pair, trials, thorough=True)
    assert (request.modes, request.effort) == (THOROUGH.modes, THOROUGH)
    with pytest.raises(ValueError, match="fast and thorough cannot both be asked for"):
        prepare(pair, trials, fast=True, thorough=True)
    report = analyze(pair, trials, modes=2, thorough=True)
    (analysis,) = report.study.analyses
    assert len(analysis.seconds) == PHASES
    assert min(analysis.seconds.values()) > 0
    assert "spectrum of K" in analysis.seconds
    assert "comparisons" in report.study.seconds


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress_on(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    with Progress() as bar:
        bar.phase("memory: modes of the NTK")
        bar.tick()
        bar.phase("a stage whose name is longer than the line of the terminal")
    return stream.getvalue()


def test_a_log_has_a_line_a_phase(monkeypatch):
    lines = progress_on(io.StringIO(), monkeypatch).splitlines()
    assert lines[0] == "[0 s] memory: modes of the NTK"
    assert len(lines) == 2


def test_a_terminal_has_one_line_that_vanishes(monkeypatch):
    text = progress_on(Terminal(), monkeypatch)
    assert "\n" not in text
    assert "\x1b" not in text
    lines = text.split("\r")
    assert lines[1] == "[0 s] memory: modes of the NTK"
    assert all(len(line) < 40 for line in lines)
    assert lines[-2:] == [" " * 39, ""]


def test_progress_that_cannot_be_written_is_given_up(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    assert progress_on(Full(), monkeypatch) == ""


def test_it_is_where_everything_else_is():
    assert kpref.analyze is analyze


def test_a_name_that_no_file_has():
    with pytest.raises(ValueError, match=r"the checkpoint cannot be read: 'a\\x00b' is not the name of a file"):
        analyze("a\0b", trials="x")
