"""The same bits from everything public, for any number of our threads and of the BLAS library's.

Sizes are those at which OpenBLAS has begun to use its threads: products of more than some 10^5 flops, inner products
of more than 10^4 entries. A plain product shows that it does.
"""

import copy
import dataclasses
import io
import json
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import kpref
from kpref import EuclideanSpace, Flow, Readout, TensorOperator, TrajectorySpace, Trials, models, rules, spectra
from kpref.differences import complex_step, dot_test, finite_difference, taylor_test
from kpref.distributed import ShardedFlow
from kpref.integrate import adaptive, fixed_steps
from kpref.operators import identity

#: Of ours, and of the BLAS library.
THREADS = (1, 1), (2, 1), (4, 2)
TRIALS, STEPS, UNITS, INPUTS = 40, 16, 20, 3
BIG = 150


@pytest.fixture(autouse=True)
def same_number_of_threads():
    before = kpref.get_num_threads()
    yield
    kpref.set_num_threads(before)


def bits(value):
    """Everything in a result, as bytes."""
    if dataclasses.is_dataclass(value):
        return bits({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + bits(item) for key, item in value.items())
    if isinstance(value, tuple | list):
        return b"".join(map(bits, value))
    if isinstance(value, np.ndarray):
        return str((value.dtype, value.shape)).encode() + value.tobytes()
    if isinstance(value, float):
        return np.float64(value).tobytes()
    assert value is None or isinstance(value, str | bytes | int | np.generic | complex), type(value)
    return repr(value).encode()


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def map_flow(kind="GRU", dtype=np.float64, units=UNITS, trials=TRIALS):
    model = getattr(models, kind).init(n_inputs=INPUTS, n_states=units, seed=0)
    return Flow(model, random(trials, STEPS, INPUTS), random(units), "mean", dtype)


def field_flow(**options):
    model = models.Rate.init(n_inputs=INPUTS, n_states=UNITS, seed=0)
    return Flow(model, random(TRIALS, STEPS, INPUTS), dt=0.1, method="dopri5", **options)


def user_flow():
    """A function of the user's that multiplies matrices: the number of BLAS's threads is ours while it runs."""
    field = models.UserField(
        lambda z, x, p: np.tanh(z @ p["w"]) - z + x[..., :1],
        60,
        1,
        parameters={"w": random(60, 60) / 60**0.5, "k": 1.0},
        trainable=["k"],
        state_jacobian=lambda z, x, p: p["w"].T / np.cosh(z @ p["w"])[..., None] ** 2 - np.eye(60),
    )
    return Flow(field, random(TRIALS, 3, 1), dt=0.1, method="dopri5", rtol=1e-3)


def own_operator(size=BIG):
    matrix = random(size, size)
    space = EuclideanSpace((size,))
    return TensorOperator(lambda batch: batch @ matrix.T, lambda batch: batch @ matrix, space, space)


def products(flow, names):
    found = {}
    for name in names:
        op = flow
        for part in name.split("."):
            op = getattr(op, part)
        for side, one in (("", op), ("^T", op.T), ("*", op.star)):
            found[name + side] = one.apply(random(2, *one.shape_in))
    return found


def dense_flow():
    return Flow(models.Lorenz63(), z0=random(TRIALS, 3), times=np.linspace(0, 0.5, STEPS))


def gradients(flow):
    readout = Readout(random(2, UNITS), random(2))
    found = {}
    for options in (
        {"targets": random(TRIALS, STEPS, 2)},
        {"labels": np.arange(TRIALS) % 2, "loss": "cross_entropy", "at": "last"},
    ):
        gradient = flow.gradient_flow(readout, **options)
        found[str(options.keys())] = [
            gradient.loss_value,
            gradient.grad_theta,
            gradient.df,
            gradient.dz,
            gradient.loss_rate,
            gradient.realised(0.1),
        ]
    return found


def comparisons(flow):
    error = random(*flow.states.shape)
    subspaces = [random(3, *flow.states.shape, seed=seed) for seed in (1, 2)]
    return [
        kpref.alignment(flow.NTK, flow.K, probes=20),
        kpref.alignment(flow.NTK, flow.K, probes=12, centred=True),
        kpref.principal_angles(*subspaces, flow.space),
        kpref.task_alignment(flow.NTK, error, np.arange(70) % 3),
    ]


def copies(flow):
    trials = Trials(random(TRIALS, STEPS, INPUTS), targets=random(TRIALS, STEPS, 2))
    things = (flow.model, trials, flow.space)
    return [pickle.dumps(thing) for thing in things] + [copy.deepcopy(trials).inputs, copy.copy(flow.model).vector]


def checkpoint(flow):
    buffer = io.BytesIO()
    np.savez(buffer, **flow.model.parameters)
    return buffer.getvalue()


def dimensions(flow):
    return [
        kpref.effective_dimension(flow.NTK),
        kpref.effective_dimension(map_flow(trials=12).K, keep="unit"),
        kpref.operator_norm(flow.K),
        *(
            spectra.kernel_effective_dimension(flow, keep)
            for keep in (None, "unit", "time", ("trial", "time"), ("time", "unit"))
        ),
    ]


def traces(flow):
    methods = ("auto", "hutchinson", "hutch++", "krylov")
    return [
        *(kpref.trace(flow.NTK, method, probes=24) for method in methods),
        spectra.frobenius_squared(flow.NTK, 20),
        spectra.frobenius_squared(flow.D, 20),
        spectra.adjoint_trace(flow.D, 20),
        spectra.ntk_trace_exact(flow),
        spectra.propagator_gram_trace(flow),
        spectra.kernel_unit_trace(flow.linearization, flow.space.mu),
        spectra.kernel_unit_matrix(flow.linearization, flow.space.mu),
        spectra.kernel_unit_average(flow.linearization, flow.space.mu),
    ]


def pairs(flow):
    return [
        kpref.eigh(flow.NTK, 4),
        kpref.eigh(flow.K, 3, method="block", start=random(2, *flow.states.shape)),
        kpref.eigh(flow.NTK, 4, tol=1e-6),
        kpref.svd(flow.P, 3),
        kpref.svd(flow.D, 3, precision="mixed"),
        kpref.svd(own_operator(), 40),
        kpref.eigh(own_operator().gram(), 100),
    ]


def spaces():
    space = TrajectorySpace((TRIALS, STEPS, 60), np.linspace(0, 1, STEPS))
    p, q = random(2, *space.shape)
    plain = EuclideanSpace((50_001,))
    v, w = random(2, 50_001)
    return [
        space.inner(p, q),
        space.norm(p),
        space.inner(p.astype(np.float32), q),
        plain.inner(v, w),
        plain.norm(v),
        plain.inner(v.astype(np.float32), w.astype(np.float32)),
        EuclideanSpace((7, 90, 40)).inner(random(7, 90, 40), random(7, 90, 40, seed=1)),
    ]


def forward_passes():
    z, x = random(400, UNITS), random(400, INPUTS)
    found = []
    for kind in ("Linear", "RNN", "LeakyRNN", "GRU"):
        model = getattr(models, kind).init(n_inputs=INPUTS, n_states=UNITS, seed=0)
        found += [
            model.step(z, x),
            model.iterate(z, random(400, 3, INPUTS)),
            Flow(model, random(400, 3, INPUTS)).rerun(model),
        ]
    for kind in ("Rate", "LinearSystem"):
        found.append(getattr(models, kind).init(n_inputs=INPUTS, n_states=UNITS, seed=0).velocity(z, x))
    return [*found, Readout(random(30, UNITS))(z)]


def integrations():
    weight = random(BIG, BIG) / BIG

    def rhs(t, z, interval):
        return np.cos(z @ weight)

    found = []
    for solve in (fixed_steps, adaptive):
        solution = solve(rhs, [0.0, 0.1, 0.2], random(TRIALS, BIG), "dopri5")
        found += [solution.states, solution(0.123), solution.stage_derivatives(0), solution.stage_states(1)]
    return found


def helpers():
    weight, point, direction = random(BIG, BIG), random(BIG, BIG), random(BIG, BIG, seed=1)

    def function(x):
        return np.sin(x @ weight)

    op = own_operator()
    return [
        finite_difference(function, point, direction),
        complex_step(function, point, direction),
        taylor_test(function, lambda d: np.cos(point @ weight) * (d @ weight), point, direction),
        dot_test(op),
    ]


def algebra():
    a, b = own_operator(), own_operator()
    ops = [a @ b, a + b, 2.5 * a, -a, a / 3, a**2, a.T, a.H, a.star, a.gram(), identity(a.space_in) @ a]
    x = random(BIG, 60)
    return [[op.matmat(x), op.rmatmat(x), op.matvec(x[:, 0]), op.rmatvec(x[:, 0])] for op in ops] + [a.to_dense()]


def reduced(flow):
    small = Flow(flow.model, random(6, 5, INPUTS))
    found = []
    for view in (kpref.average, kpref.partial_trace):
        for keep in ("unit", ("time", "unit")):
            op = view(small.NTK, keep)
            found.append(op.to_dense())
    return found


def fixed_points(flow):
    found = kpref.fixed_points(flow.model, starts=flow, n_starts=TRIALS, max_iterations=20)
    return [
        found.points, found.residuals, found.eigenvalues, found.labels, found.ends, found.iterations,
        found.input_sensitivity, [found.unstable_directions(point) for point in range(len(found))],
    ]  # fmt: skip


def trainings():
    """The compiled pass in both precisions, over several blocks of trials, and by a rule."""
    trials = Trials(random(TRIALS, STEPS, INPUTS), targets=random(TRIALS, STEPS, 2))
    readout, found = Readout(random(2, UNITS), random(2)), []
    kinds = [("GRU", {}), ("LSTM", {}), ("GRU", {"dtype": "float64"}), ("GRU", {"rule": rules.truncated(2)})]
    for kind, options in kinds:
        model = getattr(models, kind).init(INPUTS, UNITS, 0)
        result = kpref.train(model, readout, trials, steps=3, clip=1.0, **options)
        found += [result.model.vector, result.readout.weight, result.history.loss, result.history.gradient_norm]
    return found


def shards(units):
    """Their products are in float32 too; the alignment is estimated beyond 400 parameters."""
    trials = Trials(random(TRIALS, STEPS, INPUTS), targets=random(TRIALS, STEPS, 2))
    one, other = (ShardedFlow(models.GRU.init(INPUTS, units, seed), trials, shard_size=15) for seed in (0, 1))
    tensor = random(TRIALS, STEPS, units)
    return [
        one.eigh(3), one.eigh(3, tol=1e-6), one.trace(8), one.effective_dimension(12), one.alignment(other, 12),
        vars(one.gradient(Readout(random(2, units)))), list(one.NTK(tensor)), list(one.P(tensor)),
    ]  # fmt: skip


TABLE = {
    "trainings": trainings,
    "spaces": spaces,
    "forward passes": forward_passes,
    "integration": integrations,
    "derivatives": helpers,
    "algebra of operators": algebra,
    "products of maps": lambda: [
        products(map_flow(), ("P", "P_inverse", "J", "K", "D", "NTK", "D_z0")),
        map_flow().states,
    ],
    "products in single precision": lambda: products(map_flow(dtype=np.float32), ("P", "J", "K", "NTK", "D_z0")),
    "products of fields": lambda: products(field_flow(), ("P", "J", "NTK", "D_z0", "stage.P", "stage.J", "stage.K")),
    "adjoint equations": lambda: [
        field_flow().adjoint(kind)(random(TRIALS, STEPS, UNITS)) for kind in ("discrete", "continuous")
    ],
    "adaptive steps": lambda: [field_flow(rtol=1e-4).solution(0.33), products(field_flow(rtol=1e-4), ("P", "NTK"))],
    "inputs": lambda: [field_flow(input_kind=kind).states for kind in ("linear", "cubic")],
    "dense systems": lambda: [dense_flow().states, products(dense_flow(), ("P", "J", "NTK", "D_z0"))],
    "functions of the user": lambda: [user_flow().states, products(user_flow(), ("P", "D_z0"))],
    "reduced views": lambda: reduced(map_flow()),
    "gradient": lambda: gradients(map_flow()),
    "copies": lambda: [copies(map_flow()), checkpoint(map_flow())],
    "dimensions": lambda: dimensions(map_flow(units=40, trials=70)),
    "dimensions of dense systems": lambda: [
        spectra.kernel_effective_dimension(dense_flow(), keep) for keep in (None, "unit", ("trial", "time"))
    ],
    "traces": lambda: traces(map_flow()),
    "pairs": lambda: pairs(map_flow()),
    "blocks": lambda: spectra.blocks.block_eigh(map_flow().P.gram(), 4, 0),
    "densities": lambda: [
        kpref.spectral_density(map_flow().NTK, 16, 2, modes=kpref.eigh(map_flow().NTK, 2)),
        kpref.spectral_density(own_operator(400).gram(), 20),
    ],
    "inverses": lambda: [
        kpref.inverse(map_flow().NTK, 1e-2)(random(TRIALS, STEPS, UNITS)),
        kpref.inverse(map_flow().D, 1e-2)(random(TRIALS, STEPS, UNITS)),
        kpref.inverse(own_operator(), 1.0)(random(BIG)),
        kpref.submatrix(map_flow().NTK, np.arange(900), np.arange(50)).to_dense(),
    ],
    "diagonals": lambda: [kpref.diagonal(op, 9) for op in (map_flow().NTK, map_flow().P, map_flow().K)],
    "kernel spectrum": lambda: (
        [kpref.kernel_spectrum(map_flow(kind)) for kind in ("GRU", "Linear")] + [kpref.kernel_spectrum(dense_flow())]
    ),
    "Schmidt": lambda: [
        kpref.schmidt_spectrum(map_flow(units=16)),
        kpref.schmidt_spectrum(dense_flow()),
        spectra.effective_schmidt_rank(map_flow().P, 4),
        spectra.schmidt_sketch(map_flow().P, 2, 4),
    ],
    "stability": lambda: [
        kpref.lyapunov_exponents(map_flow()),
        spectra.propagator_growth(map_flow()),
        spectra.trial_norms(map_flow()),
    ],
    "fixed points": lambda: fixed_points(map_flow(units=40)),
    "comparisons": lambda: comparisons(map_flow(units=40, trials=70)),
    "shards": lambda: shards(UNITS),
}


def test_blas_does_use_its_threads():
    """Or else the table below would show nothing: sizes are chosen for this."""
    a, v = random(400, UNITS * STEPS), random(50_001)
    seen = set()
    for number in (1, 2):
        with threadpool_limits(number, "blas"):
            seen.add(bits([np.vdot(v, v), a.T @ a]))
    if len(seen) == 1:
        pytest.skip("this BLAS gives the same bits for any number of threads")


@pytest.mark.parametrize("name", TABLE)
def test_same_bits(name):
    found = {}
    for ours, blas in THREADS:
        kpref.set_num_threads(ours)
        with threadpool_limits(blas, "blas"):
            found[ours, blas] = bits(TABLE[name]())
    assert len(set(found.values())) == 1


def test_analysis_writes_the_same_metrics(tmp_path, monkeypatch):
    """`kpref.analyze` as a whole: all that it writes to metrics.json but its date and duration."""
    monkeypatch.setattr("kpref.analysis.figures.draw_exhibits", lambda *args: [])  # most of the time, and no number
    rng, found = np.random.default_rng(0), []
    trials = kpref.Trials(rng.normal(size=(3, 5, 2)), targets=rng.normal(size=(3, 5, 1)))
    for ours, blas in ((1, 1), (4, 2)):
        kpref.set_num_threads(ours)
        with threadpool_limits(blas, "blas"):
            kpref.analyze(models.GRU.init(2, 4, 0), trials=trials, out=tmp_path / str(ours), modes=2)
        metrics = json.loads((tmp_path / str(ours) / "metrics.json").read_text())
        for changing in ("date", "seconds"):
            del metrics["facts"][changing]
        found.append(json.dumps(metrics))
    assert found[0] == found[1]


def test_everything_public_is_in_the_table():
    """Names of functions and operators, read off the source of the table above."""
    with open(__file__) as file:
        source = file.read()
    functions = [name for module in (kpref, spectra) for name in module.__all__ if callable(getattr(module, name))]
    ops = [name for name in vars(Flow) if name[0] in "PJKND" and not name.startswith("_")]
    without_numbers = {
        "Diagonal",
        "Estimate",
        "FixedPoints",
        "NoConvergence",
        "Eigen",
        "Singular",
        "KernelSpectrum",
        "Lyapunov",
        "SchmidtSketch",
        "SchmidtSpectrum",
        "SpectralDensity",
        "TaskAlignment",
        "load_checkpoint",
        "save_checkpoint",
    }
    missing = [name for name in (*functions, *ops) if name not in source and name not in without_numbers]
    assert missing == []


@pytest.mark.parametrize(("trials", "units"), [(1, 7), (5, 7), (1, 40), (5, 40)])
def test_what_is_asked_for_ahead_changes_no_bit(monkeypatch, trials, units):
    """As it is where coefficients do not fit into a cache; at the ends what is asked for is not there.

    Products with wide weights ask for it themselves. Rows of results that begin at a line of the cache, as those of 40
    units do, go past the caches there.
    """
    model, rng = kpref.models.GRU.init(2, units, seed=0), np.random.default_rng(0)
    x, theta = rng.normal(size=(trials, 12, 2)), rng.normal(size=model.n_parameters)
    found = []
    for most in (1 << 40, -1):
        for name in ("CACHED", "NEAR"):
            monkeypatch.setattr(f"kpref.kernels.interpreter.{name}", most)
        flow = kpref.Flow(model, x)
        q = np.cos(np.arange(flow.space.size, dtype=float)).reshape(flow.space.shape)
        makers = (flow.P, flow.P.star, flow.P_inverse, flow.J.star, flow.D.star)
        found.append([*(make(q) for make in makers), flow.J(theta), flow.D(theta)])
    assert all(map(np.array_equal, *found))


def test_what_stages_ask_for_ahead_changes_no_bit(monkeypatch):
    found = []
    for most in (1 << 40, -1):
        monkeypatch.setattr("kpref.kernels.interpreter.CACHED", most)
        flow = kpref.Flow(kpref.models.Rate.init(2, 7, seed=0), np.ones((3, 6, 2)), dt=0.1)
        q = np.cos(np.arange(flow.space.size, dtype=float)).reshape(flow.space.shape)
        found.append([make(q) for make in (flow.P, flow.P.T, flow.adjoint(), flow.D.T)])
    assert all(map(np.array_equal, *found))
