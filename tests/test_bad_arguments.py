"""Bad arguments at every public door: each is refused in one sentence that names the argument, and nothing hangs.

A row is a call, the words that its error must hold (the name of the argument first), and the value that came. No text
of Python's or NumPy's own comes through.
"""

import re
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse
from matplotlib import pyplot
from scipy.sparse.linalg import aslinearoperator

import kpref
from kpref import EuclideanSpace, Flow, Readout, TensorOperator, TrajectorySpace, Trials, models, operators, spectra
from kpref.course import analyze_run
from kpref.differences import complex_step, finite_difference, taylor_test
from kpref.distributed import ShardedFlow
from kpref.integrate import (
    InputSignal,
    Tableau,
    adaptive,
    check_times,
    fixed_steps,
    get_tableau,
    order_condition_residuals,
)
from kpref.operators import Structure, identity
from kpref.spectra.blocks import block_eigh
from kpref.sweeps import Grid, read_grid
from kpref.training import Objective

B, T, H, N_IN = 3, 6, 4, 2
RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(B, T, N_IN)), RNG.normal(size=(B, T, 2))
MODEL, RATE = models.GRU.init(N_IN, H, 0), models.Rate.init(N_IN, H, 0)
FLOW, FIELD = Flow(MODEL, INPUTS), Flow(RATE, INPUTS, dt=0.1)
LARGE = Flow(models.GRU.init(N_IN, 12, 0), RNG.normal(size=(8, 10, N_IN)))  # where estimates are not exact
SPACE, VECTORS = FLOW.space, EuclideanSpace((5,))
READOUT = Readout(np.ones((2, H)))
OPERATOR = TensorOperator(lambda b: 2 * b, lambda b: 2 * b, VECTORS, VECTORS)
TIMES = np.linspace(0, 0.5, T)
SCIPY = aslinearoperator(np.eye(5))


class Row(NamedTuple):
    """A call that must fail, and what its message must hold."""

    name: str
    call: object
    words: str


def shown(value):
    if isinstance(value, np.ndarray):
        return f"array{value.shape}{value.dtype}"
    if isinstance(value, int) and abs(value) > 10**99:  # Python does not print all of them
        return f"{'-' if value < 0 else ''}10^{value.bit_length() // 4}..."
    if isinstance(value, Unfinished):
        return "Unfinished"
    # Names without addresses: they are the same in every process, and so can be run again, or shared out.
    return re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-f]+", "", repr(value)))[:40]


def over(function, /, **good):
    """A function of keywords, with good arguments for those that are not given."""
    return lambda **given: function(**good | given)


def decay(t, z, interval):
    return -z


def rows(label, call, argument, values, words=None):
    """One row for each bad value of one argument."""
    for value in values:
        yield Row(
            f"{label}({argument}={shown(value)})",
            lambda value=value: call(**{argument: value}),
            argument if words is None else words,
        )


class Unfinished:
    """What somebody else's objects may do when they are looked at."""

    def __array__(self, dtype=None, copy=None):
        raise KeyError("not loaded")

    def __repr__(self):
        raise AttributeError("no such thing")


def masked(array):
    array = np.array(array, dtype=float)
    return np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) == 0)


# Kinds of bad values

NOT_INTEGERS = ("a", 1.5, float("nan"), True, [1], 1j)
NOT_NUMBERS = ("a", 1j, True, [0.1, 0.2], object)
NOT_FINITE = (float("nan"), float("inf"), -float("inf"), 10**400, -(10**5000), Fraction(10**400))
SEEDS = (-1, "a", 1.5, None, True)
COUNTS = (0, -3, -(10**5000), None, *NOT_INTEGERS)
TOLERANCES = (float("nan"), -1e-3, "a", True)
NOT_OPERATORS = (np.eye(5), None, "P", FLOW, MODEL, SCIPY)
NOT_FLOWS = (MODEL, None, FLOW.NTK, INPUTS, "flow", Unfinished())


def bad_arrays(good):
    """An array spoilt in the usual ways."""
    good = np.asarray(good, dtype=float)
    holes = good.copy()
    holes.flat[0] = np.nan
    infinite = good.copy()
    infinite.flat[-1] = np.inf
    return (
        holes, infinite, good * 1j, good.astype(object), good.astype(str), masked(good), good[..., None], good[..., :0],
        "abc", {"a": 1}, object(), (item for item in good), Unfinished(),
    )  # fmt: skip


