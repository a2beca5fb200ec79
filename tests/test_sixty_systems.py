"""Every metric on 60 random small systems, maps and fields in all measures, against its dense definition.

A relative 1e-10 is asked for; the arithmetic allows less. Sums over n entries round to about n u |A|, with n below
1e4 here, norms and dimensions are smooth functions of such sums, and the perturbations of these systems grow by a few
powers of ten at most.
"""

import numpy as np
import pytest
from scipy.linalg import svdvals
from strategies import KINDS as MAPS
from strategies import make_flow

from kpref import spectra
from kpref.models import Field
from kpref.operators import average, partial_trace
from tests.continuous.fields import KINDS as FIELDS
from tests.continuous.fields import make_case

AXES = ("trial", "time", "unit")
MEASURES = ("mean", "sum", "weights", "zeros")


def system(seed):
    """A map for even seeds, a field for odd ones, each measure in turn."""
    rng = np.random.default_rng([seed, 9])
    shape = (int(rng.integers(2, 4)), int(rng.integers(3, 6)), int(rng.integers(2, 5)))
    measure = MEASURES[seed // 2 % 4]
    if measure in ("weights", "zeros"):
        weights = rng.uniform(0.2, 2.0, size=(shape[0], shape[1] + seed % 2))  # a field has its start besides
        if measure == "zeros":
            weights[rng.random(weights.shape) < 0.3] = 0.0
            weights[0, -1] = 1.0
        measure = weights
    if seed % 2 == 0:
        return make_flow(MAPS[seed // 2 % len(MAPS)], shape, seed, measure=measure)
    return make_case(FIELDS[seed // 2 % len(FIELDS)], shape=shape, seed=seed, measure=measure)[0]


class Dense:
    """The operators of a flow as matrices in symmetric form, Mu^(1/2) A Mu^(-1/2), zero where mu is."""

    def __init__(self, flow):
        self.flow, self.shape = flow, flow.states.shape
        root = np.sqrt(np.repeat(flow.space.mu.reshape(-1), self.shape[2]))
        self.root, self.seen = root, root > 0
        inverse = np.divide(1.0, root, out=np.zeros_like(root), where=self.seen)
        self.raw = {name: getattr(flow, name).to_dense() for name in ("P", "K", "NTK")}
        self.form = {name: root[:, None] * matrix * inverse for name, matrix in self.raw.items()}
        self.gram = {**self.form, "P": self.form["P"] @ self.form["P"].T}
        self.D = root[:, None] * flow.D.to_dense()

    def blocks(self, matrix):
        return matrix.reshape(*self.shape, *self.shape)


def subscripts(keep, kind):
    """Einsum of a reduction: indices btu and BTU, those that are not kept summed apart or together."""
    first, second = "btu", "xyz"
    names = dict(zip(AXES, range(3), strict=True))
    kept = [names[axis] for axis in AXES if axis in keep]
    if kind == "partial":
        second = "".join(second[i] if i in kept else first[i] for i in range(3))
    return f"{first}{second}->{''.join(first[i] for i in kept)}{''.join(second[i] for i in kept)}"


def dimension(matrix):
    square = np.square(matrix).sum()
    return np.trace(matrix) ** 2 / square if square else 0.0


@pytest.fixture(scope="module", params=range(60))
def pair(request):
    flow = system(request.param)
    return flow, Dense(flow), np.random.default_rng([request.param, 10])


def close(value, expected, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10 * max(float(scale), 1e-30))


def test_exact_numbers_of_k(pair):
    flow, dense, rng = pair
    spectrum, matrix = spectra.kernel_spectrum(flow), dense.form["K"]
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    count = min(len(values), len(spectrum.values))
    close(spectrum.values[:count], values[:count])
    close(values[count:], 0.0, scale=values[0])
    close(spectrum.trace, np.trace(matrix))
    close(spectrum.frobenius, np.linalg.norm(matrix))
    close(spectrum.effective_dimension, dimension(matrix))
    blocks = dense.blocks(dense.raw["K"])
    units = spectra.kernel_unit_trace(flow.linearization, flow.space.mu)
    close(units, np.diag(np.einsum("btubtz->uz", blocks)))
    points = flow.space.mu.size
    close(spectra.kernel_unit_average(flow.linearization, flow.space.mu), np.einsum("btuxyz->uz", blocks) / points**2)
    for keep in (("unit",), ("trial",), ("time", "unit"), ("trial", "time")):
        reduced = np.einsum(subscripts(keep, "partial"), dense.blocks(matrix))
        side = int(np.sqrt(reduced.size))
        value = spectra.kernel_effective_dimension(flow, keep)
        assert value.exact
        close(value.value, dimension(reduced.reshape(side, side)))


def test_reduced_views(pair):
    flow, dense, rng = pair
    keep = [axis for axis in AXES if rng.random() < 0.5] or ["unit"]
    others = np.prod([length for axis, length in zip(AXES, dense.shape, strict=True) if axis not in keep])
    for name in ("P", "K", "NTK"):
        op, blocks = getattr(flow, name), dense.blocks(dense.raw[name])
        side = average(op, keep).shape[0]
        mean = np.einsum(subscripts(keep, "average"), blocks).reshape(side, side) / others**2
        trace = np.einsum(subscripts(keep, "partial"), blocks).reshape(side, side)
        close(average(op, keep).to_dense(), mean, np.abs(blocks).max())
        close(partial_trace(op, keep).to_dense(), trace, np.abs(blocks).max())
        if others > 1 and np.abs(trace).max() > 0:
            assert np.abs(mean - trace).max() > 1e-3 * np.abs(trace).max()


def test_traces_norms_and_dimensions(pair):
    flow, dense, rng = pair
    for name in ("K", "NTK"):
        op, matrix = getattr(flow, name), dense.form[name]
        found = spectra.trace(op, probes=200)
        assert found.exact
        close(found.value, np.trace(matrix))
        close(spectra.frobenius_squared(op, probes=200).value, np.square(matrix).sum())
    close(spectra.trace(flow.P, probes=200).value, np.trace(dense.form["P"]))
    close(spectra.propagator_gram_trace(flow), np.trace(dense.gram["P"]))
    close(spectra.ntk_trace_exact(flow), np.trace(dense.form["NTK"]))
    for name, op in (("NTK", flow.NTK), ("P", flow.P)):
        found = spectra.effective_dimension(op)
        assert found.exact
        close(found.value, dimension(dense.gram[name]))
        close(spectra.operator_norm(op).value, svdvals(dense.form[name])[0])
        reduced = np.einsum(subscripts(("unit",), "partial"), dense.blocks(dense.gram[name]))
        close(spectra.effective_dimension(op, ("unit",)).value, dimension(reduced))


def test_spectra(pair):
    flow, dense, rng = pair
    k = min(4, int(dense.seen.sum()))
    values = np.linalg.eigvalsh(dense.form["NTK"])[::-1]
    close(spectra.eigh(flow.NTK, k).values, values[:k], values[0])
    for op, matrix in ((flow.P, dense.form["P"]), (flow.D, dense.D)):
        singular = svdvals(matrix)
        count = min(k, min(matrix.shape))
        found = spectra.svd(op, count)
        close(found.values, singular[:count], singular[0])
        assert found.residuals.max() < 1e-10


def test_comparisons(pair):
    flow, dense, rng = pair
    a, b = dense.form["K"], dense.form["NTK"]
    close(spectra.alignment(flow.K, flow.NTK).value, np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    ones = np.kron(np.sqrt(flow.space.mu).reshape(-1, 1), np.eye(dense.shape[2]))
    centre = np.eye(len(a)) - ones @ ones.T / flow.space.mu.sum()
    a, b = centre @ a @ centre, centre @ b @ centre
    size = np.linalg.norm(a) * np.linalg.norm(b)
    if size > 1e-8 * np.linalg.norm(dense.form["K"]) * np.linalg.norm(dense.form["NTK"]):
        close(spectra.alignment(flow.K, flow.NTK, centred=True).value, np.vdot(a, b) / size, 1.0)
    err, groups = rng.normal(size=dense.shape), np.arange(dense.shape[0]) % 2
    parts = [np.where((groups == group)[:, None, None], err, 0.0).reshape(-1) for group in (0, 1)]
    weighed = np.square(dense.root)
    rates = np.array([[np.vdot(weighed * p, dense.raw["NTK"] @ q) for q in parts] for p in parts])
    found = spectra.task_alignment(flow.NTK, err, groups)
    close(found.rates, rates)
    scale = np.sqrt(np.diag(rates))
    if scale.min() > 0:
        close(found.alignment, rates / np.outer(scale, scale), 1.0)


def test_principal_angles(pair):
    flow, dense, rng = pair
    first, second = rng.normal(size=(2, 2, *dense.shape))
    bases = [np.linalg.qr((dense.root * stack.reshape(2, -1)).T)[0] for stack in (first, second)]
    angles = np.arccos(np.minimum(svdvals(bases[0].T @ bases[1]), 1.0))
    close(spectra.principal_angles(first, second, flow.space), angles, 1.0)


def test_schmidt_spectra(pair):
    flow, dense, rng = pair
    points, units = flow.space.mu.size, dense.shape[2]
    for name, op in (("K", flow.K), ("NTK", flow.NTK)):
        matrix = dense.form[name].reshape(points, units, points, units)
        values = svdvals(matrix.transpose(0, 2, 1, 3).reshape(points**2, units**2))
        rank = np.square(values).sum() ** 2 / (values**4).sum()
        close(spectra.effective_schmidt_rank(op).value, rank)
        if name == "K":
            found = spectra.schmidt_spectrum(flow)
            close(found.effective_rank, rank)
            # Roots of eigenvalues: half of the digits for the small ones.
            np.testing.assert_allclose(found.values, values[: len(found.values)], rtol=0, atol=3e-8 * values[0])
            if "gate" in getattr(flow.linearization, "places", ()):  # one gate, the same at all times
                close(found.effective_rank, 1.0)


def test_growth_and_exponents(pair):
    flow, dense, rng = pair
    trials, steps, units = dense.shape
    sensitivity = flow.D_z0.to_dense().reshape(trials, steps, units, trials, units)
    carried = np.array([[sensitivity[b, n, :, b] for n in range(steps)] for b in range(trials)])
    with np.errstate(divide="ignore"):
        norms = np.log(np.linalg.norm(carried, 2, axis=(2, 3)))
    close(spectra.propagator_growth(flow), norms, 1.0)
    elapsed = float(np.ptp(flow.solution.times)) if isinstance(flow.model, Field) else steps
    volume = np.linalg.slogdet(carried[:, -1])[1] / elapsed
    found = spectra.lyapunov_exponents(flow).values
    # A map that nearly loses a direction has a determinant that rounding decides.
    spread = np.linalg.svd(carried[:, -1], compute_uv=False)
    sure = spread[:, -1] > 1e-6 * spread[:, 0]
    np.testing.assert_allclose(found.sum(axis=1)[sure], volume[sure], rtol=0, atol=1e-8)
