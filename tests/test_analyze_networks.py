"""`kpref analyze` on networks whose arrays have to be named: the options, what they change, and what is said of it."""

import json

import numpy as np
import pytest

from kpref import Flow, Trials, cli, load_checkpoint
from kpref.checkpoints import save_checkpoint
from kpref.loss import evaluate_loss
from kpref.models import RNN

pytestmark = pytest.mark.usefixtures("blank_pictures")

B, T, N_IN, H, N_OUT = 3, 4, 2, 3, 2
HEADS = {"fc.weight": (N_OUT, H), "critic.weight": (1, H)}


def arrays(blocks=3, **shapes):
    shapes = {"rnn.weight_ih_l0": (blocks * H, N_IN), "rnn.weight_hh_l0": (blocks * H, H), **HEADS, **shapes}
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape) / 2 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    path = tmp_path_factory.mktemp("trials") / "trials.npz"
    generator = np.random.default_rng(1)
    np.savez(path, inputs=generator.normal(size=(B, T, N_IN)), targets=generator.normal(size=(B, T, N_OUT)))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Draw nothing: most of the time of a small run goes into figures."""
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])


@pytest.fixture
def run(tmp_path, trials, capsys):
    """Exit status, first screen, error and metrics of a run on a network."""

    def of(network, *words):
        path, out = tmp_path / "net.npz", tmp_path / "report"
        if isinstance(network, dict):
            np.savez(path, **network)
        else:
            path = network
        status = cli.main(
            ["analyze", str(path), "--trials", str(trials), "--out", str(out), "--modes", "2", *map(str, words)]
        )
        printed = capsys.readouterr()
        metrics = json.loads((out / "metrics.json").read_text()) if out.exists() else None
        return status, printed.out, printed.err.strip(), metrics

    return of


def loss_of(checkpoint, trials, z0=None):
    trials = Trials.load(trials)
    flow = Flow(checkpoint.model, trials.inputs, z0)
    return evaluate_loss(flow.states, flow.space, checkpoint.readout, targets=trials.targets).value


def loss_in(metrics):
    """The loss among the metrics of the one network."""
    (checkpoint,) = metrics["checkpoints"]
    return checkpoint["loss"]


def test_one_of_two_heads_is_chosen(run, trials):
    status, _, error, metrics = run(arrays())
    assert status == 2
    assert metrics is None
    assert "pick one of 'fc.weight', 'critic.weight' with the argument readout= (--readout fc)" in error
    status, screen, error, metrics = run(arrays(), "--readout", "fc")
    assert status == 0
    assert "net: not read, because another readout was chosen: 'critic.weight'." in screen
    truth = loss_of(load_checkpoint(arrays(), readout="fc"), trials)
    assert abs(loss_in(metrics) / truth - 1) < 1e-12  # a sum of B T N_OUT = 24 squares


@pytest.mark.parametrize("shape", [(1, H), (B, H)])
def test_a_learnt_initial_state_reaches_the_flow(run, trials, shape):
    network = arrays(h0=shape)
    status, _, error, _ = run(network, "--readout", "fc")
    assert status == 2
    assert "found 'h0'" in error
    assert "--ignore h0" in error
    status, screen, _, metrics = run(network, "--readout", "fc", "--z0", "h0")
    assert status == 0
    assert "net: the initial state is h0, held fixed." in screen
    plain = load_checkpoint(network, readout="fc", z0="h0")
    values = [loss_of(plain, trials, z0) for z0 in (plain.z0, None)]
    assert abs(loss_in(metrics) / values[0] - 1) < 1e-12
    assert abs(values[1] / values[0] - 1) > 1e-3
    status, screen, _, metrics = run(network, "--readout", "fc", "--ignore", "h?")
    assert status == 0
    assert "net: set aside as asked: 'h0'." in screen
    assert abs(loss_in(metrics) / values[1] - 1) < 1e-12


def test_initial_states_of_another_number_of_trials(run):
    status, _, error, metrics = run(arrays(h0=(B + 1, H)), "--readout", "fc", "--z0", "h0")
    assert status == 2
    assert metrics is None
    assert f"are those of {B + 1} trials, and {B} trials are analyzed" in error


def test_an_assumed_nonlinearity_is_said_on_the_first_screen(run, tmp_path):
    words = "net: the nonlinearity is assumed to be tanh"
    status, screen, _, _ = run(arrays(1), "--readout", "fc")
    assert status == 0
    assert words in screen
    assert words in (tmp_path / "report" / "report.html").read_text()
    status, screen, _, _ = run(arrays(1), "--readout", "fc", "--nonlinearity", "tanh")
    assert "is assumed" not in screen
    save_checkpoint(tmp_path / "saved.npz", RNN.init(N_IN, H, seed=0))
    status, screen, _, _ = run(tmp_path / "saved.npz")
    assert "is assumed" not in screen


def test_a_loss_that_rose_is_said_on_the_first_screen(tmp_path, trials, capsys):
    """Two checkpoints in the order of training, and against it."""
    network = {name: array for name, array in arrays(1).items() if name != "critic.weight"}
    for name, scale in (("early", 1.0), ("late", 5.0)):
        np.savez(tmp_path / f"{name}.npz", **{**network, "fc.weight": scale * network["fc.weight"]})
    losses = {name: loss_of(load_checkpoint(tmp_path / f"{name}.npz"), trials) for name in ("early", "late")}
    assert losses["late"] > losses["early"]
    words = f"The loss rose from {losses['early']:.4g} in early to {losses['late']:.4g} in late: see whether"
    for order in (["early", "late"], ["late", "early"]):
        paths = [str(tmp_path / f"{name}.npz") for name in order]
        out = tmp_path / order[0]
        assert cli.main(["analyze", *paths, "--trials", str(trials), "--out", str(out), "--modes", "2"]) == 0
        assert (words in capsys.readouterr().out) == (order[0] == "early")
        assert (words in (out / "report.html").read_text()) == (order[0] == "early")


def test_map_and_trainable(run, trials):
    network = arrays(1)
    theirs = {"cell.W": network["rnn.weight_hh_l0"], "cell.U": network["rnn.weight_ih_l0"].T, "y": network["fc.weight"]}
    words = ["--map", "weight_hh=cell.W", "--map", "weight_ih=cell.U.T", "--map", "readout.weight=y"]
    status, _, _, metrics = run(theirs, *words, "--trainable", "weight_hh")
    assert status == 0
    assert abs(loss_in(metrics) / loss_of(load_checkpoint(network, readout="fc"), trials) - 1) < 1e-12
    status, _, error, _ = run(theirs, *words, "--trainable", "weight_hx")
    assert (status, "trainable must name some of weight_ih, weight_hh" in error) == (2, True)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--map", "weight_hh=a", "--map", "weight_hh=b"], "--map says twice what weight_hh is: 'a' and 'b'"),
        (["--map", "weight_hx=a"], "map (--map KEY=NAME) must say of some of 'weight_ih'"),
        (["--map", "weight_hh=a"], "there is no array 'a'"),
        (["--readout", "policy"], "there is no readout 'policy'"),
        (["--readout", "fc", "--z0", "h0"], "there is no array 'h0' for z0= (--z0)"),
        (["--readout", "fc", "--ignore", "h0"], "nothing called 'h0' to set aside with ignore= (--ignore)"),
    ],
)
def test_options_that_do_not_fit(run, words, message):
    status, _, error, metrics = run(arrays(), *words)
    assert (status, metrics) == (2, None)
    assert message in error


@pytest.mark.parametrize("words", [["--map", "weight_hh"], ["--map", "=a"], ["--trainable", "a,,b"], ["--readout"]])
def test_options_that_are_not_written_so(run, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(arrays(), *words)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.backends
def test_tensors_on_the_meta_device_hold_no_numbers(run, tmp_path):
    torch = pytest.importorskip("torch")
    state = torch.nn.RNN(N_IN, H).state_dict()
    torch.save({name: tensor.to("meta") for name, tensor in state.items()}, tmp_path / "meta.pt")
    status, _, error, metrics = run(tmp_path / "meta.pt")
    assert (status, metrics) == (2, None)
    assert "weight_ih_l0 is a tensor on the meta device, which has a shape (3, 2) and no numbers" in error
    assert error.count("\n") == 0