def build():
    yield from rows(
        "Flow",
        over(Flow, model=MODEL, inputs=INPUTS),
        "model",
        (None, "GRU", models.GRU, FLOW, READOUT, {}),
    )
    yield from rows(
        "Flow",
        lambda **k: Flow(MODEL, **k),
        "inputs",
        (*bad_arrays(INPUTS), None, [[1.0], [1.0, 2.0]], INPUTS[0], INPUTS[:0]),
    )
    yield from rows(
        "Flow", lambda **k: Flow(MODEL, INPUTS, **k), "z0", (*bad_arrays(np.ones((B, H))), np.ones((B + 1, H)), 1.0)
    )
    yield from rows(
        "Flow",
        lambda **k: Flow(MODEL, INPUTS, **k),
        "measure",
        (
            "means",
            np.ones((2, 9)),
            -np.ones(T),
            np.zeros(T),
            np.full(T, np.nan),
            None,
            masked(np.ones(T)),
            1j * np.ones(T),
            {},
            object(),
        ),
    )
    yield from rows(
        "Flow", lambda **k: Flow(MODEL, INPUTS, **k), "dtype", (int, complex, None, "double or so", np.float16, 3.5)
    )
    yield Row("Flow(huge inputs)", lambda: Flow(MODEL, np.broadcast_to(0.0, (10**10, 100, N_IN))), "flow")
    for name, value in (("dt", 0.1), ("times", TIMES), ("rtol", 1e-6), ("atol", 1e-6)):
        yield Row(f"Flow(map, {name})", lambda name=name, value=value: Flow(MODEL, INPUTS, **{name: value}), name)
    field = over(Flow, model=RATE, inputs=INPUTS, dt=0.1)
    yield from rows("Flow(field)", field, "dt", (0.0, -1.0, *NOT_FINITE, *NOT_NUMBERS))
    yield from rows("Flow(field)", field, "method", ("rk5", 4, np.eye(2), ["rk4"]))
    yield from rows(
        "Flow(field)",
        lambda **k: field(method="dopri5", **k),
        "rtol",
        (-1.0, *NOT_FINITE, "a", [1e-6, 1e-6], np.full(H, np.nan), 1j, masked(np.ones(H))),
    )
    yield from rows(
        "Flow(field)",
        lambda **k: field(method="dopri5", **k),
        "atol",
        (0.0, -1.0, *NOT_FINITE, "a", np.ones(H + 1), np.zeros(H), True),
    )
    yield from rows("Flow(field)", field, "input_kind", ("spline", 3, ["hold"]))
    yield from rows("Flow(field)", field, "forcing", ("quintic", 2, ["linear"]))
    yield from rows("Flow(field)", field, "stage_memory", ("a", -1.0, float("nan"), True, [1]))
    yield from rows(
        "Flow(field)",
        lambda **k: field(dt=None, **k),
        "times",
        (
            [0.0],
            [0.0, 0.0, 1.0, 2.0, 3.0, 4.0],
            [0.0, np.nan, 1, 2, 3, 4],
            "abc",
            1.0,
            [TIMES],
            TIMES * 1j,
            masked(TIMES),
            [None] * T,
            [True] * T,
        ),
    )
    yield from rows(
        "Flow(field)",
        lambda **k: field(dt=None, times=TIMES, **k),
        "inputs",
        (None, INPUTS[:, :3], lambda t: 1.0, lambda t: np.ones((0, N_IN)), "abc", {}),
        "input",
    )
    yield Row("Flow(field, no grid)", lambda: Flow(RATE, INPUTS), "times")
    yield Row("Flow(field, both grids)", lambda: Flow(RATE, INPUTS, dt=0.1, times=TIMES), "dt")
    autonomous = over(Flow, model=models.Lorenz63(), times=TIMES)
    yield from rows("Flow(Lorenz)", autonomous, "inputs", (INPUTS, "abc", np.ones((0, T, 0)), 3.0))
    yield from rows(
        "Flow(Lorenz)", autonomous, "z0", ("abc", np.ones(4), np.ones((2, 2)), np.full(3, np.nan), masked(np.ones(3)))
    )
    yield from rows(
        "rerun", lambda **k: FLOW.rerun(**k), "model", (None, "GRU", RATE, models.GRU.init(N_IN, H + 1, 0), FLOW)
    )
    yield from rows("adjoint", FIELD.adjoint, "kind", ("exact", None, 3))
    yield Row("adjoint(map)", FLOW.adjoint, "adjoint")
    yield from rows(
        "realised", FLOW.gradient_flow(READOUT, targets=TARGETS).realised, "eta", (*NOT_FINITE, *NOT_NUMBERS, None)
    )
    yield from rows("Solution", FIELD.solution, "t", (-1.0, 9.0, "a", None, 1j, float("nan")))
    yield from rows("stage_states", FIELD.solution.stage_states, "step", (-1, T, "a", None, 1.5))

    # Models
    for kind in ("GRU", "RNN", "LeakyRNN", "Linear", "Rate", "LinearSystem"):
        init = getattr(models, kind).init
        make = over(init, n_inputs=N_IN, n_states=H, seed=0)
        yield from rows(f"{kind}.init", make, "n_inputs", COUNTS[:5])
        yield from rows(f"{kind}.init", make, "n_states", (*COUNTS[2:6], 10**9))
        yield from rows(f"{kind}.init", make, "seed", SEEDS)
        yield from rows(f"{kind}.init", make, "gain", (*NOT_FINITE[:2], "a", None, 1j))
        yield from rows(f"{kind}.init", make, "bias", ("yes", None, 1))
    for argument in ("weight_ih", "weight_hh", "bias_hh"):
        good = MODEL.parameters[argument]
        yield from rows("GRU", over(models.GRU, **MODEL.parameters), argument, bad_arrays(good))
    yield from rows(
        "GRU", over(models.GRU, **MODEL.parameters), "trainable", ("weight_hh", [], ["weight"], 3, [3], [None])
    )
    weights = {"weight_ih": np.ones((H, N_IN)), "weight_hh": np.eye(H)}
    for kind in (models.RNN, models.LeakyRNN, models.Rate):
        yield from rows(kind.__name__, over(kind, **weights), "nonlinearity", ("sin", None, 3, np.tanh))
    yield from rows(
        "Rate",
        over(models.Rate, **weights),
        "tau",
        (0.0, -1.0, float("nan"), "a", np.ones(H + 1), None, masked(np.ones(H)), 1j),
    )
    yield from rows(
        "LeakyRNN", over(models.LeakyRNN, **weights), "alpha", (0.0, -1.0, 2.0, float("nan"), "a", None, 1j)
    )
    for kind, names in (
        (models.AdaptiveRate, ("tau", "tau_a")),
        (models.ShortTermPlasticity, ("use", "tau_f", "tau_d")),
    ):
        for argument in names:
            yield from rows(kind.__name__, over(kind, **weights), argument, (0.0, -1.0, float("nan"), "a", None, 1j))
    yield from rows("Lorenz63", models.Lorenz63, "sigma", ("a", float("nan"), [1.0, 2.0], None, 1j))
    step = over(MODEL.step, z=np.ones(H), x=np.ones(N_IN))
    yield from rows("step", step, "z", (np.ones(3), "abc", None, 1.0, masked(np.ones(H))))
    yield from rows("step", step, "x", (np.ones(3), "abc", None, 1.0))
    yield from rows(
        "step",
        lambda **k: MODEL.step(np.ones(H), np.ones(N_IN), **k),
        "parameters",
        (3, "abc", {"weight": np.eye(2)}, [1]),
    )
    yield from rows(
        "iterate",
        lambda **k: MODEL.iterate(np.ones((B, H)), **k),
        "inputs",
        (np.ones((B, T)), "abc", None, np.ones((B, 0, N_IN)), np.ones((B, T, 9))),
    )
    yield from rows(
        "iterate", lambda **k: MODEL.iterate(inputs=INPUTS, **k), "z0", (np.ones(H), "abc", None, np.ones((B + 1, H)))
    )
    yield from rows("with_parameters", MODEL.with_parameters, "parameters", ({"w": 1.0}, None, 3, [1], {3: 1}))
    yield from rows("with_vector", MODEL.with_vector, "vector", (np.ones(3), "abc", None, MODEL.vector[None]))
    yield from rows("unflatten", MODEL.unflatten, "vector", (np.ones(3), None, masked(MODEL.vector)))
    yield from rows("flatten", MODEL.flatten, "parameters", ({}, None, [1.0]))
    own = over(models.UserField, function=lambda z, x, p: p["k"] * z, n_states=2, parameters={"k": 1.0})
    yield from rows(
        "UserField",
        own,
        "function",
        (
            None,
            3,
            "f",
            lambda z, x, p: None,
            lambda z, x, p: 1j * z,
            lambda z, x, p: z[..., :1],
            lambda z, x, p: masked(z),
            lambda: 1,
            lambda z, x, p: z + np.nan,
        ),
    )
    yield from rows("UserField", own, "n_states", COUNTS)
    yield from rows("UserField", own, "n_inputs", (-1, None, "a", 1.5, True))
    yield from rows("UserField", own, "parameters", ({}, None, [1.0], {"a b": 1.0}, {3: 1.0}))
    yield from rows(
        "UserField", lambda **k: own(parameters=k), "k", ("one", None, [], [np.nan], 1j, masked([1.0, 2.0]))
    )
    yield from rows(
        "UserField", own, "state_jacobian", (3, "f", lambda z, x, p: z, lambda z, x, p: 1j * z[..., None] * np.eye(2))
    )
    yield from rows(
        "UserField",
        own,
        "parameter_jacobian",
        (3, lambda z, x, p: z, lambda z, x, p: {}, lambda z, x, p: {"k": 1j * z}),
    )
    yield from rows("UserField", own, "check_states", ([[1.0]], np.zeros((0, 2)), "abc", [[np.nan, 1.0]]))

    # Spaces and operators
    yield from rows("EuclideanSpace", EuclideanSpace, "shape", ((-1,), (1.5,), "ab", None, 3, ("a",), (None,)))
    yield from rows(
        "TrajectorySpace", TrajectorySpace, "shape", ((3, 4), (0, 1, 1), None, 3, "abc", (10**7, 10**7, 1)), ""
    )
    yield from rows(
        "TrajectorySpace",
        lambda **k: TrajectorySpace((B, T, H), **k),
        "measure",
        ("median", np.ones(9), -np.ones(T), None, {}),
    )
    yield from rows(
        "TrajectorySpace",
        lambda **k: TrajectorySpace((B, T, H), **k),
        "times",
        (np.ones(T), TIMES[:3], "abc", TIMES[::-1]),
    )
    good = np.ones((B, T, H))
    yield from rows(
        "inner",
        lambda **k: SPACE.inner(q=good, **k),
        "p",
        (np.ones(3), "abc", None, good * 1j, masked(good), good.astype(object), FLOW),
    )
    yield from rows("norm", SPACE.norm, "q", (np.ones(3), "abc", None, good * 1j), "p")
    make = over(TensorOperator, forward=np.copy, transpose=np.copy, space_in=VECTORS, space_out=VECTORS)
    yield from rows("TensorOperator", make, "forward", (None, 3, np.eye(5)))
    yield from rows("TensorOperator", make, "transpose", (None, "f"))
    yield from rows("TensorOperator", make, "space_in", (None, 5, (5,), FLOW))
    yield from rows("TensorOperator", make, "space_out", (None, "space"))
    yield from rows("TensorOperator", make, "dtype", (int, complex, "double or so", None))
    for wrong in (
        lambda b: b[:, :2],
        lambda b: b * 1j,
        lambda b: None,
        lambda b: "a",
        lambda b: np.ma.masked_array(b, b > -1),
    ):
        yield Row(
            f"forward returns {shown(wrong(np.ones((1, 5))))}",
            lambda wrong=wrong: make(forward=wrong)(np.ones(5)),
            "forward",
        )
    for wrong in (
        "abc",
        None,
        np.ones(3),
        good[:, :2],
        masked(good),
        good.astype(object),
        {},
        FLOW,
        np.ones((2, 3, 4, 5)),
    ):
        yield Row(f"P({shown(wrong)})", lambda wrong=wrong: FLOW.P(wrong), "P ")
        yield Row(f"P.apply({shown(wrong)})", lambda wrong=wrong: FLOW.P.apply(wrong), "P ")
    for wrong in ("abc", None, np.ones(3), np.ones((2, 2)), masked(np.ones(B * T * H)), [[1.0], [1.0, 2.0]], object()):
        yield Row(f"P @ {shown(wrong)}", lambda wrong=wrong: FLOW.P @ wrong, "P")
    for wrong in ("a", *NOT_FINITE, True):
        yield Row(f"P * {shown(wrong)}", lambda wrong=wrong: FLOW.P * wrong, "P")
        yield Row(f"P / {shown(wrong)}", lambda wrong=wrong: FLOW.P / wrong, "P")
    yield Row("P / 0", lambda: FLOW.P / 0, "P")
    yield Row("P / P", lambda: FLOW.P / FLOW.P, "P")
    yield Row("P + J", lambda: FLOW.P + FLOW.J, "J")
    yield Row("P @ other P", lambda: FLOW.P @ LARGE.P, "P")
    for wrong in (-1, 1.5, "a", True, None):
        yield Row(f"P ** {shown(wrong)}", lambda wrong=wrong: FLOW.P**wrong, "P")
    yield Row("J ** 2", lambda: FLOW.J**2, "J")
    yield from rows("to_dense", FLOW.P.to_dense, "limit", (10.0, "a", -1.0, float("nan"), None))
    yield Row("to_dense(huge)", lambda: identity(EuclideanSpace((10**7,))).to_dense(), "limit")
    yield from rows("identity", identity, "space", (None, 5, (5,), FLOW))
    for view in (kpref.average, kpref.partial_trace):
        name = view.__name__
        yield from rows(
            name, lambda view=view, **k: view(FLOW.NTK, **k), "keep", ("units", None, 3, ("unit", "unit"), ["time", 2])
        )
        yield from rows(name, lambda view=view, **k: view(keep="unit", **k), "op", (*NOT_OPERATORS, OPERATOR), "")
    yield from rows(
        "partial_trace", lambda **k: kpref.partial_trace(FLOW.NTK, "unit", **k), "probes", (0, -1, 1.5, "a", True)
    )
    yield from rows("partial_trace", lambda **k: kpref.partial_trace(FLOW.NTK, "unit", 3, **k), "seed", SEEDS)

    # Pairs
    for function, good_op in ((kpref.eigh, FLOW.NTK), (kpref.svd, FLOW.P)):
        name = function.__name__
        call = over(function, op=good_op, k=2)
        yield from rows(name, call, "op", NOT_OPERATORS)
        yield from rows(name, call, "k", (*COUNTS, 10**6))
        yield from rows(name, call, "seed", SEEDS)
        yield from rows(name, call, "tol", (*TOLERANCES, None, 1j, "1e-3"))
        yield from rows(
            name,
            call,
            "start",
            (np.ones(3), np.zeros((1, B, T, H)), np.full((1, B, T, H), np.nan), "abc", masked(np.ones((1, B, T, H)))),
        )
        yield from rows(name, call, "precision", ("half", None, 3, np.float32))
    yield from rows("eigh", lambda **k: kpref.eigh(FLOW.NTK, 2, **k), "method", ("lapack", None, 3))
    yield Row("eigh(P)", lambda: kpref.eigh(FLOW.P, 2), "P")
    density = over(kpref.spectral_density, op=FLOW.NTK, products=8)
    yield from rows("spectral_density", density, "op", (*NOT_OPERATORS, FLOW.P), "")
    yield from rows("spectral_density", density, "products", (*COUNTS, 1))
    yield from rows("spectral_density", density, "vectors", COUNTS)
    yield from rows("spectral_density", density, "modes", (3, "modes", np.ones((2, B, T, H))))
    yield from rows("spectral_density", density, "trace", (-1.0, "a", float("nan"), [1.0]))
    yield from rows("spectral_density", density, "frobenius_squared", (-1.0, "a", float("inf")))
    yield from rows("spectral_density", density, "level", (0, 1, "a", float("nan"), None))
    yield from rows("spectral_density", density, "seed", SEEDS)
    yield from rows("diagonal", over(kpref.diagonal, op=FLOW.P), "op", (*NOT_OPERATORS, FLOW.J), "")
    yield from rows("diagonal", over(kpref.diagonal, op=FLOW.P), "products", (*COUNTS, 1))
    yield from rows("diagonal", over(kpref.diagonal, op=FLOW.P), "seed", SEEDS)
    solve = over(kpref.inverse, op=FLOW.NTK)
    yield from rows("inverse", solve, "op", NOT_OPERATORS)
    yield from rows("inverse", solve, "damping", (-1.0, "a", float("nan"), None))
    yield from rows("inverse", solve, "tol", (*TOLERANCES, 0))
    yield from rows("inverse", solve, "products", COUNTS)
    part = over(kpref.submatrix, op=FLOW.P, rows=[0, 1], columns=[2])
    yield from rows("submatrix", part, "op", NOT_OPERATORS)
    for argument in ("rows", "columns"):
        yield from rows(
            "submatrix", part, argument, ([], [0, 0], [-1], [10**6], [0.5], "a", None, 3, np.ones((B, T), bool))
        )
    block = over(block_eigh, op=FLOW.P.gram(), k=2, axis=0)
    yield from rows("block_eigh", block, "k", (0, -1, "a", None, 1.5, 10**6))
    yield from rows("block_eigh", block, "axis", (3, -1, "a", None, 0.0))
    yield from rows("block_eigh", block, "op", (*NOT_OPERATORS, FLOW.P), "")
    yield from rows("block_eigh", block, "tol", TOLERANCES)
    yield from rows("block_eigh", block, "seed", SEEDS)
    for function in (kpref.kernel_spectrum, spectra.ntk_trace_exact, spectra.propagator_gram_trace):
        yield from rows(function.__name__, function, "flow", NOT_FLOWS)
        yield from rows(function.__name__, lambda function=function, **k: function(FLOW, **k), "progress", (3, "bar"))

    # Integration and derivatives
    for solve in (fixed_steps, adaptive):
        call = over(solve, rhs=decay, times=TIMES, z0=[[1.0]], tableau="dopri5")
        yield from rows(solve.__name__, call, "rhs", (None, 3, "f"))
        yield from rows(solve.__name__, call, "times", ([0.0], [0.0, 0.0], "abc", None, [0.0, np.inf], 1.0))
        yield from rows(solve.__name__, call, "z0", ([1.0], [[np.nan]], "abc", None, np.ones((0, 1)), masked([[1.0]])))
        yield from rows(solve.__name__, call, "tableau", ("rk5", None, 4), "method")
        for wrong in (
            lambda t, z, n: None,
            lambda t, z, n: z[0],
            lambda t, z, n: z * 1j,
            lambda t, z, n: masked(z),
            lambda t, z, n: "a",
        ):
            yield Row(
                f"{solve.__name__}(rhs returns {shown(wrong(0, np.ones((1, 1)), 0))})",
                lambda call=call, wrong=wrong: call(rhs=wrong),
                "right-hand side",
            )
    call = over(adaptive, rhs=decay, times=TIMES, z0=[[1.0]])
    yield from rows("adaptive", call, "rtol", (-1.0, "a", float("nan"), None, [1.0, 2.0]))
    yield from rows("adaptive", call, "atol", (0.0, "a", float("inf"), None, [0.0]))
    yield from rows("adaptive", call, "max_steps", (0, -1, 1.5, "a", None))
    yield from rows("adaptive", call, "first_step", (0.0, -1.0, "a", float("nan"), True))
    yield from rows("adaptive", call, "jumps", ([9.0], "abc", [np.nan], {}, 1j))
    yield from rows("check_times", check_times, "times", ("a", None, [0.0], {}, [[0.0, 1.0]], ["a", "b"]))
    yield from rows("get_tableau", get_tableau, "method", ("rk5", None, 4, ["rk4"]))
    signal = over(InputSignal, times=TIMES, source=INPUTS)
    yield from rows(
        "InputSignal",
        signal,
        "source",
        (INPUTS[:, :2], "abc", None, INPUTS * np.nan, masked(INPUTS), INPUTS * 1j, lambda t: 1.0),
        "input",
    )
    yield from rows("InputSignal", signal, "kind", ("spline", None, 3))
    table = {"name": "own", "a": [[0.0]], "b": [1.0], "c": [0.0], "order": 1, "source": "nobody"}
    tableau = over(Tableau, **table)
    yield from rows("Tableau", tableau, "a", ([[1.0]], "abc", [[np.nan]], [0.0], None, [["x"]], [[1j]]))
    yield from rows("Tableau", tableau, "b", ([2.0], "abc", [np.nan], [[1.0]], None))
    yield from rows("Tableau", tableau, "c", ([1.0], "abc", None, [0.0, 1.0]))
    yield from rows("Tableau", tableau, "order", (2, "a", None, 1.5, 0))
    for function in (finite_difference, complex_step):
        yield from rows(
            function.__name__,
            lambda function=function, **k: function(lambda x: x, **k),
            "point",
            ("abc", None, [], [np.nan], 1j, masked([1.0, 2.0])),
        )
        yield from rows(
            function.__name__,
            lambda function=function, **k: function(lambda x: x, np.ones(2), **k),
            "direction",
            ("abc", [1.0], [np.nan, 1.0]),
        )
        yield from rows(
            function.__name__,
            lambda function, of=function: of(function, np.ones(2)),
            "function",
            (None, 3, lambda x: None, lambda x: "a"),
        )
    taylor = over(taylor_test, function=np.sin, derivative=np.cos, point=np.ones(2), direction=np.ones(2))
    yield from rows("taylor_test", taylor, "function", (None, 3, lambda x: "a"))
    yield from rows("taylor_test", taylor, "derivative", (None, 3, lambda d: np.ones(7)))
    yield from rows("taylor_test", taylor, "steps", ([1e-3], [-1.0, 1.0], "abc", [np.nan, 1.0], None))
    yield from rows("set_num_threads", kpref.set_num_threads, "number", (0, -1, 1.5, "a", None, True, [2]))


