"""The gradient of a training against complex steps, the compiled pass against the operators of a flow, and padding."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples

from kpref import Flow, Readout, Trials, tasks
from kpref.models import GRU, LRU, LSTM, MLP, MPN, RNN, S4D, LeakyRNN, Linear, LowRankRNN, Rate, Stacked
from kpref.training import Objective
from kpref.training.compiled_pass import CompiledPass
from kpref.training.plain_pass import PlainPass

B, T, N_IN, H, N_OUT = 3, 5, 2, 4, 3
READOUT = ("readout.weight", "readout.bias")
MAPS = {
    "GRU": lambda seed: GRU.init(N_IN, H, seed),
    "LSTM": lambda seed: LSTM.init(N_IN, H, seed),
    "RNN": lambda seed: RNN.init(N_IN, H, seed),
    "Stacked": lambda seed: Stacked.init("gru", N_IN, 3, 2, seed),
    "LRU": lambda seed: LRU.init(N_IN, H, 2, seed),
    "S4D": lambda seed: S4D.init(N_IN, H, 2, seed, n_layers=2),
    "MPN": lambda seed: MPN.init(N_IN, H, seed),
    "MPN, added": lambda seed: MPN.init(N_IN, H, seed, modulation="added"),
    "MLP": lambda seed: MLP.init(N_IN, H, seed, residual=True),
    "leaky": lambda seed: LeakyRNN.init(N_IN, H, seed, alpha=0.3),
    "timed": lambda seed: LeakyRNN(**LeakyRNN.init(N_IN, H, seed, alpha=0.3).parameters, alpha=np.full(H, 0.3),
                                   dale=[1.0, -1.0, 1.0, 1.0]),
    "low rank": lambda seed: LowRankRNN.init(N_IN, H, 2, seed),
    "Linear": lambda seed: Linear.init(N_IN, H, seed),
}  # fmt: skip


def drawn(rng, loss, lengths=None, masked=False):
    """Trials of this loss; where they are masked, at least the last step of each counts."""
    mask = None
    if masked:
        mask = rng.uniform(0.5, 2.0, size=(B, T)) * (rng.random((B, T)) < 0.7)
        mask[np.arange(B), (np.full(B, T) if lengths is None else np.array(lengths)) - 1] = 1.0
    answers = {"targets": rng.normal(size=(B, T, N_OUT))} if loss == "mse" else {"labels": rng.integers(N_OUT, size=B)}
    # Without lengths zeros at the end of a mask could be read as padding.
    return Trials(rng.normal(size=(B, T, N_IN)), mask=mask, lengths=[T] * B if lengths is None else lengths, **answers)


def objective(model, rng, trials, loss, at, **options):
    """All is trained, and regularised."""
    observed = model.observed.stop - model.observed.start
    readout = Readout(rng.normal(size=(N_OUT, observed)), rng.normal(size=N_OUT))
    trainable = [*model.parameters, "readout.weight", "readout.bias", "z0"]
    z0 = 0.5 * rng.normal(size=model.n_states)
    options = {"weight_decay": 0.1, "activity": 0.3, "trainable": trainable, "z0": z0} | options
    return Objective(model, readout, trials, loss=loss, at=at, **options)


def plain_loss(model, trials, arrays, loss, at, dt=None):
    """The whole objective in one function of complex arrays: trial by trial, step by step."""
    own = {name: arrays[name] for name in model.parameters}
    noise = trials.state_noise
    total = scale = squares = 0.0
    mu_sum = 0.0
    for trial, length in enumerate(trials.lengths):
        z = arrays["z0"]
        states = [] if dt is None else [z]
        for x in trials.inputs[trial, : length if dt is None else length - 1]:
            if dt is None:
                z = model.step(z, x, own) + (0.0 if noise is None else noise[trial, len(states)])
            else:  # the classical Runge-Kutta method, inputs held
                k1 = model.velocity(z, x, own)
                k2 = model.velocity(z + dt / 2 * k1, x, own)
                k3 = model.velocity(z + dt / 2 * k2, x, own)
                k4 = model.velocity(z + dt * k3, x, own)
                z = z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            states.append(z)
        mu = np.ones(length)
        if dt is not None:  # the trapezoid rule
            mu[[0, -1]] = 0.5
        seen = np.array(states)[:, model.observed]
        y = seen @ arrays["readout.weight"].T + arrays["readout.bias"]
        if loss == "mse":
            points = ((y - trials.targets[trial, :length]) ** 2).mean(axis=1)
        else:
            labels = np.broadcast_to(trials.labels[trial], trials.n_steps)[:length]
            points = np.log(np.exp(y).sum(axis=1)) - y[np.arange(length), labels]
        weights = mu * (1.0 if trials.mask is None else trials.mask[trial, :length])
        if at == "last":
            weights = np.where(np.arange(length) == length - 1, weights, 0.0)
        total, scale = total + (weights * points).sum(), scale + weights.sum()
        squares, mu_sum = squares + (mu * (seen**2).mean(axis=1)).sum(), mu_sum + mu.sum()
    decay = sum((array**2).sum() for array in arrays.values())
    return total / scale + 0.5 * 0.3 * squares / mu_sum + 0.5 * 0.1 * decay


def check_against_complex_steps(of, model, trials, loss, at, rng, dt=None):
    """Along a random direction; an entry of the gradient is a sum of some 1e2 terms, each right to a few 1e-16."""
    value, gradient = of.value_and_gradient(of.vector)
    direction = rng.normal(size=of.size)
    arrays = of.unflatten(of.vector + 1e-30j * direction)
    exact = plain_loss(model, trials, arrays, loss, at, dt)
    assert value == pytest.approx(exact.real, rel=1e-13)
    assert abs(gradient @ direction - exact.imag / 1e-30) <= 1e-11 * np.abs(gradient * direction).sum()


CASES = st.tuples(
    SEEDS, st.sampled_from(["mse", "cross_entropy"]), st.sampled_from(["all", "last"]),
    st.sampled_from([None, [T, 3, 1], [2, 2, T]]), st.booleans(),
)  # fmt: skip


@pytest.mark.parametrize("kind", MAPS)
def test_gradients_of_maps_are_exact(kind):
    """By both passes: the compiled one, and that by the operators of a flow."""

    @examples(20)
    @given(CASES)
    def check(case):
        seed, loss, at, lengths, masked = case
        rng = np.random.default_rng(seed)
        model, trials = MAPS[kind](seed % 1000), drawn(rng, loss, lengths, masked)
        of = objective(model, rng, trials, loss, at)
        assert isinstance(of._pass, CompiledPass)
        check_against_complex_steps(of, model, trials, loss, at, rng)
        plain = PlainPass(loss, at, 0.3, np.float64, {}, None)
        point = of._point(of.vector)
        fast, slow = (
            of._pass.evaluate(point, of.batch(trials).trials, of._wanted),
            plain.evaluate(point, trials, of._wanted),
        )
        assert fast.accuracy == pytest.approx(slow.accuracy)
        for name in ("model", "weight", "bias", "z0"):
            one, other = getattr(fast, name), getattr(slow, name)
            # The same sums of up to B T H terms in another order.
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * max(1.0, np.abs(other).max()))

    check()


@pytest.mark.parametrize("kind", MAPS)
def test_nothing_of_one_step_is_left_in_the_next(kind):
    """Weights, and all else that is written to the same memory at each step, are those of the vector given last."""
    rng = np.random.default_rng(3)
    model, trials = MAPS[kind](3), drawn(rng, "mse", None, False)
    of = objective(model, rng, trials, "mse", "all")
    other = of.vector * rng.uniform(0.5, 1.5, size=of.size)
    before = of.value_and_gradient(of.vector)
    assert of.value_and_gradient(other)[0] != before[0]
    value, gradient = of.value_and_gradient(of.vector)
    assert value == before[0]
    np.testing.assert_array_equal(gradient, before[1])


@pytest.mark.parametrize(
    ("place", "wrong", "said"),
    [
        (0, np.nan, "weight_ih holds"), (0, np.inf, "weight_ih holds"), (0, 1j, "real"),
        (-1, np.nan, "z0 holds"), (-1, np.inf, "z0 holds"),
    ],
)  # fmt: skip
def test_vectors_that_are_not_real_and_finite_are_refused(place, wrong, said):
    rng = np.random.default_rng(3)
    of = objective(MAPS["GRU"](3), rng, drawn(rng, "mse", None, False), "mse", "all")
    vector = of.vector + np.zeros(of.size, np.asarray(wrong).dtype)
    vector[place] = wrong
    with pytest.raises((ValueError, TypeError), match=said):
        of.value_and_gradient(vector)


@pytest.mark.parametrize("name", ["z0", "readout.weight", "readout.bias", "weight_hh"])
def test_complex_vectors_are_refused_whatever_is_trained(name):
    rng = np.random.default_rng(3)
    of = objective(MAPS["GRU"](3), rng, drawn(rng, "mse"), "mse", "all", trainable=[name])
    for evaluated in (of.value_and_gradient, of.metrics, of.network):
        with pytest.raises((ValueError, TypeError), match="real numbers"):
            evaluated(of.vector + 1e-30j)


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_are_as_the_objective(copied, used):
    """What is written to memory at a step has to be found where the kernels of the copy read it."""
    rng = np.random.default_rng(4)
    of = objective(MAPS["GRU"](3), rng, drawn(rng, "mse"), "mse", "all")
    batch = of.batch([0, 2])
    if used:
        of.value_and_gradient(of.vector)
    other = copied(of)
    vector = 1.1 * of.vector
    wanted = of.value_and_gradient(vector), of.value_and_gradient(vector, batch)
    for found, right in zip(
        (other.value_and_gradient(vector), other.value_and_gradient(vector, batch)), wanted, strict=True
    ):
        assert found[0] == right[0]
        np.testing.assert_array_equal(found[1], right[1])


def test_threads_may_share_an_objective():
    rng = np.random.default_rng(5)
    of = objective(MAPS["GRU"](3), rng, drawn(rng, "mse"), "mse", "all")
    vectors = [factor * of.vector for factor in (0.5, 1.0, 1.5, 2.0)] * 20
    wanted = [of.value_and_gradient(vector) for vector in vectors[:4]] * 20
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(of.value_and_gradient, vectors))
    finally:
        sys.setswitchinterval(interval)
    assert [value for value, _ in found] == [value for value, _ in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one[1], other[1])


OTHERS = {
    "inputs": lambda rng: (GRU.init(N_IN + 3, H, 0), {"inputs": rng.normal(size=(B, T, N_IN + 3))}, {}),
    "precision": lambda rng: (GRU.init(N_IN, H, 0), {}, {"dtype": "float32"}),
    "time": lambda rng: (GRU.init(N_IN, H, 0), {}, {"at": "last"}),
    "bias": lambda rng: (GRU.init(N_IN, H, 0, bias=False), {}, {}),
    "outputs": lambda rng: (GRU.init(N_IN, H, 0), {"labels": np.full(B, N_OUT)}, {"readout": N_OUT + 1}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_batches_of_other_objectives_are_refused(other):
    """Compiled code would read beyond their end, or score them as the other does."""
    rng = np.random.default_rng(6)
    trials = Trials(rng.normal(size=(B, T, N_IN)), labels=rng.integers(N_OUT, size=B))
    of = Objective(GRU.init(N_IN, H, 0), Readout(np.ones((N_OUT, H))), trials, loss="cross_entropy")
    model, given, options = OTHERS[other](rng)
    readout = Readout(np.ones((options.pop("readout", N_OUT), H)))
    theirs = Trials(**{"inputs": trials.inputs, "labels": trials.labels} | given)
    for which in (theirs, [0]):
        batch = Objective(model, readout, theirs, loss="cross_entropy", **options).batch(which)
        with pytest.raises(ValueError, match="batch must be made by the objective that takes it"):
            of.value_and_gradient(of.vector, batch)
    twin = Objective(GRU.init(N_IN, H, 1), Readout(np.ones((N_OUT, H))), trials, loss="cross_entropy")
    assert of.metrics(of.vector, twin.batch(trials)).loss == of.metrics(of.vector).loss


@examples(20)
@given(CASES)
def test_gradients_of_fields_are_exact(case):
    seed, loss, at, lengths, masked = case
    lengths = None if lengths is None else np.maximum(lengths, 2)  # of one time there is no trajectory
    rng = np.random.default_rng(seed)
    model, trials = Rate.init(N_IN, H, seed % 1000), drawn(rng, loss, lengths, masked)
    of = objective(model, rng, trials, loss, at, dt=0.3, method="rk4")
    check_against_complex_steps(of, model, trials, loss, at, rng, dt=0.3)


@pytest.mark.parametrize("kind", MAPS)
def test_float32_is_float64_to_its_rounding(kind):
    """T steps of sums of H terms, in numbers of 6e-8: a few hundred of these."""
    trials = drawn(np.random.default_rng(1), "mse", [T, 3, 1], True)
    (value, gradient), (short, rough) = (
        objective(MAPS[kind](0), np.random.default_rng(2), trials, "mse", "all", dtype=dtype).value_and_gradient(
            objective(MAPS[kind](0), np.random.default_rng(2), trials, "mse", "all").vector
        )
        for dtype in ("float64", "float32")
    )
    assert rough.dtype == np.float32
    assert short == pytest.approx(value, rel=1e-5)
    assert 0 < np.abs(rough - gradient).max() < 3e-5 * np.abs(gradient).max()


@pytest.mark.parametrize("name", tasks.TASKS)
def test_gradients_of_tasks_are_exact(name):
    """As the tasks score them: masks, lengths, losses at the last step, labels of trials and of steps."""
    task, rng = tasks.get(name), np.random.default_rng(0)
    trials = task.trials(3, seed=1)
    model = GRU.init(trials.n_inputs, H, 0)
    n_outputs = len(task.outputs)
    readout = Readout(rng.normal(size=(n_outputs, H)), rng.normal(size=n_outputs))
    of = Objective(
        model, readout, trials, loss=task.loss, at=task.at, trainable=[*model.parameters, *READOUT, "z0"],
        z0=0.5 * rng.normal(size=H), weight_decay=0.1, activity=0.3,
    )  # fmt: skip
    check_against_complex_steps(of, model, trials, task.loss, task.at, rng)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_gradients_with_noise_in_the_states_are_exact(loss):
    rng = np.random.default_rng(11)
    model = MAPS["LSTM"](0)
    trials = tasks.with_state_noise(drawn(rng, loss, [T, 3, 1], True), model.n_states, noise=0.3, seed=2)
    check_against_complex_steps(objective(model, rng, trials, loss, "all"), model, trials, loss, "all", rng)


@pytest.mark.parametrize("at", ["all", "last"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("kind", MAPS)
def test_padding_is_invisible(kind, loss, at):
    """A loss is the mean of those of groups of equal length, weighted by their points, or by trials at the last."""
    lengths = np.array([4, 2, 4])
    rng = np.random.default_rng(3)
    trials = drawn(rng, loss, lengths)
    options = {"weight_decay": 0.0} | ({"activity": 0.0} if at == "last" else {})  # which is a mean over all points
    whole = objective(MAPS[kind](0), np.random.default_rng(4), trials, loss, at, **options)
    value, gradient = whole.value_and_gradient(whole.vector)
    sums = [0.0, np.zeros(whole.size), 0.0]
    for length in (2, 4):
        group = trials.subset(lengths == length).trimmed()
        assert group.n_steps == length
        alone = objective(MAPS[kind](0), np.random.default_rng(4), group, loss, at, **options)
        share = group.n_points / trials.n_points if at == "all" else group.n_trials / trials.n_trials
        metrics, part = alone.evaluate(alone.vector)
        sums = [sums[0] + share * metrics.loss, sums[1] + share * part, sums[2] + share * (metrics.accuracy or 0.0)]
    assert value == pytest.approx(sums[0], rel=1e-14)
    np.testing.assert_allclose(gradient, sums[1], rtol=0, atol=1e-14 * np.abs(gradient).max())
    if loss == "cross_entropy":
        assert whole.metrics(whole.vector).accuracy == pytest.approx(sums[2])


def test_some_of_the_trials_are_scored_as_alone():
    rng = np.random.default_rng(5)
    trials = drawn(rng, "mse", [T, 3, 4], True)
    of = objective(MAPS["GRU"](0), np.random.default_rng(6), trials, "mse", "all")
    chosen = np.array([2, 0])
    alone = objective(MAPS["GRU"](0), np.random.default_rng(6), trials.subset(chosen), "mse", "all")
    for got, wanted in zip(
        of.value_and_gradient(of.vector, of.batch(chosen)), alone.value_and_gradient(of.vector), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-15)


def test_memory_that_is_used_again_holds_nothing_of_the_step_before():
    rng = np.random.default_rng(7)
    of = objective(MAPS["LSTM"](0), rng, drawn(rng, "mse"), "mse", "all")
    first = of.value_and_gradient(of.vector)
    other = of.batch(drawn(rng, "mse", [2, T, 1]))
    of.value_and_gradient(of.vector + 0.1, other)
    again = of.value_and_gradient(of.vector)
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1], first[1])


def test_batches_that_are_scored_at_other_steps_hold_nothing_of_each_other():
    """Of one shape, so that they share memory: the second is not scored at the last steps, where the first was."""
    whole = drawn(np.random.default_rng(12), "mse")
    early = drawn(np.random.default_rng(13), "mse")
    early = Trials(early.inputs, early.targets, mask=[0.0, 1.0, 1.0, 0.0, 0.0], lengths=[T] * B)
    alone = objective(MAPS["GRU"](0), np.random.default_rng(11), early, "mse", "all", activity=0.0)
    of = objective(MAPS["GRU"](0), np.random.default_rng(11), whole, "mse", "all", activity=0.0)
    of.value_and_gradient(of.vector)
    np.testing.assert_array_equal(
        of.value_and_gradient(of.vector, of.batch(early))[1], alone.value_and_gradient(of.vector)[1]
    )


def test_an_interrupt_leaves_nothing_half_entered():
    class Interrupts:
        def __setitem__(self, _, value):
            raise KeyboardInterrupt

    rng = np.random.default_rng(7)
    of = objective(MAPS["GRU"](0), rng, drawn(rng, "mse"), "mse", "all")
    first, other = of.value_and_gradient(of.vector), of.batch(drawn(rng, "mse"))
    (room,) = of._pass._rooms.values()
    errors = room.errors
    object.__setattr__(room, "errors", Interrupts())  # what is written after the inputs
    with pytest.raises(KeyboardInterrupt):
        of.value_and_gradient(of.vector, other)
    object.__setattr__(room, "errors", errors)
    again = of.value_and_gradient(of.vector)
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1], first[1])


@pytest.mark.parametrize(
    "names", [("readout.weight",), ("z0",), ("weight_hh", "readout.bias"), ("weight_hh", "weight_ih", "bias_ih")]
)
def test_a_part_of_the_parameters_has_that_part_of_the_gradient(names):
    rng = np.random.default_rng(8)
    trials = drawn(rng, "mse")
    whole = objective(MAPS["GRU"](0), np.random.default_rng(9), trials, "mse", "all", weight_decay=0.0)
    some = objective(MAPS["GRU"](0), np.random.default_rng(9), trials, "mse", "all", weight_decay=0.0, trainable=names)
    assert set(some.names) == set(names)
    gradients = whole.unflatten(whole.value_and_gradient(whole.vector)[1])
    for name, part in some.unflatten(some.value_and_gradient(some.vector)[1]).items():
        np.testing.assert_allclose(part, gradients[name], rtol=0, atol=1e-14 * np.abs(part).max())


def test_what_overflows_is_an_error():
    rng = np.random.default_rng(10)
    of = objective(MAPS["Linear"](0), rng, drawn(rng, "mse"), "mse", "all")
    with pytest.raises(ValueError, match="overflows"):
        of.value_and_gradient(1e100 * of.vector)
    with pytest.raises(ValueError, match=r"weight_hh.*nan|nan.*weight_hh|must be finite"):
        of.value_and_gradient(np.full(of.size, np.nan))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"loss": "hinge"}, ValueError, "one of mse, cross_entropy"),
        ({"at": "first"}, ValueError, "one of all, last"),
        ({"loss": "cross_entropy"}, ValueError, "needs trials with labels"),
        ({"trainable": ["weight_oo"]}, ValueError, "trainable must name some of weight_ih"),
        ({"trainable": []}, ValueError, "trainable must name some of weight_ih"),
        ({"trainable": "z0"}, TypeError, "sequence of names"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be a finite number of at least 0"),
        ({"dtype": "float16"}, ValueError, "float64 or float32"),
        ({"rule": "hebb"}, TypeError, "rule must be a function of a flow and an error"),
        ({"z0": np.zeros(7)}, ValueError, "z0 must have shape"),
        ({"readout": Readout(np.ones((2, 4)))}, ValueError, "targets must have 2 channels"),
        ({"readout": Readout(np.ones((3, 5)))}, ValueError, "readout must take the 4 observed states"),
        ({"trials": np.ones((2, 2))}, TypeError, "kpref.Trials"),
        ({"trials": Trials(np.ones((1, 2, 3)), targets=np.ones((1, 2, 3)))}, ValueError, "must have 2 inputs"),
        ({"trials": Trials(np.ones((1, 2, 2)), labels=[3]), "loss": "cross_entropy"}, ValueError, "got 3$"),
        ({"trials": Trials(np.ones((1, 2, 2)), targets=np.ones((1, 2, 3)), mask=[1, 0], lengths=[2]), "at": "last"},
         ValueError, "leaves nothing to score at the last steps"),
        ({"dt": 0.1}, ValueError, "dt is for models in continuous time"),
        ({"model": Rate.init(N_IN, H, 0)}, ValueError, "needs dt or times"),
        ({"model": Rate.init(N_IN, H, 0), "tau": 1.0}, TypeError, "unknown option"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, words):
    trials = drawn(np.random.default_rng(0), "mse")
    given = {"model": MAPS["GRU"](0), "readout": Readout(np.ones((N_OUT, H))), "trials": trials} | change
    with pytest.raises(error, match=words):
        Objective(given.pop("model"), given.pop("readout"), given.pop("trials"), **given)


def test_minus_hundred_is_no_label():
    with pytest.raises(ValueError, match="-100 at trial 0, step 1; .* 0 in the mask"):
        Trials(np.ones((1, 2, 2)), labels=[[0, -100]])
    with pytest.raises(
        ValueError, match="-100 at trial 1; .* give trials that do not count any class, and 0 in the mask"
    ):
        Trials(np.ones((2, 2, 2)), labels=[0, -100])
    with pytest.raises(ValueError, match="-100 to 0: .* 0 in the mask"):
        Flow(MAPS["GRU"](0), np.ones((1, 2, 2))).gradient_flow(
            Readout(np.ones((3, H))), labels=[[0, -100]], loss="cross_entropy"
        )


@pytest.mark.parametrize("kind", ["GRU", "Rate"])
@pytest.mark.parametrize(
    ("chosen", "error", "words"),
    [
        ([0, 2], None, ""),
        ([True, False, False], None, ""),
        ([1], ValueError, "the mask leaves nothing to score: take more trials"),
        ([3], ValueError, "there is no trial 3 among 3 trials"),
        ([0.5], ValueError, "indices must be an array of booleans, integers"),
        ([], ValueError, "indices must choose at least one trial of 3"),
    ],
)
def test_batches_of_numbers(kind, chosen, error, words):
    """By both passes: what is right is scored, and all else is refused before any arithmetic."""
    mask = np.ones((B, T)) * [[1], [0], [1]]
    trials = Trials(np.ones((B, T, N_IN)), targets=np.ones((B, T, N_OUT)), mask=mask, lengths=[T] * B)
    model, options = (Rate.init(N_IN, H, 0), {"dt": 0.1}) if kind == "Rate" else (MAPS[kind](0), {})
    of = Objective(model, Readout(np.ones((N_OUT, H))), trials, **options)
    if error is None:
        assert np.isfinite(of.value_and_gradient(of.vector, of.batch(chosen))[0])
        return
    with pytest.raises(error, match=words):
        of.batch(chosen)
    with pytest.raises(TypeError, match="batch must be what the method batch gives; got 'all'"):
        of.metrics(of.vector, "all")
