"""The metrics of `kpref analyze` against dense definitions, each with how it is known; and their figures."""

import json

import numpy as np
import pytest

from kpref import Flow, Readout, cli, load_checkpoint, save_checkpoint
from kpref.analysis.metric_figures import alignments, dimensions, stability
from kpref.analysis.numbers import evenly_spread
from kpref.analysis.operator_sizes import schmidt_trials
from kpref.analysis.stability import growth_trials, stability_trials
from kpref.analysis.wording import with_error, with_interval
from kpref.coloring import color_trials
from kpref.models import GRU, RNN
from kpref.space import TrajectorySpace
from kpref.spectra import task_alignment
from kpref.trials import Trials

B, T, N_IN, H, N_OUT, MODES = 4, 5, 2, 3, 3, 4


def analyze(*argv):
    return cli.main(["analyze", *map(str, argv), "--modes", str(MODES)])


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(3)
    for seed in (0, 1):
        readout = Readout(rng.normal(size=(N_OUT, H)), rng.normal(size=N_OUT))
        save_checkpoint(path / f"at_{seed}.npz", GRU.init(N_IN, H, seed=seed, gain=1.3), readout)
    np.savez(path / "trials.npz", inputs=rng.normal(size=(B, T, N_IN)), labels=np.array([0, 2, 2, 0]))
    return path


def new_figures(study, *_):
    """Those of the metrics only: the others have tests of their own, and take time."""
    coloring = color_trials(study.trials)
    return [exhibit for make in (dimensions, stability, alignments) for exhibit in make(study, coloring)]


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpref.analysis.figures.draw_exhibits", new_figures)
        assert analyze(folder, "--out", out) == 0
    return out


@pytest.fixture
def quick(monkeypatch):
    """Draw nothing."""
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])


@pytest.fixture(scope="module")
def flows(folder):
    trials = Trials.load(folder / "trials.npz")
    return [Flow(load_checkpoint(folder / f"at_{seed}.npz")[0], trials.inputs) for seed in (0, 1)]


def dimension(matrix):
    return np.trace(matrix) ** 2 / np.sum(matrix**2)


def schmidt_rank(matrix):
    points, units = B * T, H
    realigned = matrix.reshape(points, units, points, units).transpose(0, 2, 1, 3).reshape(points**2, units**2)
    squares = np.linalg.svd(realigned, compute_uv=False) ** 2
    return squares.sum() ** 2 / np.sum(squares**2)


@pytest.mark.parametrize("index", [0, 1])
def test_sizes_are_those_of_dense_matrices(report, flows, index):
    flow, found = flows[index], metrics_of(report)["checkpoints"][index]["metrics"]
    K, P = flow.K.to_dense(), flow.P.to_dense()
    matrices = {"K": K, "PP*": P @ P.T, "NTK": P @ K @ P.T}  # the measure is uniform: adjoints are transposes
    expected = {}
    for name, matrix in matrices.items():
        expected[f"trace_{name}"] = np.trace(matrix)
        expected[f"effective_dimension_{name}"] = dimension(matrix)
    tensor = K.reshape(B, T, H, B, T, H)
    for axis, sums in (("trial", "ithjth->ij"), ("time", "bihbjh->ij"), ("unit", "btibtj->ij")):
        expected[f"effective_dimension_K_{axis}"] = dimension(np.einsum(sums, tensor))
    expected |= {f"schmidt_rank_{name}": schmidt_rank(matrices[name]) for name in ("K", "NTK")}
    expected["alignment_K_NTK"] = np.vdot(K, matrices["NTK"]) / np.linalg.norm(K) / np.linalg.norm(matrices["NTK"])
    assert set(expected) < set(found)
    for key, value in expected.items():
        assert found[key]["how"].split(";")[0] == "exact"  # the network is small enough
        # Sums of at most (B T H)^2 = 3600 terms, and a square root of rounding in none of them.
        assert found[key]["value"] == pytest.approx(value, rel=1e-11), key
        assert found[key]["standard_error"] == 0
    # Left out one after another, the other trials scaled to the weight of all.
    P4, K4 = P.reshape(B, T, H, B, T, H), tensor
    for key, whole in (("trace_PP*", np.einsum("bthcsk,bthcsk->b", P4, P4)), ("trace_K", np.einsum("bthbth->b", K4))):
        without = (whole.sum() - whole) * B / (B - 1)
        expected_error = np.sqrt((B - 1) / B * np.square(without - without.mean()).sum())
        assert found[key]["trial_error"] == pytest.approx(expected_error, rel=1e-9), key