def build_estimates_and_data():
    for function, good_op in (
        (kpref.trace, LARGE.NTK),
        (spectra.frobenius_squared, LARGE.NTK),
        (spectra.adjoint_trace, LARGE.D),
    ):
        call = over(function, op=good_op, probes=12)
        yield from rows(function.__name__, call, "op", NOT_OPERATORS)
        yield from rows(function.__name__, call, "probes", COUNTS)
        yield from rows(function.__name__, call, "tol", (*TOLERANCES, 0.0, 1j))
        yield from rows(function.__name__, call, "seed", SEEDS)
    yield from rows("trace", lambda **k: kpref.trace(LARGE.NTK, **k), "method", ("auto++", None, 3))
    yield Row("trace(J)", lambda: kpref.trace(LARGE.J), "J")
    dimension = over(kpref.effective_dimension, op=LARGE.NTK)
    yield from rows("effective_dimension", dimension, "op", NOT_OPERATORS)
    yield from rows("effective_dimension", dimension, "keep", ("units", 3, ("unit", "unit"), [None]))
    yield from rows("effective_dimension", dimension, "probes", COUNTS)
    yield from rows("effective_dimension", dimension, "seed", SEEDS)
    yield from rows("operator_norm", kpref.operator_norm, "op", NOT_OPERATORS)
    yield from rows("operator_norm", lambda **k: kpref.operator_norm(LARGE.NTK, **k), "tol", TOLERANCES)
    yield from rows("operator_norm", lambda **k: kpref.operator_norm(LARGE.NTK, **k), "seed", SEEDS)
    yield from rows("kernel_effective_dimension", spectra.kernel_effective_dimension, "flow", NOT_FLOWS)
    align = over(kpref.alignment, a=LARGE.NTK, b=LARGE.K)
    yield from rows("alignment", align, "a", (*NOT_OPERATORS, FLOW.NTK), "")
    yield from rows("alignment", align, "b", NOT_OPERATORS, "")
    yield from rows("alignment", align, "probes", COUNTS)
    yield from rows("alignment", align, "seed", SEEDS)
    angles = over(kpref.principal_angles, first=np.ones((1, B, T, H)), second=np.ones((1, B, T, H)), space=SPACE)
    yield from rows(
        "principal_angles",
        angles,
        "first",
        ("abc", None, np.ones(3), np.full((1, B, T, H), np.nan), masked(np.ones((1, B, T, H))), np.zeros((1, B, T, H))),
    )
    yield from rows("principal_angles", angles, "space", (None, (B, T, H), FLOW))
    task = over(kpref.task_alignment, op=FLOW.NTK, err=np.ones((B, T, H)), groups=[0, 1, 1])
    yield from rows("task_alignment", task, "op", NOT_OPERATORS, "")
    yield from rows(
        "task_alignment", task, "err", (np.ones(3), "abc", None, np.full((B, T, H), np.inf), masked(np.ones((B, T, H))))
    )
    yield from rows("task_alignment", task, "groups", ([0, 1], None, "abc", [0.5, 1, 1], 3))
    yield from rows("schmidt_spectrum", kpref.schmidt_spectrum, "flow", NOT_FLOWS)
    rank = over(spectra.effective_schmidt_rank, op=LARGE.NTK)
    yield from rows("effective_schmidt_rank", rank, "op", (*NOT_OPERATORS, OPERATOR), "")
    yield from rows("effective_schmidt_rank", rank, "probes", (0, 2, "a", None, 1.5, True))
    yield from rows("effective_schmidt_rank", rank, "seed", SEEDS)
    yield from rows("schmidt_sketch", lambda **k: spectra.schmidt_sketch(LARGE.NTK, **k), "k", COUNTS)
    gradient = over(FLOW.gradient_flow, readout=READOUT, targets=TARGETS)
    yield from rows(
        "gradient_flow", gradient, "readout", (None, np.ones((2, H)), "readout", Readout(np.ones((2, H + 1))))
    )
    yield from rows("gradient_flow", gradient, "targets", (*bad_arrays(TARGETS), None))
    yield from rows(
        "gradient_flow",
        lambda **k: gradient(targets=None, loss="cross_entropy", **k),
        "labels",
        ([0, 1], [0.5, 1, 1], "abc", None, [0, 1, 9], [-1, 0, 1], masked([0, 1, 1])),
    )
    yield from rows("gradient_flow", gradient, "loss", ("mae", None, 3))
    yield from rows(
        "gradient_flow",
        gradient,
        "mask",
        (np.zeros(T), -np.ones(T), np.ones(9), "abc", np.full(T, np.nan), masked(np.ones(T))),
    )
    yield from rows("gradient_flow", gradient, "at", ("first", None, 3))
    yield from rows("Readout", Readout, "weight", (*bad_arrays(np.ones((2, H))), None, np.ones(3)))
    yield from rows(
        "Readout",
        lambda **k: Readout(np.ones((2, H)), **k),
        "bias",
        (np.ones(3), "abc", [np.nan, 1.0], masked([1.0, 1.0])),
    )
    yield from rows("readout", READOUT, "states", (np.ones(3), "abc", None, masked(np.ones(H)), object()))
    yield from rows("Trials", Trials, "inputs", (*bad_arrays(INPUTS), None, np.ones((0, T, 1))))
    yield from rows(
        "Trials", lambda **k: Trials(INPUTS, **k), "targets", (*bad_arrays(TARGETS), np.ones((B + 1, T, 1)))
    )
    yield from rows(
        "Trials", lambda **k: Trials(INPUTS, **k), "labels", ([0, 1], [0.5, 1, 1], "abc", [-1, 0, 1], masked([0, 1, 1]))
    )
    yield from rows(
        "Trials",
        lambda **k: Trials(INPUTS, **k),
        "mask",
        (np.ones(9), -np.ones(T), np.zeros(T), "abc", np.full(T, np.nan), masked(np.ones(T))),
    )
    yield from rows("load_checkpoint", over(kpref.load_checkpoint, source={}), "reset", ("middle", 3, True, "", []))
    for load in (kpref.load_checkpoint, Trials.load):
        yield from rows(load.__qualname__, load, "path", (None, 3, "", "no such file.npz", "/", b"\0"), "")
    estimate = kpref.trace(FLOW.K)
    yield from rows("interval", estimate.interval, "level", (0.0, 1.0, -1.0, 2.0, "a", None, float("nan"), True))
    yield from rows("sparse matrices", Trials, "inputs", (scipy.sparse.eye(3),))


