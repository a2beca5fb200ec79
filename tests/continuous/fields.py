"""Flows of vector fields for every test: Hypothesis draws the structure and a seed, the numbers come from the seed.

Spans are at most two time constants or so: a perturbation grows by a few powers of ten at most, and "relative" keeps
its meaning.
"""

import numpy as np
from hypothesis import strategies as st
from strategies import SEEDS, measures

from kpref import Flow
from kpref.integrate import TABLEAUS, InputSignal, fixed_steps
from kpref.models import LinearSystem, Lorenz63, Rate, VanDerPol
from kpref.models.nonlinearity import NONLINEARITIES

TINY = 1e-30
METHODS = tuple(TABLEAUS)
PAIRS = tuple(name for name, tableau in TABLEAUS.items() if tableau.b_error is not None)
#: Every field: networks, with each nonlinearity and shared or single time constants, and dense ones.
NETWORKS = ("LinearSystem", *(f"Rate-{name}{tau}" for name in NONLINEARITIES for tau in ("", "-per unit")))
KINDS = (*NETWORKS, "VanDerPol", "Lorenz63")
#: One of each structure of the linearisation: constant or elementwise slope, variable, and a matrix for each point.
STRUCTURES = ("LinearSystem", "Rate-tanh", "VanDerPol")
INPUT_KINDS = ("hold", "linear", "cubic", "callable")


def make_model(kind, n_inputs=2, n_states=4, seed=0, gain=1.0, bias=True, trainable=None):
    """A field of one of KINDS with random numbers everywhere."""
    rng = np.random.default_rng([seed, 3])
    if kind == "VanDerPol":
        return VanDerPol(rng.uniform(0.5, 2.0), trainable)
    if kind == "Lorenz63":
        return Lorenz63(*([4.0, 10.0, 2.0] * rng.uniform(0.8, 1.2, size=3)), trainable=trainable)
    name, *options = kind.split("-")
    arrays = {
        "weight_ih": rng.normal(size=(n_states, n_inputs)),
        "weight_hh": rng.normal(size=(n_states, n_states)) * gain / np.sqrt(n_states),
        "bias": 0.5 * rng.normal(size=n_states) if bias else None,
        "trainable": trainable,
    }
    if name == "LinearSystem":
        return LinearSystem(**arrays)
    tau = rng.uniform(0.4, 2.0, size=n_states if "per unit" in options else ())
    return Rate(**arrays, tau=tau, nonlinearity=options[0])


def make_times(steps, even, seed=0, dt=0.15):
    """A grid that does not start at zero."""
    sizes = np.full(steps, dt) if even else np.random.default_rng([seed, 4]).uniform(0.2 * dt, 1.8 * dt, size=steps)
    return 0.3 + np.append(0.0, np.cumsum(sizes))


def make_case(
    kind, method="rk4", shape=(3, 5, 4), seed=0, input_kind="hold", even=False, n_inputs=2, dt=0.15, **options
):
    """A flow of (trials, steps, states) from normal initial states, under normal inputs or sines; and its inputs."""
    trials, steps, units = shape
    names = ("gain", "bias", "trainable")
    model = make_model(kind, n_inputs, units, seed, **{name: options.pop(name) for name in names if name in options})
    rng = np.random.default_rng([seed, 5])
    times = make_times(steps, even, seed, dt)
    samples = rng.normal(size=(trials, steps + 1, n_inputs))
    rate, phase = rng.uniform(0.5, 2.0, size=(2, trials, n_inputs))
    z0 = rng.normal(size=(trials, model.n_states))
    if not model.n_inputs:
        flow = Flow(model, None, z0, times=times, method=method, **options)
        return flow, InputSignal(times, np.zeros((trials, steps + 1, 0)))
    if input_kind == "callable":

        def waves(t):
            return np.sin(rate * t + phase)

        return Flow(model, waves, z0, times=times, method=method, **options), InputSignal(times, waves)
    flow = Flow(model, samples, z0, times=times, method=method, input_kind=input_kind, **options)
    return flow, InputSignal(times, samples, input_kind)


def make_flow(*arguments, **options):
    """The flow of `make_case` alone."""
    return make_case(*arguments, **options)[0]


@st.composite
def cases(draw, methods=METHODS, kinds=KINDS, rtol=None, zeros=True, dtype=np.float64):
    """A flow, its inputs, and a generator for the tensors that a test wants."""
    kind = draw(st.sampled_from(kinds))
    trials, steps, seed = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(SEEDS)
    options = {} if kind not in NETWORKS else {
        "n_inputs": draw(st.integers(1, 3)), "gain": draw(st.floats(0.2, 1.6)), "bias": draw(st.booleans()),
    }  # fmt: skip
    names = list(make_model(kind, **options).parameters)
    flow, signal = make_case(
        kind,
        draw(st.sampled_from(methods)),
        (trials, steps, draw(st.integers(1, 6))),
        seed,
        draw(st.sampled_from(INPUT_KINDS)),
        even=draw(st.booleans()),
        dt=0.05 if kind == "Lorenz63" else 0.15,
        trainable=draw(st.none() | st.lists(st.sampled_from(names), min_size=1, unique=True)),
        forcing=draw(st.sampled_from(["linear", "cubic"])),
        measure=draw(measures(trials, steps + 1, zeros)),
        rtol=rtol,
        dtype=dtype,
        **options,
    )
    return flow, signal, np.random.default_rng([seed, 6])


def operators(flow):
    """All operators of a flow, by name."""
    return {
        "P_s": flow.stage.P,
        "J_s": flow.stage.J,
        "K_s": flow.stage.K,
        "P": flow.P,
        "J": flow.J,
        "K": flow.K,
        "D": flow.D,
        "D_z0": flow.D_z0,
        "NTK": flow.NTK,
        "discrete adjoint": flow.adjoint("discrete"),
        "continuous adjoint": flow.adjoint("continuous"),
    }


def by_complex_step(flow, signal, vector=None, start=None, forcing=None):
    """Derivative of the states on the steps of a flow, along parameters (M,), initial states, a forcing of the stages.

    The plain forward pass, in complex arithmetic, knows nothing of the linearisation. The forcing
    (B, n, s, H) is added to the derivatives, which are asked for in order of step and stage.
    """
    model, solution = flow.model, flow.solution
    moved = {}
    if vector is not None:
        moved = {name: model.parameters[name] + 1j * TINY * v for name, v in model.unflatten(vector).items()}
    z0 = flow.z0 if start is None else flow.z0 + 1j * TINY * start
    stages, calls = solution.tableau.stages, iter(range(solution.tableau.stages * len(solution.interval)))

    def rhs(t, z, step):
        call = next(calls)
        assert call // stages == step
        velocity = model.velocity(z, signal(t, solution.interval[step]), moved)
        return velocity if forcing is None else velocity + 1j * TINY * forcing[:, step, call % stages]

    states = fixed_steps(rhs, solution.t_steps, z0.astype(complex), solution.tableau).states.swapaxes(0, 1)
    return states[:, solution.grid_index].imag / TINY