@pytest.mark.parametrize("index", [0, 1])
def test_stability_is_that_of_dense_matrices(report, flows, index):
    flow, found = flows[index], metrics_of(report)["checkpoints"][index]
    P = flow.P.to_dense().reshape(B, T, H, B, T, H)
    norms = [np.linalg.norm(P[b, :, :, b].reshape(T * H, T * H), 2) for b in range(B)]
    metrics = found["metrics"]
    # The residual bounds the error of the square.
    np.testing.assert_allclose(found["trial_norms"], norms, rtol=1e-4)
    assert metrics["norm_P"]["value"] == pytest.approx(max(norms), rel=1e-9)
    assert metrics["norm_P"]["standard_error"] < 1e-8
    assert metrics["norm_P_median"]["value"] == np.median(found["trial_norms"])
    assert metrics["norm_P_smallest"]["value"] == min(found["trial_norms"])
    # Phi(n, 0) = Phi(n, 1) A[1], A[1] from a difference of two columns of the recursion: z[1] depends on z0 by D_z0.
    D = flow.D_z0.to_dense().reshape(B, T, H, B, H)
    logs = np.log([[np.linalg.norm(D[b, n, :, b], 2) for n in range(T)] for b in range(B)])
    np.testing.assert_allclose(found["growth"]["log"], logs, rtol=0, atol=1e-11)
    assert found["growth"]["trials"] == list(range(B))
    assert metrics["growth_end"]["value"] == pytest.approx(np.median(logs[:, -1]), abs=1e-11)
    assert metrics["growth_peak"]["value"] == pytest.approx(np.median(logs.max(axis=1)), abs=1e-11)
    # With as many exponents as units their sum is the growth of volumes.
    volumes = [np.linalg.slogdet(D[b, -1, :, b])[1] / T for b in range(B)]
    assert sum(found["lyapunov"]["mean"]) == pytest.approx(np.mean(volumes), abs=1e-11)
    assert metrics["lyapunov_1"]["value"] == found["lyapunov"]["mean"][0]
    assert metrics["lyapunov_1"]["standard_error"] == found["lyapunov"]["standard_error"][0] > 0
    assert found["lyapunov"]["running_mean"][-1] == pytest.approx(found["lyapunov"]["mean"])