def build_stability():
    yield from rows("lyapunov_exponents", kpref.lyapunov_exponents, "flow", NOT_FLOWS)
    for argument, values in (
        ("k", (0, -1, 99, "a", 1.5, True)),
        ("discard", (-1, 99, "a", 1.5)),
        ("every", (0, -1, 99, "a", 1.5)),
        ("seed", SEEDS),
    ):
        yield from rows("lyapunov_exponents", lambda **k: kpref.lyapunov_exponents(FLOW, **k), argument, values)
    learned = over(kpref.learning.linearised_training, flow=FLOW, readout=READOUT, targets=TARGETS)
    for function in (kpref.learning.output_ntk, kpref.learning.readout_sensitivity, learned):
        label = getattr(function, "__name__", "")
        yield from rows(label, over(function, readout=READOUT), "flow", NOT_FLOWS)
        readouts = (None, "Wout", np.ones((2, H)), MODEL, Readout(np.ones((2, H + 1))))
        yield from rows(label, over(function, flow=FLOW), "readout", readouts)
    yield from rows("linearised_training", learned, "targets", (*bad_arrays(TARGETS), None))
    yield from rows("linearised_training", learned, "mask", (np.ones(9), -np.ones(T), np.zeros(T), "abc"))
    yield from rows("linearised_training", learned, "at", ("first", None, 3))
    yield from rows("linearised_training", learned, "trainable_readout", ("yes", 1, None))
    yield from rows("linearised_training", learned, "modes", (0, 99, "a", 1.5, True))
    yield from build_rules()
    linear = learned()
    yield from rows("parameters", linear.parameters, "time", (*NOT_NUMBERS, -1.0, None))
    yield from rows("loss", linear.loss, "times", ("abc", [np.nan], 1j))
    yield from rows("deviation", over(linear.deviation, time=1.0), "outputs", (None, "abc", TARGETS[0]))
    search = over(kpref.fixed_points, model=MODEL, starts=np.ones((2, H)))
    yield from rows("fixed_points", search, "model", (None, "GRU", FLOW, READOUT))
    yield from rows("fixed_points", search, "inputs", (*bad_arrays(np.ones(N_IN)), np.ones((3, N_IN)), 1.0))
    starts = (
        *bad_arrays(np.ones((2, H))),
        np.ones(H),
        np.ones((2, H + 1)),
        Flow(models.GRU.init(2, 3, 0), INPUTS),
        None,
    )
    yield from rows("fixed_points", search, "starts", starts)
    for argument, values in (
        ("n_starts", COUNTS),
        ("seed", SEEDS),
        ("tol", (*TOLERANCES, 0)),
        ("distance", TOLERANCES),
        ("max_iterations", COUNTS),
    ):
        yield from rows("fixed_points", search, argument, values)
    found = search()
    yield from rows("unstable_directions", found.unstable_directions, "point", (-1, 99, "a", 1.5, None, True))
    yield from rows("plot_fixed_points", kpref.plots.plot_fixed_points, "found", (None, FLOW, np.ones((2, H))))
    lines = over(kpref.plots.plot_fixed_points, found=found)
    yield from rows("plot_fixed_points", lines, "trajectories", bad_arrays(INPUTS))
    yield from rows("plot_fixed_points", lines, "ax", ("a", 3, pyplot))
    yield from rows("propagator_growth", spectra.propagator_growth, "flow", NOT_FLOWS)
    yield from rows("trial_norms", spectra.trial_norms, "flow", NOT_FLOWS)
    yield from rows("trial_norms", lambda **k: spectra.trial_norms(FLOW, **k), "seed", SEEDS)
    yield from rows("trial_norms", lambda **k: spectra.trial_norms(FLOW, **k), "tol", TOLERANCES)


