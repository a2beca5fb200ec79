"""Losses against their formulas written out point by point, their derivative against differences, and PyTorch's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples, measures

from kpref import Readout, TrajectorySpace
from kpref.loss import evaluate_loss

OUTPUTS = 3


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@st.composite
def problems(draw):
    """States, space, readout and the arguments of a loss, all random."""
    trials, steps, units = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(SEEDS))
    space = TrajectorySpace((trials, steps, units), draw(measures(trials, steps, zeros=False)))
    readout = Readout(rng.normal(size=(OUTPUTS, units)), rng.normal(size=OUTPUTS) if draw(st.booleans()) else None)
    arguments = {"loss": draw(st.sampled_from(["mse", "cross_entropy"])), "at": draw(st.sampled_from(["all", "last"]))}
    if arguments["loss"] == "mse":
        arguments["targets"] = rng.normal(size=(trials, steps, OUTPUTS))
    else:
        arguments["labels"] = rng.integers(OUTPUTS, size=draw(st.sampled_from([(trials,), (trials, steps)])))
    shape = draw(st.sampled_from([None, (steps,), (trials, 1), (trials, steps)]))
    if shape is not None:
        mask = rng.choice([0.0, 1.0, 0.5], size=shape)
        mask[..., -1] = 1.0
        arguments["mask"] = mask
    return rng.normal(size=space.shape), space, readout, arguments


def written_out(states, space, readout, loss, targets=None, labels=None, mask=1.0, at="all"):
    """The weighted mean over observed points, times the mass of the measure; and the share that is right."""
    trials, steps, _ = states.shape
    mask = np.broadcast_to(mask, (trials, steps))
    total = weight = right = 0.0
    for b in range(trials):
        for n in range(steps):
            if at == "last" and n < steps - 1:
                continue
            y = readout.weight @ states[b, n] + (0 if readout.bias is None else readout.bias)
            if loss == "mse":
                point = np.mean((y - targets[b, n]) ** 2)
            else:
                label = labels[b] if np.ndim(labels) == 1 else labels[b, n]
                point = np.log(np.exp(y).sum()) - y[label]
                right += space.mu[b, n] * mask[b, n] * (np.argmax(y) == label)
            total += space.mu[b, n] * mask[b, n] * point
            weight += space.mu[b, n] * mask[b, n]
    return space.mu.sum() * total / weight, right / weight


@examples(60)
@given(problems())
def test_value(problem):
    states, space, readout, arguments = problem
    found = evaluate_loss(states, space, readout, **arguments)
    value, right = written_out(states, space, readout, **arguments)
    assert found.value == pytest.approx(value, rel=1e-13)  # sums of at most 90 terms of one sign
    assert found.outputs.shape == (*states.shape[:2], OUTPUTS)
    if arguments["loss"] == "mse":
        assert found.accuracy is None
    else:
        assert found.accuracy == pytest.approx(right, abs=1e-13)


@examples(60)
@given(problems())
def test_derivative(problem):
    """``dL = <Err, dz>_X`` against central differences with one Richardson step, at every point and unit."""
    states, space, readout, arguments = problem
    found = evaluate_loss(states, space, readout, **arguments)

    def slope(index, step):
        moved = states.copy()
        moved[index] += step
        ahead = written_out(moved, space, readout, **arguments)[0]
        moved[index] -= 2 * step
        return (ahead - written_out(moved, space, readout, **arguments)[0]) / (2 * step)

    wanted = np.empty(states.shape)
    for index in np.ndindex(states.shape):
        wanted[index] = (4 * slope(index, 5e-4) - slope(index, 1e-3)) / 3
    # Truncation 1e-12 times fifth derivatives of order ten; rounding 1e-15 L / 1e-3.
    got = space.weigh(found.err)
    assert np.abs(got - wanted).max() <= 1e-10 * max(1.0, found.value, np.abs(wanted).max())
    np.testing.assert_array_equal(found.err, found.output_gradient @ readout.weight)


def test_points_that_are_not_observed_have_no_error(rng):
    space, readout = TrajectorySpace((2, 4, 3)), Readout(rng.normal(size=(OUTPUTS, 3)))
    states, targets = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, OUTPUTS))
    mask = np.array([1.0, 0.0, 2.0, 1.0])
    found = evaluate_loss(states, space, readout, targets=targets, mask=mask)
    assert (found.err[:, 1] == 0).all()
    assert (found.err[:, [0, 2, 3]] != 0).all()
    last = evaluate_loss(states, space, readout, targets=targets, at="last")
    assert (last.err[:, :-1] == 0).all()
    assert (last.err[:, -1] != 0).all()
    moved = targets.copy()
    moved[:, 1] += 100
    assert evaluate_loss(states, space, readout, targets=moved, mask=mask).value == found.value


def test_perfect_readout_has_no_loss(rng):
    states = rng.normal(size=(2, 4, 3))
    readout = Readout(rng.normal(size=(OUTPUTS, 3)))
    found = evaluate_loss(states, TrajectorySpace(states.shape), readout, targets=readout(states))
    assert found.value == 0
    assert (found.err == 0).all()


@pytest.mark.filterwarnings("error")
def test_cross_entropy_of_extreme_outputs():
    """exp(1000) overflows; the loss is 2000, and 0, without a warning."""
    states = np.array([[[1000.0], [-1000.0]]])
    readout = Readout([[1.0], [-1.0]])
    space = TrajectorySpace((1, 2, 1), "sum")
    found = evaluate_loss(states, space, readout, labels=[1], loss="cross_entropy")
    assert found.value == 2000
    np.testing.assert_array_equal(found.output_gradient, [[[1.0, -1.0], [0.0, 0.0]]])
    assert found.accuracy == 0.5


@pytest.mark.backends
@pytest.mark.parametrize("at", ["all", "last"])
def test_conventions_of_torch(at, rng):
    """The means of torch.nn.functional over observed points, in the measure "mean"."""
    functional = pytest.importorskip("torch").nn.functional
    torch = pytest.importorskip("torch")
    states, space = rng.normal(size=(4, 5, 6)), TrajectorySpace((4, 5, 6))
    readout = Readout(rng.normal(size=(OUTPUTS, 6)), rng.normal(size=OUTPUTS))
    targets, labels = rng.normal(size=(4, 5, OUTPUTS)), rng.integers(OUTPUTS, size=(4, 5))
    seen = slice(None) if at == "all" else slice(-1, None)
    outputs = torch.tensor(readout(states))[:, seen]
    wanted = functional.mse_loss(outputs, torch.tensor(targets)[:, seen])
    assert evaluate_loss(states, space, readout, targets, at=at).value == pytest.approx(float(wanted), rel=1e-13)
    wanted = functional.cross_entropy(outputs.reshape(-1, OUTPUTS), torch.tensor(labels)[:, seen].reshape(-1))
    found = evaluate_loss(states, space, readout, labels=labels, loss="cross_entropy", at=at)
    assert found.value == pytest.approx(float(wanted), rel=1e-13)
    mask = rng.random(size=(4, 5)) < 0.5
    mask[0, -1] = True
    wanted = functional.mse_loss(
        outputs[torch.tensor(mask)[:, seen]], torch.tensor(targets)[:, seen][torch.tensor(mask)[:, seen]]
    )
    assert evaluate_loss(states, space, readout, targets, mask=mask, at=at).value == pytest.approx(
        float(wanted), rel=1e-13
    )


# Bad input

STATES = np.ones((2, 4, 3))
SPACE = TrajectorySpace((2, 4, 3))
READOUT = Readout(np.ones((OUTPUTS, 3)))
TARGETS = np.zeros((2, 4, OUTPUTS))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "takes targets"),
        ({"labels": [0, 1]}, "takes targets"),
        ({"targets": TARGETS, "labels": [0, 1]}, "no labels"),
        ({"targets": TARGETS[:, :, :2]}, r"targets must have shape \(2, 4, 3\); got \(2, 4, 2\)"),
        ({"targets": TARGETS[:, -1]}, r"targets must have shape \(2, 4, 3\); got \(2, 3\)"),
        ({"targets": TARGETS[:1]}, r"got \(1, 4, 3\)"),
        ({"targets": np.full_like(TARGETS, np.nan)}, "nan"),
        ({"targets": TARGETS, "loss": "hinge"}, "mse, cross_entropy; got 'hinge'"),
        ({"targets": TARGETS, "at": "first"}, '"all" or "last"'),
        ({"targets": TARGETS, "mask": np.ones((4, 2))}, r"mask must be broadcastable to .* \(2, 4\); got \(4, 2\)"),
        ({"targets": TARGETS, "mask": [1, 1, -1, 1]}, "negative"),
        ({"targets": TARGETS, "mask": [1, np.nan, 1, 1]}, "nan"),
        ({"targets": TARGETS, "mask": np.zeros(4)}, "no point"),
        ({"targets": TARGETS, "mask": [1, 1, 1, 0], "at": "last"}, "no point"),
        ({"loss": "cross_entropy"}, "takes labels"),
        ({"loss": "cross_entropy", "targets": TARGETS}, "takes labels"),
        ({"loss": "cross_entropy", "labels": [0, 3]}, "0, ..., 2.*got 0 to 3"),
        ({"loss": "cross_entropy", "labels": [-1, 0]}, "got -1 to 0"),
        ({"loss": "cross_entropy", "labels": [0.0, 1.0]}, "integers"),
        ({"loss": "cross_entropy", "labels": [True, False]}, "integers"),
        ({"loss": "cross_entropy", "labels": [0, 1, 2]}, r"\(2,\) or \(2, 4\); got \(3,\)"),
        ({"loss": "cross_entropy", "labels": np.zeros((4, 2), int)}, r"got \(4, 2\)"),
        ({"loss": "cross_entropy", "labels": []}, "labels"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_loss(STATES, SPACE, READOUT, **arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"space": (2, 4, 3)}, r"space must be a kpref.TrajectorySpace; got \(2, 4, 3\)"),
        ({"readout": np.ones((2, 3))}, "readout must be a kpref.Readout; got an array of float64"),
        ({"readout": None}, "readout must be a kpref.Readout; got None"),
        ({"loss": ["mse"]}, r"loss must be a string; got \['mse'\]"),
        ({"at": -1}, "at must be a string; got -1"),
    ],
)
def test_things_of_another_kind(changes, message):
    with pytest.raises(TypeError, match=message):
        evaluate_loss(**{"states": STATES, "space": SPACE, "readout": READOUT, "targets": TARGETS, **changes})


@pytest.mark.parametrize("lengths", [None, [4, 2]])
@pytest.mark.parametrize("name", ["targets", "labels", "mask"])
def test_masked_arrays(name, lengths):
    arrays = {"targets": TARGETS, "labels": np.zeros((2, 4), int), "mask": np.ones((2, 4))}
    hidden = np.ma.masked_array(arrays[name], arrays[name] == arrays[name])
    chosen = {"loss": "cross_entropy"} if name == "labels" else {"targets": TARGETS}
    space = TrajectorySpace((2, 4, 3), lengths=lengths)
    with pytest.raises(ValueError, match=f"{name} must be an array of .* without masked entries"):
        evaluate_loss(STATES, space, READOUT, **{**chosen, name: hidden})


def test_last_steps_of_trials_that_end_early(rng):
    """Each trial's own, of the weight that it has; what stands after an end is not looked at."""
    space, readout = TrajectorySpace((2, 4, 3), lengths=[4, 2]), Readout(rng.normal(size=(OUTPUTS, 3)))
    states, targets = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, OUTPUTS))
    targets[1, 2:] = np.nan
    found = evaluate_loss(states, space, readout, targets, at="last")
    residual = readout(states)[[0, 1], [3, 1]] - targets[[0, 1], [3, 1]]
    assert found.value == pytest.approx(np.square(residual).mean(), rel=1e-14)
    assert np.flatnonzero(found.err.any(axis=2)).tolist() == [3, 5]
    assert not found.outputs[1, 2:].any()


