"""Silent, saturated and exploded networks are said to be so; the report is written, and its status is right."""

import html
import json
import re

import numpy as np
import pytest

import kpref
from kpref import Readout, cli, save_checkpoint
from kpref.analysis.findings import findings
from kpref.models import RNN

INPUTS = np.abs(np.random.default_rng(0).normal(size=(5, 10, 3)))
H = 6


def network(name):
    rng = np.random.default_rng(1)
    w_in, weight = rng.normal(size=(H, 3)), rng.normal(size=(H, H)) / H**0.5
    readout = Readout(rng.normal(size=(2, H)))
    if name == "dead":
        return RNN(-np.ones((H, 3)), np.zeros((H, H)), -np.ones(H), nonlinearity="relu"), readout
    if name == "one silent unit":
        w_in, weight = np.abs(w_in), np.abs(weight) / 4
        w_in[0], weight[0] = -1.0, 0.0
        return RNN(w_in, weight, nonlinearity="relu"), readout
    if name == "saturated":
        return RNN(100 * w_in, weight), readout
    if name == "exploded":
        return RNN(w_in, 30 * np.abs(weight), nonlinearity="relu"), readout
    if name == "no readout weight":
        return RNN(w_in, weight), Readout(np.zeros((2, H)))
    return RNN(w_in, weight), readout


SAID = {
    "plain": [],
    "dead": ["is silent: all of its states are zero", "The gradient of", "The NTK of n is zero", "forgets at once"],
    "one silent unit": ["Silent on all trials of n: 1 of its 6 units."],
    "saturated": ["of its units, over trials and times, sit where tanh is flat"],
    "exploded": ["The states of n explode: they reach"],
    "no readout weight": ["The gradient of n is zero"],
}


@pytest.fixture
def analyze(tmp_path, monkeypatch, capsys):
    """Exit status, printed lines, findings and metrics of a network on the trials; no figures."""
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])
    np.savez(tmp_path / "trials.npz", inputs=INPUTS, targets=np.ones((5, 10, 2)))

    def run(name, *options):
        save_checkpoint(tmp_path / "n.safetensors", *network(name))
        paths = [tmp_path / "n.safetensors", "--trials", tmp_path / "trials.npz", "--out", tmp_path / "out"]
        status = cli.main(["analyze", *map(str, paths), "--modes", "2", *options])
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        found = re.search(r'<section id="findings".*?</section>', page, re.DOTALL)
        text = html.unescape(re.sub("<[^>]+>", " ", found[0]))
        return status, capsys.readouterr().out, text, json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SAID)
def test_what_is_said_of_a_network(analyze, name):
    status, printed, findings, metrics = analyze(name)
    assert status == 0
    for words in SAID[name]:
        assert words in findings
        assert words in printed or name == "dead"
    assert not re.search(r"\bnan\b|\binf\b", findings)
    assert name != "plain" or not any(words in findings for some in SAID.values() for words in some)
    failed = [check["name"] for check in metrics["checkpoints"][0]["self_check"]["checks"] if not check["passed"]]
    assert failed == []


def test_a_step_beyond_stability_fails_in_words(analyze):
    """Step 5 times the time constant: RK4 is unstable, and states of a bounded network reach 1e11 and more."""
    status, printed, findings, metrics = analyze("plain", "--dt", "0.1", "--tau", "0.02")
    assert status == 1
    for text in (printed, findings):
        assert "The states of n explode" in text
        assert re.search(r"the step 0\.1 is \d+\.\d times the time constant", text)
        assert "rk4 is unstable there" in text
        assert re.search(r"use a step \(--dt\) of 0\.\d+ or less", text)
    assert "FAILED: step size" in printed
    checks = metrics["checkpoints"][0]["self_check"]["checks"]
    assert not {check["name"]: check["passed"] for check in checks}["step size"]
    limit = float(re.search(r"use a step \(--dt\) of (0\.\d+) or less", findings)[1])
    status, printed, findings, _ = analyze("plain", "--dt", str(limit), "--tau", "0.02")
    assert status == 0
    assert "(coarse: a smaller step, --dt, changes the results)" in findings


def test_a_good_step_has_its_error_stated(analyze):
    status, _, findings, _ = analyze("plain", "--dt", "0.05", "--tau", "1")
    assert status == 0
    assert re.search(r"with steps of 0\.05 by rk4 the states have an error of about \de-\d+ of their size\.", findings)


def test_kinks_are_named_where_they_hide_the_slope(analyze):
    """A relu network whose currents all pass near zero: every step of the test crosses kinks."""
    status, _, findings, metrics = analyze("one silent unit")
    step = metrics["checkpoints"][0]["step"]
    assert status == 0
    assert "theory: 2" not in findings or abs(step["slope"] - 2) < 0.05
    assert "theory: 2" in findings or "kink" in findings


def in_memory(model, inputs, **options):
    readout = kpref.Readout(np.ones((1, model.n_states)), np.zeros(1))
    targets = options.pop("targets", np.ones((*inputs.shape[:2], 1)))
    return kpref.analyze((model, readout), kpref.Trials(inputs, targets=targets), modes=2, progress=False, **options)


def test_what_overflows_is_refused_in_words():
    """Powers of 1e150 overflow in every number of a report: an OverflowError of Python came out."""
    inputs = np.random.default_rng(0).normal(size=(3, 12, 2))
    with pytest.raises(ValueError, match=r"network explodes: its states reach \d"):
        in_memory(kpref.models.Linear(np.ones((4, 2)), 1e13 * np.eye(4)), inputs)
    with pytest.raises(ValueError, match=r"explodes.*euler is unstable there.*use a step \(--dt\) of \d"):
        in_memory(kpref.models.Rate.init(2, 4, 0), np.repeat(inputs, 2, axis=1), dt=100.0, method="euler")
    with pytest.raises(ValueError, match=r"the loss of network.*targets 1\.0e\+200"):
        in_memory(kpref.models.RNN.init(2, 4, 0), inputs, targets=np.full((3, 12, 1), 1e200))


def test_an_exponent_that_is_rounding_is_zero():
    """All trials of a linear map have the same exponents: their spread did not tell 2.8e-17 from zero."""
    report = in_memory(kpref.models.Linear(np.ones((4, 2)), np.eye(4)), np.ones((3, 12, 2)))
    assert "exponent of 0 nats per step, not to be told from zero" in " ".join(findings(report.study))