def build_shards():
    trials = Trials(INPUTS, targets=TARGETS)
    made = over(ShardedFlow, model=MODEL, trials=trials)
    yield from rows("ShardedFlow", made, "model", (None, "GRU", models.GRU, FLOW))
    yield from rows("ShardedFlow", made, "trials", (None, 3, INPUTS, FLOW))
    yield Row("ShardedFlow(no files)", lambda: made(trials="/nowhere/trials.npz"), "/nowhere/trials.npz")
    for argument, values in (
        ("shard_size", tuple(value for value in COUNTS if value is not None)),
        ("z0", (*bad_arrays(np.ones((B, H))), np.ones((B + 1, H)), 1.0)),
        ("measure", ("median", -np.ones(T), np.ones((B, T, 2)), 3j)),
        ("dtype", (int, complex, np.float16, 3.5)),
        ("keep", (-1.0, *NOT_NUMBERS, float("nan"))),
    ):
        yield from rows("ShardedFlow", made, argument, values)
    flow = made()
    for name in ("P", "K", "NTK", "J_star", "D_star"):
        yield from rows(f"ShardedFlow.{name}", getattr(flow, name), "q", (None, "abc", INPUTS, np.ones((B, T, H + 1))))
    for name in ("J", "D"):
        yield from rows(f"ShardedFlow.{name}", getattr(flow, name), "theta", bad_arrays(np.ones(MODEL.n_parameters)))
    yield from rows("ShardedFlow.gradient", over(flow.gradient, readout=READOUT), "at", ("first", None, 3))
    yield from rows("ShardedFlow.gradient", flow.gradient, "readout", (None, "Wout", np.ones((2, H)), MODEL))
    for argument, values in (("probes", COUNTS), ("tol", tuple(TOLERANCES)), ("seed", SEEDS)):
        yield from rows("ShardedFlow.trace", flow.trace, argument, values)
    aligned = over(flow.alignment, other=made())
    for argument, values in (("other", (None, FLOW, MODEL)), ("probes", (3, *COUNTS)), ("seed", SEEDS)):
        yield from rows("ShardedFlow.alignment", aligned, argument, values)
    for name in ("modes", "save_modes"):
        call = over(getattr(flow, name), **({"folder": "/nowhere/modes"} if name == "save_modes" else {}))
        yield from rows(f"ShardedFlow.{name}", call, "pairs", (None, "abc", np.ones((2, MODEL.n_parameters)), FLOW))


def build_rules():
    err, rules = np.ones((B, T, H)), kpref.rules
    # How many numbers there must be is known with the flow.
    vectors = [bad for bad in bad_arrays(np.ones(5)) if not (isinstance(bad, np.ndarray) and bad.shape == (0,))]
    for function in (rules.direction, rules.phi):
        call = over(function, rule=rules.backpropagation, flow=FLOW, err=err)
        yield from rows(function.__name__, call, "flow", NOT_FLOWS)
        yield from rows(function.__name__, call, "err", bad_arrays(err))
        yield from rows(function.__name__, call, "rule", (None, "adam", FLOW.NTK.T, lambda flow, err: err))
    for rule, argument, values in (
        (rules.truncated, "steps", COUNTS),
        (rules.gauss_newton, "damping", (*NOT_NUMBERS, -1.0)),
        (rules.one_step_gauss_newton, "tol", (*TOLERANCES, 0.0)),
        (rules.feedback_alignment, "seed", SEEDS),
        (rules.feedback_alignment, "weights", ("a", np.eye(H), 3)),
        (rules.local_online, "readout", ("a", np.eye(H), 3)),
        (rules.local_online, "feedback", (np.eye(H),)),
        (rules.local_online, "seed", SEEDS),
        (rules.diagonal, "scales", (*vectors, -np.ones(5))),
        (rules.adagrad, "squares", (*vectors, -np.ones(5))),
        (rules.adagrad, "epsilon", (*NOT_NUMBERS, 0.0)),
        (rules.shampoo, "damping", (*NOT_NUMBERS, 0.0)),
        (rules.kronecker_factored, "damping", (*NOT_NUMBERS, 0.0)),
    ):
        yield from rows(rule.__name__, rule, argument, values)
    adam = over(rules.adam, second=np.ones(5), step=1)
    yield from rows("adam", adam, "second", (*vectors, -np.ones(5)))
    yield from rows("adam", adam, "step", COUNTS)
    yield from rows("adam", adam, "beta", (*NOT_NUMBERS, 1.0, -0.1))
    compare = over(rules.compare_rules, flow=FLOW, err=err, rules={"a": rules.backpropagation})
    yield from rows("compare_rules", compare, "flow", NOT_FLOWS)
    yield from rows("compare_rules", compare, "rules", (None, [rules.backpropagation], {}, {"a": FLOW.D}))
    yield from rows("compare_rules", compare, "k", (*COUNTS, 999))


