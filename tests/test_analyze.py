"""`kpref analyze`: its numbers against direct computation, whole output or none, and bad input named."""

import html.parser
import json
import os
import re

import numpy as np
import pytest

from kpref import Flow, Readout, cli, load_checkpoint, save_checkpoint
from kpref.analysis.numbers import analyze_checkpoint, leading_profile
from kpref.analysis.settings import Objective
from kpref.analysis.study import compare
from kpref.models import GRU, RNN
from kpref.space import TrajectorySpace
from kpref.trials import Trials

pytestmark = pytest.mark.usefixtures("blank_pictures")

B, T, N_IN, H, N_OUT = 4, 5, 2, 3, 2
MODES = 4


def network(seed, units=H, gain=1.2):
    rng = np.random.default_rng(seed)
    return GRU.init(N_IN, units, seed=seed, gain=gain), Readout(rng.normal(size=(N_OUT, units)), rng.normal(size=N_OUT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three checkpoints, in an order that sorting by text would get wrong, and trials with targets."""
    path = tmp_path_factory.mktemp("run")
    for seed, iteration in enumerate((0, 9, 10)):
        save_checkpoint(path / f"at_{iteration}.safetensors", *network(seed))
    rng = np.random.default_rng(9)
    inputs = rng.normal(size=(B, T, N_IN))
    np.savez(path / "trials.npz", inputs=inputs, targets=rng.normal(size=(B, T, N_OUT)))
    return path


@pytest.fixture(scope="module")
def labelled(folder, tmp_path_factory):
    """The same inputs with labels, and beside them without."""
    path, inputs = tmp_path_factory.mktemp("others"), np.load(folder / "trials.npz")["inputs"]
    np.savez(path / "labelled.npz", inputs=inputs, labels=np.array([0, 1, 1, 0]))
    np.savez(path / "unlabelled.npz", inputs=inputs)
    return path / "labelled.npz"


@pytest.fixture
def quick(monkeypatch):
    """Draw nothing: most of the time of a small run goes into figures."""
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])


def analyze(*argv):
    return cli.main(["analyze", *map(str, argv), "--modes", str(MODES)])


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "out"
    assert analyze(folder, "--out", out, "--save-modes") == 0
    return out


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"), parse_constant=no_constant)


def direct_flow(folder, index=0):
    checkpoint = folder / f"at_{(0, 10)[index]}.safetensors"
    model, readout = load_checkpoint(checkpoint)
    trials = Trials.load(folder / "trials.npz")
    flow = Flow(model, trials.inputs)
    return flow, flow.gradient_flow(readout, trials.targets), trials


def test_folder_means_first_and_last_checkpoint(report):
    assert [checkpoint["name"] for checkpoint in metrics_of(report)["checkpoints"]] == ["at_0", "at_10"]


def test_output_is_complete(report):
    metrics = metrics_of(report)
    assert sorted(path.name for path in report.iterdir()) == metrics["files"]
    assert metrics["program"] == "kpref"
    assert os.listdir(report.parent) == ["out"]


@pytest.mark.parametrize("index", [0, 1])
def test_numbers_are_those_of_dense_matrices(folder, report, index):
    flow, gradient, _ = direct_flow(folder, index)
    found = metrics_of(report)["checkpoints"][index]
    P, K = flow.P.to_dense(), flow.K.to_dense()
    ntk = P @ K @ P.T  # the measure is uniform: adjoints are transposes
    err = gradient.err.ravel()

    def spectrum(matrix):
        return np.linalg.eigvalsh(matrix)[::-1]

    for name, matrix in (("K", K), ("PP*", P @ P.T), ("NTK", ntk)):
        exact = spectrum(matrix)
        # LAPACK and the iteration are both off by a few units of rounding of the largest eigenvalue, times the size.
        tolerance = 1e-13 * exact[0]
        np.testing.assert_allclose(found["eigenvalues"][name]["values"], exact[:MODES], rtol=0, atol=tolerance)
        assert max(found["eigenvalues"][name]["residuals"]) < 1e-10
    assert found["loss"] == pytest.approx(gradient.loss, rel=1e-14)
    assert found["loss_rate"] == pytest.approx(-(err @ ntk @ err) / (B * T), rel=1e-12)
    assert found["error_norm"] == pytest.approx(np.sqrt(err @ err / (B * T)), rel=1e-14)
    assert found["kernel"]["trace"] == pytest.approx(np.trace(K), rel=1e-12)
    assert found["kernel"]["effective_dimension"] == pytest.approx(np.trace(K) ** 2 / np.trace(K @ K), rel=1e-12)
    assert found["states_rms"] == pytest.approx(np.sqrt(np.mean(flow.states**2)), rel=1e-14)
    values, vectors = np.linalg.eigh(ntk)
    values, vectors = values[::-1][:MODES], vectors[:, ::-1][:, :MODES]
    overlaps = (vectors.T @ err) ** 2
    # A mode is as accurate as rounding over the gap to its neighbour, at least 1e-3 of the spectrum here.
    np.testing.assert_allclose(found["shares"]["error"], overlaps / (err @ err), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["shares"]["rate"], values * overlaps / (err @ ntk @ err), rtol=0, atol=1e-9)


def test_trace_of_the_ntk_is_within_its_standard_error(folder, report):
    for index, found in enumerate(metrics_of(report)["checkpoints"]):
        flow, _, _ = direct_flow(folder, index)
        trace = np.trace(flow.NTK.to_dense())
        # Four standard errors, the random signs being fixed by the seed; or rounding, where the trace is exact.
        assert abs(found["ntk_trace"]["value"] - trace) <= 4 * found["ntk_trace"]["standard_error"] + 1e-13 * trace
        assert found["ntk_trace"]["standard_error"] < 0.1 * trace


def test_prediction_is_first_order(folder, report):
    for index, found in enumerate(metrics_of(report)["checkpoints"]):
        flow, gradient, trials = direct_flow(folder, index)
        step = found["step"]
        assert step["slope"] == pytest.approx(2.0, abs=0.01)
        for eta, gap, predicted in zip(step["etas"], step["gap"], step["loss_predicted"], strict=True):
            direct = gradient.realised(eta) - eta * gradient.dz
            assert gap == pytest.approx(flow.space.norm(direct), rel=1e-6, abs=1e-14)
            assert predicted == pytest.approx(eta * gradient.loss_rate, rel=1e-12)
        # For the smallest step the loss changes as predicted up to the next order, which is 1e-4 of it or less.
        assert step["loss_realised"][-1] == pytest.approx(step["loss_predicted"][-1], rel=1e-3)


def test_comparison(folder, report):
    (before, _, _), (after, _, _) = direct_flow(folder, 0), direct_flow(folder, 1)
    (found,) = metrics_of(report)["comparisons"]
    change = np.linalg.norm(after.states - before.states) / np.linalg.norm(before.states)
    assert (found["before"], found["after"]) == ("at_0", "at_10")
    assert found["states_relative_change"] == pytest.approx(change, rel=1e-13)
    bases = [np.linalg.eigh(flow.NTK.to_dense())[1][:, ::-1][:, :MODES] for flow in (before, after)]
    cosines = np.linalg.svd(bases[0].T @ bases[1])[1]
    np.testing.assert_allclose(np.cos(np.radians(found["ntk_principal_angles_degrees"])), cosines, atol=1e-9)
    assert found["ntk_subspace_overlap"] == pytest.approx(np.mean(cosines**2), abs=1e-9)


def test_modes_file(folder, report):
    flow, _, _ = direct_flow(folder, 1)
    with np.load(report / "modes.npz") as file:
        modes, values = file["at_10/ntk_modes"], file["at_10/ntk_values"]
        kernel = file["at_10/kernel_values"]
    assert modes.shape == (MODES, B, T, H)
    for value, mode in zip(values, modes, strict=True):
        # Stored in single precision: 6e-8 of each entry, over a norm of one.
        assert flow.space.norm(flow.NTK(mode) - value * mode) < 1e-6 * values[0]
    assert kernel.sum() == pytest.approx(np.trace(flow.K.to_dense()), rel=1e-12)


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.tags, self.places = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.places += [f"#{value}" for name, value in attrs if name == "id"]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_needs_nothing_else(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith("data:image/png;base64,") or link in page.places for link in page.links)
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == len(list(report.glob("*.png")))
    assert '<meta name="viewport"' in text
    assert "nan" not in text.lower().replace("nano", "").split("</style>")[0]


def test_page_says_what_matters(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    assert "From at_0 to at_10 the loss went from" in text
    assert "self-checks passed" in text
    assert "measure" in text
    assert "kpref analyze" in text


def test_names_are_escaped(folder, tmp_path, quick):
    odd = tmp_path / "a <b> & 'c'.safetensors"
    save_checkpoint(odd, *network(0))
    assert analyze(odd, "--trials", folder / "trials.npz", "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "a &lt;b&gt; &amp; &#x27;c&#x27;" in text
    Page(text)


def test_labels_mean_cross_entropy_at_the_last_step(folder, labelled, tmp_path, quick):
    assert analyze(folder / "at_9.safetensors", "--trials", labelled, "--out", tmp_path / "out") == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["objective"] == {"loss": "cross_entropy", "at": "last"}
    model, readout = load_checkpoint(folder / "at_9.safetensors")
    trials = Trials.load(labelled)
    outputs = readout(Flow(model, trials.inputs).states)[:, -1]
    logs = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    (found,) = metrics["checkpoints"]
    assert found["loss"] == pytest.approx(-logs[np.arange(B), trials.labels].mean(), rel=1e-13)
    assert found["accuracy"] == np.mean(outputs.argmax(axis=1) == trials.labels)


def test_without_answers_the_loss_is_left_out(folder, labelled, tmp_path, quick):
    assert analyze(folder, "--trials", labelled.with_name("unlabelled.npz"), "--out", tmp_path / "out") == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["objective"] is None
    assert "neither targets nor labels" in metrics["notes"][0]
    assert all(found["loss"] is None and found["step"] is None for found in metrics["checkpoints"])
    assert "neither targets nor labels" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_without_readout_the_loss_is_left_out(folder, tmp_path, quick):
    save_checkpoint(tmp_path / "bare.npz", RNN.init(N_IN, 1, seed=0))
    argv = [tmp_path / "bare.npz", folder / "at_0.safetensors", "--trials", folder / "trials.npz"]
    assert analyze(*argv, "--out", tmp_path / "out") == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["checkpoints"][0]["loss"] is None
    assert metrics["checkpoints"][1]["loss"] is not None
    assert metrics["comparisons"] == []
    assert any("bare.npz has no readout" in note for note in metrics["notes"])


def test_zero_gradient(folder, tmp_path, quick):
    """A readout that does not look at the states: nothing moves, and nothing is divided by zero."""
    save_checkpoint(tmp_path / "blind.npz", network(0)[0], Readout(np.zeros((N_OUT, H))))
    assert analyze(tmp_path / "blind.npz", "--trials", folder / "trials.npz", "--out", tmp_path / "out") == 0
    (found,) = metrics_of(tmp_path / "out")["checkpoints"]
    assert found["loss_rate"] == 0
    assert found["step"] is None
    assert found["shares"] is None


def test_max_trials(folder, tmp_path, quick):
    assert analyze(folder / "at_0.safetensors", "--trials", folder / "trials.npz", "--max-trials", 2,
                   "--out", tmp_path / "out") == 0  # fmt: skip
    trials = Trials.load(folder / "trials.npz").subset([0, B - 1])
    model, readout = load_checkpoint(folder / "at_0.safetensors")
    (found,) = metrics_of(tmp_path / "out")["checkpoints"]
    assert found["shape"]["trials"] == 2
    assert found["loss"] == pytest.approx(Flow(model, trials.inputs).gradient_flow(readout, trials.targets).loss)


def test_sum_measure_scales_the_ntk(folder):
    model, readout = load_checkpoint(folder / "at_0.safetensors")
    trials = Trials.load(folder / "trials.npz")
    mean, total = (
        analyze_checkpoint("", model, readout, trials, Objective("mse", "all"), MODES, measure)
        for measure in ("mean", "sum")
    )
    np.testing.assert_allclose(total.ntk_modes.values, B * T * mean.ntk_modes.values, rtol=1e-11)
    np.testing.assert_allclose(compare(mean, mean).angles, 0.0, atol=1e-7)  # arccos(1 - u) is about 1.5e-8
    assert compare(mean, total) is None


def test_profile_of_a_rank_one_tensor():
    rng = np.random.default_rng(0)
    amplitude, direction = rng.normal(size=(3, 4)), rng.normal(size=5)
    direction /= np.linalg.norm(direction)
    profile = leading_profile(amplitude[..., None] * direction, TrajectorySpace((3, 4, 5)))
    assert profile.share == pytest.approx(1.0)
    sign = np.sign(profile.direction @ direction)
    np.testing.assert_allclose(sign * profile.amplitude, amplitude, atol=1e-12)
    assert profile.amplitude.flat[np.abs(profile.amplitude).argmax()] > 0


# What is written, and when


@pytest.fixture
def failing(monkeypatch):
    """Make the last step before writing raise something."""

    def arrange(error):
        def broken(*args):
            raise error

        monkeypatch.setattr("kpref.analysis.report.render", broken)

    return arrange


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (ValueError("no"), 2), (MemoryError("full"), 2)])
def test_a_run_that_ends_early_leaves_nothing(folder, tmp_path, failing, error, status, quick):
    failing(error)
    assert analyze(folder, "--out", tmp_path / "out") == status
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_failed_writing_leaves_the_old_report(folder, tmp_path, monkeypatch, capsys, error, quick):
    out = tmp_path / "out"
    assert analyze(folder / "at_0.safetensors", "--trials", folder / "trials.npz", "--out", out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    sync, count = os.fsync, iter(range(1))

    def full(descriptor):
        if next(count, None) is None:
            raise error
        return sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert analyze(folder, "--out", out) == (2 if isinstance(error, OSError) else 130)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]
    if isinstance(error, OSError):
        assert f"No space left on device: {out}" in capsys.readouterr().err


def test_own_report_is_replaced_and_foreign_files_are_not(folder, tmp_path, capsys, quick):
    out = tmp_path / "out"
    out.mkdir()
    argv = [folder / "at_0.safetensors", "--trials", folder / "trials.npz", "--out", out]
    assert analyze(*argv) == 0
    (out / "report.html").write_text("old")
    assert analyze(*argv) == 0
    assert (out / "report.html").read_text(encoding="utf-8") != "old"
    (out / "thesis.tex").write_text("years of work")
    capsys.readouterr()
    assert analyze(*argv) == 2
    assert "files that kpref did not write (thesis.tex)" in capsys.readouterr().err
    assert (out / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"program": "other", "files": ["metrics.json"]}'])
def test_foreign_folder_is_refused(folder, tmp_path, capsys, index, quick):
    (tmp_path / "metrics.json").write_text(index)
    assert analyze(folder, "--out", tmp_path) == 2
    assert "did not write (metrics.json)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_unwritable_output_is_known_before_the_work(folder, tmp_path, monkeypatch, capsys, quick):
    monkeypatch.setattr(
        "kpref.analysis.numbers.analyze_checkpoint", lambda *args, **options: pytest.fail("work was done")
    )
    assert analyze(folder, "--out", tmp_path / "no" / "out") == 2
    assert f"{tmp_path / 'no'} does not exist" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert analyze(folder, "--out", tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err
    monkeypatch.setattr("pathlib.Path.mkdir", raise_read_only)
    assert analyze(folder, "--out", tmp_path / "out") == 2
    assert "cannot write the output folder" in capsys.readouterr().err


def raise_read_only(*args, **kwargs):
    raise OSError(30, "Read-only file system")


# Bad input


def failed(argv, tmp_path, capsys):
    """The error message of a run that must fail and write nothing."""
    before = sorted(os.listdir(tmp_path))
    assert analyze(*argv, "--out", tmp_path / "out") == 2
    assert sorted(os.listdir(tmp_path)) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kpref: error: ")
    return line


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"inputs": np.zeros((B, T, 3))}, "the trials have 3 input channels, but the network in .* takes 2"),
        ({"targets": np.zeros((B, T, 3))}, "the trials have 3 target channels, but the readout in .* gives 2"),
        ({"targets": None, "labels": np.array([0, 1, 2, 0])}, "label 2, but the readout in .* has 2 outputs"),
        ({"targets": np.full((B, T, N_OUT), np.nan)}, "targets holds nan at trial 0, step 0, channel 0"),
        ({"inputs": np.zeros((0, T, N_IN)), "targets": None}, "at least one trial"),
        ({"noise": np.zeros(3)}, "'noise'"),
    ],
)
def test_trials_that_do_not_fit(folder, tmp_path, capsys, arrays, message):
    given = {"inputs": np.zeros((B, T, N_IN)), "targets": np.zeros((B, T, N_OUT)), **arrays}
    np.savez(tmp_path / "bad.npz", **{name: array for name, array in given.items() if array is not None})
    line = failed([folder, "--trials", tmp_path / "bad.npz"], tmp_path, capsys)
    assert re.search(message, line), line


def test_files_that_cannot_be_read(folder, tmp_path, capsys):
    trials = ["--trials", folder / "trials.npz"]
    assert "No such file" in failed([tmp_path / "no.npz", *trials], tmp_path, capsys)
    assert "No such file" in failed([folder, "--trials", tmp_path / "no.npz"], tmp_path, capsys)
    (tmp_path / "cut.safetensors").write_bytes((folder / "at_0.safetensors").read_bytes()[:200])
    assert "cut.safetensors" in failed([tmp_path / "cut.safetensors", *trials], tmp_path, capsys)
    assert "--trials is needed" in failed([folder / "at_0.safetensors"], tmp_path, capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in failed([tmp_path / "empty"], tmp_path, capsys)


def test_loss_that_the_trials_do_not_have(folder, labelled, tmp_path, capsys):
    assert "needs labels" in failed([folder, "--loss", "cross_entropy"], tmp_path, capsys)
    labelled = [folder, "--trials", labelled]
    assert "needs targets" in failed([*labelled, "--loss", "mse"], tmp_path, capsys)


def test_too_little_memory_is_said_before_the_work(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kpref.memory.available_memory", lambda: 1000)
    assert "GiB of memory" in failed([folder], tmp_path, capsys)


@pytest.mark.parametrize("argv", [["--modes", "0"], ["--max-trials", "-1"], ["--seed", "x"], ["--measure", "median"]])
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        cli.main(["analyze", *argv])
    assert argv[0] in capsys.readouterr().err


def test_failed_self_check_is_reported(folder, tmp_path, monkeypatch, capsys, quick):
    from kpref.analysis import selfcheck

    monkeypatch.setattr(selfcheck, "largest_rounding", lambda terms: 0.0)
    assert analyze(folder / "at_0.safetensors", "--trials", folder / "trials.npz", "--out", tmp_path / "out") == 1
    assert "FAILED: " in capsys.readouterr().out
    assert "do not rely on this report" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