def test_alignments_are_those_of_dense_matrices(report, flows):
    (comparison,) = metrics_of(report)["comparisons"]
    found = comparison["alignments"]
    assert found["operators"] == ["K, at_0", "K, at_1", "NTK, at_0", "NTK, at_1"]
    rows = np.stack([op.to_dense().ravel() for op in (flows[0].K, flows[1].K, flows[0].NTK, flows[1].NTK)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.array(found["values"], dtype=float)
    known = ~np.eye(4, dtype=bool)[::-1]  # K of one with the NTK of the other is left out
    np.testing.assert_allclose(values[known], (rows @ rows.T)[known], rtol=0, atol=1e-12)
    assert np.isnan(values[~known]).all()
    assert not np.any(np.array(found["standard_errors"], dtype=float)[known])


@pytest.mark.parametrize("index", [0, 1])
def test_sub_tasks(folder, report, flows, index):
    trials, readout = Trials.load(folder / "trials.npz"), load_checkpoint(folder / f"at_{index}.npz")[1]
    flow, found = flows[index], metrics_of(report)["checkpoints"][index]["tasks"]
    gradient = flow.gradient_flow(readout, labels=trials.labels, loss="cross_entropy", at="last")
    direct = task_alignment(flow.NTK, gradient.err, trials.labels)
    assert found["labels"] == [0, 2]
    np.testing.assert_allclose(found["rates"], direct.rates, rtol=1e-12)
    np.testing.assert_allclose(np.diag(found["alignment"]), 1.0, rtol=1e-12)
    assert np.sum(found["rates"]) == pytest.approx(-gradient.loss_rate, rel=1e-11)


def test_every_number_says_how_it_is_known(report):
    metrics = metrics_of(report)
    for checkpoint in metrics["checkpoints"]:
        for key, entry in checkpoint["metrics"].items():
            exact = entry["how"].startswith("exact")
            assert exact or any(word in entry["how"] for word in ("95 % interval", "bound", "residual ≤")), key
            assert entry["standard_error"] is not None, key
            low, high = entry["interval"]
            if entry["standard_error"] == 0:
                assert low == high == entry["value"], key
            else:
                assert low < entry["value"] < high, key
        assert {"lyapunov", "trial_norms", "growth", "tasks", "metrics"} <= set(checkpoint) & set(metrics["how"])
    assert "alignments" in metrics["how"]


def test_every_number_of_the_page_says_so_too(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    for section in ("dimensions", "stability", "alignments"):
        part = text.split(f'<section id="{section}">')[1].split("</section>")[0]
        rows = part.split("<tbody>")[1].split("</tbody>")[0].split("</tr>")[:-1]
        assert rows
        for row in rows:
            assert any(word in row for word in ("exact", "95 % interval", "bound", "residual ≤")), row
        assert part.count("<img") == part.count('alt="') > 0


def test_parts_are_said(folder, tmp_path, monkeypatch, quick):
    """Where a number stands for some of the trials only, it says for how many, and which."""
    monkeypatch.setattr("kpref.analysis.operator_sizes._KERNEL_ENTRIES", 2 * T * H)
    monkeypatch.setattr("kpref.analysis.operator_sizes._NTK_ENTRIES", 3 * T * H)
    monkeypatch.setattr("kpref.analysis.stability._GROWTH_WORK", 2.0 * T * H**3)
    monkeypatch.setattr("kpref.analysis.stability._ENTRIES", 3 * T * H)
    assert analyze(folder / "at_1.npz", "--trials", folder / "trials.npz", "--out", tmp_path / "out") == 0
    (found,) = metrics_of(tmp_path / "out")["checkpoints"]
    assert found["metrics"]["schmidt_rank_K"]["how"] == "exact, on 2 of the 4 trials"
    assert found["metrics"]["schmidt_rank_NTK"]["how"] == "exact, on 3 of the 4 trials"
    assert found["metrics"]["growth_end"]["how"] == "exact, median of 2 of the 4 trials"
    assert found["growth"]["trials"] == [0, 3]
    assert found["stability_trials"] == [0, 2, 3]  # half a trial rounds to the even one
    assert len(found["trial_norms"]) == 3
    assert found["metrics"]["norm_P_median"]["how"].endswith(", on 3 of the 4 trials")
    assert "mean of 3 of the 4 trials" in found["metrics"]["lyapunov_1"]["how"]


def test_smallest_network(tmp_path, quick):
    """One unit, one step, one trial: nothing is divided by zero, and what one trial cannot tell is left open."""
    save_checkpoint(tmp_path / "one.npz", RNN.init(1, 1, seed=0), Readout(np.ones((1, 1))))
    np.savez(tmp_path / "trials.npz", inputs=np.ones((1, 1, 1)), targets=np.ones((1, 1, 1)))
    assert analyze(tmp_path / "one.npz", "--trials", tmp_path / "trials.npz", "--out", tmp_path / "out") == 0
    (found,) = metrics_of(tmp_path / "out")["checkpoints"]
    for key in ("effective_dimension_K", "effective_dimension_PP*", "effective_dimension_NTK", "schmidt_rank_K"):
        assert found["metrics"][key]["value"] == pytest.approx(1.0)
    assert found["metrics"]["norm_P"]["value"] == pytest.approx(1.0)
    assert found["metrics"]["lyapunov_1"]["standard_error"] is None
    assert "no standard error" in found["metrics"]["lyapunov_1"]["how"]
    assert found["tasks"] is None
    assert any("no condition or label of each trial" in note for note in metrics_of(tmp_path / "out")["notes"])


def test_numbers_of_trials_stay_in_range():
    small, large = TrajectorySpace((3, 4, 5)), TrajectorySpace((40, 1000, 2000))
    assert (*schmidt_trials(small), growth_trials(small), stability_trials(small)) == (3,) * 4
    assert (*schmidt_trials(large), growth_trials(large), stability_trials(large)) == (1,) * 4
    np.testing.assert_array_equal(evenly_spread(10, 3), [0, 4, 9])
    np.testing.assert_array_equal(evenly_spread(5, 5), np.arange(5))
    np.testing.assert_array_equal(evenly_spread(7, 1), [0])


@pytest.mark.parametrize(
    "value, error, text",
    [
        (2.5, 0.0, "2.50"),
        (2.5, None, "2.50"),
        (2545.66, 22.44, "2,546 ± 22"),
        (-0.0214356, 0.00047, "−0.02144 ± 0.00047"),
        (0.03, 0.5, "0.030 ± 0.50"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_no_more_digits_than_the_error_supports(value, error, text):
    assert with_error(value, error) == text


@pytest.mark.parametrize(
    "value, low, high, text",
    [
        (3.7812, 3.7021, 3.8644, "3.781 (3.702 to 3.864)"),
        (2.5, 2.5, 2.5, "2.50"),
        (2.5, np.nan, np.nan, "2.50"),
        (2545.66, 2501.1, 2590.2, "2,546 (2,501 to 2,590)"),
        (118400.0, 118280.0, 118520.0, "118,400 (118,280 to 118,520)"),
        (4.3, -5.2, 13.8, "4.3 (−5.2 to 13.8)"),
        (0.03, -0.0004, 0.0604, "0.030 (0 to 0.060)"),
        (411.2134, 411.2134 - 1e-9, 411.2134 + 1e-9, "411.21"),
        (-2.5e-9, -3.1e-9, -1.9e-9, "−2.50×10⁻⁹ (−3.10×10⁻⁹ to −1.90×10⁻⁹)"),
        (np.nan, np.nan, np.nan, "–"),
        (3.0, 1.0, np.inf, "3.0 (1.0 to ∞)"),
    ],
)
def test_intervals_for_people(value, low, high, text):
    assert with_interval(value, low, high) == text
