"""Trials that end early: every number is that of the shorter trial, whatever stands after its end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, STRUCTURES, examples, make_model

import kpref
from kpref import Flow, Readout, TrajectorySpace, Trials
from kpref.analysis.selfcheck import self_check
from kpref.analysis.step_size import measure_step_size
from kpref.models import Rate
from kpref.spectra import kernel_unit_average, kernel_unit_trace, ntk_trace_exact, propagator_gram_trace
from kpref.spectra.blocks import block_eigh
from kpref.spectra.lyapunov import lyapunov_exponents, propagator_growth, trial_norms

#: Rounding: recursions over at most ten steps of products over at most five units, in another order of trials.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
#: Numbers of iterations that end at residuals of 1e-10.
ITERATED = {"rtol": 1e-8, "atol": 1e-9}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


GARBAGE = st.sampled_from([0.0, 1.0, 1e300, np.nan, np.inf])


def padded(array, lengths, steps, garbage):
    """An array (B, T, ...) with garbage after the end of each trial, and up to `steps`."""
    out = np.full((len(array), steps, *array.shape[2:]), garbage)
    for trial, length in enumerate(lengths):
        out[trial, :length] = array[trial, :length]
    return out


class Case:
    """A ragged flow, and one flow for each of its trials alone."""

    def __init__(self, model, seed, garbage, options, measure="sum", least=1):
        self.rng = np.random.default_rng(seed)
        trials, steps = self.rng.integers(1, 5), self.rng.integers(least, 9)
        self.lengths = self.rng.integers(least, steps + 1, size=trials)
        inputs = self.rng.normal(size=(trials, steps, model.n_inputs))
        z0 = self.rng.normal(size=(trials, model.n_states))
        self.flow = Flow(
            model, padded(inputs, self.lengths, steps, garbage), z0, measure, lengths=self.lengths, **options
        )
        self.alone = [
            Flow(model, inputs[b : b + 1, :length], z0[b : b + 1], measure, **options)
            for b, length in enumerate(self.lengths)
        ]

    def parts(self, tensor, lengths=None):
        """The part of each trial of a tensor (B, T, ...), and whether the rest is zero."""
        lengths = self.lengths if lengths is None else lengths
        for trial, length in enumerate(lengths):
            assert (tensor[trial, length:] == 0).all()
            yield tensor[trial : trial + 1, :length]


@st.composite
def maps(draw, kind):
    model = make_model(kind, 2, draw(st.integers(1, 5)), draw(SEEDS))
    return Case(model, draw(SEEDS), draw(GARBAGE), {})


@st.composite
def fields(draw):
    model = Rate.init(2, draw(st.integers(1, 4)), draw(SEEDS), nonlinearity=draw(st.sampled_from(["tanh", "softplus"])))
    options = {
        "dt": 0.2,
        "method": draw(st.sampled_from(["euler", "heun", "rk4"])),
        "input_kind": draw(st.sampled_from(["hold", "linear"])),
    }
    return Case(model, draw(SEEDS), draw(GARBAGE), options, least=2)


def check_states(case):
    for got, flow in zip(case.parts(case.flow.states), case.alone, strict=True):
        np.testing.assert_allclose(got, flow.states, **CLOSE)
    again = case.flow.rerun(case.flow.model)
    np.testing.assert_array_equal(again, case.flow.states)


def check_operators(case, names):
    """Each operator and its transpose, on tensors that are not zero after the ends."""
    for name in names:
        whole, single = getattr(case.flow, name), [getattr(flow, name) for flow in case.alone]
        q, g = case.rng.normal(size=whole.shape_in), case.rng.normal(size=whole.shape_out)
        by_trial = range(len(single))
        q_parts = {"J": q, "D": q}.get(name)
        image, back = whole(q), whole.T(g)
        for b, got in zip(by_trial, case.parts(image), strict=True):
            one = q if q_parts is not None else q[b : b + 1] if q.ndim == 2 else q[b : b + 1, : case.lengths[b]]
            np.testing.assert_allclose(got, single[b](one), **CLOSE)
        pulled = [single[b].T(g[b : b + 1, : case.lengths[b]]) for b in by_trial]
        if q_parts is not None:
            np.testing.assert_allclose(back, np.sum(pulled, axis=0), **CLOSE)
        elif q.ndim == 2:
            np.testing.assert_allclose(back, np.concatenate(pulled), **CLOSE)
        else:
            for got, want in zip(case.parts(back), pulled, strict=True):
                np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_maps(kind):
    @examples(30)
    @given(maps(kind))
    def check(case):
        check_states(case)
        check_operators(case, ["P", "P_inverse", "J", "D", "D_z0"])

    check()


@examples(60)
@given(fields())
def test_fields(case):
    check_states(case)
    check_operators(case, ["P", "J", "D", "D_z0"])


@examples(40)
@given(fields())
def test_stages(case):
    """P_s and J_s know the steps that exist: D = P_s J_s, and nothing after the end of a trial enters K_s."""
    flow, rng = case.flow, case.rng
    theta, g = rng.normal(size=flow.D.shape_in), rng.normal(size=flow.space.shape)
    np.testing.assert_allclose(flow.stage.P(flow.stage.J(theta)), flow.D(theta), **CLOSE)
    np.testing.assert_allclose(flow.stage.J.T(flow.stage.P.T(g)), flow.D.T(g), **CLOSE)
    for got, one in zip(case.parts(flow.stage.J(theta), case.lengths - 1), case.alone, strict=True):
        np.testing.assert_allclose(got, one.stage.J(theta), **CLOSE)
    traces = [np.trace(one.stage.K.to_dense()) for one in case.alone]
    np.testing.assert_allclose(np.trace(flow.stage.K.to_dense()), sum(traces), **CLOSE)


# Trials that are all padded alike: the numbers of the shorter arrays


def numbers(flow, targets, labels, mask, conditions):
    """Public quantities by name, exact ones and those of iterations; trajectories as they are."""
    readout = Readout(np.linspace(-1, 1, 2 * flow.model.n_states).reshape(2, -1), [0.1, -0.2])
    regression = flow.gradient_flow(readout, targets=targets, mask=mask)
    classification = flow.gradient_flow(readout, labels=labels, loss="cross_entropy", at="last")
    tasks = kpref.task_alignment(flow.NTK, regression.err, conditions)
    lyapunov = lyapunov_exponents(flow, min(2, flow.model.n_states))
    spectrum, schmidt = kpref.kernel_spectrum(flow), kpref.schmidt_spectrum(flow)
    exact = {
        "loss": regression.loss,
        "gradient": regression.grad_theta,
        "rate": regression.loss_rate,
        "accuracy": classification.loss_value.accuracy,
        "last": classification.grad_theta,
        "tasks": tasks.rates,
        "norm": flow.space.norm(flow.states),
        "K": (spectrum.trace, spectrum.effective_dimension),
        "schmidt": schmidt.effective_rank,
        "trace of P P*": propagator_gram_trace(flow),
        "trace of the NTK": ntk_trace_exact(flow),
        "traces": [kpref.trace(op).value for op in (flow.K, flow.NTK, flow.P.gram())],
        "dimensions": [kpref.effective_dimension(op).value for op in (flow.K, flow.NTK, flow.P)],
        "kept": [kpref.effective_dimension(flow.NTK, keep).value for keep in ("trial", "time", "unit")],
        "alignment": [kpref.alignment(flow.K, flow.NTK, centred=centred).value for centred in (False, True)],
        "average": kpref.average(flow.NTK, "unit").to_dense(),
        "average over units": kpref.average(flow.K, ("trial",)).to_dense(),
        "partial trace": kpref.partial_trace(flow.NTK, "unit").to_dense(),
        "K over units": (
            kernel_unit_average(flow.linearization, flow.space.mu, flow.space.lengths),
            np.diag(kernel_unit_trace(flow.linearization, flow.space.mu)),
        ),
        "lyapunov": (lyapunov.values, lyapunov.running[:, -1]),
        "lyapunov, mean": (lyapunov.mean, lyapunov.standard_error),
    }
    iterated = {
        "norms": [kpref.operator_norm(op).value for op in (flow.P, flow.NTK)],
        "eigenvalues": kpref.eigh(flow.NTK, 1).values,
        "singular value": kpref.svd(flow.D, 1).values,
        "blocks": block_eigh(flow.P.gram(), 1, axis=0).values,
        "trial norms": trial_norms(flow),
    }
    trajectories = {
        "states": flow.states,
        "outputs": regression.loss_value.outputs,
        "err": regression.err,
        "dz": regression.dz,
        "df": regression.df,
        "realised": regression.realised(0.01),
        "mu": flow.space.mu,
    }
    return exact, iterated, trajectories, propagator_growth(flow)


@st.composite
def padded_alike(draw, kind):
    seed, extra = draw(SEEDS), draw(st.integers(1, 6))
    rng = np.random.default_rng(seed)
    trials, steps = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    units = draw(st.integers(1, 3))
    if kind == "Rate":
        model, options = Rate.init(2, units, seed), {"dt": 0.2, "method": "heun"}
    else:
        model, options = make_model(kind, 2, units, seed), {}
    measure = draw(st.sampled_from(["mean", "sum", "weights"]))
    weights = rng.uniform(0.5, 2.0, size=(trials, steps + extra))
    z0 = rng.normal(size=(trials, units))
    mask = rng.uniform(0.5, 1.0, size=(trials, steps))
    mask[:, :-1] *= rng.random(size=(trials, steps - 1)) < 0.6  # a loss mask: it ends with no zero
    conditions, answers = rng.integers(3, size=trials), rng.normal(size=(trials, steps, 2))
    labels, inputs = rng.integers(2, size=(trials, steps)), rng.normal(size=(trials, steps, 2))
    results = []
    for garbage in (None, draw(GARBAGE)):
        lengths, arrays = None, {"inputs": inputs, "targets": answers, "mask": mask}
        wanted, chosen = labels, weights[:, :steps]
        if garbage is not None:
            lengths, chosen = np.full(trials, steps), weights
            arrays = {name: padded(array, lengths, steps + extra, garbage) for name, array in arrays.items()}
            wanted = padded(labels.astype(float), lengths, steps + extra, -100).astype(int)
        flow = Flow(
            model, arrays.pop("inputs"), z0, chosen if measure == "weights" else measure, lengths=lengths, **options
        )
        results.append(numbers(flow, labels=wanted, conditions=conditions, **arrays))
    return steps, results


@pytest.mark.parametrize("kind", [*STRUCTURES, "Rate"])
def test_numbers_are_those_of_the_shorter_arrays(kind):
    @examples(8)
    @given(padded_alike(kind))
    def check(case):
        steps, (short, long) = case
        for index, tolerance in enumerate((CLOSE, ITERATED)):
            assert short[index].keys() == long[index].keys()
            for name, value in short[index].items():
                np.testing.assert_allclose(long[index][name], value, **tolerance, err_msg=name)
        for name, value in short[2].items():
            np.testing.assert_allclose(long[2][name][:, :steps], value, **CLOSE, err_msg=name)
            assert not long[2][name][:, steps:].any(), name
        np.testing.assert_array_equal(short[2]["mu"], long[2]["mu"][:, :steps])
        growth = np.concatenate([short[3], np.repeat(short[3][:, -1:], long[3].shape[1] - steps, axis=1)], axis=1)
        np.testing.assert_allclose(long[3], growth, **CLOSE)

    check()


def test_eigenvalues_of_k_are_those_of_points_that_exist(rng):
    """No zeros are added for the others."""
    inputs = rng.normal(size=(2, 3, 2))
    for model in (make_model("GRU", 2, 4, 0), make_model("RNN-tanh", 2, 4, 0)):
        short = kpref.kernel_spectrum(Flow(model, inputs))
        long = kpref.kernel_spectrum(Flow(model, np.pad(inputs, [(0, 0), (0, 9), (0, 0)]), lengths=[3, 3]))
        assert long.unit_values.shape == short.unit_values.shape
        np.testing.assert_allclose(long.values, short.values, **CLOSE)


# Trials of different lengths


@examples(30)
@given(st.sampled_from([*STRUCTURES, "Rate"]), st.data())
def test_stability_of_each_trial(kind, data):
    case = data.draw(fields() if kind == "Rate" else maps(kind))
    first = case.lengths.min() - (kind == "Rate")
    k = min(2, case.flow.model.n_states)
    whole = lyapunov_exponents(case.flow, k, every=int(first))
    growth = propagator_growth(case.flow)
    np.testing.assert_allclose(
        trial_norms(case.flow), [trial_norms(one)[0] for one in case.alone], rtol=1e-5
    )  # iterated to residuals of 1e-6
    for b, one in enumerate(case.alone):
        alone = lyapunov_exponents(one, k, every=int(first))
        np.testing.assert_allclose(whole.values[b], alone.values[0], **CLOSE)
        np.testing.assert_allclose(whole.running[b, -1], whole.values[b], **CLOSE)
        length = case.lengths[b]
        np.testing.assert_allclose(growth[b, :length], propagator_growth(one)[0], **CLOSE)
        assert (growth[b, length:] == growth[b, length - 1]).all()


def test_exponents_of_the_system_rest_on_what_most_trials_share(rng):
    """Ten trials of 60 steps and two short ones: estimates are those of the ten."""
    model, inputs = make_model("RNN-tanh", 2, 3, 0), rng.normal(size=(12, 60, 2))
    lengths = np.full(12, 60)
    lengths[[3, 7]] = 2, 31
    whole = lyapunov_exponents(Flow(model, inputs, lengths=lengths), every=1)
    most = lyapunov_exponents(Flow(model, inputs[lengths == 60]), every=1)
    for got, wanted in zip(whole.interval(), most.interval(), strict=True):
        np.testing.assert_allclose(got, wanted, **CLOSE)
    np.testing.assert_allclose(whole.values[lengths == 60], most.values, **CLOSE)
    with pytest.raises(ValueError, match="discard must be an integer of at least 0 and at most 1"):
        lyapunov_exponents(Flow(model, inputs, lengths=lengths), discard=2)


def test_self_checks_of_a_field(rng):
    """They pass, and what they say of the step is that of the trials alone, padding or not."""
    model, inputs, z0 = Rate.init(2, 4, 0), rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 4))
    short = Flow(model, inputs, z0, dt=0.4)
    long = Flow(model, np.pad(inputs, [(0, 0), (0, 5), (0, 0)]), z0, dt=0.4, lengths=[6, 6])
    assert self_check(long).passed
    assert self_check(Flow(model, inputs, z0, dt=0.4, lengths=[6, 3])).passed
    assert measure_step_size(long).error == pytest.approx(measure_step_size(short).error, rel=1e-10)


@pytest.mark.parametrize("kind", ["GRU", "Rate"])
@pytest.mark.parametrize("at", ["all", "last"])
def test_loss_and_gradient_are_those_of_the_trials_weighed_by_their_points(kind, at, rng):
    """All points count alike: a trial counts as its share of them, or of time, and a last step as its own weight."""
    units, lengths, steps = 4, [6, 2, 4], 6
    options = {"dt": 0.1} if kind == "Rate" else {}
    model = Rate.init(2, units, 1) if kind == "Rate" else make_model("GRU", 2, units, 1)
    inputs, targets = rng.normal(size=(3, steps, 2)), rng.normal(size=(3, steps, 2))
    readout = Readout(rng.normal(size=(2, units)))
    trials = Trials(inputs, targets, lengths=lengths)
    flow = Flow(model, trials, **options)
    whole = flow.gradient_flow(readout, targets=trials.targets, at=at)
    shares = np.array(lengths) - (1 if kind == "Rate" else 0)
    loss, gradient, total = 0.0, 0.0, 0.0
    for b, length in enumerate(lengths):
        one = Flow(model, inputs[[b], :length], **options)
        part = one.gradient_flow(readout, targets=targets[[b], :length], at=at)
        weight = shares[b] * (1 if at == "all" else one.space.mu[0, -1])
        loss, gradient, total = loss + weight * part.loss, gradient + weight * part.grad_theta, total + weight
    np.testing.assert_allclose(whole.loss, loss / total, **CLOSE)
    np.testing.assert_allclose(whole.grad_theta, gradient / total, **CLOSE)
    assert flow.space.mu.sum() == pytest.approx(1, rel=1e-14)
    assert flow.space.n_points == trials.n_points == 12


def test_adaptive_steps_do_not_see_what_does_not_exist(rng):
    """A trial that ends before the stiff part of its neighbour, and one that would blow up after its end."""
    model = Rate.init(1, 3, 0, nonlinearity="relu").with_parameters({"weight_hh": 40 * np.eye(3), "bias": np.ones(3)})
    inputs = rng.normal(size=(2, 41, 1))
    lengths = [3, 2]
    flow = Flow(model, inputs, dt=0.5, rtol=1e-8, atol=1e-10, method="dopri5", lengths=lengths)
    short = Flow(model, inputs[:, :3], dt=0.5, rtol=1e-8, atol=1e-10, method="dopri5", lengths=lengths)
    assert len(flow.solution.t_steps) - len(short.solution.t_steps) <= 38 * 2  # where all stand still
    np.testing.assert_allclose(flow.states[:, :3], short.states, rtol=1e-9)
    theta = rng.normal(size=model.n_parameters)
    np.testing.assert_allclose(flow.D(theta)[:, :3], short.D(theta), rtol=1e-9)
    alone = Flow(model, inputs[:1, :3], dt=0.5, rtol=1e-8, atol=1e-10, method="dopri5")
    np.testing.assert_allclose(flow.states[0, :3], alone.states[0], rtol=1e-6)  # their steps differ


def test_nothing_overflows_after_the_end(rng):
    """A map that grows by 1e3 a step, over 400 steps of which 5 exist: in states, operators and traces alike."""
    model = kpref.models.Linear(np.ones((2, 1)), 1e3 * np.eye(2))
    inputs = rng.normal(size=(2, 400, 1))
    flow, short = Flow(model, inputs, lengths=[5, 5]), Flow(model, inputs[:, :5])
    q = rng.normal(size=(2, 400, 2))
    for name in ("P", "NTK"):
        np.testing.assert_allclose(getattr(flow, name)(q)[:, :5], getattr(short, name)(q[:, :5]), rtol=1e-12)
    for trace in (propagator_gram_trace, ntk_trace_exact):
        assert trace(flow) == pytest.approx(trace(short), rel=1e-12)
    np.testing.assert_allclose(lyapunov_exponents(flow).mean, np.log(1e3), rtol=1e-12)
    np.testing.assert_allclose(propagator_growth(flow)[:, -1], 5 * np.log(1e3), rtol=1e-12)


def test_a_field_is_asked_only_about_inputs_that_exist():
    """Where the padding stands, a function of the user's need not be defined."""
    field = kpref.models.UserField(
        lambda z, x, parameters: parameters["a"] / x - z, n_states=1, n_inputs=1, parameters={"a": 1.0}
    )
    flow = Flow(field, [np.ones((3, 1)), np.full((6, 1), 2.0)], dt=0.1)
    np.testing.assert_allclose(flow.states[1, -1], (1 - np.exp(-0.5)) / 2, rtol=1e-6)  # rk4: h^4 / 120 of it
    assert (flow.states[0, 3:] == 0).all()
    assert np.isfinite(flow.NTK(np.ones(flow.states.shape))).all()