NOT_PATHS = (None, 3, MODEL, FLOW, [], b"a")


def build_files_and_verification():
    save = over(kpref.save_checkpoint, path="network.npz", model=MODEL)
    yield from rows("save_checkpoint", save, "path", (*NOT_PATHS, "network.txt", ""), "")
    yield from rows("save_checkpoint", save, "model", (None, "GRU", FLOW, models.Lorenz63(), MODEL.parameters), "saved")
    yield from rows("save_checkpoint", save, "readout", ("Wout", np.ones((2, H)), MODEL))
    for function in (kpref.oracle.check_golden, kpref.oracle.folder_backend):
        yield from rows(function.__name__, function, "path", NOT_PATHS)
    yield from rows("export_golden", over(kpref.oracle.export_golden, flow=FLOW), "path", NOT_PATHS)
    yield from rows("export_golden", lambda **k: kpref.oracle.export_golden("folder", **k), "flow", NOT_FLOWS)
    yield from rows("verify", lambda **k: kpref.oracle.verify(FLOW, **k), "flow", NOT_FLOWS)
    verify = over(kpref.oracle.verify, backend=kpref.oracle.flow_backend(FLOW), flow=FLOW)
    yield from rows("verify", verify, "seed", SEEDS)
    yield from rows("verify", verify, "timeout", (0.0, -1.0, float("nan"), float("inf"), "a", [1]))
    yield from rows("verify", verify, "arithmetic", ("float65", 3, ["float32"]))
    yield from rows("flow_backend", kpref.oracle.flow_backend, "flow", NOT_FLOWS)
    yield from rows("dot_test", kpref.oracle.dot_test, "operator", (None, np.eye(3), "P", FLOW, 3))
    yield from rows("dot_test", lambda **k: kpref.oracle.dot_test(FLOW.P, **k), "seed", SEEDS)
    yield from rows("analyze", lambda **k: kpref.analyze(MODEL, Trials(INPUTS), **k), "out", NOT_PATHS[1:], "folder")
    yield from rows("checkpoint_colors", kpref.plots.checkpoint_colors, "number", COUNTS[1:])


NOT_FORMS = (None, "a", 3, FLOW, MODEL, np.ones(3), {}, Unfinished())
NOT_FLAGS = ("yes", 1, None, 0.0, [True], "False")


def build_forms_and_flags():
    mu = SPACE.mu
    for function in (spectra.kernel_unit_matrix, spectra.kernel_unit_trace, spectra.kernel_unit_average):
        closed = over(function, form=FLOW.linearization, mu=mu)
        yield from rows(function.__name__, closed, "form", NOT_FORMS)
        yield from rows(function.__name__, closed, "mu", (*bad_arrays(mu), None, mu.T, mu[:, :2]))
    average = over(spectra.kernel_unit_average, form=FLOW.linearization, mu=mu)
    yield from rows("kernel_unit_average", average, "lengths", ("a", 3, [1, 2], np.zeros(B, int), np.full(B, T + 1)))
    other = TrajectorySpace((B, T, H + 1))
    for name in ("propagator", "propagator_inverse", "parameter_jacobian", "sensitivity", "kernel"):
        make = over(getattr(operators, name), form=FLOW.linearization, space=SPACE)
        yield from rows(name, make, "form", NOT_FORMS[:5])
        yield from rows(name, make, "space", (None, "a", VECTORS, other))
    for name in ("stage_propagator", "parameter_sensitivity", "initial_state_sensitivity"):
        yield from rows(name, over(getattr(operators, name), space=FIELD.space), "system", NOT_FORMS[:5])
    for name in ("grid_propagator", "discrete_adjoint", "continuous_adjoint"):
        make = over(getattr(operators, name), space=FIELD.space, forcing="linear")
        yield from rows(name, make, "system", NOT_FORMS[:5])
    residuals = over(order_condition_residuals, tableau=get_tableau("rk4"), order=2)
    yield from rows("order_condition_residuals", residuals, "tableau", (None, "rk4", 3, np.eye(2)))
    yield from rows("order_condition_residuals", residuals, "order", COUNTS)
    yield from rows("schmidt_spectrum", lambda **k: kpref.schmidt_spectrum(FLOW, **k), "progress", ("a", 3, []))
    for make, argument in (
        (over(kpref.eigh, op=OPERATOR, k=1), "copies"),
        (over(kpref.alignment, a=OPERATOR, b=OPERATOR), "centred"),
        (over(kpref.load_checkpoint, source={}), "continuous"),
        (Structure, "self_adjoint"),
        (Structure, "positive"),
        (over(models.UserField, function=lambda z, x, p: z, n_states=1, parameters={"a": 1.0}), "vectorized"),
        (over(models.LSTM.init, n_inputs=1, n_units=2, seed=0), "bias"),
        (over(models.Stacked.init, cell="gru", n_inputs=1, n_units=2, n_layers=2, seed=0), "bias"),
        (over(models.LowRankRNN.init, n_inputs=1, n_states=2, rank=1, seed=0), "bias"),
    ):
        yield from rows(make.__qualname__, make, argument, NOT_FLAGS)
    for kind, more in (
        (models.LSTM, {"n_units": 2}),
        (models.Stacked, {"cell": "gru", "n_units": 2, "n_layers": 2}),
        (models.LowRankRNN, {"n_states": 2, "rank": 1}),
        (models.HodgkinHuxley, {"n_units": 2}),
        (models.ExcitatoryInhibitory, {"n_units": 2}),
        (models.WilsonCowan, {"n_units": 2}),
        (models.LRU, {"n_features": 2, "n_states": 2}),
        (models.S4D, {"n_features": 2, "n_states": 2}),
        (models.NeuralODE, {"n_states": 2, "hidden": [2]}),
        (models.MPN, {"n_units": 2}),
        (models.ResetBeforeGRU, {"n_states": 2}),
        (models.UGRNN, {"n_states": 2}),
        (models.CoRNN, {"n_units": 2}),
    ):
        init = over(kind.init, n_inputs=1, seed=0, **more)
        yield from rows(f"{kind.__name__}.init", init, "seed", SEEDS)
        yield from rows(f"{kind.__name__}.init", init, "gain", (*NOT_FINITE[:2], "a", None, 1j))
        yield from rows(f"{kind.__name__}.init", init, "n_inputs", (*COUNTS[:5], 10**12))
    for kind in (models.LRU, models.S4D):
        init = over(kind.init, n_inputs=1, n_features=2, n_states=2, seed=0)
        for argument in ("n_features", "n_states", "n_layers"):
            yield from rows(f"{kind.__name__}.init", init, argument, (*COUNTS[:5], 10**12))
    lru = over(models.LRU.init, n_inputs=1, n_features=2, n_states=2, seed=0)
    yield from rows("LRU.init", lru, "radii", (0.5, (0.5,), (0.0, 0.5), (0.6, 0.5), (0.5, 1.0), "ab"))
    yield from rows("LRU.init", lru, "largest_phase", (0.0, -1.0, *NOT_FINITE[:2], "a"))
    neural = over(models.NeuralODE.init, n_inputs=1, n_states=2, hidden=[2], seed=0)
    yield from rows("NeuralODE.init", neural, "hidden", (3, None, [0], ["a"], [1.5]))
    yield from rows("NeuralODE.init", neural, "inputs", ("both", None, ["added"]))
    mlp = over(models.MLP.init, n_layers=2, n_units=2, seed=0)
    for argument in ("n_layers", "n_units"):
        yield from rows("MLP.init", mlp, argument, (*COUNTS[:5], 10**12))
    yield from rows("MLP.init", mlp, "residual", NOT_FLAGS)
    yield from rows("MLP.depth", models.MLP.init(2, 2, 0).depth, "n_trials", COUNTS[:5])
    mpn = over(models.MPN.init, n_inputs=1, n_units=2, seed=0)
    yield from rows("MPN.init", mpn, "modulation", ("divided", None, []))
    for argument in ("decay", "rate"):
        yield from rows("MPN.init", mpn, argument, (*NOT_FINITE[:2], "a", None))
    stacked = over(models.Stacked.init, n_inputs=1, n_units=2, n_layers=1, seed=0)
    yield from rows("Stacked.init", stacked, "cell", ("rnnn", ["gru"], None, {}))
    operator = over(TensorOperator, forward=abs, transpose=abs, space_in=VECTORS, space_out=VECTORS)
    yield from rows("TensorOperator", operator, "structure", (None, "symmetric", True))


