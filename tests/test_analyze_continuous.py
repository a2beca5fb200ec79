"""`kpref analyze` of rate networks: numbers against an integration written here, what the page says, and refusals."""

import json
import os
import re

import numpy as np
import pytest

from kpref import Flow, Readout, cli, save_checkpoint
from kpref.models import GRU, RNN, Rate
from kpref.trials import Trials

pytestmark = pytest.mark.usefixtures("blank_pictures")

B, T, N_IN, H, N_OUT = 3, 6, 2, 3, 2
DT, TAU, MODES = 0.2, 0.5, 4


def analyze(*argv):
    return cli.main(["analyze", *map(str, argv), "--modes", str(MODES)])


@pytest.fixture
def quick(monkeypatch):
    """Draw nothing: most of the time of a small run goes into figures."""
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights as PyTorch's RNN has them, with two biases, and trials."""
    path, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    shapes = {"weight_ih_l0": (H, N_IN), "weight_hh_l0": (H, H), "bias_ih_l0": (H,), "bias_hh_l0": (H,)}
    arrays = {f"rnn.{name}": rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {"fc.weight": rng.normal(size=(N_OUT, H)), "fc.bias": rng.normal(size=N_OUT)}
    np.savez(path / "network.npz", **arrays)
    np.savez(path / "trials.npz", inputs=rng.normal(size=(B, T, N_IN)), targets=rng.normal(size=(B, T, N_OUT)))
    return path


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "out"
    argv = ["--dt", DT, "--tau", TAU, "--method", "heun", "--input-kind", "linear", "--out", out, "--save-modes"]
    assert analyze(folder, *argv) == 0
    return out


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def network(folder):
    """The parameters as one vector, and the readout."""
    with np.load(folder / "network.npz") as file:
        bias = file["rnn.bias_ih_l0"] + file["rnn.bias_hh_l0"]
        theta = np.concatenate([file["rnn.weight_ih_l0"].ravel(), file["rnn.weight_hh_l0"].ravel(), bias])
        return theta, file["fc.weight"], file["fc.bias"]


def heun(theta, inputs):
    """States (B, T, H) of the rate network by Heun's method, inputs linear between the times."""
    U, W, b = np.split(theta, [H * N_IN, H * N_IN + H * H])
    U, W = U.reshape(H, N_IN), W.reshape(H, H)

    def velocity(z, x):
        return (-z + np.tanh(z) @ W.T + x @ U.T + b) / TAU

    states = np.zeros((B, T, H), dtype=theta.dtype)
    for n in range(T - 1):
        first = velocity(states[:, n], inputs[:, n])
        second = velocity(states[:, n] + DT * first, inputs[:, n + 1])
        states[:, n + 1] = states[:, n] + DT / 2 * (first + second)
    return states


def test_numbers_are_those_of_a_direct_computation(folder, report, network):
    theta, weight, bias = network
    trials = Trials.load(folder / "trials.npz")
    found = metrics_of(report)["checkpoints"][0]
    states = heun(theta, trials.inputs)
    # Complex steps: exact to rounding.
    columns = [heun(theta + 1e-30j * unit, trials.inputs).imag.ravel() / 1e-30 for unit in np.eye(theta.size)]
    D = np.stack(columns, axis=1)
    trapezoid = np.array([0.5, *[1.0] * (T - 2), 0.5]) / (T - 1) / B
    mu = np.broadcast_to(trapezoid[:, None], (B, T, H))
    root = np.sqrt(mu).reshape(-1, 1)
    residual = states @ weight.T + bias - trials.targets
    err = residual @ weight * (2 / N_OUT)
    gradient = D.T @ (mu * err).ravel()
    jacobian = np.concatenate(
        [np.kron(np.concatenate([x, np.tanh(z)]), np.eye(H)) for x, z in zip(
            trials.inputs.reshape(-1, N_IN), states.reshape(-1, H), strict=True)]
    ) / TAU  # fmt: skip
    jacobian = np.concatenate([jacobian, np.tile(np.eye(H), (B * T, 1)) / TAU], axis=1)

    assert found["loss"] == pytest.approx((mu[..., 0] * np.square(residual).mean(axis=2)).sum(), rel=1e-13)
    assert found["loss_rate"] == pytest.approx(-gradient @ gradient, rel=1e-12)
    assert found["error_norm"] == pytest.approx(np.sqrt((mu * err**2).sum()), rel=1e-13)
    assert found["states_rms"] == pytest.approx(np.sqrt(np.mean(states**2)), rel=1e-13)
    for name, factor in (("NTK", D), ("K", jacobian)):
        exact = np.square(np.linalg.svd(root * factor, compute_uv=False))
        # LAPACK and the iteration are both off by a few units of rounding of the largest eigenvalue, times the size.
        tolerance = 1e-13 * exact[0]
        np.testing.assert_allclose(found["eigenvalues"][name]["values"], exact[:MODES], rtol=0, atol=tolerance)
    assert found["kernel"]["trace"] == pytest.approx(np.square(root * jacobian).sum(), rel=1e-12)
    assert found["step"]["slope"] == pytest.approx(2.0, abs=0.01)


def test_propagator_and_discretisation(folder, report, network):
    theta, _, _ = network
    U, W, b = np.split(theta, [H * N_IN, H * N_IN + H * H])
    model = Rate(U.reshape(H, N_IN), W.reshape(H, H), b, tau=TAU)
    flow = Flow(model, Trials.load(folder / "trials.npz").inputs, dt=DT, method="heun", input_kind="linear")
    found = metrics_of(report)["checkpoints"][0]
    root = np.sqrt(np.repeat(flow.space.mu, H))
    P, K, NTK = (root[:, None] * op.to_dense() / root for op in (flow.P, flow.K, flow.NTK))
    exact = np.square(np.linalg.svd(P, compute_uv=False))
    np.testing.assert_allclose(found["eigenvalues"]["PP*"]["values"], exact[:MODES], rtol=0, atol=1e-13 * exact[0])
    values, vectors = np.linalg.eigh(NTK)
    first = vectors[:, -1]
    # The mode is as accurate as rounding over its gap to the next.
    difference = np.linalg.norm(P @ K @ P.T @ first - values[-1] * first) / values[-1]
    assert found["discretisation"] == pytest.approx(difference, rel=1e-8)
    assert difference > 1e-4  # so that it tells something


def test_discretisation_is_of_second_order(folder, tmp_path, quick):
    """Forcings linear between the times: P K P* is off by O(dt^2), whatever the method."""
    sizes = []
    for refinement in (4, 8, 16):
        times = np.linspace(0.0, 1.0, 5 * refinement + 1)
        inputs = np.stack([np.sin(3 * times), np.cos(2 * times)], axis=1)[None]
        np.savez(tmp_path / "smooth.npz", inputs=inputs)
        argv = [folder / "network.npz", "--trials", tmp_path / "smooth.npz", "--dt", times[1], "--input-kind", "cubic"]
        assert analyze(*argv, "--out", tmp_path / "out") == 0
        sizes.append(metrics_of(tmp_path / "out")["checkpoints"][0]["discretisation"])
    slopes = np.log2(np.divide(sizes[:-1], sizes[1:]))
    # The ratio of two steps is off from 4 by O(dt), which these dt keep below a tenth of the exponent.
    np.testing.assert_allclose(slopes, 2.0, atol=0.15)


def test_self_check_is_that_of_a_field(report):
    check = metrics_of(report)["checkpoints"][0]["self_check"]
    names = [entry["name"] for entry in check["checks"]]
    assert check["passed"]
    assert names[:5] == [f"dot test of {op}" for op in ("P_s", "J_s", "D", "P", "K")]
    assert {"D from its factors", "NTK from D", "D = dZ/dθ"} <= set(names)
    assert not any("P⁻¹" in name for name in names)


def test_page_says_how_time_was_treated(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    assert "Rate of 3 units (tanh, τ = 0.5)" in text
    assert "Continuous time, method heun with step 0.2, inputs linear between the times." in text
    assert "3 trials of 6 times" in text
    assert "P K P* against the NTK" in text
    assert "steps." not in text.split("</header>")[0]
    assert metrics_of(report)["integration"] == {"dt": DT, "method": "heun", "input_kind": "linear"}


def test_modes_do_not_move_the_initial_state(report):
    with np.load(report / "modes.npz") as file:
        np.testing.assert_allclose(file["network/times"], DT * np.arange(T), rtol=1e-15)
        for name in ("ntk_modes", "propagator_modes"):
            start = np.moveaxis(file[f"network/{name}"], -2, 0)[0]
            assert np.abs(start).max() < 1e-10  # the iteration's residual
        assert np.abs(file["network/kernel_modes"][:, :, 0]).max() > 0.01


def test_what_the_file_recorded_is_used(folder, tmp_path, quick):
    model = Rate.init(N_IN, H, seed=1, tau=[0.3, 0.5, 2.0], nonlinearity="erf")
    readout = Readout(np.ones((N_OUT, H)))
    save_checkpoint(tmp_path / "rate.safetensors", model, readout)
    trials = Trials.load(folder / "trials.npz")
    argv = [tmp_path / "rate.safetensors", "--trials", folder / "trials.npz", "--dt", DT, "--out", tmp_path / "out"]
    changed = Rate(**model.parameters, tau=0.4, nonlinearity="softplus")
    for expected, options, words in (
        (model, [], "(erf, τ = 0.3 to 2)"),
        (changed, ["--tau", 0.4, "--nonlinearity", "softplus"], "(softplus, τ = 0.4)"),
    ):
        assert analyze(*argv, *options) == 0
        metrics = metrics_of(tmp_path / "out")
        direct = Flow(expected, trials.inputs, dt=DT).gradient_flow(readout, trials.targets)
        assert metrics["integration"] == {"dt": DT, "method": "rk4", "input_kind": "hold"}
        assert metrics["checkpoints"][0]["loss"] == pytest.approx(direct.loss, rel=1e-14)
        assert words in metrics["checkpoints"][0]["model"]


def test_nonlinearity_of_a_map(folder, tmp_path, quick):
    model, readout = RNN.init(N_IN, H, seed=2, nonlinearity="relu"), Readout(np.ones((N_OUT, H)))
    np.savez(tmp_path / "plain.npz", **model.parameters, fc=readout.weight)
    argv = [tmp_path / "plain.npz", "--trials", folder / "trials.npz", "--nonlinearity", "relu"]
    assert analyze(*argv, "--out", tmp_path / "out") == 0
    trials = Trials.load(folder / "trials.npz")
    direct = Flow(model, trials.inputs).gradient_flow(readout, trials.targets)
    metrics = metrics_of(tmp_path / "out")
    assert metrics["integration"] is None
    assert metrics["checkpoints"][0]["discretisation"] is None
    assert metrics["checkpoints"][0]["loss"] == pytest.approx(direct.loss, rel=1e-14)


def failed(argv, tmp_path, capsys):
    """The error message of a run that must fail and write nothing."""
    assert analyze(*argv, "--out", tmp_path / "out") == 2
    assert not os.path.exists(tmp_path / "out")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kpref: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("option", [["--method", "euler"], ["--tau", "0.5"], ["--input-kind", "linear"]])
def test_options_that_need_a_time_step(folder, tmp_path, capsys, option):
    line = failed([folder, *option], tmp_path, capsys)
    assert f"{option[0]} is for networks in continuous time and needs --dt" in line


def test_networks_that_do_not_fit_the_time(folder, tmp_path, capsys):
    save_checkpoint(tmp_path / "gru.npz", GRU.init(N_IN, H, seed=0))
    save_checkpoint(tmp_path / "rate.npz", Rate.init(N_IN, H, seed=0))
    trials = ["--trials", folder / "trials.npz"]
    line = failed([tmp_path / "gru.npz", *trials, "--dt", DT], tmp_path, capsys)
    assert re.search(r"gru.npz: a network in continuous time must be a rate network.*a GRU", line)
    line = failed([tmp_path / "rate.npz", *trials], tmp_path, capsys)
    assert re.search(r"rate.npz is one in continuous time: --dt is needed", line)


def test_trials_of_one_time(folder, tmp_path, capsys):
    np.savez(tmp_path / "short.npz", inputs=np.zeros((2, 1, N_IN)))
    line = failed([folder / "network.npz", "--trials", tmp_path / "short.npz", "--dt", DT], tmp_path, capsys)
    assert "--dt needs trials of at least 2 times; got 1" in line


def test_a_solution_that_blows_up(folder, tmp_path, capsys):
    np.savez(tmp_path / "wild.npz", weight_ih=np.ones((H, N_IN)), weight_hh=1e60 * np.eye(H))
    argv = [tmp_path / "wild.npz", "--trials", folder / "trials.npz", "--dt", DT, "--nonlinearity", "identity"]
    line = failed(argv, tmp_path, capsys)
    assert re.search(r"trial \d+, last accepted state at t = ", line), line


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "x"])
def test_time_steps_that_are_none(value, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        cli.main(["analyze", f"--dt={value}"])
    assert "expected a positive number" in capsys.readouterr().err