# Loss masks: steps that exist and are not scored


@pytest.mark.parametrize("kind", ["GRU", "RNN-tanh"])
def test_a_loss_mask_stays_in_the_error(kind, rng):
    """With steps that are not scored before scored ones the gradient is that of the masked loss, and no operator
    knows of the mask."""
    model, inputs = make_model(kind, 2, 4, 0), rng.normal(size=(3, 6, 2))
    targets, readout = rng.normal(size=(3, 6, 2)), Readout(rng.normal(size=(2, 4)))
    mask = np.ones((3, 6))
    mask[:, 2:5] = 0
    trials = Trials(inputs, targets, mask=mask)
    assert (trials.lengths == 6).all()
    flow, plain = Flow(model, trials), Flow(model, inputs)
    gradient = flow.gradient_flow(readout, targets=trials.targets, mask=trials.mask)
    direction, step = rng.normal(size=model.n_parameters), 1e-3

    def loss(eta):
        moved = Flow(model.with_vector(model.vector + eta * direction), inputs)
        return moved.gradient_flow(readout, targets=targets, mask=mask).loss

    coarse, fine = ((loss(h) - loss(-h)) / (2 * h) for h in (2 * step, step))
    # Richardson's extrapolation: truncation of order h^4, rounding 1e-16 / h.
    assert gradient.grad_theta @ direction == pytest.approx((4 * fine - coarse) / 3, rel=1e-8)
    q = rng.normal(size=flow.states.shape)
    for name in ("P", "K", "NTK"):
        np.testing.assert_array_equal(getattr(flow, name)(q), getattr(plain, name)(q))
    np.testing.assert_array_equal(flow.P.star(q), plain.P.star(q))
    np.testing.assert_allclose(gradient.dz, -flow.P(flow.K(flow.P.star(gradient.err))), **CLOSE)