def build_tasks():
    tasks = kpref.tasks
    for name, task in tasks.TASKS.items():
        yield from rows(name, over(task.trials, n_trials=3), "n_trials", (0, 1.5))
        yield from rows(name, over(task.trials, n_trials=3), "seed", (-1, "a"))
        if "noise" in task.options:
            yield from rows(name, over(task.trials, n_trials=3), "noise", (-1.0, float("nan"), "a"))
    yield from rows("sine_generation", tasks.sine_generation, "dt", (0.0, -1.0, *NOT_FINITE, *NOT_NUMBERS))
    durations = (0, -1, 1.5, "a", True, None, (1,), (3, 2), [1, 2, 3], (1, 2.5), {}, np.ones(2))
    for name, names in (
        ("memory_pro", ("stimulus", "response")),
        ("mixed", ("context",)),
        ("flip_flop", ("steps",)),
    ):
        for period in names:
            yield from rows(name, over(getattr(tasks, name), n_trials=3), period, durations)
    yield from rows("memory_pro", over(tasks.memory_pro, n_trials=3), "delay", (-1, 0.5, "a", (0, -1)))
    yield from rows("memory_pro", over(tasks.memory_pro, n_trials=3), "angles", (*bad_arrays(np.ones(3)), np.ones(4)))
    yield from rows("flip_flop", tasks.flip_flop, "bits", COUNTS)
    yield from rows("flip_flop", tasks.flip_flop, "probability", (-0.1, 1.1, *NOT_FINITE[:4], *NOT_NUMBERS[:4], None))
    yield from rows("flip_flop", tasks.flip_flop, "initial_pulses", NOT_FLAGS)
    yield from rows("sine_generation", tasks.sine_generation, "waves", (*COUNTS, 52))
    yield from rows("line_attractor", tasks.line_attractor, "values", COUNTS)
    yield from rows("digits", tasks.digits, "part", ("all", None, 3, ["train"]))
    for argument in ("n_inputs", "n_outputs", "latent", "dimension"):
        yield from rows("low_rank_forecast", tasks.low_rank_forecast, argument, (0, 1.5, "a", None))
    yield from rows("low_rank_forecast", tasks.low_rank_forecast, "system_seed", SEEDS)
    for make in (tasks.linear_teacher, tasks.tanh_teacher, tasks.fixed_point_teacher):
        for argument in ("n_outputs", "n_states"):
            yield from rows(make.__name__, make, argument, (0, 1.5, "a", None))
        yield from rows(make.__name__, make, "gain", (-1.0, float("nan"), "a", None))
        yield from rows(make.__name__, make, "teacher_seed", SEEDS[:3])
    yield from rows("fixed_point_teacher", tasks.fixed_point_teacher, "points", (-1, 22, 1.5, "a", None, True))
    yield from rows("teacher_tanh", tasks.teacher_tanh, "rank", (*COUNTS, 17))
    for draw in (tasks.teacher_linear, tasks.teacher_tanh, tasks.low_rank_forecast):
        yield from rows(draw.__name__, draw, "steps", (0, 1.5, "a", None))
    yield from rows("get", tasks.get, "name", ("memory", None, 3, ["digits"]), "task")
    yield from rows("from_neurogym", over(tasks.from_neurogym, n_trials=2), "env", (None, 3, MODEL, INPUTS))
    noisy = over(tasks.with_state_noise, trials=Trials(INPUTS), n_states=4, noise=0.1)
    yield from rows("with_state_noise", noisy, "trials", (None, INPUTS, "trials", FLOW))
    yield from rows("with_state_noise", noisy, "n_states", (0, 1.5, "a", None))
    yield from rows("with_state_noise", noisy, "noise", (-1.0, float("nan"), "a", None))
    yield from rows("with_state_noise", noisy, "seed", SEEDS)
    yield from rows("Trials", lambda **k: Trials(INPUTS, **k), "state_noise", bad_arrays(np.ones((B, T, H))))
    yield from rows("Trials.save", Trials(INPUTS).save, "path", (None, 3, b"a.npz", ["a.npz"]))


def build_plots():
    curve = ("a", np.ones(3))
    coloring = kpref.plots.color_trials(Trials(INPUTS))
    not_curves = (None, "a", 3, float("nan"), [1, 2], np.ones((2, 3)), {"a": [1]}, [("a",)], [("a", 1, 2, 3, 4)])
    for name, argument, ndim in (
        ("plot_spectrum", "spectra", 1),
        ("plot_cumulative", "shares", 1),
        ("plot_angles", "angles", 1),
        ("plot_trial_norms", "norms", 1),
        ("plot_exponents", "exponents", 2),
        ("plot_growth", "growth", 2),
    ):
        draw = getattr(kpref.plots, name)
        yield from rows(name, draw, argument, (*not_curves, [("a", np.ones((1,) * (ndim + 1)))], [("a", None)]))
        good = over(draw, **{argument: [("a", np.ones((3,) * ndim))]})
        yield from rows(name, good, "colors", ("red", ["no colour"], ["red", "blue"], 3, [None]))
        yield from rows(name, good, "ax", ("a", 3, [], "axes"))
    for name, entry in (
        ("plot_errors", (*curve, np.ones(2))),
        ("plot_dimension_against_training", (*curve, np.ones(2))),
    ):
        draw = getattr(kpref.plots, name)
        draw = over(draw, checkpoints=[0, 1, 2]) if "training" in name else draw
        yield from rows(name, draw, "curves", (*not_curves, [entry], [("a", 1.0, 2.0)]))
    errors = over(kpref.plots.plot_errors, curves=[(*curve, np.ones(3))])
    yield from rows("plot_errors", errors, "slope", ("a", float("nan"), [1]))
    yield from rows("plot_errors", errors, "level", ("a", [1, 2], 1j))
    training = over(kpref.plots.plot_dimension_against_training, curves=[(*curve, np.ones(3))])
    yield from rows("plot_dimension_against_training", training, "checkpoints", ("abc", 3, None, [[1]], [None] * 3))
    densities = over(kpref.plots.plot_spectral_density)
    yield from rows("plot_spectral_density", densities, "densities", (*not_curves, [curve]))
    yield from rows("plot_spectrum", over(kpref.plots.plot_spectrum, spectra=[curve]), "dimensions", ("a", 3.0, [[1]]))
    table, tables = (
        np.ones((B, T)),
        (None, "a", 3.0, np.ones(T), np.ones((B, 0)), np.ones((B, T, 2)), masked(np.ones((B, T)))),
    )
    for name, argument, more in (
        ("plot_trials", "amplitude", {"coloring": coloring}),
        ("plot_outputs", "outputs", {"coloring": coloring, "targets": None}),
        ("plot_change", "change", {}),
        ("shade_unscored", "weights", {}),
    ):
        draw = over(getattr(kpref.plots, name), **more)
        yield from rows(name, draw, argument, tables)
        drawn = over(draw, **{argument: table})
        yield from rows(name, drawn, "times", ("a", 3.0, np.ones(T + 1), np.full(T, np.nan), [[1.0] * T]))
    outputs = over(kpref.plots.plot_outputs, outputs=table, coloring=coloring)
    yield from rows("plot_outputs", outputs, "targets", ("a", np.ones((B, T + 1))))
    for name, argument in (("plot_trials", "amplitude"), ("plot_outputs", "outputs")):
        draw = over(
            getattr(kpref.plots, name), **{argument: table} | ({"targets": None} if argument == "outputs" else {})
        )
        yield from rows(name, draw, "coloring", (None, "viridis", Trials(INPUTS)))
        yield from rows(name, over(draw, coloring=coloring), argument, (np.ones((B + 1, T)),))
    yield from rows("plot_change", over(kpref.plots.plot_change, change=table), "limit", ("a", [1, 2], 1j))
    channels = over(kpref.plots.plot_channels, values=np.ones((T, 2)), names=["a", "b"])
    yield from rows("plot_channels", channels, "values", (None, "a", 1.0, np.ones(T), np.ones((T, 0)), np.ones((0, 2))))
    yield from rows("plot_channels", channels, "names", (["a"], ["a", "b", "c"], None, 3, "abc"))
    yield from rows("plot_channels", channels, "weights", ("a", 1.0, np.ones(T + 1), np.ones((T, 2))))
    yield from rows("plot_channels", channels, "limits", ("a", 1.0, [1, 2, 3], 1j))
    yield from rows("plot_channels", channels, "times", ("a", 3.0, np.ones(T + 1), np.full(T, np.nan)))
    yield from rows("plot_legend_of_trials", kpref.plots.plot_legend_of_trials, "coloring", (None, "a", Trials(INPUTS)))
    yield from rows("color_trials", kpref.plots.color_trials, "trials", (None, "a", INPUTS, FLOW, Unfinished()))
    matrix = over(kpref.plots.plot_alignment_matrix, values=np.eye(2), names=["K", "NTK"])
    yield from rows(
        "plot_alignment_matrix", matrix, "values", (None, 1.0, np.ones(3), np.ones((2, 3)), np.ones((0, 0)))
    )
    yield from rows("plot_alignment_matrix", matrix, "names", (None, "KN", ["K"], 3))
    yield from rows("plot_alignment_matrix", matrix, "errors", (1.0, "a", np.ones(2)))
    modes = over(kpref.plots.plot_modes_over_time, modes=np.ones((2, B, T, H)))
    yield from rows("plot_modes_over_time", modes, "modes", (None, "a", np.ones((2, T)), np.ones((0, B, T, H))))
    yield from rows("plot_modes_over_time", modes, "values", ("a", 3.0, np.ones(3)))
    running = over(kpref.plots.plot_running_exponents, times=TIMES, running=np.ones((T, 2)))
    yield from rows("plot_running_exponents", running, "times", (None, "a", TIMES[1:], np.full(T, np.nan)))
    yield from rows("plot_running_exponents", running, "running", (None, "a", np.ones(T), np.ones((T, 0))))
    colors = over(kpref.plots.TrialColoring, values=np.arange(3.0), name="n", colormap=coloring.colormap, limits=(0, 1))
    yield from rows("TrialColoring", colors, "values", (None, "a", 3.0, np.full(3, np.nan)))
    yield from rows("TrialColoring", colors, "limits", (None, 3, (0,), (0, np.nan)))
    yield from rows("TrialColoring", colors, "colormap", (None, "viridis"))


