"""A cell, in this process: its metrics are those that the rest of kpref computes of the same network."""

import numpy as np
import pytest

from kpref import Flow, Readout, load_checkpoint, save_checkpoint, spectra, tasks, train
from kpref.models import GRU
from kpref.sweeps.cell import run_cell
from kpref.sweeps.cell_metrics import METRICS
from kpref.sweeps.cell_settings import completed
from kpref.sweeps.cell_worker import _outcome
from kpref.training.ingredients import given, random_network

SETTINGS = completed(
    {"task": "delayed_match", "units": 3, "steps": 2, "batch_size": 3, "fresh_trials": 2, "seed": 5, "dtype": "float64"}
)


def values(settings, *metrics):
    return {name: value for name, (value, _) in run_cell(settings, metrics).items()}


def test_metrics_of_a_training():
    names = [name for name in METRICS if name != "accuracy"]
    found = run_cell(SETTINGS, names)
    assert list(found) == names
    task = tasks.get("delayed_match")
    model, readout = random_network("gru", given("delayed_match", None), 3, 5, 1.0)
    result = train(
        model, readout, task.trials, steps=2, batch_size=3, seed=5, dtype="float64", loss=task.loss, at=task.at
    )
    trials = task.trials(2, 6)
    flow, before = Flow(result.model, trials, result.z0), Flow(model, trials)
    gradient = flow.gradient_flow(result.readout, trials.targets, loss=task.loss, mask=trials.mask, at=task.at)
    truth = {
        "loss": gradient.loss,
        "training_loss": result.history.loss[-1],
        "dimension_K": spectra.kernel_effective_dimension(flow).value,
        "trace_NTK_exact": spectra.ntk_trace_exact(flow),
        "trace_PP": spectra.propagator_gram_trace(flow),
        "alignment_K_NTK": spectra.alignment(flow.K, flow.NTK, seed=5).value,
        "alignment_first": spectra.alignment(flow.NTK, before.NTK, seed=5).value,
        "lyapunov_1": spectra.lyapunov_exponents(flow, 1, seed=5).mean[0],
    }
    assert {name: found[name][0] for name in truth} == truth
    # The NTK of 2 trials is too large to be taken apart: four standard errors leave 6 in 100,000 correct ones out.
    assert abs(found["trace_NTK"][0] - truth["trace_NTK_exact"]) < 4 * found["trace_NTK"][1]
    assert 0 < found["largest_NTK"][0] < truth["trace_NTK_exact"]
    assert all(found[name][1] == 0 for name in names if not METRICS[name].estimated)


def test_a_network_that_takes_no_step_is_the_random_one():
    found = values({**SETTINGS, "steps": 0}, "alignment_first", "training_loss")
    # Both are made of the same products: exactly one but for the rounding of a quotient.
    assert found["alignment_first"] == pytest.approx(1.0, abs=1e-12)
    assert found["training_loss"] is None


def test_a_checkpoint_is_measured_on_trials(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 3, 2)), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "trials.npz", inputs=x, labels=labels)
    save_checkpoint(tmp_path / "net.safetensors", GRU.init(2, 3, seed=0), Readout(rng.normal(size=(2, 3)), np.zeros(2)))
    chosen = {"checkpoint": str(tmp_path / "net.safetensors"), "trials": str(tmp_path / "trials.npz"), "at": "last",
              "trainable": ("weight_hh",)}  # fmt: skip
    found = values(completed(chosen), "loss", "accuracy", "trace_K")
    network = load_checkpoint(chosen["checkpoint"])
    flow = Flow(network.model.with_trainable(["weight_hh"]), x)
    gradient = flow.gradient_flow(network.readout, labels=labels, loss="cross_entropy", at="last")
    assert (found["loss"], found["accuracy"]) == (gradient.loss, gradient.loss_value.accuracy)
    assert found["trace_K"] == pytest.approx(np.trace(dense(flow.K)), rel=1e-12)  # sums of some 100 rounded terms


def dense(op):
    size = op.space_in.size
    return np.stack([np.ravel(op(row.reshape(op.space_in.shape))) for row in np.eye(size)])


def test_options_and_rules_reach_the_training():
    field = {**SETTINGS, "model": "rate", "dt": 0.1, "steps": 0}
    assert values({**field, "method": "euler"}, "loss") != values({**field, "method": "rk4"}, "loss")
    one = {**SETTINGS, "steps": 1}
    assert values({**one, "rule": "feedback_alignment"}, "loss") != values(one, "loss")


def test_what_a_cell_raises_is_its_outcome():
    request = {"settings": {**SETTINGS, "learning_rate": 1e30, "model": "linear", "steps": 50}, "metrics": ["loss"]}
    found = _outcome({**request, "memory": None})
    assert found["failed"] == "raised"
    assert found["error"].startswith("training diverged at step ")