def test_weights_that_are_zero_inside_a_trial_cut_the_short_forms_only(rng):
    """NTK = D D^T Mu holds in every measure; P K P* is it for zeros at the end, and not for zeros before the end."""
    model, inputs, q = make_model("GRU", 2, 3, 0), rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 6, 3))
    for zeros, same in ((slice(4, None), True), (slice(2, 4), False)):
        mu = np.ones((2, 6))
        mu[:, zeros] = 0
        flow = Flow(model, inputs, measure=mu)
        exact = flow.D(flow.D.T(flow.space.weigh(q)))
        np.testing.assert_allclose(flow.NTK(q), exact, **CLOSE)
        gap = np.abs(flow.P(flow.K(flow.P.star(q))) - exact)[:, mu[0] > 0].max() / np.abs(exact).max()
        assert gap < 1e-12 if same else gap > 0.01


# Doors


@pytest.mark.parametrize(
    "lengths, message",
    [
        ([3, 7], "lengths holds 7 at trial 1; expected 1 to 6 steps"),
        ([0, 3], "lengths holds 0 at trial 0; expected 1 to 6 steps"),
        ([-1, 3], "lengths holds -1 at trial 0"),
        ([3.0, 4.0], "lengths must be an array of integers; got dtype float64"),
        ([True, True], "lengths must be an array of integers; got dtype bool"),
        ([3], r"lengths must have shape \(2,\); got \(1,\)"),
        (3, r"lengths must have shape \(2,\); got \(\)"),
        ([], "lengths must"),
        ("ab", "lengths must be an array of integers"),
    ],
)
def test_wrong_lengths(lengths, message):
    with pytest.raises(ValueError, match=message):
        Trials(np.ones((2, 6, 2)), lengths=lengths)
    with pytest.raises(ValueError, match=message):
        Flow(make_model("GRU", 2, 3, 0), np.ones((2, 6, 2)), lengths=lengths)
    with pytest.raises(ValueError, match=message):
        TrajectorySpace((2, 6, 3), lengths=lengths)