def build_training():
    trials = Trials(INPUTS, targets=TARGETS)
    arguments = {"model": MODEL, "readout": READOUT, "trials": trials}
    objective, train = over(Objective, **arguments), over(kpref.train, **arguments, steps=1)
    for name, call in (("Objective", objective), ("train", train)):
        yield from rows(name, call, "model", (None, 3, READOUT, "GRU"))
        yield from rows(name, call, "readout", (None, 3, MODEL, np.ones((2, H))))
        yield from rows(name, call, "trials", (None, 3, INPUTS, "abc"))
        yield from rows(name, call, "loss", ("hinge", None, 3, ["mse"]))
        yield from rows(name, call, "at", ("first", None, 3))
        yield from rows(name, call, "trainable", ("z0", [], ["weight"], 3, [None]))
        yield from rows(name, call, "z0", (*bad_arrays(np.ones(H)),))
        yield from rows(name, call, "weight_decay", (-1.0, np.nan, "a", None))
        yield from rows(name, call, "activity", (-1.0, np.nan, "a", None))
        yield from rows(name, call, "rule", ("hebb", 3, [1]))
    yield from rows("train", train, "steps", (-1, 1.5, "a", None))
    yield from rows("train", train, "optimizer", ("sgd", None, 3, ["adam"]))
    yield from rows("train", train, "learning_rate", (0.0, -1.0, np.inf, "a", None))
    yield from rows("train", train, "batch_size", (0, 9, 1.5, "a"))
    yield from rows("train", train, "seed", (-1, 1.5, "a", None))
    yield from rows("train", train, "clip", (0.0, np.nan, "a"))
    yield from rows("train", train, "folder", (3, [], b"run"))
    yield from rows("train", train, "checkpoint_every", (0, 1.5, "a"))
    yield from rows("train", train, "resume", ("yes", 1, None))
    yield from rows("train", train, "progress", (3, "a"))
    yield from rows("rules.get", over(kpref.rules.get, name="shampoo"), "name", ("hebb", None, 3, ["adagrad"]), "rule")
    yield from rows("analyze_run", over(analyze_run, folder="run"), "folder", (3, None, b"run"))
    yield from rows("analyze_run", over(analyze_run, folder="run"), "checkpoints", (0, 1.5, "a"))
    yield from rows("analyze_run", over(analyze_run, folder="run"), "progress", (3, "a"))
    yield from rows("analyze_run", over(analyze_run, folder="run"), "fast", ("yes", 1, None))
    yield from rows("read_grid", read_grid, "file", (3, None, b"grid.toml"))
    sweep = over(kpref.sweeps.sweep, grid=Grid({"seed": (0,)}, {}, ("loss",), None, None, Path(), {}), folder="run")
    yield from rows("sweep", sweep, "grid", (None, 3, "grid.toml", {"seed": [0]}))
    yield from rows("sweep", sweep, "folder", (3, None, b"run"))
    yield from rows("sweep", sweep, "workers", (0, 1.5, "a"))
    yield from rows("sweep", sweep, "retry_failed", ("yes", 1, None))
    yield from rows("sweep", sweep, "progress", (3, "a"))


TABLE = [
    *build(),
    *build_forms_and_flags(),
    *build_plots(),
    *build_files_and_verification(),
    *build_estimates_and_data(),
    *build_stability(),
    *build_shards(),
    *build_tasks(),
    *build_training(),
]

#: What Python and NumPy say of such values on their own.
RAW = re.compile(
    "|".join(
        [
            r"'NoneType' object",
            r"could not convert",
            r"unsupported operand",
            r"has no attribute",
            r"not subscriptable",
            r"not iterable",
            r"not callable",
            r"cannot be interpreted",
            r"inhomogeneous",
            r"setting an array element",
            r"invalid literal",
            r"must be real number, not",
            r"shapes \(.*\) and",
            r"could not be broadcast",
            r"out of range for",
            r"out of bounds",
            r"truth value of an array",
            r"ufunc '\w+' ",
            r"SeedSequence",
            r"can't convert",
            r"expected .* got 'str'",
            r"dtype\('",
            r"cannot reshape",
            r"unhashable",
            r"bad operand",
            r"not supported between",
            r"tuple indices",
        ]
    )
)


def check(row):
    """What is wrong with how a row is refused; empty if nothing is."""
    try:
        row.call()
    except (ValueError, TypeError, OSError, MemoryError) as error:
        message = str(error)
    except Exception as error:  # of no kind that a caller would expect
        return f"raised {error!r}"
    else:
        return "was not refused"
    if row.words not in message:
        return f"{row.words!r} is not in: {message}"
    if "\n" in message or not 10 < len(message) < 400 or RAW.search(message):
        return f"is no sentence of ours: {message}"
    # What is refused leaves no empty figure for the next plt.show.
    return f"left figures open: {pyplot.get_fignums()}" if pyplot.get_fignums() else ""


#: Rows by public door. A test for each row would take ten times as long as the rows do.
DOORS = {row.name.split("(")[0]: [] for row in TABLE}
for row in TABLE:
    DOORS[row.name.split("(")[0]].append(row)


def test_the_table_is_long_enough():
    assert len(TABLE) >= 300
    assert len({row.name for row in TABLE}) > 0.95 * len(TABLE)


@pytest.mark.parametrize("door", DOORS)
def test_refused_in_one_sentence(door):
    wrong = [f"{row.name}: {words}" for row in DOORS[door] if (words := check(row))]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_refused_is_found():
    assert check(Row("f", lambda: 3, "x")) == "was not refused"
    assert "raised KeyError" in check(Row("f", lambda: {}[1], "x"))
    assert "is not in" in check(Row("f", lambda: Flow(None, INPUTS), "inputs"))
    assert "no sentence of ours" in check(Row("f", lambda: float("a"), "float"))
