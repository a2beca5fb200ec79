"""Quantities against training: their values, that a killed analysis resumes with them, and what is refused."""

import json

import numpy as np
import pytest

from kpref import Flow, Readout, Trials, cli, load_checkpoint, save_checkpoint, train
from kpref.analysis.settings import Objective
from kpref.course import analyze_run, run_analysis
from kpref.models import GRU, LSTM, LowRankRNN, Rate
from kpref.space import TrajectorySpace

B, T, N_IN, H, N_OUT = 4, 5, 2, 3, 1
STEPS = 6


class Stopped(Exception):
    """What a kill is to these tests."""


def drawn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, T, N_IN))
    return Trials(x, targets=0.5 * x[:, :, :1], lengths=[T, T, 3, 4])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training of four checkpoints: none of its trained arrays is a bias."""
    folder = tmp_path_factory.mktemp("training") / "run"
    train(
        GRU.init(N_IN, H, 0), Readout(np.ones((N_OUT, H))), drawn(), steps=STEPS, learning_rate=0.05,
        checkpoint_every=2, folder=folder, trainable=["weight_ih", "weight_hh", "readout.weight"], dtype="float64",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def course(run):
    return analyze_run(run)


def networks(steps):
    """The networks after these numbers of steps, found once more without a folder."""
    for number in steps:
        yield train(
            GRU.init(N_IN, H, 0), Readout(np.ones((N_OUT, H))), drawn(), steps=int(number), learning_rate=0.05,
            trainable=["weight_ih", "weight_hh", "readout.weight"], dtype="float64",
        )  # fmt: skip


def dense(op, space):
    """A matrix that is symmetric where the operator is self-adjoint."""
    root = np.sqrt(np.broadcast_to(space.mu[:, :, None], space.shape)).ravel()
    keep = root > 0
    return (root[:, None] * op.to_dense())[np.ix_(keep, keep)] / root[keep]


def participation(matrix):
    return np.trace(matrix) ** 2 / np.square(matrix).sum()


def cosine(one, other):
    return np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)


def over_units(values, mu):
    rows, weights = values[mu > 0], mu[mu > 0]
    return participation(np.cov(rows.T, aweights=weights, ddof=0))


def test_values_are_those_of_dense_matrices(course):
    """At 51 dimensions nothing is estimated but shares of the NTK; leading modes are known to 1e-6."""
    assert course["loss"].steps.tolist() == [0, 2, 4, 6]
    trials, found = drawn(), []
    for trained in networks(course["loss"].steps):
        model = trained.model.with_trainable(["weight_ih", "weight_hh"])
        flow = Flow(model, trials)
        space = flow.space
        matrices = {
            "K": dense(flow.K, space), "PP": dense(flow.P.gram(), space), "NTK": dense(flow.NTK, space),
            "PK": dense(flow.P @ flow.K, space),
        }  # fmt: skip
        gradient = flow.gradient_flow(trained.readout, targets=trials.targets)
        err, moved = (np.sqrt(space.mu)[:, :, None] * part for part in (gradient.err, gradient.dz))
        values, vectors = np.linalg.eigh(matrices["NTK"])
        err_there = err.ravel()[np.broadcast_to(space.mu[:, :, None] > 0, space.shape).ravel()]
        found.append({
            "loss": gradient.loss,
            **{f"dimension_{name}": participation(matrices[name]) for name in ("K", "PP", "NTK")},
            **{f"trace_{name}": np.trace(matrices[name]) for name in ("K", "NTK")},
            "largest_NTK": values[-1],
            "dimension_states": over_units(flow.states, space.mu),
            "dimension_err": over_units(gradient.err, space.mu),
            "dimension_adjoints": over_units(flow.P.star(gradient.err), space.mu),
            "alignment_PK_NTK": cosine(matrices["PK"], matrices["NTK"]),
            "alignment_PP_NTK": cosine(matrices["PP"], matrices["NTK"]),
            "misdirection": np.degrees(np.arccos(-cosine(err, moved))),
            "err_share/1": (err_there @ vectors[:, -1]) ** 2 / (err_there @ err_there),
            "NTK": matrices["NTK"],
        })  # fmt: skip
    for row in found:
        row["alignment_first"], row["alignment_last"] = (cosine(row["NTK"], found[end]["NTK"]) for end in (0, -1))
    for name in found[0].keys() - {"NTK"}:
        np.testing.assert_allclose(course[name].values, [row[name] for row in found], rtol=1e-6, err_msg=name)
        assert not course[name].errors.any() or name.startswith("dimension_K")


def test_shares_by_parameters_add_up_to_one(course):
    """Those of K exactly; those of the NTK are near those of dense matrices."""
    names = ["weight_ih", "weight_hh"]
    assert [name for name in course.curves if name.startswith("K_share/")] == [f"K_share/{name}" for name in names]
    for kind in ("K", "NTK"):
        shares = [course[f"{kind}_share/{name}"] for name in names]
        np.testing.assert_allclose(sum(share.values for share in shares), 1.0, rtol=1e-14)
    [last] = networks([STEPS])
    parts = [np.trace(dense(Flow(last.model.with_trainable([name]), drawn()).NTK, Flow(last.model, drawn()).space))
             for name in names]  # fmt: skip
    wanted = parts[0] / sum(parts)
    share = course["NTK_share/weight_ih"]
    assert abs(share.values[-1] - wanted) <= 5 * share.errors[-1] + 1e-12


def test_predicted_steps_are_near_what_is_realised(course):
    """The step is a hundredth of the states: what is left is of second order."""
    assert (course["step_error"].values < 0.1).all()
    np.testing.assert_allclose(course["step_loss"].values, 1.0, atol=0.1)


def test_errors_of_the_choice_of_trials_are_those_of_leaving_each_out(course):
    """With four trials the groups are the trials."""
    [first] = networks([0])
    trials, states = drawn(), Flow(first.model, drawn()).states
    space = TrajectorySpace(states.shape, lengths=trials.lengths)
    names = ("dimension_states", "loss", "alignment_PK_NTK", "alignment_PP_NTK")
    objective, left = Objective("mse", "all"), {name: [] for name in names}
    for trial in range(B):
        rest = np.arange(B) != trial
        left["dimension_states"].append(over_units(states[rest], space.mu[rest]))
        part = trials.subset(rest)
        flow = Flow(first.model.with_trainable(["weight_ih", "weight_hh"]), part)
        ntk = dense(flow.NTK, flow.space)
        left["alignment_PK_NTK"].append(cosine(dense(flow.P @ flow.K, flow.space), ntk))
        left["alignment_PP_NTK"].append(cosine(dense(flow.P.gram(), flow.space), ntk))
        left["loss"].append(flow.gradient_flow(first.readout, **objective.arguments(part)).loss)
    for name, values in left.items():
        spread = np.sqrt((B - 1) / B * np.square(values - np.mean(values)).sum())
        assert course[name].trial_errors[0] == pytest.approx(spread, rel=1e-10)


def test_a_killed_analysis_resumes_with_the_same_numbers(run, course, monkeypatch):
    """Stopped before the file of this number takes its place, of eight."""
    replacing = run_analysis.replacing
    for number in (1, 2, 5, 8):
        written = []

        def failing(path, written=written, number=number):
            written.append(path)
            if len(written) == number:
                raise Stopped
            return replacing(path)

        for file in (run / "course").rglob("*.*"):
            file.unlink()
        monkeypatch.setattr(run_analysis, "replacing", failing)
        with pytest.raises(Stopped):
            analyze_run(run)
        monkeypatch.setattr(run_analysis, "replacing", replacing)
        assert analyze_run(run).table == course.table
    assert sorted(path.suffix for path in (run / "course").rglob("*.*")) == [".json"] * 4


def test_what_is_known_is_not_measured_again(run, course, monkeypatch):
    monkeypatch.setattr(run_analysis, "measure", lambda *arguments: pytest.fail("measured again"))
    assert analyze_run(run).table == course.table


def test_what_is_kept_for_one_request_is_not_taken_for_another(run, course):
    other = analyze_run(run, checkpoints=2, max_trials=2, modes=1)
    assert other["loss"].steps.tolist() == [0, STEPS]
    assert (other["loss"].values != course["loss"].values[[0, -1]]).all()
    assert analyze_run(run).table == course.table


def test_files_on_the_command_line(run, course, tmp_path, capsys):
    assert cli.main(["analyze", str(run), "--run", "--out", str(tmp_path / "report")]) == 0
    assert f"report: {tmp_path}/report/report.html" in capsys.readouterr().out
    report = tmp_path / "report"
    assert (report / "course.csv").read_text() == course.table
    content = json.loads((report / "metrics.json").read_text())
    assert sorted(path.name for path in report.iterdir()) == content["files"]
    assert content["quantities"]["loss"]["value"] == course["loss"].values.tolist()
    page = (report / "report.html").read_text()
    pictures = [name for name in content["files"] if name.endswith(".png")]
    assert len(pictures) == page.count("<img ") == 20
    assert ">nan" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run"], "--run takes one CHECKPOINT, the folder of a training; got 0"),
        (["{run}", "{run}", "--run"], "got 2"),
        (["{run}", "--checkpoints", "3"], "--checkpoints is for --run"),
        (["{run}", "--run", "--loss", "mse"], "--loss has no meaning with --run"),
        (["{run}", "--run", "--plan"], "--plan has no meaning with --run"),
        (["{run}/optimizer", "--run"], "is no folder of a training by kpref train: it has no run.json"),
    ],
)
def test_what_is_refused_on_the_command_line(words, message, run, tmp_path, capsys):
    assert cli.main(["analyze", *(word.format(run=run) for word in words), "--out", str(tmp_path / "report")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("other", [GRU.init(N_IN, H + 1, 0), LSTM.init(N_IN, H, 0)])
def test_checkpoints_of_different_shapes_are_named(other, tmp_path):
    """Before anything is computed, and all files stay."""
    folder = tmp_path / "run"
    train(GRU.init(N_IN, H, 0), Readout(np.ones((N_OUT, H))), drawn(), steps=2, checkpoint_every=1, folder=folder)
    seen = other.observed.stop - other.observed.start
    save_checkpoint(folder / "step_00000001.safetensors", other, Readout(np.ones((N_OUT, seen))))
    words = r"step_00000001\.safetensors is of another network, .* than step_00000000\.safetensors, GRU\(2 inputs, 3"
    with pytest.raises(ValueError, match=words):
        analyze_run(folder)
    assert not (folder / "course").exists()
    assert len(list(folder.glob("step_*"))) == 3


@pytest.mark.parametrize(
    ("model", "options"), [(LowRankRNN.init(N_IN, H, 1, 0), {}), (Rate.init(N_IN, H, 0), {"dt": 0.1})]
)
def test_networks_of_other_names_and_fields(model, options, tmp_path):
    """Of each checkpoint the loss that the training saw, before its step, in float64 as here."""
    trained = train(
        model, Readout(np.ones((N_OUT, H))), drawn(), steps=3, checkpoint_every=1, dtype="float64",
        folder=tmp_path / "run", **options,
    )  # fmt: skip
    found = analyze_run(tmp_path / "run")
    np.testing.assert_allclose(found["loss"].values[:-1], trained.history.loss, rtol=1e-13)
    for name in ("alignment_first", "alignment_PK_NTK"):
        assert np.isfinite(found[name].trial_errors).all()


def test_folders_that_cannot_be_read(tmp_path):
    train(LowRankRNN.init(N_IN, H, 1, 0), Readout(np.ones((1, H))), drawn(), steps=1, folder=tmp_path / "rank")
    (checkpoint, last) = sorted((tmp_path / "rank").glob("step_*"))
    assert load_checkpoint(last).model.rank == 1
    for file in (checkpoint, last):
        file.unlink()  # as of a class of the user's, of which there are none
    with pytest.raises(ValueError, match="a class of your own, which kpref has no file for"):
        analyze_run(tmp_path / "rank")
    train(GRU.init(N_IN, H, 0), Readout(np.ones((1, H))), drawn(), steps=1, folder=tmp_path / "run")
    (tmp_path / "run" / "step_00000001.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"step_00000001.safetensors is damaged"):
        analyze_run(tmp_path / "run")
    with pytest.raises(ValueError, match="folder must be a path without null characters"):
        analyze_run(f"{tmp_path}\0")
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run.json is no record of a training"):
        analyze_run(tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoints must be an integer of at least 1"):
        analyze_run(tmp_path / "run", checkpoints=0)