def test_what_a_flow_of_ragged_trials_refuses():
    model, inputs = Rate.init(2, 3, 0), np.ones((2, 6, 2))
    with pytest.raises(ValueError, match="at least two times; got a length of 1 at trial 1"):
        Flow(model, inputs, dt=0.1, lengths=[3, 1], measure="sum")
    for cubic in ({"forcing": "cubic"}, {"input_kind": "cubic"}):
        with pytest.raises(ValueError, match="cubic interpolation reaches past the end of a trial"):
            Flow(model, inputs, dt=0.1, lengths=[3, 6], **cubic)
        Flow(model, inputs, dt=0.1, lengths=[6, 6], **cubic)
    with pytest.raises(ValueError, match="solved back from the last time.* end where all of them do"):
        Flow(model, inputs, dt=0.1, lengths=[3, 6]).adjoint()
    with pytest.raises(ValueError, match="trials have lengths of their own"):
        Flow(model, Trials(inputs), dt=0.1, lengths=[3, 6])
    with pytest.raises(ValueError, match="measure must not be zero everywhere"):
        Flow(model, inputs, dt=0.1, lengths=[3, 3], measure=[0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="second axis"):
        kpref.EuclideanSpace((3,), [1, 2, 3])


def test_a_function_of_time_and_a_field_without_inputs(rng):
    """Lengths count times of the grid, whatever the inputs are."""
    model, times = Rate.init(2, 3, 0), np.array([0.0, 0.1, 0.3, 0.4])
    flow = Flow(model, lambda t: np.array([[t, 1.0], [1.0, -t]]), times=times, lengths=[4, 2])
    short = Flow(model, lambda t: np.array([[t, 1.0], [1.0, -t]]), times=times[:2])
    np.testing.assert_allclose(flow.states[1, :2], short.states[1], **CLOSE)
    assert (flow.states[1, 2:] == 0).all()
    free = Flow(kpref.models.Lorenz63(), None, np.ones((2, 3)), times=times, lengths=[4, 2])
    assert (free.states[1, 2:] == 0).all()
    assert free.states[0].all()


def test_spaces_with_lengths_differ_from_those_with_weights():
    space = TrajectorySpace((2, 3, 1), "sum", lengths=[3, 2])
    weights = np.array([[1.0, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(space.mu, weights)
    assert space == TrajectorySpace((2, 3, 1), weights, lengths=[3, 2])
    assert space != TrajectorySpace((2, 3, 1), weights)
    assert TrajectorySpace((2, 3, 1), lengths=[3, 3]).lengths is None
    assert space.n_points == 5
    q = np.ones((2, 3, 1))
    np.testing.assert_array_equal(space.clear(q)[:, :, 0], weights)
    assert (q == 1).all()
    assert space.clear(space.clear(q), overwrite=True) is not q