def test_readout(rng):
    weight, bias = rng.normal(size=(2, 3)), rng.normal(size=2)
    readout = Readout(weight, bias)
    assert (readout.n_outputs, readout.n_states) == (2, 3)
    states = rng.normal(size=(4, 5, 3))
    np.testing.assert_allclose(readout(states)[1, 2], weight @ states[1, 2] + bias, rtol=0, atol=1e-14)
    np.testing.assert_allclose(Readout(weight)(states), readout(states) - bias, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "weight, bias, message",
    [
        (np.ones(3), None, "2 axes"),
        (np.ones((0, 3)), None, "none of them 0"),
        (np.ones((3, 0)), None, "none of them 0"),
        (np.ones((2, 3)), np.ones(3), r"bias must have shape \(2,\); got \(3,\)"),
        ([[np.nan]], None, "nan"),
        ([[1.0]], [np.inf], "inf"),
    ],
)
def test_wrong_readouts(weight, bias, message):
    with pytest.raises(ValueError, match=message):
        Readout(weight, bias)


def test_readout_of_other_states():
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\); got \(2, 4, 5\)"):
        READOUT(np.ones((2, 4, 5)))
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        evaluate_loss(np.ones((2, 4, 5)), TrajectorySpace((2, 4, 5)), READOUT, targets=TARGETS)
